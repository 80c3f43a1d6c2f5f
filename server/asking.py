"""What an edge asks the leader, or the log where no leader answers: read, looked at in a thread, handed to the machine.

Room: a part of the edge daemon. The machine says what is asked; what was found out about a large answer is
`sync.answered`'s and `sync.arriving`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

from sync.answered import Looked, look
from sync.arriving import Difference, difference_of
from sync.change import Logged, SyncAnswer, SyncAsk
from sync.edge import Edge, EdgeStep
from sync.errors import BusError, DocumentBroken
from sync.folding import fold_around
from sync.ids import DocId, Dot, shard_of
from sync.replica import Replica
from sync.splits import at_once_bytes

from .bus import Bus
from .clock import now_ms
from .log import named, scrubbed
from .threads import RETRY_S

__all__ = ["Asking"]

log = logging.getLogger("skerry.edge")


class Asking:
    def __init__(self, bus: Bus, machine: Edge, reader: Executor, do: Callable[[EdgeStep], None]) -> None:
        self._bus = bus
        self._machine = machine
        self._reader = reader
        self._do = do
        self._moved = asyncio.Event()

    def moved(self) -> None:
        """It was found where everything stands, or a document was loaded."""
        self._moved.set()

    async def ask_sync(self, ask: SyncAsk) -> None:
        try:
            answer = await self._bus.ask_sync(ask, shard_of(ask.doc, self._bus.shards or 1))
        except BusError as error:
            log.debug("sync_failed doc=%s detail=%r", named(ask.doc), scrubbed(str(error), ask.doc))
            self._do(self._machine.sync_failed(ask.doc, ask.ask, now_ms()))
        else:
            looked = await self._looked_at(answer, ask.state_vector == b"\0")
            self._do(self._machine.sync_answered(answer, now_ms(), looked))

    async def _looked_at(self, answer: SyncAnswer, blank: bool) -> Looked | None:
        """A large answer does not hold the loop: it is checked in a thread, and taken in pieces (`sync.answered`)."""
        into = self._machine.into(answer.doc)
        if len(answer.update) <= at_once_bytes(into.bytes):
            return None
        looked = await asyncio.get_running_loop().run_in_executor(self._reader, look, answer, blank, into)
        if looked is None:
            return None
        pieces = deque(looked.pieces)
        while pieces:
            step = self._machine.sync_piece(answer, pieces[0], now_ms())
            if step is None:
                return replace(looked, pieces=())
            self._do(step)
            if not self._machine.seeks(answer.doc):  # else it may not have been taken
                pieces.popleft()
            await asyncio.sleep(0)
            while self._machine.seeks(answer.doc):
                self._moved.clear()
                await self._moved.wait()
        return replace(looked, taken=bool(looked.pieces))

    async def list_log(self) -> None:
        """Every document of the log."""
        while self._bus.state.state == "up":  # else the next link asks anew
            try:
                docs = await self._bus.documents()
            except BusError as error:
                log.warning("documents_unlisted detail=%r", str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self._do(self._machine.listed(docs, True, now_ms()))
                return

    async def load_logged(self, doc: DocId) -> None:
        try:
            snapshot = await self._bus.load_snapshot(doc)
            fits = snapshot is not None and snapshot.version.epoch == self._bus.epoch
            after = snapshot.version.seq if snapshot is not None and fits else 0
            entries = await self._bus.read_log(doc, after, None)
        except BusError as error:
            log.debug("log_unread doc=%s detail=%r", named(doc), scrubbed(str(error), doc))
            self._do(self._machine.log_failed(doc, now_ms()))
        else:
            unsafe: set[Dot] = set()
            try:
                unsafe = await self._bus.read_unsafe(doc)
            except BusError as error:  # an account of before this was asked for may not read it
                log.debug("rejected_unread doc=%s detail=%r", named(doc), scrubbed(str(error), doc))
            passed = {one.version.seq for one in entries if isinstance(one, Logged) and one.change.dot in unsafe}
            asks, epoch, at_ms = self._machine.asks_log(doc), self._machine.epoch, now_ms()

            def work() -> tuple[Replica, Difference | None]:
                fold = fold_around(doc, snapshot, entries, passed, epoch, at_ms, [])
                return fold, None if asks is None else difference_of(fold, *asks)

            fold, found = None, None
            with contextlib.suppress(DocumentBroken):  # the machine meets it too, and says so
                fold, found = await asyncio.get_running_loop().run_in_executor(self._reader, work)
            entries = [entry for entry in entries if entry.version.seq not in passed]
            self._do(self._machine.logged(doc, snapshot, entries, now_ms(), fold, found))
