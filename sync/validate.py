"""Is this a well-formed update, state vector, awareness message; and what does an update bring and need?

Room: bytes in, a verdict out. Bounded, iterative, no pycrdt. Everything from outside passes here before Rust sees it
(law 9, facts 1.7). Fast for the ordinary keystroke: one client, one struct.

Invariants

1. Every byte is accounted for: what is accepted has exactly one reading, the one Yrs and Yjs give it.
2. No claimed count is believed before the bytes for it are there; nothing recurses; no integer grows past its limit.
3. `_keystroke` is only an abbreviation of `_walk`: whatever it does not recognise, it leaves to it.
4. An id that a struct refers to within its own client is older than the struct. The gate wants a run's predecessors
   anyway, so `needs` names other clients only, and none that the update's own runs cover.

Update v1, in lib0 varints: count of clients; per client: count of structs, client, first clock, structs; then the
delete set: count of clients; per client: client, count of ranges, ranges (clock, length). A struct: info byte (5 bits
content, 0x80 left origin, 0x40 right origin, 0x20 key), ids, without origins parent and key, then the content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .deletions import Deletions
from .errors import InvalidUpdate
from .json_text import check_json
from .limits import (
    AWARENESS_ENTRIES_MAX,
    AWARENESS_STATE_BYTES_MAX,
    CLIENT_ID_MAX,
    CLOCK_MAX,
    STATE_VECTOR_CLIENTS_MAX,
    UPDATE_BYTES_MAX,
    UPDATE_DEPTH_MAX,
    UPDATE_STRUCTS_MAX,
    UPDATE_VALUES_MAX,
)

__all__ = ["AwarenessEntry", "Shape", "Typed", "check_awareness", "check_state_vector", "check_update"]

_LEFT: Final = 0x80
_RIGHT: Final = 0x40
_KEY: Final = 0x20
_SKIP: Final = 10
_TUPLES_MAX: Final = 64  # deleted ranges that are kept as Python's own tuples
_KEYSTROKE_BYTES_MAX: Final = 256  # what `_keystroke` reads is not bounded byte by byte: Invariant 2 by this
_SIMPLE: Final = frozenset(("null", "true", "false", '""', "{}", "[]", *map(str, range(-1, 100))))  # most formats
_SIDES: Final = {0x84: (0,), 0x44: (1,), 0xC4: (0, 1)}  # left origin, right origin


class Typed(NamedTuple):
    """Where one client's one short text stands in an update that is nothing else."""

    continues: bool
    """It was typed behind the text that this client made just before: its left origin is the clock before its own."""
    right_at: int
    """Offset of the right origin; `text_at` where there is none."""
    text_at: int
    """Offset of the text's length, which is one byte; the text follows, and the delete set, which is empty."""


class Shape(NamedTuple):
    """What an update's bytes say about themselves. Clocks count Yjs units (UTF-16 code units for text)."""

    brings: tuple[tuple[int, int, int], ...]
    """(client, first clock, next clock) of each contiguous run of structs; a Skip ends a run and begins another."""
    needs: tuple[tuple[int, int], ...]
    """(client, next): the replica must have every clock of `client` below `next`, unless the update brings it."""
    deletes: Sequence[tuple[int, int, int]]
    """(client, first clock, next clock) of each deleted range; needs `next` of that client too (not within `needs`)."""
    typed: Typed | None = None
    """Of an ordinary keystroke, so that `sync.runs` need not read it again."""
    names: int = 0
    """Structs that name a shared type as their parent: only these lead deeper (`sync.nesting`)."""
    joins: int = 0
    """Structs right behind the one before of their client: pycrdt joins them, one by one (`sync.slices`)."""


