"""Leadership of shards over a real bucket."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.msg import Msg

from server.bus import Bus
from server.lease import PATIENCE_S, Lease
from server.nats_link import Handler
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


def test_nodes_share_the_shards_evenly_and_who_stops_hands_over(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with (
            running(nats.url, namespace, shards=5) as one,
            running(nats.url, namespace) as two,
            running(nats.url, namespace) as three,
        ):
            ada, ben, cem = Watch(), Watch(), Watch()
            first, second, third = lease_of(one, ada, "ada"), lease_of(two, ben, "ben"), lease_of(three, cem, "cem")
            await first.start()
            await until(lambda: first.leading == {0, 1, 2, 3, 4})
            await second.start()
            await until(lambda: sorted((len(first.leading), len(second.leading))) == [2, 3])
            await third.start()
            await until(lambda: sorted(len(each.leading) for each in (first, second, third)) == [1, 2, 2])

            owners = await second.owners()
            assert sorted(owners) == [0, 1, 2, 3, 4]
            for lease, name in ((first, "ada"), (second, "ben"), (third, "cem")):
                assert lease.leading == {shard for shard, owner in owners.items() if owner == name}
            for shard in second.leading - third.leading:
                assert ben.revisions[shard] > ada.revisions[shard]  # it fences
            assert sorted(ada.told)[:5] == [("gained", shard) for shard in range(5)]
            assert {shard for told, shard in ada.told if told == "lost"} == {0, 1, 2, 3, 4} - first.leading

            kept = first.leading
            await first.stop()
            assert first.leading == frozenset()
            assert ada.told[-len(kept) :] == [("lost", shard) for shard in sorted(kept)]
            await until(lambda: second.leading | third.leading == {0, 1, 2, 3, 4}, seconds=5)
            await third.stop()
            await until(lambda: second.leading == {0, 1, 2, 3, 4}, seconds=5)
            await second.stop()
            assert await second.owners() == {}

    asyncio.run(run())


def test_a_shard_that_was_given_to_a_node_that_takes_nothing_is_taken_back_and_stays(
    nats: NatsServer, namespace: str
) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=2) as one, running(nats.url, namespace) as two:
            ada = Watch()
            lease = lease_of(one, ada, "ada")
            await lease.start()
            await until(lambda: lease.leading == {0, 1})
            looks = 0

            async def sign() -> None:
                """Says that it could lead, and never does."""
                nonlocal looks
                while True:
                    await two.session().publish(two.layout.candidate("idle"), b'{"node": "idle", "id": "idle"}')
                    looks += 1
                    await asyncio.sleep(0.5)

            signing = asyncio.create_task(sign())
            await until(lambda: ("lost", 1) in ada.told, "one is given to the node that has none")
            await until(lambda: lease.leading == {0, 1}, "and taken back", seconds=PATIENCE_S + 5)
            before, ends = list(ada.told), looks + 10
            await until(lambda: looks >= ends, "five seconds more")
            assert ada.told == before == [("gained", 0), ("gained", 1), ("lost", 1), ("gained", 1)]
            signing.cancel()
            await lease.stop()

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
            await until(lambda: [len(lease.leading) for lease in leases] == [1, 1])
            before = [lease.leading for lease in leases]
            told = [list(watch.told) for watch in watches]

            ends = asyncio.get_running_loop().time() + LEASE_TTL_S + 2
            while asyncio.get_running_loop().time() < ends:
                assert not leases[0].leading & leases[1].leading
                await asyncio.sleep(0.1)

            assert [lease.leading for lease in leases] == before
            assert [watch.told for watch in watches] == told
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


def test_who_is_told_to_stop_while_an_answer_comes_in_stops(
    nats: NatsServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever turn of the loop it is told, between the answer's coming and what is done with it."""

    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as bus:
            link, loop = bus.session().link, asyncio.get_running_loop()
            inbox, after, telling = link.inbox, 0, False

            def tell(turns: int) -> None:
                if turns:
                    loop.call_soon(tell, turns - 1)
                else:
                    looking.cancel()

            def heard(handler: Handler) -> str:
                def take(message: Msg) -> None:
                    nonlocal telling
                    handler(message)
                    if telling:
                        telling = False  # once
                        tell(after)

                return inbox(take)

            monkeypatch.setattr(link, "inbox", heard)
            for turns in range(8):
                after = turns
                lease, telling = lease_of(bus, Watch()), False
                await lease.start()
                await until(lambda lease=lease: lease.leading == {0})  # type: ignore[misc]
                looking, telling = lease._tasks[0], True
                async with asyncio.timeout(5):
                    await asyncio.wait([looking])
                assert looking.cancelled()
                await lease.stop()

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
