"""An update's structs: where each one's bytes are, what it stands beside, and an order in which they can be taken.

Room: reading what `sync.validate` has passed; no verdicts. The grammar is `sync.validate`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from .errors import InvalidUpdate
from .limits import CLIENT_ID_MAX, CLOCK_MAX, UPDATE_VALUES_MAX
from .validate import _content, _text, _text_units, _uint  # the same grammar, and it must not be written twice

__all__ = ["Id", "Struct", "in_order", "read_structs"]

Id = tuple[int, int]
"""(client, clock)."""

_GC: Final = 0
_SKIP: Final = 10
_NOWHERE: Final[tuple[Id, ...]] = ()


class Struct(NamedTuple):
    clock: int
    following: int
    beside: tuple[Id, ...]
    """Neighbours, or the type that it names."""
    deeper: int
    """1 where it names a type."""
    begin: int
    end: int
    """Its bytes."""


def read_structs(b: bytes) -> tuple[dict[int, list[Struct]], int]:
    """Client -> its structs in order (no skips), and where the delete set begins. About 1.5 us a struct."""
    structs: dict[int, list[Struct]] = {}
    size = len(b)
    clients, i = _uint(b, 0, size)
    for _ in range(clients):
        count, i = _uint(b, i, size)
        client, i = _uint(b, i, CLIENT_ID_MAX)
        clock, i = _uint(b, i, CLOCK_MAX)
        own = structs.setdefault(client, [])
        for _ in range(count):
            begin = i
            info = b[i]
            i += 1
            if info in (_GC, _SKIP):
                length, i = _uint(b, i, CLOCK_MAX)
                if info == _GC:
                    own.append(Struct(clock, clock + length, _NOWHERE, 0, begin, i))
                clock += length
                continue
            beside: tuple[Id, ...] = _NOWHERE
            deeper = 0
            if info & 0x80:
                of, i = _uint(b, i, CLIENT_ID_MAX)
                at, i = _uint(b, i, CLOCK_MAX)
                beside = ((of, at),)
            if info & 0x40:
                of, i = _uint(b, i, CLIENT_ID_MAX)
                at, i = _uint(b, i, CLOCK_MAX)
                beside = (*beside, (of, at))
            if not info & 0xC0:
                deeper = 1 - b[i]
                if deeper:
                    of, i = _uint(b, i + 1, CLIENT_ID_MAX)
                    at, i = _uint(b, i, CLOCK_MAX)
                    beside = ((of, at),)
                else:
                    i = _text(b, i + 1)
                if info & 0x20:
                    i = _text(b, i)
            if info & 31 == 4:
                length, i = _text_units(b, i)
            else:
                length, i, _ = _content(b, i, info & 31, UPDATE_VALUES_MAX)
            own.append(Struct(clock, clock + length, beside, deeper, begin, i))
            clock += length
    return structs, i


def in_order(structs: Mapping[int, list[Struct]], known: Mapping[int, int]) -> Iterator[tuple[int, Struct]]:
    """What is not known yet (`known`: client -> next clock), each one behind all that it refers to.

    Raises InvalidUpdate where structs wait for each other: nobody could ever take them.
    """
    done = dict.fromkeys(structs, 0)
    for client in structs:
        waiting = {client: CLOCK_MAX}  # up to which clock; each one because of the one before it
        while waiting:
            here, until = next(reversed(waiting.items()))
            own, end, first = structs[here], known.get(here, 0), None
            at = done[here]
            while at < len(own) and own[at].clock <= until:
                struct = own[at]
                if struct.following > end:
                    for of, clock in struct.beside:
                        others = structs.get(of)
                        if of == here or others is None or done[of] == len(others):
                            continue
                        if clock >= others[done[of]].clock:
                            first = (of, clock)
                            break
                    if first is not None:
                        break
                    done[here] = at + 1  # before it is handed out: it may be asked for meanwhile
                    yield here, struct
                at += 1
            done[here] = at
            if first is None:
                del waiting[here]
            elif first[0] in waiting:
                raise InvalidUpdate("structs that wait for each other; refused, nothing was applied")
            else:
                waiting[first[0]] = first[1]
