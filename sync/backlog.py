"""What waits to be folded while a lane has no replica, and the load that will bring one.

Room: a part of the leader machine, one document's. It folds nothing and holds no replica (`sync.lane` does): changes in
the log's order, and how much of the log the next load has to read.

Invariants:
1. No place of the log waits twice. What finds no room is not acknowledged, and comes again.
2. Where messages between those that wait may have gone to somebody else, the log is read to its end; a load that was
   asked for before that was known counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from .change import LogEntry, size_of
from .ids import DocId
from .limits import LANE_COUNT_MAX, LOAN_BYTES, LOAN_COUNT, RETRY_MS_MAX, RETRY_MS_MIN
from .step import LoadLogged

__all__ = ["Backlog"]


class Backlog:
    __slots__ = ("_failures", "_load_after_ms", "entries", "loading", "stale", "whole")

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.loading = False
        self.whole = False
        """The next load reads the log to its end, not only to what waits. Until such a load has come."""
        self.stale = False
        """`whole` was not known yet when the load that is on its way was asked for."""
        self._failures = 0
        self._load_after_ms = 0

    # --- what waits --------------------------------------------------------------------------------------------------
    def wait(self, entry: LogEntry, redelivered: bool) -> bool:
        """False: invariant 1. A repeat says nothing of what was acknowledged behind it: invariant 2."""
        if redelivered:
            self.whole = True
            self.stale = self.stale or self.loading
        if any(waiting.version == entry.version for waiting in self.entries) or len(self.entries) >= LANE_COUNT_MAX:
            return False
        self.entries.append(entry)
        return True

    def distrust(self, lent: bool) -> None:
        """Somebody else was given a message. Invariant 2. `lent`: what waits, waits behind a loan."""
        self.whole = self.whole or self.loading or lent or bool(self.entries)
        self.stale = self.stale or self.loading

    def loan_count(self) -> int:
        """So many of the first make a work of its own: at least one."""
        size = count = 0
        for entry in self.entries[:LOAN_COUNT]:
            size += size_of(entry)
            if count and size > LOAN_BYTES:
                break
            count += 1
        return count

    def again(self, entries: Sequence[LogEntry]) -> None:
        """These were folded, and have to be once more."""
        self.entries = [*entries, *self.entries]

    # --- the load ----------------------------------------------------------------------------------------------------
    def load(self, doc: DocId) -> LoadLogged:
        self.loading = True
        self.stale = False
        before = None if self.whole else min((entry.version.seq for entry in self.entries), default=None)
        return LoadLogged(doc, before)

    def due(self, now_ms: int) -> bool:
        return now_ms >= self._load_after_ms

    def failed(self, now_ms: int) -> None:
        """Snapshot and log could not be read: again later."""
        self.loading = False
        self._failures += 1
        self._load_after_ms = now_ms + min(RETRY_MS_MAX, RETRY_MS_MIN << min(self._failures, 10))

    def came(self) -> bool:
        """They were read. False: invariant 2, they are to be read again."""
        self.loading = False
        self._failures = 0
        return not self.stale

    def unreadable(self, now_ms: int) -> None:
        """What was read is no document."""
        self._load_after_ms = now_ms + RETRY_MS_MAX

    def loaded(self) -> None:
        """There is a replica of it."""
        self.whole = False
        self.entries.sort(key=lambda waiting: waiting.version.seq)
