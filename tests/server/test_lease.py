"""Leadership of shards over a real bucket."""

from __future__ import annotations

import asyncio

import pytest

from server.bus import Bus
from server.lease import Lease
from server.nats_server import NatsServer
from server.streams import LEASE_TTL_S
from sync.errors import BusUnreachable

from .ear import Ear, running, until


class Watch:
    """What a lease told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.revisions: dict[int, int] = {}

    def gained(self, shard: int, revision: int) -> None:
        self.told.append(("gained", shard))
        self.revisions[shard] = revision

    def lost(self, shard: int) -> None:
        self.told.append(("lost", shard))


def lease_of(bus: Bus, watch: Watch, node: str = "ada") -> Lease:
    return Lease(bus.session, node, watch.gained, watch.lost)


def test_a_node_takes_what_is_free_and_hands_it_over_when_it_stops(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=3) as one, running(nats.url, namespace) as two:
            ada, ben = Watch(), Watch()
            first, second = lease_of(one, ada, "ada"), lease_of(two, ben, "ben")
            await first.start()
            await until(lambda: first.leading == {0, 1, 2})
            await second.start()
            assert await second.owners() == {0: "ada", 1: "ada", 2: "ada"}
            assert second.leading == frozenset()

            await first.stop()

            assert first.leading == frozenset()
            assert ada.told[3:] == [("lost", 0), ("lost", 1), ("lost", 2)]
            await until(lambda: second.leading == {0, 1, 2}, seconds=5)
            assert all(ben.revisions[shard] > ada.revisions[shard] for shard in range(3))  # it fences
            await second.stop()
            assert await second.owners() == {}

    asyncio.run(run())


def test_a_lease_lasts_while_it_is_renewed_and_a_cut_off_leader_loses_it_first_by_its_own_clock(
    nats: NatsServer, namespace: str
) -> None:
    async def renewed() -> None:
        async with running(nats.url, namespace, shards=2) as one, running(nats.url, namespace) as two:
            watches = [Watch(), Watch()]
            leases = [lease_of(one, watches[0], "ada"), lease_of(two, watches[1], "ben")]
            for lease in leases:
                await lease.start()
            await until(lambda: leases[0].leading | leases[1].leading == {0, 1})
            before = [lease.leading for lease in leases]

            ends = asyncio.get_running_loop().time() + LEASE_TTL_S + 2
            while asyncio.get_running_loop().time() < ends:
                assert not leases[0].leading & leases[1].leading
                await asyncio.sleep(0.1)

            assert [lease.leading for lease in leases] == before
            assert [told for watch in watches for told in watch.told if told[0] == "lost"] == []
            for lease in leases:
                await lease.stop()

    async def cut_off() -> None:
        async with running(nats.url, f"{namespace}-2", shards=1) as one, running(nats.url, f"{namespace}-2") as two:
            ada, ben = Watch(), Watch()
            first, second = lease_of(one, ada, "ada"), lease_of(two, ben, "ben")
            await first.start()
            await until(lambda: first.leading == {0})
            await second.start()
            one.cut(60)

            ends = asyncio.get_running_loop().time() + LEASE_TTL_S + 5
            while not second.leading:
                assert asyncio.get_running_loop().time() < ends
                await asyncio.sleep(0.02)

            assert first.leading == frozenset()
            assert ada.told == [("gained", 0), ("lost", 0)]
            with pytest.raises(BusUnreachable):
                await first.owners()
            await first.stop()
            await second.stop()

    async def run() -> None:
        await asyncio.gather(renewed(), cut_off())

    asyncio.run(run())


def test_a_renewal_whose_answer_was_lost_does_not_cost_the_lease(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1, ear=Ear()) as bus:
            watch = Watch()
            lease = lease_of(bus, watch)
            await lease.start()
            await until(lambda: lease.leading == {0})
            before = lease.revision(0)
            found = await bus.session().last(f"KV_{bus.layout.leaders}", bus.layout.lease(0))
            assert found is not None
            await bus.session().publish(bus.layout.lease(0), found.data)  # written, and we never learnt it

            await until(lambda: lease.revision(0) != before, seconds=6)

            assert watch.told == [("gained", 0)]
            await lease.stop()

    asyncio.run(run())
