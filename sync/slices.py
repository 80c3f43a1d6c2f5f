"""An update in pieces that pycrdt applies in a millisecond each: it is quadratic in what one transaction brings.

150,000 letters, each behind the one before (1 MB), take it 51 s in one piece and 0.14 s in pieces of 1,000: at the end
of a transaction neighbours are joined, one by one, in a list that is moved each time. A deletion cuts such a list too.
In a large document it may also cut a long text, which is copied (`sync.splits`): 150,000 ranges from the first to the
last copy 10 MB each time, 10 minutes. Each in the middle of what the ones before it have left, they copy it 17 times.

Room: bytes in, bytes out. The pieces, taken in this order, are the update: each refers only to what came before it.

A struct whose content is gone comes with its deletion. Pieces are stored as rows of their own, and `merge_updates` may
take the struct as somebody else has it, with its content. Applied, such a struct is deleted by itself: its deletion in
a later piece would be nothing new to the gate, and not stored. So there it is left out: half a million of them are most
of a large state.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from . import limits
from .lib0 import write_var_uint
from .limits import CLIENT_ID_MAX, CLOCK_MAX, SLICE_BYTES, SLICE_RANGES, SLICE_STRUCTS
from .splits import Into, Splits
from .structs import NOBODY, Read, Structs, in_order, read_structs
from .validate import Shape, _uint, check_update  # the same grammar, and it must not be written twice

__all__ = ["Piece", "Weighed", "cut", "pieces_of", "wants_cutting", "weighed"]

Piece = tuple[bytes, Shape]
"""An update that was cut out of a larger one, checked."""


class Weighed(NamedTuple):
    """A piece, and what it makes Yrs copy (`sync.splits`): taken together with others it comes in another order, and
    then each of its cuts copies at most as much as the dearest of all of them."""

    update: bytes
    parts: int
    """Structs, or deleted ranges."""
    cuts: int
    dearest: int
    """Bytes."""


NEW = Into()
_STRUCT_BYTES = 5  # at least, of one that stands beside another


def pieces_of(update: bytes, into: Into = NEW) -> tuple[Piece, ...]:
    """Of a checked update. For a thread: 0.5 s a megabyte at worst. Raises InvalidUpdate (`in_order`)."""
    return tuple((piece, check_update(piece)) for piece in cut(update, {}, into))


def wants_cutting(update: bytes, shape: Shape, document_bytes: int = 0) -> bool:
    """In one piece it might cost pycrdt seconds, in which no thread runs; in pieces of one turn, that turn."""
    if shape.joins > SLICE_STRUCTS or len(shape.deletes) > SLICE_RANGES:
        return True
    if document_bytes <= limits.SPLIT_DOCUMENT_BYTES or shape.typed is not None:
        return False
    structs = len(update) // _STRUCT_BYTES - shape.joins if shape.brings else 0
    return (structs + 2 * len(shape.deletes)) * document_bytes > limits.SPLIT_BYTES


_COLLECTED = 0  # a struct's first byte: only its length is left
_CONTENT_DELETED = 1


def cut(update: bytes, known: Mapping[int, int], into: Into = NEW) -> list[bytes]:
    """Of a checked update; what is `known` (client -> next clock) is left out. Raises InvalidUpdate (`in_order`)."""
    return [piece.update for piece in weighed(update, known, into)]


def weighed(update: bytes, known: Mapping[int, int], into: Into, read: Read | None = None) -> list[Weighed]:
    """`cut`. `read`: what `read_structs` has found."""
    structs, deletes_at = read_structs(update) if read is None else read
    splits = Splits(into, len(update))
    counts = splits.counts
    pieces: list[Weighed] = []
    client, begin, end, clock, following, count = 0, 0, 0, 0, 0, 0
    copies = copied = cuts = dearest = 0
    gone: list[int] = []  # first and next clock, in turn
    said: dict[int, array[int]] = {}  # the same, by client: 350,000 are 44 MB of tuples
    for of, at in in_order(structs, known):
        own = structs[of]
        if counts:
            copies = _copies(splits, of, own, at)
            copied += copies
        fits = of == client and own.begins[at] == end and own.clocks[at] == following
        if not fits or count >= SLICE_STRUCTS or end - begin >= SLICE_BYTES or copied > limits.SPLIT_BYTES:
            if count:
                piece = _piece(update, client, clock, count, begin, end, gone)
                pieces.append(Weighed(piece, count, cuts, dearest))
            client, begin, clock, count, gone = of, own.begins[at], own.clocks[at], 0, []
            copied, cuts, dearest = copies, 0, 0
        if copies:
            cuts += 2  # a struct stands between two
            dearest = max(dearest, copies)
        if (info := update[own.begins[at]]) == _COLLECTED or info & 31 == _CONTENT_DELETED:
            if gone and gone[-1] == own.clocks[at]:
                gone[-1] = own.followings[at]
            else:
                gone += (own.clocks[at], own.followings[at])
            spans = said.get(of)
            if spans is None:
                spans = said[of] = array("I")
            if spans and spans[-1] == own.clocks[at]:
                spans[-1] = own.followings[at]
            else:
                spans.extend((own.clocks[at], own.followings[at]))
        end, following, count = own.ends[at], own.followings[at], count + 1
    if count:
        pieces.append(Weighed(_piece(update, client, clock, count, begin, end, gone), count, cuts, dearest))
    return pieces + _deletions(update, deletes_at, said, splits)


def _copies(splits: Splits, client: int, own: Structs, at: int) -> int:
    """Bytes, at most, where it stands between two that were one struct: nothing beside the last of its own, nor where
    the struct before it stands too."""
    left, right, right_at, clock = own.left[at], own.right[at], own.right_at[at], own.clocks[at]
    copies, behind = 0, -1
    if left != NOBODY and not own.deeper[at]:
        behind = own.left_at[at] + 1
        if left != client or behind != clock:
            copies = splits.cut(left, behind)
    again = at > 0 and own.right_at[at - 1] == right_at and own.right[at - 1] == right
    if right != NOBODY and not again and not (right == left and right_at == behind):
        copies += splits.cut(right, right_at)
    splits.grow(client, own.followings[at])
    return copies


def _piece(update: bytes, client: int, clock: int, count: int, begin: int, end: int, gone: Sequence[int]) -> bytes:
    head = b"\1" + write_var_uint(count) + write_var_uint(client) + write_var_uint(clock)
    if not gone:
        return head + update[begin:end] + b"\0"
    deletes = b"\1" + write_var_uint(client) + write_var_uint(len(gone) // 2)
    for first, following in zip(gone[::2], gone[1::2], strict=True):
        deletes += write_var_uint(first) + write_var_uint(following - first)
    return head + update[begin:end] + deletes


def _deletions(b: bytes, i: int, said: Mapping[int, Sequence[int]], splits: Splits) -> list[Weighed]:
    """But for what is `said` already, by client. In their order: 150,000 backwards take pycrdt 36 s instead of one."""
    pieces: list[Weighed] = []
    clients, i = _uint(b, i, len(b))
    for _ in range(clients):
        client, i = _uint(b, i, CLIENT_ID_MAX)
        count, i = _uint(b, i, len(b))
        head = b"\0\1" + write_var_uint(client)
        starts, followings, begins, ends = array("I"), array("I"), array("I"), array("I")
        spans = said.get(client, ())
        ordered, last, within = True, 0, 0
        for _ in range(count):
            begin = i
            first, i = _uint(b, i, CLOCK_MAX)
            length, i = _uint(b, i, CLOCK_MAX)
            following = min(first + length, CLOCK_MAX)
            while within < len(spans) and spans[within + 1] <= first:
                within += 2  # both ascend; where one does not, it is said twice
            if within < len(spans) and spans[within] <= first and following <= spans[within + 1]:
                continue
            begins.append(begin)
            starts.append(first)
            followings.append(following)
            ends.append(i)
            ordered = ordered and first >= last
            last = first
        order = range(len(starts)) if ordered else sorted(range(len(starts)), key=starts.__getitem__)
        for some, dearest in _portions(client, order, starts, followings, splits):
            spelled = b"".join([b[begins[each] : ends[each]] for each in some])
            pieces.append(Weighed(head + write_var_uint(len(some)) + spelled, len(some), 2 * len(some), dearest))
    return pieces


def _portions(
    client: int, order: Sequence[int], starts: Sequence[int], followings: Sequence[int], splits: Splits
) -> Iterator[tuple[Sequence[int], int]]:
    """Of ranges that ascend in this order: what one piece has of them, and what the dearest copies."""
    if splits.counts:
        end = max(splits.end(client), max(followings, default=0))
        order = _halving(order, [starts[each] for each in order], end)
    begin = copied = dearest = 0
    for at, each in enumerate(order):
        copies = splits.cut(client, starts[each]) + splits.cut(client, followings[each]) if splits.counts else 0
        copied += copies
        if at > begin and (at - begin >= SLICE_RANGES or copied > limits.SPLIT_BYTES):
            yield order[begin:at], dearest
            begin, copied, dearest = at, copies, 0
        dearest = max(dearest, copies)
    if begin < len(order):
        yield order[begin:], dearest


def _halving(order: Sequence[int], starts: Sequence[int], end: int) -> list[int]:
    """First the range that is nearest to the middle of a client's clocks, then those nearest to the middles of the two
    halves, and so on, until what is left is short: that comes as it stands."""
    first: list[int] = []
    short: list[tuple[int, int]] = []
    waiting = deque([(0, len(order), 0, end)])
    while waiting:
        low, high, begin, following = waiting.popleft()
        if low == high:
            continue
        if following - begin <= limits.SPLIT_UNITS:
            short.append((low, high))
            continue
        middle = (begin + following) // 2
        at = bisect_left(starts, middle, low, high)
        if at == high or (at > low and middle - starts[at - 1] < starts[at] - middle):
            at -= 1
        first.append(order[at])
        waiting.append((low, at, begin, starts[at]))
        waiting.append((at + 1, high, starts[at], following))
    return first + [each for low, high in sorted(short) for each in order[low:high]]
