"""Background work of a daemon: started here, waited for here, and never dying in silence.

Room: asyncio tasks and nothing about what they do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

__all__ = ["Tasks"]


class Tasks:
    """`spawn` work; `stop` cancels what is left. What a task raises is logged as `task_died`.

    `died` is for whoever keeps the daemon: its exception is that of a vital task, without which nothing goes on.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def spawn(self, work: Coroutine[object, object, None], vital: bool = False) -> None:
        """After `stop`, nothing is started any more."""
        if self._stopped:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._vital_ended if vital else self._ended)

    def watch(self, task: asyncio.Task[None]) -> None:
        """A vital task that somebody else cancels."""
        task.add_done_callback(self._vital_ended)

    def close(self) -> None:
        """Start nothing more; what runs goes on."""
        self._stopped = True

    async def stop(self) -> None:
        self._stopped = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.died.cancel()

    def _vital_ended(self, task: asyncio.Task[None]) -> None:
        self._ended(task)
        if not task.cancelled() and not self.died.done():
            self.died.set_exception(task.exception() or RuntimeError("a task that never ends has ended"))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("task_died", exc_info=task.exception())
