"""What the tests of the bus share: a listener that remembers, changes to publish, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from server.bus import Bus, BusConfig
from sync.change import Beacon, Change, Context, Merged, RepairAsk
from sync.errors import BusError
from sync.ids import DocId, Dot, Origin, Version


class Ear:
    """Remembers what a bus told, in order."""

    def __init__(self) -> None:
        self.links: list[tuple[int, bool] | str] = []
        """(epoch, intact) for up, the reason for down."""
        self.heard: list[Merged | Beacon | RepairAsk | tuple[DocId, bytes]] = []

    def link_up(self, epoch: int, intact: bool) -> None:
        self.links.append((epoch, intact))

    def link_down(self, reason: str) -> None:
        self.links.append(reason)

    def merged(self, merged: Merged) -> None:
        self.heard.append(merged)

    def presence(self, doc: DocId, payload: bytes) -> None:
        self.heard.append((doc, payload))

    def beacon(self, beacon: Beacon) -> None:
        self.heard.append(beacon)

    def repair_asked(self, ask: RepairAsk) -> None:
        self.heard.append(ask)


async def until(condition: Callable[[], bool], what: str = "condition", seconds: float = 20.0) -> None:
    ends = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < ends, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)


async def up(bus: Bus, seconds: float = 20.0) -> None:
    await until(lambda: bus.state.state == "up", f"link up ({bus.state.reason})", seconds)


@asynccontextmanager
async def running(
    url: str, namespace: str, *, ear: Ear | None = None, shards: int | None = None, name: str = "test"
) -> AsyncIterator[Bus]:
    bus = Bus(BusConfig((url,), namespace, name, shards=shards, development=True), ear or Ear())
    await bus.start()
    try:
        await up(bus)
        yield bus
    finally:
        await bus.stop(1.0)


def change(doc: str, seq: int, update: bytes | None = None, origin: int = 7) -> Change:
    context = Context(edge="e1", actor="ada", time_ms=1_700_000_000_000)
    return Change(DocId(doc), Dot(Origin(origin), seq), b"update %d" % seq if update is None else update, context)


async def publish(bus: Bus, *changes: Change) -> list[Version | BusError]:
    """All at once; the outcomes in the order of the changes."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Version | BusError]] = []
    for one in changes:
        future: asyncio.Future[Version | BusError] = loop.create_future()
        futures.append(future)
        bus.publish(one, future.set_result)
    return list(await asyncio.wait_for(asyncio.gather(*futures), 30))


async def published(bus: Bus, *changes: Change) -> list[Version]:
    outcomes = await publish(bus, *changes)
    versions = [outcome for outcome in outcomes if isinstance(outcome, Version)]
    assert len(versions) == len(outcomes), [outcome for outcome in outcomes if not isinstance(outcome, Version)]
    return versions
