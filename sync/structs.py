"""An update's structs: where each one's bytes are, what it stands beside, and an order in which they can be taken.

Room: reading what `sync.validate` has passed; no verdicts. The grammar is `sync.validate`'s.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import Final

from .errors import InvalidUpdate
from .limits import CLIENT_ID_MAX, CLOCK_MAX, UPDATE_VALUES_MAX
from .validate import _content, _text, _text_units, _uint  # the same grammar, and it must not be written twice

__all__ = ["NOBODY", "Id", "Read", "Structs", "in_order", "read_structs"]

Id = tuple[int, int]
"""(client, clock)."""

_GC: Final = 0
_SKIP: Final = 10
NOBODY: Final = 2**64 - 1  # no client id is as large


class Structs:
    """One client's structs of an update, in order and without skips: 50 bytes each, whatever is in them."""

    __slots__ = ("begins", "clocks", "deeper", "ends", "followings", "left", "left_at", "right", "right_at")

    def __init__(self) -> None:
        self.clocks = array("I")
        self.followings = array("I")
        self.begins = array("I")
        self.ends = array("I")
        """Its bytes."""
        self.left = array("Q")
        """Client of the left neighbour, or of the type that it names; NOBODY where there is none."""
        self.left_at = array("I")
        self.right = array("Q")
        self.right_at = array("I")
        self.deeper = bytearray()
        """1 where it names a type."""

    def __len__(self) -> int:
        return len(self.clocks)

    def beside(self, at: int) -> tuple[Id, ...]:
        """What it refers to."""
        left, right = self.left[at], self.right[at]
        if right == NOBODY:
            return () if left == NOBODY else ((left, self.left_at[at]),)
        if left == NOBODY:
            return ((right, self.right_at[at]),)
        return (left, self.left_at[at]), (right, self.right_at[at])


Read = tuple[dict[int, Structs], int]
"""What `read_structs` finds."""


def read_structs(b: bytes) -> Read:
    """Client -> its structs, and where the delete set begins. About 1 us a struct: most are short texts of one client
    beside its others, with clocks of up to 21 bits, and are read here."""
    structs: dict[int, Structs] = {}
    size = len(b)
    clients, i = _uint(b, 0, size)
    for _ in range(clients):
        count, i = _uint(b, i, size)
        begin = i
        client, i = _uint(b, i, CLIENT_ID_MAX)
        name = b[begin:i]
        width = len(name)
        clock, i = _uint(b, i, CLOCK_MAX)
        own = structs.setdefault(client, Structs())
        for _ in range(count):
            begin = i
            info = b[i]
            i += 1
            left = right = NOBODY
            left_at = right_at = deeper = 0
            if info in (_GC, _SKIP):
                length, i = _uint(b, i, CLOCK_MAX)
                if info == _SKIP:
                    clock += length
                    continue
            else:
                if info & 0x80:
                    if b.startswith(name, i):
                        left = client
                        i += width
                    else:
                        left, i = _uint(b, i, CLIENT_ID_MAX)
                    if (left_at := b[i]) < 128:
                        i += 1
                    elif (c := b[i + 1]) < 128:
                        left_at = left_at & 127 | c << 7
                        i += 2
                    elif (d := b[i + 2]) < 128:
                        left_at = left_at & 127 | (c & 127) << 7 | d << 14
                        i += 3
                    else:
                        left_at, i = _uint(b, i, CLOCK_MAX)
                if info & 0x40:
                    if b.startswith(name, i):
                        right = client
                        i += width
                    else:
                        right, i = _uint(b, i, CLIENT_ID_MAX)
                    if (right_at := b[i]) < 128:
                        i += 1
                    elif (c := b[i + 1]) < 128:
                        right_at = right_at & 127 | c << 7
                        i += 2
                    elif (d := b[i + 2]) < 128:
                        right_at = right_at & 127 | (c & 127) << 7 | d << 14
                        i += 3
                    else:
                        right_at, i = _uint(b, i, CLOCK_MAX)
                if not info & 0xC0:
                    deeper = 1 - b[i]
                    if deeper:
                        left, i = _uint(b, i + 1, CLIENT_ID_MAX)
                        left_at, i = _uint(b, i, CLOCK_MAX)
                    else:
                        i = _text(b, i + 1)
                    if info & 0x20:
                        i = _text(b, i)
                if info & 31 == 4:
                    length = b[i]
                    end = i + 1 + length
                    if length < 128 and end <= size and b[i:end].isascii():
                        i = end
                    else:
                        length, i = _text_units(b, i)
                else:
                    length, i, _ = _content(b, i, info & 31, UPDATE_VALUES_MAX)
            own.clocks.append(clock)
            clock += length
            own.followings.append(clock)
            own.begins.append(begin)
            own.ends.append(i)
            own.left.append(left)
            own.left_at.append(left_at)
            own.right.append(right)
            own.right_at.append(right_at)
            own.deeper.append(deeper)
    return structs, i


def in_order(structs: Mapping[int, Structs], known: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """(client, index) of what is not known yet (`known`: client -> next clock), each behind all that it refers to.

    Raises InvalidUpdate where structs wait for each other: nobody could ever take them.
    """
    done = dict.fromkeys(structs, 0)
    for client in structs:
        waiting = {client: CLOCK_MAX}  # up to which clock; each one because of the one before it
        while waiting:
            here, until = next(reversed(waiting.items()))
            own, end, first = structs[here], known.get(here, 0), None
            at, count = done[here], len(own)
            while at < count and own.clocks[at] <= until:
                if own.followings[at] > end:
                    for of, clock in own.beside(at) if len(structs) > 1 else ():
                        others = structs.get(of)
                        if of == here or others is None or done[of] == len(others):
                            continue
                        if clock >= others.clocks[done[of]]:
                            first = (of, clock)
                            break
                    if first is not None:
                        break
                    done[here] = at + 1  # before it is handed out: it may be asked for meanwhile
                    yield here, at
                at += 1
            done[here] = at
            if first is None:
                del waiting[here]
            elif first[0] in waiting:
                raise InvalidUpdate("structs that wait for each other; refused, nothing was applied")
            else:
                waiting[first[0]] = first[1]
