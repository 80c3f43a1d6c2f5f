"""Characters of two UTF-16 units that somebody cuts in half: given to pycrdt as what Yjs makes of them.

Honest Yjs cuts them: an editor that deletes or inserts by units (a difference of two faces is one unit) sends a
deletion or an origin that ends within a character, and every Yjs that takes it holds U+FFFD for each half from then on.
Yrs 0.28 cuts beside the character and goes on counting as if it had not: letters are gone, and its state loads to
another document. So before pycrdt takes an update, both halves become U+FFFD: in the updates that come, and in what is
here. What is stored and passed on stays as it came.

Room: bytes and numbers, no pycrdt. Checked updates (`sync.validate`) in, their readings and other spellings out.

Invariants:
1. A seam is the clock of a character's second unit. Nothing that pycrdt sees is cut there: no origin, no deletion, no
   struct of another update, no end of what is here.
2. Whether a character is cut follows from the operations and deletions alone, not from their order: replicas that hold
   the same are equal.
3. Where there are no such characters, this costs one search for their bytes.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from .clash import _piece  # the same grammar, and it must not be written twice
from .lib0 import write_var_uint
from .limits import CLIENT_ID_MAX, CLOCK_MAX
from .validate import _uint

__all__ = ["Cuts", "Seams", "apart", "astral", "cuts_of", "halved", "seams_of"]

Cuts = dict[int, list[int]]
"""Client -> the seams that are cut, ascending."""

_TEXT: Final = 4
_CHUNK_BITS: Final = 9  # 512 clocks are one number: ten million faces 9 MB, one face in a chunk 230 bytes
_CHUNK: Final = 1 << _CHUNK_BITS
_MASK: Final = _CHUNK - 1
_ASTRAL: Final = re.compile(rb"[\xf0-\xf4][\x80-\xbf]{3}")
_SECOND: Final = bytes(b"01"[0xDC <= high < 0xE0] for high in range(256))
_HALVES: Final = "\ufffd\ufffd".encode("utf-16-le")


def astral(updates: Sequence[bytes]) -> bool:
    """Whether there may be a character of two units in them; rarely also where there is none."""
    return _ASTRAL.search(b"".join(updates) if len(updates) > 1 else updates[0] if updates else b"") is not None


class Seams:
    """The seams of a document, a bit each."""

    __slots__ = ("_chunks",)

    def __init__(self) -> None:
        self._chunks: dict[int, dict[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __contains__(self, place: tuple[int, int]) -> bool:
        client, clock = place
        return bool(self._chunks.get(client, {}).get(clock >> _CHUNK_BITS, 0) >> (clock & _MASK) & 1)

    def clients(self) -> Iterable[int]:
        return self._chunks

    def add_text(self, client: int, clock: int, units: bytes) -> None:
        """Of a text in UTF-16-LE that begins at this clock."""
        seconds = units[1::2].translate(_SECOND)
        at = seconds.find(b"1")
        chunks = self._chunks.setdefault(client, {}) if at >= 0 else {}
        while at >= 0:
            chunk, offset = divmod(clock + at, _CHUNK)
            end = at + _CHUNK - offset
            chunks[chunk] = chunks.get(chunk, 0) | int(seconds[at:end][::-1], 2) << offset
            at = seconds.find(b"1", end)

    def add(self, others: Seams) -> None:
        for client, theirs in others._chunks.items():
            chunks = self._chunks.setdefault(client, {})
            for chunk, bits in theirs.items():
                chunks[chunk] = chunks.get(chunk, 0) | bits

    def drop(self, cuts: Cuts) -> None:
        """These are none any more: two characters stand there."""
        for client, clocks in cuts.items():
            chunks = self._chunks.get(client, {})
            for clock in clocks:
                if bits := chunks.pop(clock >> _CHUNK_BITS, 0) & ~(1 << (clock & _MASK)):
                    chunks[clock >> _CHUNK_BITS] = bits
            if not chunks:
                self._chunks.pop(client, None)

    def among(self, places: Mapping[int, Iterable[int]]) -> Cuts:
        """Which of these places are seams."""
        cuts: Cuts = {}
        for client, clocks in places.items():
            chunks = self._chunks.get(client)
            if chunks:
                get = chunks.get
                found = {clock for clock in clocks if get(clock >> _CHUNK_BITS, 0) >> (clock & _MASK) & 1}
                if found:
                    cuts[client] = sorted(found)
        return cuts


def seams_of(updates: Sequence[bytes]) -> Seams:
    seams = Seams()
    for update in updates:
        if astral((update,)):
            for client, clock, kind, _, _, start, end, _ in _structs(update):
                if kind == _TEXT and _ASTRAL.search(update, start, end):
                    seams.add_text(client, clock, _units(update, start, end))
    return seams


def cuts_of(updates: Sequence[bytes], seams: Seams, clocks: Mapping[int, int]) -> Cuts:
    """Which seams these updates cut in a document with these clocks and, those of the updates included, these seams."""
    places = _Places(seams)
    for client in seams.clients():
        places.add(client, clocks.get(client, 0))
    for update in updates:
        deletes_at = 1
        for client, clock, _, left, right, _, end, length in _structs(update):
            deletes_at = end
            places.add(client, clock)
            places.add(client, clock + length)
            if left is not None:
                places.add(left[0], left[1] + 1)
            if right is not None:
                places.add(*right)
        _add_deletions(update, deletes_at, places)
    return seams.among(places.clocks)


def apart(updates: Sequence[bytes]) -> Sequence[bytes]:
    """The same updates, so that pycrdt can merge them: where one begins within a character of another, it is halved."""
    if len(updates) < 2 or not astral(updates):
        return updates
    seams = seams_of(updates)
    if not seams:
        return updates
    places = _Places(seams)
    for update in updates:
        for client, clock, _, _, _, _, _, length in _structs(update):
            places.add(client, clock)
            places.add(client, clock + length)
    cuts = seams.among(places.clocks)
    return [halved(update, cuts) for update in updates] if cuts else updates


def halved(update: bytes, cuts: Cuts) -> bytes:
    """The same update with two U+FFFD for each character that is cut, as Yjs has them."""
    parts: list[bytes] = []
    done = 0
    for client, clock, kind, _, _, start, end, length in _structs(update):
        if kind != _TEXT or client not in cuts:
            continue
        clocks = cuts[client]
        inside = clocks[bisect_right(clocks, clock) : bisect_right(clocks, clock + length - 1)]
        if not inside or not _ASTRAL.search(update, start, end):
            continue
        units = bytearray(_units(update, start, end))
        for seam in inside:
            at = 2 * (seam - clock)
            if 0xDC <= units[at + 1] < 0xE0:
                units[at - 2 : at + 2] = _HALVES
        text = units.decode("utf-16-le").encode("utf-8")
        parts += (update[done:start], write_var_uint(len(text)), text)
        done = end
    return b"".join((*parts, update[done:])) if parts else update


class _Places:
    """Where something is cut, of clients who have seams."""

    __slots__ = ("clocks",)

    def __init__(self, seams: Seams) -> None:
        self.clocks = {client: array("Q") for client in seams.clients()}

    def add(self, client: int, clock: int) -> None:
        clocks = self.clocks.get(client)
        if clocks is not None:
            clocks.append(clock)


_Id = tuple[int, int]


def _structs(b: bytes) -> Iterator[tuple[int, int, int, _Id | None, _Id | None, int, int, int]]:
    """Of each struct: client, clock, content, left and right origin, where its content begins and ends, its length."""
    clients, i = _uint(b, 0, len(b))
    for _ in range(clients):
        count, i = _uint(b, i, len(b))
        client, i = _uint(b, i, CLIENT_ID_MAX)
        clock, i = _uint(b, i, CLOCK_MAX)
        for _ in range(count):
            kind, left, right, start, i, length = _piece(b, i)
            yield client, clock, kind, left, right, start, i, length
            clock += length


def _add_deletions(b: bytes, i: int, places: _Places) -> None:
    clients, i = _uint(b, i, len(b))
    for _ in range(clients):
        client, i = _uint(b, i, CLIENT_ID_MAX)
        count, i = _uint(b, i, len(b))
        clocks = places.clocks.get(client)
        for _ in range(count):
            first, i = _uint(b, i, CLOCK_MAX)
            length, i = _uint(b, i, CLOCK_MAX)
            if clocks is not None:
                clocks.append(first)
                clocks.append(first + length)


def _units(b: bytes, start: int, end: int) -> bytes:
    """The text whose length stands at `start`, in UTF-16-LE."""
    return b[_uint(b, start, len(b))[1] : end].decode("utf-8").encode("utf-16-le")
