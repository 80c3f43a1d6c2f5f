"""Two clocks in whole milliseconds: one that only goes forward, and the one on the wall.

Room: time as the machines are given it. `sync/` has none of its own (law 7).
"""

from __future__ import annotations

import time

__all__ = ["now_ms", "wall_ms"]


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000
