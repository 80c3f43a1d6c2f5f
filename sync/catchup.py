"""Which documents are to be compared with the leader, and which of them are being asked for.

Room: a part of the edge machine; names and times only, no document.

Invariants:
1. At most SYNC_IN_FLIGHT_MAX questions are open, and one a document.
2. After the log was lost, `sweeping` stays true until every document that was stored then has been compared.
"""

from __future__ import annotations

from collections.abc import Iterable

from .ids import DocId
from .limits import SYNC_IN_FLIGHT_MAX, SYNC_MS_MAX

__all__ = ["Catchup"]


class Catchup:
    __slots__ = ("_asked", "_number", "_open", "_sweep", "_wanted", "sweeping")

    def __init__(self) -> None:
        self.sweeping = False
        self._wanted: dict[DocId, int] = {}
        self._open: dict[int, tuple[DocId, int]] = {}
        self._asked: set[DocId] = set()
        self._number = 0
        self._sweep: set[DocId] = set()

    def want(self, doc: DocId, at_ms: int) -> None:
        """Ask about this document at `at_ms` or earlier."""
        self._wanted[doc] = min(at_ms, self._wanted.get(doc, at_ms))

    def wants(self, doc: DocId) -> bool:
        """True while a question about it is open or to come."""
        return doc in self._wanted or doc in self._asked

    def spare(self, doc: DocId, at_ms: int) -> None:
        """What was to be asked at that time is known."""
        if self._wanted.get(doc) == at_ms:
            del self._wanted[doc]

    def due(self, now_ms: int) -> list[DocId]:
        """Documents to ask about now, in the order in which they were wanted. Invariant 1."""
        room = SYNC_IN_FLIGHT_MAX - len(self._open)
        if room <= 0 or not self._wanted:
            return []
        found: list[DocId] = []
        for doc, at_ms in self._wanted.items():
            if at_ms <= now_ms and doc not in self._asked:
                found.append(doc)
                if len(found) == room:
                    break
        return found

    def asked(self, doc: DocId, now_ms: int) -> int:
        """The question is on its way; returns its number."""
        self._wanted.pop(doc, None)
        self._number += 1
        self._open[self._number] = (doc, now_ms)
        self._asked.add(doc)
        return self._number

    def postpone(self, doc: DocId) -> None:
        """It has to be loaded first; who loads it wants it again."""
        self._wanted.pop(doc, None)

    def is_open(self, number: int, doc: DocId) -> bool:
        """Nobody has answered it yet."""
        return self._open.get(number, (None, 0))[0] == doc

    def closed(self, number: int, doc: DocId) -> bool:
        """The question was answered or failed. False where it was not open any more."""
        if not self.is_open(number, doc):
            return False
        del self._open[number]
        self._asked.discard(doc)
        return True

    def overdue(self, now_ms: int) -> list[tuple[int, DocId]]:
        """(number, document) of questions that nobody answered, failed or not."""
        return [(number, doc) for number, (doc, since_ms) in self._open.items() if now_ms - since_ms > 2 * SYNC_MS_MAX]

    def link_changed(self) -> None:
        """What was open will not be answered; what was wanted is wanted anew by whoever knows why."""
        self._open.clear()
        self._asked.clear()
        self._wanted.clear()

    def sweep(self, docs: Iterable[DocId], now_ms: int) -> None:
        """Compare all of these. Invariant 2."""
        self._sweep = set(docs)
        self.sweeping = bool(self._sweep)
        for doc in sorted(self._sweep):
            self.want(doc, now_ms)

    def sweeps(self, doc: DocId) -> bool:
        """True while this document has yet to be compared with a new log."""
        return doc in self._sweep

    def compared(self, doc: DocId) -> None:
        self._sweep.discard(doc)
        self.sweeping = self.sweeping and bool(self._sweep)
