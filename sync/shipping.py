"""The outbox on its way to the log: in order, pipelined, bounded, for ever.

Room: a part of the edge machine (`sync.edge`). It knows which committed changes are on their way; not what a document
holds, and not whether the leader has merged them.

Invariants:
1. Only committed changes come here (law 2).
2. Either every committed change that the log has not acknowledged is in `_queue` or in flight (live), or the disk is
   being read from `_cursor` on (backlog). A read that comes back empty ends the backlog: what was committed after the
   read was asked for is in `_queue`.
3. At most OUTBOX_WINDOW_COUNT changes and about OUTBOX_WINDOW_BYTES are in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from .change import Change
from .ids import DocId, Dot
from .limits import (
    OUTBOX_PAGE_BYTES,
    OUTBOX_PAGE_COUNT,
    OUTBOX_WINDOW_BYTES,
    OUTBOX_WINDOW_COUNT,
    RETRY_MS_MAX,
    RETRY_MS_MIN,
)
from .step import Publish, ReadOutbox

__all__ = ["Shipping"]

Key = tuple[DocId, Dot]


class Shipping:
    __slots__ = (
        "_backlog",
        "_cursor",
        "_inflight",
        "_inflight_bytes",
        "_queue",
        "_queue_bytes",
        "_read",
        "_reading",
        "_retries",
        "_tries",
        "up",
    )

    def __init__(self) -> None:
        self.up = False
        self._backlog = True
        self._reading = False
        self._read = 0
        """Number of the newest read: an answer to an older one says nothing about what was committed since."""
        self._cursor = 0
        self._queue: deque[Change] = deque()
        self._queue_bytes = 0
        self._inflight: dict[Key, Change] = {}
        self._inflight_bytes = 0
        self._tries: dict[Key, int] = {}
        self._retries: dict[Key, int] = {}

    @property
    def inflight_count(self) -> int:
        return len(self._inflight)

    @property
    def read_number(self) -> int:
        """Of the newest read."""
        return self._read

    @property
    def room_count(self) -> int:
        """How many changes may go out now."""
        return max(0, OUTBOX_WINDOW_COUNT - len(self._inflight))

    def carries(self, doc: DocId, dot: Dot) -> bool:
        """Whether this change is on its way."""
        return (doc, dot) in self._inflight

    def again(self) -> list[Publish | ReadOutbox]:
        """Read the outbox from its oldest row on once more."""
        self._clear_queue()
        self._cursor = 0
        self._backlog, self._reading = True, False
        return self._pump()

    def link_up(self) -> list[Publish | ReadOutbox]:
        """Begin at the oldest row: what was in flight when the link fell may or may not be in the log."""
        self.link_down()
        self.up = True
        self._cursor = 0
        self._backlog = True
        return self._pump()

    def link_down(self) -> None:
        self.up = False
        self._reading = False
        self._clear_queue()
        self._inflight.clear()
        self._inflight_bytes = 0
        self._retries.clear()
        self._tries.clear()

    def committed(self, changes: Iterable[Change]) -> list[Publish | ReadOutbox]:
        """These are on the disk now. Invariant 1."""
        if not self.up or (self._backlog and not self._reading):
            return []
        for change in changes:
            self._queue.append(change)
            self._queue_bytes += len(change.update)
        effects = self._pump()
        if not self._queue:
            return effects
        many = len(self._queue) > OUTBOX_WINDOW_COUNT or self._queue_bytes > OUTBOX_WINDOW_BYTES
        if many or not self._reading:
            self._clear_queue()  # they are on disk: read them when there is room, and joined
            self._backlog = True
            self._reading = False
        return effects + self._pump()

    def rows(self, read: int, last: int | None, changes: Sequence[Change]) -> list[Publish | ReadOutbox]:
        """What a ReadOutbox gave: the last row's number (None: there was none) and what of it has to go out.

        Invariant 2.
        """
        if not self._reading or read != self._read:
            return []  # an answer from before the link fell, or before the queue ran over
        self._reading = False
        if last is None:
            self._backlog = False
            return self._pump()
        self._clear_queue()
        self._cursor = last
        effects: list[Publish | ReadOutbox] = []
        for change in changes:
            effects.extend(self._send(change))
        return effects + self._pump()

    def published(self, doc: DocId, dot: Dot) -> list[Publish | ReadOutbox]:
        """The log has it, or the leader has merged it."""
        key = (doc, dot)
        change = self._inflight.pop(key, None)
        if change is None:
            return []
        self._inflight_bytes -= len(change.update)
        self._retries.pop(key, None)
        self._tries.pop(key, None)
        return self._pump()

    def failed(self, doc: DocId, dot: Dot, now_ms: int) -> None:
        """No acknowledgement: the same change goes out again, later and later."""
        key = (doc, dot)
        if key in self._inflight:
            tries = self._tries.get(key, 0)
            self._tries[key] = tries + 1
            self._retries[key] = now_ms + min(RETRY_MS_MAX, RETRY_MS_MIN << min(tries, 16))

    def tick(self, now_ms: int) -> list[Publish | ReadOutbox]:
        due = [key for key, at in self._retries.items() if at <= now_ms]
        effects: list[Publish | ReadOutbox] = []
        for key in due:
            del self._retries[key]
            effects.append(Publish(self._inflight[key]))
        return effects + self._pump()

    def _room(self) -> bool:
        return len(self._inflight) < OUTBOX_WINDOW_COUNT and self._inflight_bytes < OUTBOX_WINDOW_BYTES

    def _pump(self) -> list[Publish | ReadOutbox]:
        if not self.up:
            return []
        effects: list[Publish | ReadOutbox] = []
        if not self._backlog:
            while self._queue and self._room():
                change = self._queue.popleft()
                self._queue_bytes -= len(change.update)
                effects.extend(self._send(change))
        elif not self._reading and len(self._inflight) <= OUTBOX_WINDOW_COUNT // 2 and self._room():
            self._reading = True
            self._read += 1
            bytes_max = min(OUTBOX_PAGE_BYTES, OUTBOX_WINDOW_BYTES - self._inflight_bytes)
            effects.append(ReadOutbox(self._read, self._cursor, OUTBOX_PAGE_COUNT, bytes_max))
        return effects

    def _send(self, change: Change) -> list[Publish]:
        key = (change.doc, change.dot)
        if key in self._inflight:
            return []
        self._inflight[key] = change
        self._inflight_bytes += len(change.update)
        return [Publish(change)]

    def _clear_queue(self) -> None:
        self._queue.clear()
        self._queue_bytes = 0