def check_update(update: bytes) -> Shape:
    """Check Yjs v1 update bytes. Raises InvalidUpdate with the reason and the offset."""
    if len(update) > UPDATE_BYTES_MAX:
        raise _refused(UPDATE_BYTES_MAX, f"longer than {UPDATE_BYTES_MAX} bytes")
    try:
        if len(update) <= _KEYSTROKE_BYTES_MAX and (shape := _keystroke(update)) is not None:
            return shape
        return _walk(update)
    except IndexError:
        raise _refused(len(update), "ends too early") from None


def _keystroke(b: bytes) -> Shape | None:
    """The shape of an update that is one client's one short ASCII text and deletes nothing; None for any other.

    Reads by index and calls next to nothing, because it runs once per key that anybody presses.
    """
    if b[0] != 1 or b[1] != 1:
        return None
    client = b[2]
    i = 3
    if client > 127:
        client &= 127
        shift = 7
        while (c := b[i]) > 127:
            client |= (c & 127) << shift
            shift += 7
            i += 1
        client |= c << shift
        i += 1
        if c == 0 or client > CLIENT_ID_MAX:
            return None
    clock = b[i]
    i += 1
    if clock > 127:
        clock &= 127
        shift = 7
        while (c := b[i]) > 127:
            clock |= (c & 127) << shift
            shift += 7
            i += 1
        clock |= c << shift
        i += 1
        if c == 0:
            return None
    info = b[i]
    i += 1
    needs: tuple[tuple[int, int], ...] = ()
    continues = False
    right_at = 0
    if info == 4:  # the first text of a root: its name
        length = b[i + 1]
        i += 2
        if b[i - 2] != 1 or length > 127 or not b[i : i + length].isascii():
            return None
        i += length
    elif info == 0x84 or info == 0xC4 or info == 0x44:
        for side in _SIDES[info]:
            if side:
                right_at = i
            of = b[i]
            i += 1
            if of > 127:
                of &= 127
                shift = 7
                while (c := b[i]) > 127:
                    of |= (c & 127) << shift
                    shift += 7
                    i += 1
                of |= c << shift
                i += 1
                if c == 0 or of > CLIENT_ID_MAX:
                    return None
            at = b[i]
            i += 1
            if at > 127:
                at &= 127
                shift = 7
                while (c := b[i]) > 127:
                    at |= (c & 127) << shift
                    shift += 7
                    i += 1
                at |= c << shift
                i += 1
                if c == 0 or at >= CLOCK_MAX:
                    return None
            if of == client:
                if at >= clock:
                    return None
                if not side and at == clock - 1:
                    continues = True
            elif not needs:
                needs = ((of, at + 1),)
            elif needs[0][0] != of:
                needs = (needs[0], (of, at + 1))
            elif needs[0][1] <= at:
                needs = ((of, at + 1),)
    else:
        return None
    length = b[i]
    i += 1
    # After the text stands the delete set, one byte: 0 clients.
    if not 0 < length < 128 or i + length + 1 != len(b) or b[-1] != 0 or not b[i:].isascii():
        return None
    if clock + length > CLOCK_MAX:
        return None
    return Shape(((client, clock, clock + length),), needs, (), Typed(continues, right_at or i - 1, i - 1))


