"""When the edge machine flushes, and how its commits come to the disk.

Room: one thread that commits, and when it gets something to do. What a flush is made of is the machine's; what it asks
for is performed by the daemon.

1. One commit is on its way at a time; what comes meanwhile is the next one. That is the group commit, and it adapts:
   idle, a keystroke is written at once; under load, a commit holds what came during the one before, and `server.pace`
   lets a little more come.
2. The machine hears of every commit once, whatever it died of.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sync.edge import Edge
from sync.errors import StoreError
from sync.limits import COMMIT_LAZY_MS
from sync.ports import Store
from sync.slow import Readers
from sync.step import Commit, EdgeEffect

from .clock import now_ms, wall_ms
from .pace import Pace

__all__ = ["Flushing"]

log = logging.getLogger("skerry.edge")


class Flushing:
    def __init__(
        self,
        machine: Edge,
        readers: Readers,
        store: Store,
        perform: Callable[[EdgeEffect], None],
        flushed: Callable[[], None],
        failed: Callable[[StoreError], None],
    ) -> None:
        """`flushed`: nothing of what was taken in is pending any more. `failed`: the store would not commit."""
        self.pace = Pace()
        self.committing = False
        self._machine = machine
        self._readers = readers
        self._store = store
        self._perform = perform
        self._flushed = flushed
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._committer = ThreadPoolExecutor(1, "skerry-commit")
        self._soon = False
        self._later: asyncio.TimerHandle | None = None
        self._ending = False
        self._idle = asyncio.Event()

    def wake(self) -> None:
        """The machine was given something."""
        if self.committing or self._soon or not self._machine.wants_flush:
            return
        if self._machine.wants_flush_now or self._ending:
            self._soon = True
            wait_s = self.pace.wait_s(self._loop.time())
            if wait_s:
                self._loop.call_later(wait_s, self._flush)
            else:
                self._loop.call_soon(self._flush)  # after whatever else this turn of the loop brings
        elif self._later is None:
            self._later = self._loop.call_later(COMMIT_LAZY_MS / 1000, self._flush)

    async def settle(self, ends_s: float) -> None:
        """Until everything pending is on the disk, or that time (monotonic) has come. Nothing waits from here on."""
        self._ending = True
        self._flush()
        while (self.committing or self._machine.wants_flush) and time.monotonic() < ends_s:
            self._idle.clear()
            try:
                async with asyncio.timeout(max(0.01, ends_s - time.monotonic())):
                    await self._idle.wait()
            except TimeoutError:
                break

    def stop(self) -> None:
        self._committer.shutdown()

    def _flush(self) -> None:
        self._soon = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self.committing:  # Invariant 1.
            return
        if not self._machine.wants_flush:
            self._idle.set()
            return
        began_s = self._loop.time()
        step = self._machine.flush(now_ms(), wall_ms())
        if self._readers:
            step = self._readers.flushed(step, now_ms())
        for effect in step.now:
            self._perform(effect)
        self.pace.flushed(began_s, self._loop.time())
        self._flushed()
        if step.commit is None:
            self._idle.set()
            return
        self.committing = True
        self._committer.submit(self._commit, step.commit)

    def _commit(self, commit: Commit) -> None:
        """In the committer's thread. Invariant 2."""
        try:
            self._store.commit(commit.writes)
        except StoreError as error:
            failure = str(error)
            self._loop.call_soon_threadsafe(self._committed, commit.ticket, failure)
            self._loop.call_soon_threadsafe(self._failed, error)
        except BaseException as error:
            log.exception("commit_died")
            self._loop.call_soon_threadsafe(self._committed, commit.ticket, repr(error))
        else:
            self._loop.call_soon_threadsafe(self._committed, commit.ticket, None)

    def _committed(self, ticket: int, failure: str | None) -> None:
        self.committing = False
        if failure is None:
            step = self._machine.committed(ticket, now_ms())
        else:
            step = self._machine.commit_failed(ticket, now_ms(), failure)
        if self._readers:
            step = self._readers.committed(ticket, step, now_ms())
        for effect in step.now:
            self._perform(effect)
        if not self._machine.wants_flush:
            self._idle.set()
        self.wake()
