"""A shard that goes from one living leader to another: nothing waits for the server to deliver it again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.bus import Bus
from server.config import load_config
from server.leader import LeaderDaemon
from server.log_reader import ACK_WAIT_S, PULL_S, LogConsumer
from server.nats_server import NatsServer
from sync.change import Beacon, Merged
from sync.ids import DocId, Version, shard_of
from tests.sync.stage import Ada

from .ear import Ear, acknowledged, change, fetched, published, running, until

SOON_S = ACK_WAIT_S / 3


def test_what_is_published_after_a_consumer_was_closed_goes_to_the_next(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as one, running(nats.url, namespace) as two:
            first, second = one.consumer(0), two.consumer(0)
            assert await first.fetch(10, wait_s=0.2) == []  # its pull stays open for PULL_S
            assert await second.fetch(10, wait_s=0.2) == []

            first.close()
            async with asyncio.timeout(PULL_S / 2):  # before the open pull would have ended by itself
                await published(one, change("a", 1))
                assert [each.seq for each in await second.fetch(10)] == [1]

    asyncio.run(run())


def test_what_was_delivered_and_not_acknowledged_goes_to_the_next_at_once(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as one, running(nats.url, namespace) as two:
            first, second = one.consumer(0), two.consumer(0)
            assert await first.fetch(10, wait_s=0.2) == []
            assert await second.fetch(10, wait_s=0.2) == []
            await published(one, *(change("a", seq) for seq in (1, 2, 3)))
            got = await fetched(first, 3)  # the server gave it some of them, and the log the rest
            first.ack((got[0].seq,))

            first.close()
            taking = asyncio.create_task(take_on(second))
            await acknowledged(two, shard=0, seq=3, seconds=SOON_S)
            taking.cancel()

    asyncio.run(run())


async def take_on(consumer: LogConsumer) -> None:
    while True:
        consumer.ack(tuple(each.seq for each in await consumer.fetch(10)))


def leader_of(nats: NatsServer, namespace: str, directory: Path, name: str) -> LeaderDaemon:
    flags = {"data": directory, "nats": [nats.url], "namespace": namespace, "name": name, "development": True}
    return LeaderDaemon(load_config(flags, None))


def test_while_shards_go_to_a_second_leader_and_back_every_change_is_merged(
    nats: NatsServer, namespace: str, tmp_path: Path
) -> None:
    """One document in each shard, a change in each every few milliseconds, over a handover each way."""

    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear, shards=4) as bus:
            bus.follow_beacons()
            docs: dict[int, DocId] = {}
            number = 0
            while len(docs) < 4:
                docs.setdefault(shard_of(DocId(f"doc{number}"), 4), DocId(f"doc{number}"))
                number += 1
            for doc in docs.values():
                bus.follow(doc)
            enough = asyncio.Event()
            typing = asyncio.create_task(type_on(bus, list(docs.values()), enough))
            first, second = (leader_of(nats, namespace, tmp_path, name) for name in ("first", "second"))
            await first.start()
            await until(lambda: first.machine.shards == [0, 1, 2, 3])
            await second.start()
            await until(lambda: (len(first.machine.shards), len(second.machine.shards)) == (2, 2))
            await first.stop()
            await until(lambda: second.machine.shards == [0, 1, 2, 3])
            enough.set()
            last = await typing
            assert all(version.seq > 40 for version in last.values())  # it typed meanwhile

            def told() -> bool:
                """By a broadcast, or by a beacon where its load brought the last of them."""
                far = {(each.doc, each.version) for each in ear.heard if isinstance(each, Merged)}
                far |= {
                    (doc, version) for each in ear.heard if isinstance(each, Beacon) for doc, version, _ in each.docs
                }
                return far >= set(last.items())

            await until(told, "all is merged", SOON_S)
            await second.stop()

    asyncio.run(run())


async def type_on(bus: Bus, docs: list[DocId], enough: asyncio.Event) -> dict[DocId, Version]:
    """Where the last change of each document is."""
    authors = {doc: Ada(at + 1) for at, doc in enumerate(docs)}
    count = 0
    while True:
        count += 1
        versions = await published(bus, *(change(doc, count, authors[doc].type("a")) for doc in docs))
        if enough.is_set():
            return dict(zip(docs, versions, strict=True))
        await asyncio.sleep(0.01)
