"""A large update in pieces that are updates themselves: a frame of a client holds 16 MiB, a document may hold more.

Room: bytes, no pycrdt. Reads with the readers of `sync.validate` what that has checked before.

Invariants:
1. Taken in order, no piece is early: a struct comes after all that it refers to. Deletions come last, but those of
   structs whose content is gone: they come with these, for the reason that `sync.slices` gives.
2. All pieces together are the same operations. Only long texts and lists of values are cut, as Yjs cuts them itself:
   the rest has the last unit before it as its left origin, and the same right origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from .deletions import Deletions
from .lib0 import write_var_uint
from .limits import CLIENT_ID_MAX, CLOCK_MAX, UPDATE_VALUES_MAX
from .validate import _KEY, _LEFT, _RIGHT, _SKIP, _any, _content, _deletes, _text, _text_units, _uint

__all__ = ["pieces_of"]

_CONTENT_DELETED: Final = 1
_TEXT: Final = 4
_ANY: Final = 8
_COUNT_BYTES: Final = 5  # of a text's or a list's count, at most
_SECTION_BYTES: Final = 24  # count, client and clock of a section, at most
_RANGE_BYTES: Final = 36  # of a delete set: client, count, clock and length, at most


class _Struct:
    """One struct, or what is left of one."""

    __slots__ = ("body_at", "clock", "count", "end", "head", "info", "length", "needs", "right")

    def __init__(self, info: int, clock: int) -> None:
        self.info = info
        self.clock = clock
        self.length = 0
        """In units: how many clocks it takes."""
        self.head = b""
        """Its bytes before the content."""
        self.right = b""
        """The right origin's bytes, which are within `head`."""
        self.body_at = self.end = 0
        """Where the content stands; of a text and of a list of values without its count."""
        self.count = -1
        """Bytes of a text, or values of a list; -1 for what cannot be cut."""
        self.needs: list[tuple[int, int]] = []
        """(client, clock) of other clients' structs that it refers to."""


def pieces_of(update: bytes, bytes_max: int) -> Iterator[bytes]:
    """The same operations in updates of at most `bytes_max` bytes, in the order in which they can be taken.

    One value (a JSON document within a list, say) that is longer than that makes a longer piece. `update` is whole:
    `check_update` has been there. Raises nothing that it would not have.
    """
    if len(update) <= bytes_max:
        yield update
        return
    sections, i = _read(update)
    deletes, _ = _deletes(update, i, UPDATE_VALUES_MAX)
    piece = _Piece(update, bytes_max)
    for client in sections:
        for struct in _in_order(client, sections):
            yield from piece.add(*struct)
    yield from piece.take()
    yield from _deletions(deletes, bytes_max)


def _read(b: bytes) -> tuple[dict[int, list[_Struct]], int]:
    """Each client's structs, the first one last (they are taken from the end), and where the delete set stands."""
    sections: dict[int, list[_Struct]] = {}
    count, i = _uint(b, 0, len(b))
    for _ in range(count):
        structs, i = _uint(b, i, len(b))
        client, i = _uint(b, i, CLIENT_ID_MAX)
        clock, i = _uint(b, i, CLOCK_MAX)
        section = sections[client] = []
        for _ in range(structs):
            struct, i = _struct(b, i, client, clock)
            clock += struct.length
            section.append(struct)
        section.reverse()
    return sections, i


def _struct(b: bytes, i: int, client: int, clock: int) -> tuple[_Struct, int]:
    start, info = i, b[i]
    struct = _Struct(info, clock)
    i += 1
    if info in (0, _SKIP):
        struct.body_at = i
        struct.length, i = _uint(b, i, CLOCK_MAX)
    else:
        parent = not info & (_LEFT | _RIGHT)
        named = 0
        if parent:
            named = b[i]
            i = _text(b, i + 1) if named == 1 else i + 1
        for side in range((info >> 7) + (info >> 6 & 1) + (parent and not named)):
            at = i
            of, i = _uint(b, i, CLIENT_ID_MAX)
            place, i = _uint(b, i, CLOCK_MAX)
            if of != client:
                struct.needs.append((of, place))
            if info & _RIGHT and side == info >> 7:
                struct.right = b[at:i]
        if parent and info & _KEY:
            i = _text(b, i)
        struct.body_at = content_at = i
        if info & 31 in (_TEXT, _ANY):
            struct.count, struct.body_at = _uint(b, i, len(b))
        if info & 31 == _TEXT:
            struct.length, i = _text_units(b, i)
        else:
            struct.length, i, _ = _content(b, i, info & 31, UPDATE_VALUES_MAX)
        struct.head = b[start:content_at]
    struct.head = struct.head or b[start : struct.body_at]
    struct.end = i
    return struct, i


def _in_order(client: int, sections: dict[int, list[_Struct]]) -> Iterator[tuple[int, _Struct]]:
    """All of this client's structs that are left, each behind what it needs of others. Invariant 1."""
    wanted = [(client, CLOCK_MAX + 1)]
    while wanted:
        now, before = wanted[-1]
        section = sections[now]
        if not section or section[-1].clock >= before:
            wanted.pop()
            continue
        struct = section[-1]
        missing = next((need for need in struct.needs if _lacks(sections, *need)), None)
        if missing is not None and all(
            missing[0] != waiting for waiting, _ in wanted
        ):  # no circle: honest ones have none
            wanted.append((missing[0], missing[1] + 1))
            continue
        section.pop()
        yield now, struct


