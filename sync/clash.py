"""Has one client id been used by two writers? Compares what comes again under clocks that are here already.

Room: bytes in, a verdict out. A program that was cloned, a profile restored from a backup, or somebody who pretends,
goes on counting where another one has gone on too: the same clocks, other content. Yrs and Yjs take the first and pass
over the second, and are unequal for ever with equal state vectors (facts 1.6).

What is rightly sent again (another tab, a sync step 2, a repeat) has the same content under the same clocks, cut into
other pieces perhaps. So single clocks are compared, the last ones that both have: two writers who began at one clock
differ from there on. Not compared: what one side has deleted (its content is gone), a format's and an embed's value,
halves of characters, and all that lies further back than COMPARED_CLOCKS.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from .errors import ClientIdClash
from .limits import CLIENT_ID_MAX, CLOCK_MAX, COMPARED_CLOCKS, PROBED_CLIENTS, UPDATE_VALUES_MAX
from .validate import Shape, _any, _content, _skip_bytes, _text, _uint  # the same grammar, and it must not be twice

__all__ = ["asked_for", "overlaps", "probing", "refuse_clash"]

Window = Mapping[int, tuple[int, int]]
"""Client -> (first, next) clock of what is compared."""

_Unit = tuple[object, ...]
_Id = tuple[int, int]
_GC: Final = 0
_SKIP: Final = 10
_NUMBERS: Final = {124: ">f", 123: ">d"}


def overlaps(shape: Shape, clocks: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """The last clocks that the update brings and that are here already, per client; empty for most updates."""
    window: dict[int, tuple[int, int]] = {}
    for client, first, following in shape.brings:
        end = min(following, clocks.get(client, 0))
        if first < end:
            window[client] = (max(first, end - COMPARED_CLOCKS), end)
    return window


def asked_for(window: Window, clocks: Mapping[int, int]) -> dict[int, int]:
    """The state vector whose difference holds the window, and nothing of other clients.

    From a little before it: Yrs cuts a character of two units in a way of its own.
    """
    return {client: max(0, window[client][0] - 2) if client in window else clock for client, clock in clocks.items()}


def probing(clocks: Mapping[int, int], shared: Mapping[int, int]) -> dict[int, int]:
    """The state vector that asks again for the last of what both have: `shared` is how far the other one is."""
    asked = dict(clocks)
    for client, clock in sorted(shared.items())[:PROBED_CLIENTS]:
        if asked.get(client):
            asked[client] = max(0, min(asked[client], clock) - COMPARED_CLOCKS)
    return asked


def refuse_clash(update: bytes, own: bytes, window: Window, clocks: Mapping[int, int]) -> None:
    """Raises ClientIdClash where `update` has other content under a clock of the window than `own`."""
    theirs, _ = _units(update, window)
    mine, ends = _units(own, window)
    for (client, clock), unit in sorted(theirs.items()):
        known = mine.get((client, clock))
        if known is None or known == unit or ends.get(client) != clocks.get(client):
            continue  # deleted here, the same, or a document whose clocks Yrs has shifted (half a character deleted)
        raise ClientIdClash(client, clock)


def _units(b: bytes, window: Window) -> tuple[dict[tuple[int, int], _Unit], dict[int, int]]:
    """What stands at each clock of the window, and where each client ends."""
    units: dict[tuple[int, int], _Unit] = {}
    ends: dict[int, int] = {}
    clients, i = _uint(b, 0, len(b))
    for _ in range(clients):
        count, i = _uint(b, i, len(b))
        client, i = _uint(b, i, CLIENT_ID_MAX)
        clock, i = _uint(b, i, CLOCK_MAX)
        first, end = window.get(client, (0, 0))
        for _ in range(count):
            ref, left, right, start, i, length = _piece(b, i)
            if ref and clock < end and first < clock + length:
                begin = max(first - clock, 0)
                for at, unit in enumerate(_split(b, start, i, ref, begin, min(end - clock, length)), begin):
                    if unit is not None:
                        units[client, clock + at] = (unit, left if at == 0 else (client, clock + at - 1), right)
            clock += length
        ends[client] = clock
    return units, ends


def _piece(b: bytes, i: int) -> tuple[int, _Id | None, _Id | None, int, int, int]:
    """One struct: (content, 0 for none, left origin, right origin, where its content begins and ends, clocks)."""
    info = b[i]
    i += 1
    if info in (_GC, _SKIP):
        length, i = _uint(b, i, CLOCK_MAX)
        return 0, None, None, i, i, length
    left = right = None
    if info & 0x80:
        left, i = _id(b, i)
    if info & 0x40:
        right, i = _id(b, i)
    if not info & 0xC0:
        i = _text(b, i + 1) if b[i] else _id(b, i + 1)[1]
        if info & 0x20:
            i = _text(b, i)
    length, end, _ = _content(b, i, info & 31, UPDATE_VALUES_MAX) if info & 31 != 4 else _string(b, i)
    return info & 31, left, right, i, end, length


def _string(b: bytes, i: int) -> tuple[int, int, int]:
    end = _text(b, i)
    return len(_utf16(b, i, end)) // 2, end, 0


def _utf16(b: bytes, i: int, end: int) -> bytes:
    return b[_uint(b, i, len(b))[1] : end].decode("utf-8").encode("utf-16-le")


def _split(b: bytes, start: int, end: int, ref: int, first: int, following: int) -> Sequence[_Unit | None]:
    """One value for each of these clocks of a struct, its first being 0; None for what is not compared.

    Only for these: the length of what is deleted is a number that anybody may write, and a text may have megabytes.
    """
    if ref == 4:
        units = struct.unpack(f"<{following - first}H", _utf16(b, start, end)[2 * first : 2 * following])
        return [None if unit == 0xFFFD or 0xD800 <= unit < 0xE000 else (4, unit) for unit in units]
    if ref == 8:
        _, i = _uint(b, start, len(b))
        i, _ = _any(b, i, first, UPDATE_VALUES_MAX)
        values: list[_Unit | None] = []
        for _ in range(following - first):
            after, _ = _any(b, i, 1, UPDATE_VALUES_MAX)
            values.append((8, _value(b, i, after)))
            i = after
        return values
    if ref == 1:
        return ()
    if ref in (3, 7):
        return [(ref, b[start:end])]
    if ref == 6:
        return [(6, b[start : _skip_bytes(b, start)])]
    return [(ref,)]


def _value(b: bytes, i: int, end: int) -> object:
    """The bytes of a value; a number as what it is, since it may be written in two ways."""
    tag = b[i]
    if tag == 125:
        value, shift, at = b[i + 1] & 63, 6, i + 1
        while b[at] > 127:
            at += 1
            value |= (b[at] & 127) << shift
            shift += 7
        return float(-value if b[i + 1] & 64 else value)
    if tag in _NUMBERS:
        return float(struct.unpack(_NUMBERS[tag], b[i + 1 : end])[0])
    return b[i:end] if tag not in (117, 118, 122, 126, 127) else tag  # an object's keys have no order


def _id(b: bytes, i: int) -> tuple[tuple[int, int], int]:
    client, i = _uint(b, i, CLIENT_ID_MAX)
    clock, i = _uint(b, i, CLOCK_MAX)
    return (client, clock), i