def _walk(b: bytes) -> Shape:
    """The shape of any update, struct by struct."""
    end = len(b)
    brings: list[tuple[int, int, int]] = []
    reach: dict[int, int] = {}  # client -> next clock after its last run
    wanted: dict[int, int] = {}  # client -> highest clock referred to, plus 1
    struct_count = 0
    names = joins = 0
    values_left = UPDATE_VALUES_MAX
    clients, i = _uint(b, 0, end)
    seen: set[int] = set()
    for _ in range(clients):
        section = i
        count, i = _uint(b, i, end)
        client, i = _uint(b, i, CLIENT_ID_MAX)
        clock, i = _uint(b, i, CLOCK_MAX)
        if count == 0 or client in seen:
            raise _refused(section, "client without structs" if count == 0 else f"client {client} twice")
        seen.add(client)
        struct_count += count
        if struct_count > UPDATE_STRUCTS_MAX:
            raise _refused(section, f"more than {UPDATE_STRUCTS_MAX} structs")
        first = clock
        for _ in range(count):
            start = i
            info = b[i]
            i += 1
            if info == _SKIP:
                length, i = _uint(b, i, CLOCK_MAX)
                if clock > first:
                    brings.append((client, first, clock))
                first = clock + length
            elif info == 0:  # a GC struct: deleted, and nobody knows any more what it was
                length, i = _uint(b, i, CLOCK_MAX)
            else:
                parent = not info & (_LEFT | _RIGHT)
                named = 0
                if parent:
                    named = b[i]
                    i += 1
                    if named == 1:
                        i = _text(b, i)
                    elif named:
                        raise _refused(i - 1, f"no such kind of parent ({named})")
                    else:
                        names += 1
                for _ in range((info >> 7) + (info >> 6 & 1) + (parent and not named)):
                    of, i = _uint(b, i, CLIENT_ID_MAX)
                    at, i = _uint(b, i, CLOCK_MAX - 1)
                    if of != client:
                        if at >= wanted.get(of, 0):
                            wanted[of] = at + 1
                    elif at >= clock:  # Invariant 4.
                        raise _refused(start, f"struct at clock {clock} refers to clock {at} of its own client")
                    elif at == clock - 1:
                        joins += 1
                if parent and info & _KEY:
                    i = _text(b, i)
                if info & 31 == 4:
                    length, i = _text_units(b, i)
                else:
                    length, i, values_left = _content(b, i, info & 31, values_left)
            clock += length
            if length == 0 or clock > CLOCK_MAX:
                raise _refused(start, "struct without length" if length == 0 else f"clock over {CLOCK_MAX}")
        if clock > first:
            brings.append((client, first, clock))
        if brings and brings[-1][0] == client:
            reach[client] = brings[-1][2]
    deletes, i = _deletes(b, i, values_left)
    if i != end:
        raise _refused(i, "bytes after the end (is this a V2 update? send V1)")
    needs = tuple([(of, next_) for of, next_ in wanted.items() if reach.get(of, 0) < next_])
    few = len(deletes) <= _TUPLES_MAX
    return Shape(tuple(brings), needs, tuple(deletes) if few else deletes, None, names, joins)


def _content(b: bytes, i: int, ref: int, values_left: int) -> tuple[int, int, int]:
    """One struct's content other than text: (units, position after it, values that may still come)."""
    start = i
    if ref == 1:  # Deleted
        length, i = _uint(b, i, CLOCK_MAX)
        return length, i, values_left
    if ref == 3:  # Binary
        return 1, _skip_bytes(b, i), values_left
    if ref == 5:  # Embed
        return 1, _json(b, i), values_left
    if ref == 6:  # Format: key, value
        return 1, _json(b, _text(b, i)), values_left
    if ref == 7:  # Type: array, map, text, XML element (with a name), XML fragment, -, XML text
        kind = b[i]
        if kind == 5:  # Yjs writes a name after it, Yrs 0.28 reads none: Invariant 1
            raise _refused(start, "XML hook, which Yrs and Yjs read differently; use an element")
        if kind > 6:
            raise _refused(start, f"no such type ({kind})")
        return 1, _text(b, i + 1) if kind == 3 else i + 1, values_left
    if ref == 8:  # Any: count, values
        count, i = _uint(b, i, values_left)
        i, values_left = _any(b, i, count, values_left)
        return count, i, values_left
    if ref == 9:  # Doc: guid, options
        i, values_left = _any(b, _text(b, i), 1, values_left)
        return 1, i, values_left
    if ref == 2:  # JSON, of editors older than Any: Yrs 0.28 reads strings without end and fails over every such update
        raise _refused(start, "JSON content of an old editor; load the document in a present one and save it")
    raise _refused(start, f"no such content ({ref})")


