"""What only a snapshot of a lost log has goes into the log that took its place, until that has it.

Room: a part of the leader machine. The changes are the leader's own: its origin, and dots that count per document.
"""

from __future__ import annotations

from .change import Change, Context, Snapshot
from .ids import DocId, Dot, Origin
from .limits import RETRY_MS_MAX, RETRY_MS_MIN

__all__ = ["Reshipping"]


class Reshipping:
    __slots__ = ("_name", "_next", "_origin", "_shipping")

    def __init__(self, name: str, origin: Origin) -> None:
        self._name = name
        self._origin = origin
        self._next: dict[DocId, int] = {}
        self._shipping: dict[tuple[DocId, Dot], tuple[Change, int]] = {}

    def ship(self, snapshot: Snapshot, now_ms: int) -> Change:
        doc = snapshot.doc
        self._next[doc] = self._next.get(doc, 0) + 1
        dot = Dot(self._origin, self._next[doc])
        change = Change(doc, dot, snapshot.state, Context(edge=self._name), snapshot.dots)
        self._shipping[(doc, dot)] = (change, now_ms + RETRY_MS_MAX)
        return change

    def published(self, doc: DocId, dot: Dot) -> None:
        self._shipping.pop((doc, dot), None)

    def failed(self, doc: DocId, dot: Dot, now_ms: int) -> None:
        """It goes out again with the next ticks."""
        key = (doc, dot)
        if key in self._shipping:
            self._shipping[key] = (self._shipping[key][0], now_ms + RETRY_MS_MIN)

    def due(self, now_ms: int) -> list[Change]:
        found = [(key, change) for key, (change, due_ms) in self._shipping.items() if now_ms >= due_ms]
        for key, change in found:
            self._shipping[key] = (change, now_ms + RETRY_MS_MAX)
        return [change for _, change in found]