def _lacks(sections: dict[int, list[_Struct]], client: int, clock: int) -> bool:
    section = sections.get(client, [])
    return bool(section) and section[-1].clock <= clock


class _Piece:
    """The piece that is being made."""

    def __init__(self, update: bytes, bytes_max: int) -> None:
        self._update = update
        self._bytes_max = bytes_max
        self._sections: dict[int, tuple[int, list[bytes]]] = {}
        self._gone: dict[int, list[tuple[int, int]]] = {}
        """Client -> first and next clock of what has no content any more."""
        self._size = 0

    def add(self, client: int, struct: _Struct) -> Iterator[bytes]:
        """The pieces that are full before all of it is in."""
        deletion = _RANGE_BYTES if _is_gone(struct) else 0
        while len(struct.head) + struct.end - struct.body_at + deletion > (room := self._room()):
            if (cut := _cut(self._update, struct, room)) is not None:
                stop, count, units = cut
                self._put(client, struct, stop, count)
                struct.head = _head_of_rest(client, struct, units)
                struct.clock += units
                struct.count -= count
                struct.body_at = stop
            elif not self._sections:
                break  # one value that is longer than a piece
            yield from self.take()
        self._put(client, struct, struct.end, struct.count)

    def _room(self) -> int:
        return self._bytes_max - self._size - 2 * _SECTION_BYTES

    def _put(self, client: int, struct: _Struct, stop: int, count: int) -> None:
        if client not in self._sections:
            self._sections[client] = (struct.clock, [])
            self._size += _SECTION_BYTES
        count_bytes = write_var_uint(count) if count >= 0 else b""
        data = b"".join((struct.head, count_bytes, self._update[struct.body_at : stop]))
        self._sections[client][1].append(data)
        self._size += len(data)
        if _is_gone(struct):
            gone = self._gone.setdefault(client, [])
            if gone and gone[-1][1] == struct.clock:
                gone[-1] = gone[-1][0], struct.clock + struct.length
            else:
                gone.append((struct.clock, struct.clock + struct.length))
                self._size += _RANGE_BYTES

    def take(self) -> Iterator[bytes]:
        """What is there, as an update, where there is anything."""
        if self._sections:
            parts = [write_var_uint(len(self._sections))]
            for client, (clock, structs) in sorted(self._sections.items(), reverse=True):  # as Yjs orders them
                parts += [write_var_uint(len(structs)), write_var_uint(client), write_var_uint(clock), *structs]
            parts += _delete_set(self._gone)
            self._sections, self._gone, self._size = {}, {}, 0
            yield b"".join(parts)


def _is_gone(struct: _Struct) -> bool:
    return struct.info == 0 or struct.info & 31 == _CONTENT_DELETED


def _cut(b: bytes, struct: _Struct, room: int) -> tuple[int, int, int] | None:
    """Where to cut it so that the first part has room: (offset, bytes or values before it, units before it).

    None where it cannot be cut there.
    """
    stop = struct.body_at
    last = struct.body_at + room - len(struct.head) - _COUNT_BYTES
    if struct.count < 0 or last <= struct.body_at:
        return None
    if struct.info & 31 == _TEXT:
        stop = last
        while b[stop] & 0xC0 == 0x80:  # within a character
            stop -= 1
        units = len(b[struct.body_at : stop].decode("utf-8").encode("utf-16-le")) // 2
        return (stop, stop - struct.body_at, units) if units else None
    count = 0
    while count < struct.count:
        following, _ = _any(b, stop, 1, UPDATE_VALUES_MAX)
        if following > last:
            break
        stop = following
        count += 1
    return (stop, count, count) if count else None


def _head_of_rest(client: int, struct: _Struct, units: int) -> bytes:
    """Invariant 2."""
    info = struct.info & (31 | _KEY) | _LEFT | (_RIGHT if struct.right else 0)
    return b"".join((bytes((info,)), write_var_uint(client), write_var_uint(struct.clock + units - 1), struct.right))


def _deletions(deletes: Deletions, bytes_max: int) -> Iterator[bytes]:
    """Updates that delete these ranges, and nothing else."""
    ranges_max = max(1, bytes_max // _RANGE_BYTES)
    for first in range(0, len(deletes), ranges_max):
        ranges: dict[int, list[tuple[int, int]]] = {}
        for client, clock, following in deletes[first : first + ranges_max]:
            ranges.setdefault(client, []).append((clock, following))
        yield b"".join((b"\0", *_delete_set(ranges)))


def _delete_set(ranges: Mapping[int, Sequence[tuple[int, int]]]) -> list[bytes]:
    parts = [write_var_uint(len(ranges))]
    for client, spans in ranges.items():
        parts += [write_var_uint(client), write_var_uint(len(spans))]
        parts += [write_var_uint(clock) + write_var_uint(following - clock) for clock, following in spans]
    return parts