def _any(b: bytes, i: int, count: int, values_left: int) -> tuple[int, int]:
    """Pass `count` values of lib0's `any`: (position, values that may still come). An explicit stack: Invariant 2."""
    outer: list[
        tuple[int, bool]
    ] = []  # of each value around this one: values still to come, and whether they have keys
    keyed = False
    while True:
        while count == 0:
            if not outer:
                return i, values_left
            count, keyed = outer.pop()
        count -= 1
        values_left -= 1
        if values_left < 0:
            raise _refused(i, f"more than {UPDATE_VALUES_MAX} values")
        if keyed:
            i = _text(b, i)
        tag = b[i]
        i += 1
        if tag == 119:
            i = _text(b, i)
        elif tag == 125:
            i = _int(b, i)
        elif tag in (117, 118):
            if len(outer) >= UPDATE_DEPTH_MAX:
                raise _refused(i, f"values nested deeper than {UPDATE_DEPTH_MAX}")
            outer.append((count, keyed))
            keyed = tag == 118
            count, i = _uint(b, i, len(b))
        elif tag in (123, 122):  # float64, bigint
            i += 8
        elif tag == 124:  # float32
            i += 4
        elif tag == 116:
            i = _skip_bytes(b, i)
        elif tag not in (120, 121, 126, 127):  # true, false, null, undefined
            raise _refused(i - 1, f"no such value ({tag})")


def _deletes(b: bytes, i: int, values_left: int) -> tuple[Deletions, int]:
    """The delete set: (client, first, next) of each range, in the order of the bytes, and the position after it."""
    deletes = Deletions()
    seen: set[int] = set()
    clients, i = _uint(b, i, len(b))
    for _ in range(clients):
        start = i
        client, i = _uint(b, i, CLIENT_ID_MAX)
        if client in seen:
            raise _refused(start, f"client {client} twice among the deletes")
        seen.add(client)
        count, i = _uint(b, i, values_left)
        values_left -= count
        add = deletes.adder()
        for _ in range(count):  # half a million in a megabyte: clocks of up to 21 bits are read here
            start = i
            first = b[i]
            i += 1
            if first > 127:
                if 0 < (c := b[i]) < 128:
                    first = first & 127 | c << 7
                    i += 1
                elif c and 0 < (d := b[i + 1]) < 128:
                    first = first & 127 | (c & 127) << 7 | d << 14
                    i += 2
                else:
                    first, i = _uint(b, start, CLOCK_MAX)
            length = b[i]
            i += 1
            if length > 127:
                length, i = _uint(b, i - 1, CLOCK_MAX)
            if length == 0 or first + length > CLOCK_MAX:
                raise _refused(start, f"deleted range of length {length} at clock {first}")
            add((client, first, first + length))
    return deletes, i


def _uint(b: bytes, i: int, limit: int) -> tuple[int, int]:
    """The number at `i` and the position after it. `lib0.read_var_uint`, quicker; IndexError at the end."""
    value = b[i]
    start = i
    i += 1
    if value > 127:
        value &= 127
        shift = 7
        while (c := b[i]) > 127:
            value |= (c & 127) << shift
            shift += 7
            i += 1
            if shift > 56:  # nine bytes hold more than any limit; Invariant 2
                raise _refused(start, "number has no end")
        value |= c << shift
        i += 1
        if c == 0:
            raise _refused(start, "number is longer than needed")
    if value > limit:
        raise _refused(start, f"{value} is over {limit}")
    return value, i


def _int(b: bytes, i: int) -> int:
    """Pass a signed number: 6 bits and the sign in the first byte. JavaScript throws over 53 bits, so they end here."""
    start = i
    c = b[i]
    value = c & 63
    shift = 6
    i += 1
    while c > 127:
        c = b[i]
        value |= (c & 127) << shift
        shift += 7
        i += 1
        if value > CLIENT_ID_MAX or shift > 62 or c == 0:
            raise _refused(start, "number over 53 bits, or longer than needed")
    return i


