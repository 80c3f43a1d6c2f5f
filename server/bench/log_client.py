"""Writes changes into a deployment's log, as an edge does, and sees how far its leader has come. Room: NATS."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Final

from sync.change import Beacon, Change, Merged, RepairAsk
from sync.errors import BusError
from sync.ids import ORIGIN_MAX, DocId, Dot, Origin, Version

from ..bus import Bus, BusConfig
from ..streams import api
from .wires import BenchError

__all__ = ["LogClient"]

LINK_S_MAX: Final = 20.0
WINDOW: Final = 1_000
"""Changes under way at once."""


class _Deaf:
    """A bus tells what it hears; nobody here wants to know."""

    def link_up(self, epoch: int, intact: bool) -> None: ...

    def link_down(self, reason: str) -> None: ...

    def merged(self, merged: Merged) -> None: ...

    def presence(self, doc: DocId, payload: bytes) -> None: ...

    def beacon(self, beacon: Beacon) -> None: ...

    def repair_asked(self, ask: RepairAsk) -> None: ...


class LogClient:
    """`with LogClient(url) as log:`. Makes the streams where there are none."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._bus = Bus(BusConfig((url,), "skerry", "bench"), _Deaf())
        self._origin = Origin(secrets.randbelow(ORIGIN_MAX) + 1)
        self._counts: dict[str, int] = {}

    def __enter__(self) -> LogClient:
        self._runner.run(self._linked())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._bus.stop())
        self._runner.close()

    async def _linked(self) -> None:
        await self._bus.start()
        async with asyncio.timeout(LINK_S_MAX):
            while self._bus.epoch is None:  # noqa: ASYNC110 - once
                await asyncio.sleep(0.02)

    def write(self, changes: Sequence[tuple[str, bytes]]) -> None:
        """(document, update) each; returns when the log has them all. Raises BusError."""
        self._runner.run(self._write(changes))

    async def _write(self, changes: Sequence[tuple[str, bytes]]) -> None:
        left = len(changes)
        failed: list[BusError] = []
        room = asyncio.Semaphore(WINDOW)
        over = asyncio.Event()

        def done(result: Version | BusError) -> None:
            nonlocal left
            left -= 1
            room.release()
            if isinstance(result, BusError):
                failed.append(result)
            if left == 0:
                over.set()

        for change in self._named(changes):
            await room.acquire()
            self._bus.publish(change, done)
        await over.wait()
        if failed:
            raise failed[0]

    def _named(self, changes: Sequence[tuple[str, bytes]]) -> Iterator[Change]:
        for doc, update in changes:
            self._counts[doc] = seq = self._counts.get(doc, 0) + 1
            yield Change(DocId(doc), Dot(self._origin, seq), update)

    def acknowledged(self) -> tuple[int, bool]:
        """(the newest place in the log up to which a shard is merged, whether nothing waits to be merged)."""
        return self._runner.run(self._acknowledged())

    async def _acknowledged(self) -> tuple[int, bool]:
        session = self._bus.session()
        newest, waiting = 0, 0
        for shard in range(session.shards):
            found = await api(session.link, f"CONSUMER.INFO.{session.layout.changes}.leader-{shard}")
            floor = found["ack_floor"]
            assert isinstance(floor, dict)
            newest = max(newest, int(floor["stream_seq"]))
            for name in ("num_pending", "num_ack_pending"):
                count = found[name]
                assert isinstance(count, int)
                waiting += count
        return newest, waiting == 0

    def last_place(self) -> int:
        return self._runner.run(self._bus.last_seq())

    def wait_merged(self, deadline_s: float, beyond: int | None = None) -> float:
        """Until all is merged, or anything beyond a place. Returns the seconds that it took."""
        began = time.perf_counter()
        while True:
            try:
                newest, idle = self.acknowledged()
            except BusError:
                newest, idle = 0, False  # no leader has made its consumers yet
            if newest > beyond if beyond is not None else idle:
                return time.perf_counter() - began
            if time.perf_counter() - began > deadline_s:
                raise BenchError(f"not within {deadline_s:g} s: the leader has merged what is in the log")
            time.sleep(0.02)
