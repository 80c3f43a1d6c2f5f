"""Who held the event loop: stalls above STALL_MS are counted, and the last ones named.

Room: one beat on the loop, one thread that looks at it. Nothing is stopped: what stalls is named, as `file:function`,
so that somebody can mend it. Names are of code; of documents, nothing is known here.

The thread sees a stall while it lasts and reads where the loop's thread is. A call into Rust that keeps the interpreter
to itself is seen only when it returns: then the place is the one that called it, or the stall has no name.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType

from sync.limits import STALL_MS

__all__ = ["Watchdog"]

log = logging.getLogger("skerry.watchdog")

BEAT_S = 0.05
KEPT = 10  # of the last stalls, in the status
OWN = ("sync", "server", "client", "tests")
ROOT = Path(__file__).resolve().parents[1]


class Watchdog:
    """`start` on the loop, `stop` in the end."""

    def __init__(self, stall_ms: int = STALL_MS) -> None:
        self._stall_s = stall_ms / 1000
        self.count = 0
        self.longest_ms = 0
        self._last: deque[dict[str, object]] = deque(maxlen=KEPT)
        self._beat_s = 0.0
        self._seen: tuple[float, str] = (0.0, "")
        self._thread = threading.Thread(target=self._watch, name="skerry-watchdog", daemon=True)
        self._stopped = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._loop_thread = 0

    def start(self) -> None:
        self._loop_thread = threading.get_ident()
        self._beat_s = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread.ident is not None:
            self._thread.join()

    def status(self) -> dict[str, object]:
        return {"count": self.count, "longest_ms": self.longest_ms, "last": list(self._last)}

    def _beat(self) -> None:
        now_s, before_s = time.monotonic(), self._beat_s
        late_s = now_s - before_s - BEAT_S
        if late_s > self._stall_s:
            where = self._seen[1] if self._seen[0] == before_s else "unknown"
            ms = round(late_s * 1000)
            self.count += 1
            self.longest_ms = max(self.longest_ms, ms)
            self._last.append({"ms": ms, "where": where, "at_ms": time.time_ns() // 1_000_000})
            log.warning("loop_stalled ms=%d where=%s", ms, where)
        self._beat_s = now_s
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _watch(self) -> None:
        """In a thread of its own: one look a stall, in its middle."""
        while not self._stopped.wait(BEAT_S):
            beat_s = self._beat_s
            if time.monotonic() - beat_s - BEAT_S > self._stall_s and self._seen[0] != beat_s:
                where = _place(sys._current_frames().get(self._loop_thread))
                if self._beat_s == beat_s:  # else the stall was over before it was looked at
                    self._seen = (beat_s, where)


def _place(frame: FrameType | None) -> str:
    """The innermost function of this program, and the outermost one below the loop: what was done, and for whom."""
    inside: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        own = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OWN
        if own and path.name not in ("cli.py", "daemons.py"):
            inside.append(f"{path.parent.name}/{path.name}:{frame.f_code.co_name}")
        frame = frame.f_back
    if not inside:
        return "unknown"
    return inside[0] if inside[0] == inside[-1] else f"{inside[-1]} > {inside[0]}"