def _skip_bytes(b: bytes, i: int) -> int:
    """Pass a length and so many bytes."""
    length = b[i]
    i += 1
    if length > 127:
        length, i = _uint(b, i - 1, len(b))
    i += length
    if i > len(b):
        raise IndexError
    return i


def _text(b: bytes, i: int) -> int:
    """Pass a length and so many bytes of UTF-8."""
    j = _skip_bytes(b, i)
    text = b[i:j]  # with its length: a varint's last byte is ASCII, and only a long one has bytes that are not
    if not text.isascii():
        _decoded(b, i, j)
    return j


def _text_units(b: bytes, i: int) -> tuple[int, int]:
    """Pass a text: (its length in UTF-16 units, position after it)."""
    length, start = _uint(b, i, len(b))
    j = start + length
    text = b[start:j]
    if len(text) != length:
        raise IndexError
    if text.isascii():
        return length, j
    return len(_decoded(b, i, j).encode("utf-16-le")) // 2, j


def _decoded(b: bytes, i: int, j: int) -> str:
    """The text whose length stands at `i` and whose last byte is before `j`."""
    _, start = _uint(b, i, len(b))
    try:
        return b[start:j].decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(start + error.start, "not UTF-8") from None


def _json(b: bytes, i: int) -> int:
    """Pass a text that has to be JSON as Yrs reads it: an embed or a format's value."""
    j = _skip_bytes(b, i)
    text = _decoded(b, i, j)
    if text not in _SIMPLE:
        _check_json(text, i, narrow=True)
    return j


def _check_json(text: str, i: int, *, narrow: bool) -> None:
    try:
        check_json(text, UPDATE_DEPTH_MAX, narrow=narrow)
    except ValueError:
        raise _refused(i, f"not JSON as Yrs reads it, at most {UPDATE_DEPTH_MAX} levels") from None


def _refused(i: int, reason: str) -> InvalidUpdate:
    return InvalidUpdate(f"byte {i}: {reason}; refused, nothing was applied")


def check_state_vector(state_vector: bytes) -> dict[int, int]:
    """Client -> next clock. Raises InvalidUpdate; the claimed count is compared with the bytes that are there."""
    b = state_vector
    clocks: dict[int, int] = {}
    try:
        count, i = _uint(b, 0, min(len(b) // 2, STATE_VECTOR_CLIENTS_MAX))
        for _ in range(count):
            client, i = _uint(b, i, CLIENT_ID_MAX)
            if client in clocks:
                raise _refused(i, f"client {client} twice")
            clocks[client], i = _uint(b, i, CLOCK_MAX)
    except IndexError:
        raise _refused(len(b), "ends too early") from None
    if i != len(b):
        raise _refused(i, "bytes after the end")
    return clocks


@dataclass(frozen=True, slots=True)
class AwarenessEntry:
    client: int
    clock: int
    state: str
    """JSON text; `null` says that the client has gone."""


def check_awareness(payload: bytes) -> tuple[AwarenessEntry, ...]:
    """The entries of a y-protocols awareness update. Raises InvalidUpdate."""
    b = payload
    entries: list[AwarenessEntry] = []
    try:
        count, i = _uint(b, 0, min(len(b) // 3, AWARENESS_ENTRIES_MAX))
        for _ in range(count):
            client, i = _uint(b, i, CLIENT_ID_MAX)
            clock, i = _uint(b, i, CLIENT_ID_MAX)
            start = i
            i = _skip_bytes(b, i)
            if i - start > AWARENESS_STATE_BYTES_MAX:
                raise _refused(start, f"state over {AWARENESS_STATE_BYTES_MAX} bytes")
            state = _decoded(b, start, i)
            _check_json(state, start, narrow=False)
            entries.append(AwarenessEntry(client, clock, state))
    except IndexError:
        raise _refused(len(b), "ends too early") from None
    if i != len(b):
        raise _refused(i, "bytes after the end")
    return tuple(entries)
