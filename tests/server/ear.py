"""What the tests of the bus share: a listener that remembers, changes to publish, and waiting for a condition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from server.bus import Bus, BusConfig, Delivered, LogConsumer
from server.streams import api
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


async def fetched(consumer: LogConsumer, count: int) -> list[Delivered]:
    """Exactly so many, in as many fetches as it takes."""
    got: list[Delivered] = []
    while len(got) < count:
        more = await consumer.fetch(count - len(got))
        assert more, f"{len(got)} of {count}"
        got += more
    return got


async def acknowledged(bus: Bus, *, shard: int, seq: int, seconds: float = 20.0) -> None:
    """Everything was handed out and acknowledged up to `seq`, by the server's own account.

    It answers questions before acknowledgements that came first (1,485 of 1,500 times), so it is asked again.
    """
    async with asyncio.timeout(seconds):
        while True:
            info = await api(bus.session().link, f"CONSUMER.INFO.{bus.layout.changes}.leader-{shard}")
            floor = info["ack_floor"]
            assert isinstance(floor, dict)
            assert info["num_pending"] == 0
            if (floor["stream_seq"], info["num_ack_pending"]) == (seq, 0):
                return
            await asyncio.sleep(0.01)
