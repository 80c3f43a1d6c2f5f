"""Simulated time: what happens when. One thread, one order.

Room: a clock that jumps from event to event. Events of the same millisecond happen in the order in which they were put
in, so that one seed is one history.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["Action", "Schedule"]

Action = Callable[[], None]


class Schedule:
    __slots__ = ("_count", "_heap", "now_ms")

    def __init__(self) -> None:
        self.now_ms = 0
        self._heap: list[tuple[int, int, Action]] = []
        self._count = 0

    def after(self, delay_ms: int, action: Action) -> None:
        self._count += 1
        heappush(self._heap, (self.now_ms + delay_ms, self._count, action))

    def run(self, until_ms: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until_ms:
            self.now_ms, _, action = heappop(heap)
            action()
        self.now_ms = until_ms
