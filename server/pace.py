"""When the next flush may come: at once while little comes in, and the later the more each one would save.

Room: arithmetic on times that are given. A flush costs nearly the same for one update as for a hundred (a commit, and a
frame to every client), so under load waiting a little divides its cost among more of them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

WAIT_S_MAX: Final = 0.02  # a reader does not notice it
SHARE_MAX: Final = 3  # a flush that takes longer than WAIT_S_MAX (thousands of clients) leaves this much time free
WINDOW_S: Final = 0.01  # over which arrivals are counted
FLOOR_S: Final = 0.003  # above RATE_BUSY: each flush is a commit, a change, an acknowledgement and a broadcast as well
RATE_BUSY: Final = 1_000  # arrivals a second; half of that is no load yet
WEIGHT: Final = 4.0  # of a flush's cost against waiting; measured with 5 writers and 20 readers


class Pace:
    __slots__ = ("_count", "_free_s", "_rate", "_since_s")

    def __init__(self) -> None:
        self._count = 0
        self._since_s = 0.0
        self._rate = 0.0
        self._free_s = 0.0

    def arrived(self, count: int) -> None:
        self._count += count

    def flushed(self, began_s: float, ended_s: float) -> None:
        """A flush took from `began_s` to `ended_s` (seconds of one monotonic clock)."""
        window_s = ended_s - self._since_s
        if window_s >= WINDOW_S:
            self._rate, self._count, self._since_s = self._count / window_s, 0, ended_s
        cost_s = ended_s - began_s
        floor_s = FLOOR_S * min(1.0, max(0.0, 2 * self._rate / RATE_BUSY - 1))
        wait_s = max(floor_s, WEIGHT * cost_s * self._rate / 1000)
        self._free_s = began_s + min(wait_s, max(WAIT_S_MAX, SHARE_MAX * cost_s))

    def wait_s(self, now_s: float) -> float:
        """How long the next flush is to wait; 0 for not at all."""
        return max(0.0, self._free_s - now_s)
