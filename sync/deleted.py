"""What is deleted in a document: the bytes of a snapshot, read where somebody asks, and what was deleted since.

Room: bytes and numbers, no pycrdt. Reading 350,000 ranges takes Python 80 ms, and a piece that is judged on the loop
names 250 of them. A snapshot has no index: where its numbers stand is found by counting bytes, in 3 ms.

1. What is held is what the snapshot and `add` have said, whoever has asked before.
2. pycrdt writes a client's ranges in their order (`tests/sync/test_deleted.py`). Were it otherwise, some would be taken
   for not deleted: then a deletion is stored and passed on once more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from .deletions import Span
from .digest import read_ranges
from .lib0 import read_var_uint
from .limits import CLIENT_ID_MAX, CLOCK_MAX

__all__ = ["Deleted"]

_STRIDE_BYTES = 512  # read at once: 130 ranges, 40 us; so 250 ranges from end to end of a document are 10 ms
_FEW = 64  # of a client: they are one stride
_GOES_ON = bytes(range(128, 256))  # a number ends with the first byte below

_Spans = Sequence[tuple[int, int]]
_NO_SPANS: _Spans = ()


class Deleted:
    __slots__ = ("_added", "_encoded", "_few", "_read", "_strides")

    def __init__(self, snapshot: bytes) -> None:
        """`snapshot`: an encoded `pycrdt.Snapshot`."""
        self._encoded = snapshot
        self._few: dict[int, int] = {}
        """Client -> where its ranges stand, their number first."""
        self._strides: dict[int, tuple[list[int], list[int], list[int]]] = {}
        """Client -> of each stride the first clock, where it stands, and how many ranges it has."""
        self._read: dict[int, _Spans] = {}
        """By where it stands."""
        self._added: dict[int, list[tuple[int, int]]] = {}
        clients, at = read_var_uint(snapshot, 0, len(snapshot))
        for _ in range(clients):
            client, start = read_var_uint(snapshot, at, CLIENT_ID_MAX)
            count, at = read_var_uint(snapshot, start, len(snapshot))
            if count <= _FEW:
                self._few[client] = start
                at = _behind(snapshot, at, 2 * count)
            else:
                at = self._find_strides(client, at, count)

    def _find_strides(self, client: int, at: int, count: int) -> int:
        """Returns the position behind them."""
        encoded = self._encoded
        firsts: list[int] = []
        starts: list[int] = []
        counts: list[int] = []
        while count:
            firsts.append(read_var_uint(encoded, at, CLOCK_MAX)[0])
            starts.append(at)
            ended = len(encoded[at : at + _STRIDE_BYTES].translate(None, _GOES_ON))
            if ended >= 2 * count:
                ended = 2 * count
                at = _behind(encoded, at, ended)
            else:  # up to the end of a range
                at += _STRIDE_BYTES
                rest = ended & 1 or (2 if encoded[at - 1] > 127 else 0)
                ended += rest
                at = _behind(encoded, at, rest)
            counts.append(ended // 2)
            count -= ended // 2
        self._strides[client] = firsts, starts, counts
        return at

    def add(self, client: int, first: int, following: int) -> None:
        """Deleted since the snapshot, or before."""
        _add_range(self._added.setdefault(client, []), first, following)

    def holds(self, deletions: Iterable[Span]) -> bool:
        """All of them."""
        of, spans, at = -1, _NO_SPANS, 0
        for client, first, following in deletions:
            if client != of:
                of, spans, at = client, _NO_SPANS, 0
            if at < len(spans) and spans[at][0] <= first and following <= spans[at][1]:  # they mostly ascend alike
                at += 1
                continue
            spans, at = self._before(client, first)
            if at < 0 or following > spans[at][1]:
                spans = self._added.get(client, _NO_SPANS)
                at = _last_before(spans, first)
                if (at < 0 or following > spans[at][1]) and not self._holds(client, first, following):
                    return False
            at += 1
        return True

    def _holds(self, client: int, first: int, following: int) -> bool:
        """Perhaps as several ranges side by side, of the snapshot and of what was added."""
        added = self._added.get(client, _NO_SPANS)
        while first < following:
            reach = first
            for spans, at in (self._before(client, first), (added, _last_before(added, first))):
                if at >= 0:
                    reach = max(reach, spans[at][1])
            if reach == first:
                return False
            first = reach
        return True

    def _before(self, client: int, first: int) -> tuple[_Spans, int]:
        """Ranges of the snapshot, and which of them is the last that does not begin behind this clock; -1: none."""
        if client in self._strides:
            firsts, starts, counts = self._strides[client]
            stride = max(0, bisect_right(firsts, first) - 1)
            spans = self._spans(starts[stride], counts[stride])
        elif client in self._few:
            count, start = read_var_uint(self._encoded, self._few[client], len(self._encoded))
            spans = self._spans(start, count)
        else:
            return _NO_SPANS, -1
        return spans, _last_before(spans, first)

    def _spans(self, start: int, count: int) -> _Spans:
        spans = self._read.get(start)
        if spans is None:
            spans = self._read[start] = read_ranges(self._encoded, start, count)[0]
        return spans


def _behind(b: bytes, at: int, count: int) -> int:
    """The position behind so many numbers."""
    while count:
        if b[at] < 128:
            count -= 1
        at += 1
    return at


def _last_before(spans: _Spans, first: int) -> int:
    return bisect_right(spans, (first, 1 << 62)) - 1


def _add_range(spans: list[tuple[int, int]], first: int, following: int) -> None:
    """Keep `spans` ascending, disjoint and non-adjacent."""
    at = bisect_right(spans, (first, 1 << 62))
    if at and spans[at - 1][1] >= first:
        at -= 1
        first = spans[at][0]
        following = max(following, spans[at][1])
    end = at
    while end < len(spans) and spans[end][0] <= following:
        following = max(following, spans[end][1])
        end += 1
    spans[at:end] = [(first, following)]
