"""Work that would hold the edge's loop, done in a thread; what it gave is dealt with on the loop.

Room: threads and errors of the disk. What is worked out is whoever asks'.

1. The machine waits for what it has asked for: where the disk, or the log, would not say it, it is asked again.
2. A damaged store is no use to anybody: the daemon ends; the next opening sets it aside (`server.daemons`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, TypeVar

from sync.errors import StoreDamaged, StoreError

from .tasks import Tasks

__all__ = ["RETRY_S", "Threads"]

log = logging.getLogger("skerry.edge")

RETRY_S: Final = 1.0
_T = TypeVar("_T")


class Threads:
    def __init__(self, tasks: Tasks) -> None:
        self.reader = ThreadPoolExecutor(1, "skerry-read")
        """The one that reads the store."""
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()

    def run(
        self, work: Callable[[], _T], then: Callable[[_T], None], at: Executor | None = None, *, again: bool = True
    ) -> None:
        """`work` in the reader's thread (or `at`), `then` on the loop with what it gave. `again`: Invariant 1."""

        async def run() -> None:
            while True:
                try:
                    result = await self._loop.run_in_executor(at or self.reader, work)
                except StoreError as error:
                    log.error("store_failed detail=%r", str(error))
                    self.look_at(error)
                    if not again:
                        return
                    await asyncio.sleep(RETRY_S)
                else:
                    then(result)
                    return

        self._tasks.spawn(run())

    async def read(self, work: Callable[[], _T]) -> _T:
        """Raises StoreError."""
        try:
            return await self._loop.run_in_executor(self.reader, work)
        except StoreError as error:
            self.look_at(error)
            raise

    def look_at(self, error: BaseException) -> None:
        """Invariant 2."""
        if isinstance(error, StoreDamaged) and not self._tasks.died.done():
            self._tasks.died.set_exception(error)

    def stop(self) -> None:
        self.reader.shutdown()
