"""The bus when NATS freezes, vanishes behind a black hole, or comes back with another log."""

from __future__ import annotations

import asyncio
import gc
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from server import link_keeper
from server.bus import Bus, BusConfig
from server.nats_link import LinkOptions, NatsLink
from server.nats_server import NatsServer
from server.streams import Layout, LogState, Requester, api, read_log_state
from sync.change import Logged
from sync.ids import DocId, Version
from tests.proxy import Proxy

from .ear import Ear, change, published, running, until, up

Make = Callable[[], NatsServer]
BACK_S_MAX = 15.0
"""From the server's return to a working link."""


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every half second instead of every five, whether the log was replaced."""
    monkeypatch.setattr(link_keeper, "LOOK_S", 0.5)


def test_a_frozen_server_costs_the_link_and_its_return_brings_it_back(make_nats: Make, namespace: str) -> None:
    async def run() -> None:
        server, ear = make_nats(), Ear()
        await server.start()
        async with Proxy("127.0.0.1", server.port) as proxy, running(proxy.url, namespace, ear=ear) as bus:
            bus.follow(DocId("a"))
            await published(bus, change("a", 1))
            server.signal(signal.SIGSTOP)
            try:
                await until(lambda: bus.state.state == "down", seconds=10)
                await until(lambda: proxy.accepted_count > 1, "an attempt to connect to the frozen server is under way")
            finally:
                server.signal(signal.SIGCONT)

            await up(bus, BACK_S_MAX)

            await published(bus, change("a", 2))
            assert "no sign of life" in str(ear.links[1])
            assert ear.links[2] == (bus.epoch, True)
            bus.session().link.send(bus.layout.presence("e", DocId("a")), b"p")
            await until(lambda: ear.heard == [(DocId("a"), b"p")])

    asyncio.run(run())


def test_a_black_hole_is_noticed_and_left_also_with_unsent_bytes(nats: NatsServer, namespace: str) -> None:
    async def both_ways() -> None:
        ear, outcomes = Ear(), list[object]()
        async with (
            Proxy("127.0.0.1", nats.port) as proxy,
            running(proxy.url, namespace, ear=ear) as bus,
        ):
            proxy.swallow("up", "down")
            for seq in range(1, 41):  # far more than the sockets' buffers take
                bus.publish(change(f"doc{seq}", 1, b"x" * 800_000), outcomes.append)

            await until(lambda: bus.state.state == "down", seconds=10)
            assert len(outcomes) == 40
            await until(lambda: proxy.accepted_count > 1, "an attempt to connect anew is swallowed as well")
            proxy.heal()

            await up(bus, BACK_S_MAX)
            await published(bus, change("doc1", 1, b"x" * 800_000))
            assert len(ear.links) == 3

    async def only_the_way_back() -> None:
        async with Proxy("127.0.0.1", nats.port) as proxy, running(proxy.url, f"{namespace}-2") as bus:
            proxy.swallow("down")

            await until(lambda: bus.state.state == "down", seconds=10)
            proxy.heal()

            await up(bus, BACK_S_MAX)
            await published(bus, change("a", 1))

    async def run() -> None:
        await asyncio.gather(both_ways(), only_the_way_back())

    asyncio.run(run())


def test_a_slow_line_is_no_dead_line_and_nothing_is_sent_twice_over_it(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with Proxy("127.0.0.1", nats.port) as proxy, running(proxy.url, namespace, ear=ear) as bus:
            proxy.delay_s = 0.06  # a megabyte a second
            started = asyncio.get_running_loop().time()
            changes = [change(f"doc{seq}", 1, b"x" * 800_000) for seq in range(1, 11)]

            versions = await published(bus, *changes)

            assert asyncio.get_running_loop().time() - started > 6  # longer than the heartbeat's and a publish's limit
            assert [version.seq for version in versions] == list(range(1, 11))
            assert len(ear.links) == 1

    asyncio.run(run())


def test_resets_are_survived(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with Proxy("127.0.0.1", nats.port) as proxy, running(proxy.url, namespace, ear=ear) as bus:
            for round_number in range(1, 4):
                await published(bus, change("a", round_number))
                proxy.refusing = True
                proxy.cut()
                await until(lambda: bus.state.state == "down")
                proxy.heal()
                await up(bus)

            assert ear.links[::2] == [(bus.epoch, True)] * 4

    asyncio.run(run())


def test_a_server_that_was_killed_and_restarted_has_the_same_log(make_nats: Make, namespace: str) -> None:
    async def run() -> None:
        server, ear = make_nats(), Ear()
        await server.start()
        async with running(server.url, namespace, ear=ear) as bus:
            await published(bus, *(change("a", seq) for seq in range(1, 101)))
            server.kill()
            await until(lambda: bus.state.state == "down")
            await server.start()

            await up(bus)

            assert ear.links[-1] == (bus.epoch, True)
            assert len(await bus.read_log(DocId("a"), 0, None)) == 100

    asyncio.run(run())


@pytest.mark.usefixtures("looks_often")
def test_a_stream_lost_under_a_living_connection_is_made_anew_and_is_another_epoch(
    nats: NatsServer, namespace: str
) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            before = bus.epoch
            await published(bus, change("a", 1), change("a", 2))
            await api(bus.session().link, f"STREAM.DELETE.{bus.layout.changes}")

            await until(lambda: len(ear.links) == 3, seconds=8)

            assert ear.links[1:] == ["the log was made anew", (bus.epoch, False)]
            assert bus.epoch is not None
            assert before is not None
            assert bus.epoch > before
            (version,) = await published(bus, change("a", 2))
            assert version.seq == 1

    asyncio.run(run())


@pytest.mark.parametrize("leads", [True, False])
def test_a_link_that_comes_back_looks_at_the_log_alone_and_a_leaders_at_every_stream(
    nats: NatsServer, namespace: str, leads: bool
) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus, running(nats.url, namespace) as other:
            if leads:
                bus.serve_stamp()
            link, snapshots = other.session().link, bus.layout.snapshots
            await api(link, f"STREAM.DELETE.{snapshots}")
            asked: list[str] = []
            link.subscribe("$JS.API.STREAM.INFO.>", lambda message: asked.append(message.subject.rpartition(".")[2]))
            await link.request(f"$JS.API.STREAM.INFO.{bus.layout.changes}")
            asked.clear()

            bus.cut(0.2)
            await until(lambda: len(ear.links) == 3, seconds=5)
            await link.request(f"$JS.API.STREAM.INFO.{bus.layout.changes}")

            assert (snapshots in asked) is leads
            assert bus.layout.changes in asked

    asyncio.run(run())


def test_a_stream_replaced_between_two_looks_does_not_acknowledge_into_the_old_epoch(
    nats: NatsServer, namespace: str
) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus, running(nats.url, namespace) as other:
            await published(bus, *(change("a", seq) for seq in range(1, 6)))
            config = (await api(other.session().link, f"STREAM.INFO.{bus.layout.changes}"))["config"]
            assert isinstance(config, dict)
            await api(other.session().link, f"STREAM.DELETE.{bus.layout.changes}")
            await api(other.session().link, f"STREAM.CREATE.{bus.layout.changes}", config)

            asked = time.monotonic()
            done: list[object] = []
            bus.publish(change("a", 6), done.append)
            await until(lambda: len(ear.links) == 3, seconds=2)

            assert "went back" in str(done[0])
            assert time.monotonic() - asked < 2  # not at the next regular look

    asyncio.run(run())


@pytest.mark.usefixtures("looks_often")
def test_a_stream_of_another_shape_under_a_living_connection_takes_the_link_down_until_it_is_mended(
    nats: NatsServer, namespace: str
) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            async with running(nats.url, f"{namespace}-2") as other:
                name = bus.layout.changes
                config = (await api(other.session().link, f"STREAM.INFO.{name}"))["config"]
                assert isinstance(config, dict)
                await api(other.session().link, f"STREAM.DELETE.{name}")
                await api(other.session().link, f"STREAM.CREATE.{name}", {**config, "discard": "old"})

                await until(lambda: len(ear.links) == 2, seconds=8)
                assert "discard" in str(ear.links[1])
                assert bus.fatal is not None
                assert not bus.fatal.done(), "an edit takes it back: no reason to end"
                assert "drop the oldest" in bus.differs[0]

                await api(other.session().link, f"STREAM.UPDATE.{name}", config)
                await up(bus)
                assert bus.differs == ()
            assert ear.links[2] == (bus.epoch, False)
            await published(bus, change("a", 1))

    asyncio.run(run())


@pytest.mark.usefixtures("looks_often")
def test_an_epoch_raised_by_another_node_is_noticed(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus, running(nats.url, namespace) as other:
            await published(bus, change("a", 1))

            epoch = await other.new_epoch()

            await until(lambda: ear.links[-1] == (epoch, False), seconds=8)
            await until(lambda: other.epoch == epoch)

    asyncio.run(run())


def test_a_log_that_was_rolled_back_is_noticed_through_the_witness(make_nats: Make, namespace: str) -> None:
    async def run() -> None:
        server, ear = make_nats(), Ear()
        await server.start()
        backup = server.data_dir.parent / "backup"
        async with running(server.url, namespace, ear=ear) as bus:
            await published(bus, change("a", 1))
            await server.stop()
            shutil.copytree(server.data_dir / "jetstream", backup)
            await server.start()
            await up(bus)
            before = bus.epoch
            await published(bus, change("a", 2), change("b", 1))
            await server.stop()
            shutil.rmtree(server.data_dir / "jetstream")
            shutil.move(backup, server.data_dir / "jetstream")
            await until(lambda: bus.state.state == "down")
            await server.start()

            await up(bus)

            assert before is not None
            assert bus.epoch is not None
            assert bus.epoch > before
            assert ear.links[-1] == (bus.epoch, False)
            (entry,) = await bus.read_log(DocId("a"), 0, None)
            assert isinstance(entry, Logged)
            assert entry.version.epoch == bus.epoch
            await published(bus, change("a", 2))
            assert bus.witness is not None
            assert bus.witness[0].epoch == bus.epoch

    asyncio.run(run())


def test_a_rolled_back_log_that_grew_past_the_witness_is_noticed_too(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace) as bus:
            versions = await published(bus, change("a", 1), change("b", 1), change("c", 1))
        later = Bus(BusConfig((nats.url,), namespace, development=True), ear)
        later.set_witness(versions[1], DocId("b"), change("b", 9).dot)  # this process saw another one there
        await later.start()
        await up(later)

        assert later.epoch is not None
        assert later.epoch > versions[0].epoch
        assert ear.links == [(later.epoch, False)]
        await later.stop()

    asyncio.run(run())


def test_a_place_that_somebody_stands_at_and_that_is_gone_marks_the_log(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            versions = await published(bus, change("a", 1), change("b", 1))
            epoch = versions[0].epoch

            bus.look_for(versions[1], DocId("b"))
            await until(lambda: bus._keeper._doubted is None)
            assert (ear.links, bus.epoch) == ([(epoch, True)], epoch)

            bus.look_for(Version(epoch - 1, 9), DocId("b"))  # of a log that is known to be another one
            await until(lambda: bus._keeper._doubted is None)
            assert (ear.links, bus.epoch) == ([(epoch, True)], epoch)

            bus.look_for(versions[1], DocId("a"))
            await until(lambda: len(ear.links) == 3, seconds=8)
            assert bus.epoch is not None
            assert bus.epoch > epoch
            assert ear.links[-1] == (bus.epoch, False)

            bus.look_for(Version(bus.epoch, 3), DocId("a"))
            await until(lambda: len(ear.links) == 5, seconds=8)
            assert bus.epoch is not None
            assert ear.links[-1] == (bus.epoch, False)
            assert bus.witness is None

    asyncio.run(run())


def test_a_witness_of_before_a_restart_says_that_the_log_is_intact(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace) as bus:
            await published(bus, change("a", 1), change("b", 1, b"x" * 2_000_000))
            witness = bus.witness
        assert witness is not None
        later = Bus(BusConfig((nats.url,), namespace, development=True), ear)
        later.set_witness(*witness)
        await later.start()
        await up(later)

        assert ear.links == [(witness[0].epoch, True)]
        await later.stop()

    asyncio.run(run())


def test_a_wiped_server_is_another_epoch(make_nats: Make, namespace: str) -> None:
    async def run() -> None:
        server, ear = make_nats(), Ear()
        await server.start()
        async with running(server.url, namespace, ear=ear) as bus:
            before = bus.epoch
            server.kill()
            shutil.rmtree(server.data_dir / "jetstream")
            await until(lambda: bus.state.state == "down")
            await server.start()

            await up(bus)

            assert before is not None
            assert bus.epoch is not None
            assert bus.epoch > before
            assert ear.links[-1] == (bus.epoch, False)

    asyncio.run(run())


@pytest.mark.usefixtures("looks_often")
def test_a_consumer_goes_on_after_its_stream_was_replaced(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear, shards=1) as bus:
            await published(bus, change("a", 1))
            consumer = bus.consumer(0)
            (one,) = await consumer.fetch(1)
            await api(bus.session().link, f"STREAM.DELETE.{bus.layout.changes}")
            await until(lambda: len(ear.links) == 3, seconds=8)

            consumer.ack((one.seq,))
            await published(bus, change("b", 1))

            (other,) = await consumer.fetch(1)
            assert isinstance(other.entry, Logged)
            assert other.entry.change == change("b", 1)

    asyncio.run(run())


def test_changes_acknowledged_while_the_state_is_read_are_no_sign_of_a_log_rolled_back(
    nats: NatsServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        ear, looks = Ear(), list[int]()
        async with running(nats.url, namespace, ear=ear) as bus:
            await published(bus, change("a", 1))
            epoch = bus.epoch
            read = read_log_state

            async def behind_its_back(nats: Requester, layout: Layout) -> LogState | None:
                state = await read(nats, layout)
                looks.append(len(looks))
                await published(bus, change("a", len(looks) + 1))
                return state

            monkeypatch.setattr(link_keeper, "read_log_state", behind_its_back)
            await until(lambda: len(looks) > 2, "three looks at the log")

            assert ear.links == [(epoch, True)]

    asyncio.run(run())


def test_a_socket_that_dies_while_the_client_closes_leaves_no_task_and_no_traceback(nats: NatsServer) -> None:
    """nats-py writes what is left while it closes; that raises as well, and it forgets its subscriptions."""
    complaints: list[dict[str, object]] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        before = asyncio.all_tasks()
        link = await NatsLink.open(nats.url, LinkOptions("test", None, None, None, None))
        client: Any = link._client

        async def drain() -> None:
            client._pending.append(b"PING\r\n")
            client._pending_data_size += 6
            raise ConnectionResetError("Connection lost")

        client._transport.drain = drain
        await client._flush_pending()
        await until(lambda: client.is_closed, "the client has given up")
        link.abort("as the keeper does")
        await until(lambda: asyncio.all_tasks() == before, "every task has ended")

    asyncio.run(story())
    gc.collect()

    assert complaints == []
