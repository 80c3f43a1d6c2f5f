"""The event loop under load: it rests a moment before it looks for more, so that one look finds more.

Room: asyncio's loop and its selector; nothing about what the messages are. A look (a system call, a turn of the loop, a
read for each socket that has something) costs nearly the same for one message as for twenty. While little comes, every
look is at once: nobody waits. The more comes, the longer the rest, up to REST_S_MAX, which nobody notices.

It is what network cards do with their interrupts.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Moderation", "counter_of", "moderated_loop"]

REST_S_MAX: Final = 0.004
RATE_MIN: Final = 1_000  # messages a second up to which there is no rest
RATE_FULL: Final = 9_000  # and from which on it is the longest
WINDOW_S: Final = 0.02  # over which messages are counted

Ready = list[tuple[selectors.SelectorKey, int]]


class Moderation(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._since_s = 0.0
        self.rest_s = 0.0

    def arrived(self, count: int) -> None:
        """So many messages were read."""
        self._count += count

    def look(self, now_s: float) -> None:
        """How long to rest from now on, by what came lately."""
        window_s = now_s - self._since_s
        if window_s >= WINDOW_S:
            rate = self._count / window_s
            self._count, self._since_s = 0, now_s
            self.rest_s = REST_S_MAX * min(1.0, max(0.0, (rate - RATE_MIN) / (RATE_FULL - RATE_MIN)))

    def select(self, timeout: float | None = None) -> Ready:
        self.look(time.monotonic())
        rest_s = self.rest_s
        if rest_s and timeout != 0:  # 0: callbacks wait, and what they send
            if timeout is not None and timeout > 0:
                rest_s = min(rest_s, timeout)
                timeout -= rest_s
            time.sleep(rest_s)
        return super().select(timeout)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.moderation = Moderation()
        super().__init__(self.moderation)


def moderated_loop() -> asyncio.AbstractEventLoop:
    return _Loop()


def counter_of(loop: asyncio.AbstractEventLoop) -> Callable[[int], None]:
    """Where the messages read on this loop are counted; any other loop does without."""
    return loop.moderation.arrived if isinstance(loop, _Loop) else _ignore


def _ignore(count: int) -> None: ...
