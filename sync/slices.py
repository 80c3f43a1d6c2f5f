"""An update in pieces that pycrdt applies in a millisecond each: it is quadratic in what one transaction brings.

150,000 letters, each behind the one before (1 MB), take it 51 s in one piece and 0.14 s in pieces of 1,000: at the end
of a transaction neighbours are joined, one by one, in a list that is moved each time. A deletion cuts such a list too.

Room: bytes in, bytes out. The pieces, taken in this order, are the update: each refers only to what came before it.

A struct whose content is gone comes with its deletion. Pieces are stored as rows of their own, and `merge_updates` may
take the struct as somebody else has it, with its content. Applied, such a struct is deleted by itself: its deletion in
a later piece would be nothing new to the gate, and not stored.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from .lib0 import write_var_uint
from .limits import CLIENT_ID_MAX, CLOCK_MAX, SLICE_BYTES, SLICE_RANGES, SLICE_STRUCTS
from .structs import in_order, read_structs
from .validate import Shape, _uint, check_update  # the same grammar, and it must not be written twice

__all__ = ["Piece", "cut", "holds_long", "pieces_of", "wants_cutting"]

Piece = tuple[bytes, Shape]
"""An update that was cut out of a larger one, checked."""


def pieces_of(update: bytes) -> tuple[Piece, ...]:
    """Of a checked update. For a thread: 0.5 s a megabyte at worst. Raises InvalidUpdate (`in_order`)."""
    return tuple((piece, check_update(piece)) for piece in cut(update, {}))


def holds_long(shape: Shape) -> bool:
    """To apply it in one step, in pieces or not, would hold others up."""
    return shape.joins > SLICE_STRUCTS or len(shape.deletes) > SLICE_RANGES


_COLLECTED = 0  # a struct's first byte: only its length is left
_CONTENT_DELETED = 1


def wants_cutting(shape: Shape) -> bool:
    """In one piece it would cost pycrdt seconds, in which no thread runs: many structs to join, or many ranges."""
    return shape.joins > SLICE_STRUCTS or len(shape.deletes) > SLICE_RANGES


def cut(update: bytes, known: Mapping[int, int]) -> list[bytes]:
    """Of a checked update; what is `known` (client -> next clock) is left out. Raises InvalidUpdate (`in_order`)."""
    structs, deletes_at = read_structs(update)
    pieces: list[bytes] = []
    client, begin, end, clock, following, count = 0, 0, 0, 0, 0, 0
    gone: list[int] = []  # first and next clock, in turn
    for of, at in in_order(structs, known):
        own = structs[of]
        fits = of == client and own.begins[at] == end and own.clocks[at] == following
        if not fits or count >= SLICE_STRUCTS or end - begin >= SLICE_BYTES:
            if count:
                pieces.append(_piece(update, client, clock, count, begin, end, gone))
            client, begin, clock, count, gone = of, own.begins[at], own.clocks[at], 0, []
        if (info := update[own.begins[at]]) == _COLLECTED or info & 31 == _CONTENT_DELETED:
            if gone and gone[-1] == own.clocks[at]:
                gone[-1] = own.followings[at]
            else:
                gone += (own.clocks[at], own.followings[at])
        end, following, count = own.ends[at], own.followings[at], count + 1
    if count:
        pieces.append(_piece(update, client, clock, count, begin, end, gone))
    return pieces + _deletions(update, deletes_at)


def _piece(update: bytes, client: int, clock: int, count: int, begin: int, end: int, gone: Sequence[int]) -> bytes:
    head = b"\1" + write_var_uint(count) + write_var_uint(client) + write_var_uint(clock)
    if not gone:
        return head + update[begin:end] + b"\0"
    deletes = b"\1" + write_var_uint(client) + write_var_uint(len(gone) // 2)
    for first, following in zip(gone[::2], gone[1::2], strict=True):
        deletes += write_var_uint(first) + write_var_uint(following - first)
    return head + update[begin:end] + deletes


def _deletions(b: bytes, i: int) -> list[bytes]:
    """Ascending, as Yjs writes them: 150,000 in the other order take pycrdt 36 s instead of one."""
    pieces: list[bytes] = []
    clients, i = _uint(b, i, len(b))
    for _ in range(clients):
        client, i = _uint(b, i, CLIENT_ID_MAX)
        count, i = _uint(b, i, len(b))
        head = b"\0\1" + write_var_uint(client)
        starts, begins, ends = array("I"), array("I"), array("I")
        ordered, last = True, 0
        for _ in range(count):
            begins.append(i)
            first, i = _uint(b, i, CLOCK_MAX)
            _, i = _uint(b, i, CLOCK_MAX)
            starts.append(first)
            ends.append(i)
            ordered = ordered and first >= last
            last = first
        if ordered:
            for at in range(0, count, SLICE_RANGES):
                end = min(at + SLICE_RANGES, count)
                pieces.append(head + write_var_uint(end - at) + b[begins[at] : ends[end - 1]])
        else:
            order = sorted(range(count), key=starts.__getitem__)
            for at in range(0, count, SLICE_RANGES):
                some = order[at : at + SLICE_RANGES]
                spelled = b"".join([b[begins[each] : ends[each]] for each in some])
                pieces.append(head + write_var_uint(len(some)) + spelled)
    return pieces
