"""The bus over a healthy nats-server: the log, broadcasts, questions, snapshots."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from server.bus import Bus, BusConfig
from server.nats_link import NatsLink
from server.nats_server import NatsServer
from server.streams import api
from sync.change import Beacon, Logged, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk, Unreadable
from sync.errors import BusError, BusRefused, BusUnreachable
from sync.ids import DocId, Dot, DotSet, Origin, Version, shard_of

from .ear import Ear, acknowledged, change, fetched, publish, published, running, until, up

PLAN = DocId("notes/plan")
DIGEST = "00" * 32


def dots(*seqs: int) -> DotSet:
    found = DotSet()
    for seq in seqs:
        found.add(Dot(Origin(7), seq))
    return found


# --- the log ----------------------------------------------------------------------------------------------------------
def test_changes_are_appended_in_order_and_read_back(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            plan = [change("notes/plan", seq) for seq in (1, 2, 3)]
            other = change("日本.語 *>", 1)

            versions = await published(bus, plan[0], other, plan[1], plan[2])

            assert [version.seq for version in versions] == [1, 2, 3, 4]
            entries = await bus.read_log(PLAN, 0, None)
            assert entries == [Logged(one, v) for one, v in zip(plan, [versions[0], *versions[2:]], strict=True)]
            assert await bus.read_log(PLAN, 1, 4) == entries[1:2]
            assert await bus.read_log(DocId("notes/none"), 0, None) == []
            assert await bus.documents() == {PLAN: 3, DocId("日本.語 *>"): 1}
            assert await bus.last_seq() == 4
            assert bus.witness == (versions[3], PLAN, plan[2].dot)

    asyncio.run(run())


def test_a_change_published_twice_is_in_the_log_once(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            first = await published(bus, change("a", 1), change("a", 2))

            second = await published(bus, change("a", 1), change("a", 2))

            assert second == first
            assert await bus.last_seq() == 2

    asyncio.run(run())


def test_an_acknowledgement_as_duplicate_of_a_message_that_is_gone_is_not_believed(
    nats: NatsServer, namespace: str
) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            await published(bus, change("a", 1), change("a", 2))
            await api(bus.session().link, f"STREAM.PURGE.{bus.layout.changes}", {})

            (version,) = await published(bus, change("a", 2))

            assert version.seq == 3
            assert await bus.read_log(DocId("a"), 0, None) == [Logged(change("a", 2), version)]

    asyncio.run(run())


def test_a_change_larger_than_a_message_goes_through_the_object_store_in_its_place(
    nats: NatsServer, namespace: str
) -> None:
    async def run() -> None:
        large = change("a", 2, os.urandom(3_000_000))
        async with running(nats.url, namespace) as bus:
            versions = await published(bus, change("a", 1), large, change("a", 3))

            assert [version.seq for version in versions] == [1, 2, 3]
            entries = await bus.read_log(DocId("a"), 0, None)
            assert [entry.change for entry in entries if isinstance(entry, Logged)] == [
                change("a", 1),
                large,
                change("a", 3),
            ]
            consumer = bus.consumer(shard_of(DocId("a"), 4))
            assert [one.entry for one in await fetched(consumer, 3)] == entries
            assert await published(bus, large) == [versions[1]]

    asyncio.run(run())


@pytest.mark.parametrize("extra", [-20_000, -16_400, -16_000, -300, -1, 0, 1])
def test_a_change_of_about_a_messages_size_does_not_end_the_link(nats: NatsServer, namespace: str, extra: int) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            one = change("a", 1, b"x" * (1024 * 1024 + extra))

            await published(bus, one)

            (entry,) = await bus.read_log(DocId("a"), 0, None)
            assert isinstance(entry, Logged)
            assert entry.change == one
            assert len(ear.links) == 1

    asyncio.run(run())


def test_a_lost_object_makes_its_change_unreadable_and_nothing_else(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            await published(bus, change("a", 1), change("a", 2, os.urandom(2_000_000)), change("a", 3))
            await api(bus.session().link, f"STREAM.PURGE.OBJ_{bus.layout.objects}", {})

            entries = await bus.read_log(DocId("a"), 0, None)

            assert [type(entry) for entry in entries] == [Logged, Unreadable, Logged]

    asyncio.run(run())


def test_what_is_no_change_is_unreadable_with_its_reason(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            subject = bus.layout.change(shard_of(PLAN, 4), PLAN)
            await bus.session().publish(subject, b"hello", {"Subject": "greeting"})

            (entry,) = await bus.read_log(PLAN, 0, None)

            assert isinstance(entry, Unreadable)
            assert (entry.doc, entry.payload, entry.headers["Subject"]) == (PLAN, b"hello", "greeting")
            assert "Skerry-Format" in entry.reason

    asyncio.run(run())


def test_a_stored_status_header_does_not_pass_for_the_servers_word(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as bus:
            for status in ("204", "404", "503", "409", "100"):
                await bus.session().publish(f"{namespace}.changes.0.a", b"", {"Status": status})
            await published(bus, change("a", 1))

            entries = await bus.read_log(DocId("a"), 0, None)

            assert [type(entry) for entry in entries] == [Unreadable] * 5 + [Logged]
            assert [one.entry for one in await fetched(bus.consumer(0), 6)] == entries

    asyncio.run(run())


def test_three_thousand_messages_are_read_in_batches(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            changes = [change("a" if seq % 2 else "b", seq) for seq in range(1, 6_401)]
            await published(bus, *changes)

            entries = await bus.read_log(DocId("a"), 0, None)

            assert [entry.change for entry in entries if isinstance(entry, Logged)] == changes[::2]

    asyncio.run(run())


def test_publishing_with_the_link_down_fails_later_and_once(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            bus.cut(30)
            await until(lambda: bus.state.state == "cut")
            outcomes: list[object] = []

            bus.publish(change("a", 1), outcomes.append)

            assert outcomes == []
            await until(lambda: bool(outcomes))
            assert isinstance(outcomes[0], BusUnreachable)
            with pytest.raises(BusUnreachable, match="cut"):
                await bus.read_log(PLAN, 0, None)

    asyncio.run(run())


def test_what_was_under_way_fails_when_the_link_is_cut_and_is_a_duplicate_afterwards(
    nats: NatsServer, namespace: str
) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            changes = [change("a", seq) for seq in range(1, 501)]
            waiting = asyncio.create_task(publish(bus, *changes))
            await asyncio.sleep(0)
            bus.cut(0.2)

            outcomes = await waiting

            assert any(isinstance(outcome, BusError) for outcome in outcomes)
            await up(bus)
            await published(bus, *changes)
            entries = await bus.read_log(DocId("a"), 0, None)
            assert {entry.change.dot.seq for entry in entries if isinstance(entry, Logged)} == set(range(1, 501))
            assert len(entries) == 500
            epoch = bus.epoch
            assert ear.links == [(epoch, True), "cut for 0.2 s", (epoch, True)]

    asyncio.run(run())


# --- the consumer -----------------------------------------------------------------------------------------------------
def test_a_consumer_gets_its_shard_in_order_and_what_is_acknowledged_once(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=2) as bus:
            names = [f"doc{number}" for number in range(8)]
            await published(bus, *(change(name, seq) for seq in (1, 2, 3) for name in names))
            mine = [name for name in names if shard_of(DocId(name), 2) == 1]
            assert 0 < len(mine) < 8
            consumer = bus.consumer(1)

            got = await fetched(consumer, 3 * len(mine))
            consumer.ack(tuple(one.seq for one in got))

            seen = [(e.entry.change.doc, e.entry.change.dot.seq) for e in got if isinstance(e.entry, Logged)]
            assert seen == [(name, seq) for seq in (1, 2, 3) for name in mine]
            assert not any(one.redelivered for one in got)
            assert await consumer.fetch(10, wait_s=0.2) == []
            await acknowledged(bus, shard=1, seq=got[-1].seq)

    asyncio.run(run())


def test_a_new_leader_gets_at_once_what_the_dead_one_never_acknowledged(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as first:
            await published(first, *(change("a", seq) for seq in range(1, 6)))
            dead = first.consumer(0)
            got = await fetched(dead, 5)
            dead.ack((got[0].seq, got[1].seq))
        async with running(nats.url, namespace, shards=1) as second:
            await published(second, change("a", 6))
            consumer = second.consumer(0)

            entries = [*await fetched(consumer, 2), *await fetched(consumer, 2)]

            assert [one.seq for one in entries] == [3, 4, 5, 6]
            assert [one.redelivered for one in entries] == [True, True, True, False]

    asyncio.run(run())


def test_what_was_fetched_before_a_cut_is_acknowledged_after_it(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as bus:
            await published(bus, *(change("a", seq) for seq in (1, 2, 3)))
            consumer = bus.consumer(0)
            got = await fetched(consumer, 2)
            bus.cut(0.1)
            await until(lambda: bus.state.state == "cut")

            consumer.ack(tuple(one.seq for one in got))
            with pytest.raises(BusError):
                await consumer.fetch(1)

            await up(bus)
            rest = await fetched(consumer, 1)
            assert [one.seq for one in rest] == [3]
            consumer.ack((3,))
            await acknowledged(bus, shard=0, seq=3)

    asyncio.run(run())


def test_a_message_that_is_nobodys_document_is_passed(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as bus:
            await bus.session().publish(f"{namespace}.changes.0.%00", b"")
            await bus.session().publish(f"{namespace}.changes.0.a%2Fb", b"")
            await bus.session().publish(f"{namespace}.changes.9.a", b"")
            await published(bus, change("a", 1))
            consumer = bus.consumer(0)

            got = [*await consumer.fetch(10), *await consumer.fetch(10, wait_s=0.3)]

            assert [one.seq for one in got] == [4]
            assert await bus.documents() == {DocId("a"): 1}

    asyncio.run(run())


# --- broadcasts -------------------------------------------------------------------------------------------------------
def test_followers_hear_broadcasts_and_others_presence(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        near, far = Ear(), Ear()
        async with running(nats.url, namespace, ear=near) as one, running(nats.url, namespace, ear=far) as two:
            assert one.epoch is not None
            one.follow(PLAN)
            two.follow_all()
            merged = Merged(PLAN, Version(one.epoch, 1), Version(one.epoch, 2), b"u", dots(1))

            await one.session().link.request("$JS.API.INFO")
            await two.session().link.request("$JS.API.INFO")
            one.broadcast(merged)
            one.send_presence(PLAN, b"ada")
            two.send_presence(PLAN, b"ben")

            await until(lambda: len(near.heard) == 2 and len(far.heard) == 2)
            assert merged in near.heard  # two subjects: in no order between them
            assert (PLAN, b"ben") in near.heard
            assert merged in far.heard
            assert (PLAN, b"ada") in far.heard

            two.cut(0.1)
            await until(lambda: len(far.links) == 3)
            await two.session().link.request("$JS.API.INFO")
            one.unfollow(PLAN)
            one.broadcast(merged)
            await until(lambda: far.heard[2:] == [merged])
            assert len(near.heard) == 2

    asyncio.run(run())


def test_a_broadcast_too_large_for_a_message_says_where_to_ask(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            assert bus.epoch is not None
            bus.follow_all()
            versions = Version(bus.epoch, 1), Version(bus.epoch, 2)

            bus.broadcast(Merged(PLAN, *versions, b"x" * 2_000_000, dots(1)))

            await until(lambda: bool(ear.heard))
            assert ear.heard == [Merged(PLAN, *versions, b"", dots(1), fetch=True)]

    asyncio.run(run())


def test_beacons_and_questions_for_repair_reach_the_edges(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            assert bus.epoch is not None
            bus.follow_beacons()
            beacon = Beacon(((PLAN, Version(bus.epoch, 5), DIGEST),))
            ask = RepairAsk(PLAN, b"\x00", ((9, 4),))

            bus.send_beacon(1, beacon)
            bus.ask_repair(ask)

            await until(lambda: len(ear.heard) == 2)
            assert ear.heard == [beacon, ask] or ear.heard == [ask, beacon]

    asyncio.run(run())


def test_bytes_that_are_no_message_are_dropped_and_counted(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        ear = Ear()
        async with running(nats.url, namespace, ear=ear) as bus:
            bus.follow_all()
            bus.follow_beacons()
            link = bus.session().link
            for kind in ("merged", "beacon", "repair"):
                link.send(f"{namespace}.{kind}.x", b"\xff\x00")
            link.send(f"{namespace}.presence.e.%ff", b"p")
            link.send(f"{namespace}.presence.e.x", b"p")

            await until(lambda: bus.dropped_count == 4 and bool(ear.heard))
            assert ear.heard == [(DocId("x"), b"p")]

    asyncio.run(run())


# --- questions --------------------------------------------------------------------------------------------------------
def test_an_answer_of_five_megabytes_arrives_whole(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as edge, running(nats.url, namespace) as leader:
            assert leader.epoch is not None
            ask = SyncAsk(PLAN, 3, b"\x00", None)
            answer = SyncAnswer(PLAN, 3, os.urandom(5_000_000), b"\x00", Version(leader.epoch, 9), dots(1, 2), DIGEST)
            asked: list[SyncAsk] = []

            def reply(got: SyncAsk, to: str) -> None:
                asked.append(got)
                leader.answer(to, answer)

            leader.serve_sync([2], reply)
            await leader.session().link.request("$JS.API.INFO")

            assert await edge.ask_sync(ask, 2) == answer
            assert asked == [ask]
            with pytest.raises(BusUnreachable, match="nobody leads shard 1"):
                await edge.ask_sync(ask, 1)

            leader.serve_sync([], reply)
            await leader.session().link.request("$JS.API.INFO")
            with pytest.raises(BusUnreachable, match="nobody leads shard 2"):
                await edge.ask_sync(ask, 2)

    asyncio.run(run())


def test_two_leaders_that_answer_at_once_are_not_mixed(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with (
            running(nats.url, namespace) as edge,
            running(nats.url, namespace) as ben,
            running(nats.url, namespace) as cyd,
        ):
            answers = [
                SyncAnswer(PLAN, 1, bytes([number]) * 3_000_000, b"\x00", Version(5, number), dots(1), DIGEST)
                for number in (1, 2)
            ]
            for bus, answer in zip((ben, cyd), answers, strict=True):
                bus.serve_sync([0], lambda _, to, bus=bus, answer=answer: bus.answer(to, answer))  # type: ignore[misc]
                await bus.session().link.request("$JS.API.INFO")

            assert await edge.ask_sync(SyncAsk(PLAN, 1, b"\x00", None), 0) in answers

    asyncio.run(run())


def test_operators_ask_every_node(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as one, running(nats.url, namespace) as two:
            assert await one.ask_all({"what": "status"}, 0.2) == []

            async def first(question: dict[str, object]) -> dict[str, object] | None:
                return {"node": "one", "to": question["what"]} if question["what"] != "two" else None

            async def second(question: dict[str, object]) -> dict[str, object] | None:
                return {"node": "two", "all": "x" * 2_000_000} if question["what"] == "large" else {"node": "two"}

            one.serve_ask(first)
            two.serve_ask(second)
            for bus in (one, two):
                await bus.session().link.request("$JS.API.INFO")

            assert {answer["node"] for answer in await one.ask_all({"what": "status"}, 0.3)} == {"one", "two"}
            assert await one.ask_all({"what": "two"}, 0.2) == [{"node": "two"}]
            assert any("ask for less" in str(answer) for answer in await two.ask_all({"what": "large"}, 0.3))

    asyncio.run(run())


# --- snapshots, events, rejected --------------------------------------------------------------------------------------
def test_a_snapshot_is_replaced_by_a_newer_one_only(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            assert bus.epoch is not None
            small = Snapshot(PLAN, Version(bus.epoch, 5), b"state", dots(1), DIGEST)
            large = Snapshot(PLAN, Version(bus.epoch, 9), os.urandom(2_500_000), dots(1, 2), DIGEST)
            larger = Snapshot(PLAN, Version(bus.epoch, 12), os.urandom(2_500_000), dots(1, 2, 3), DIGEST)
            assert await bus.load_snapshot(PLAN) is None

            assert await bus.store_snapshot(small)
            assert await bus.load_snapshot(PLAN) == small
            assert await bus.store_snapshot(large)
            assert not await bus.store_snapshot(small)
            assert not await bus.store_snapshot(large)
            assert await bus.load_snapshot(PLAN) == large
            assert await bus.store_snapshot(larger)
            assert await bus.load_snapshot(PLAN) == larger

            objects = await api(bus.session().link, f"STREAM.INFO.OBJ_{bus.layout.objects}", {"subjects_filter": ">"})
            state = objects["state"]
            assert isinstance(state, dict)
            assert sum(".C." in subject for subject in state["subjects"]) == 1  # the replaced one's are gone

    asyncio.run(run())


def test_of_racing_snapshots_one_wins_and_nothing_breaks(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            assert bus.epoch is not None
            racing = [Snapshot(PLAN, Version(bus.epoch, seq), b"s%d" % seq, dots(1), DIGEST) for seq in range(1, 9)]

            outcomes = await asyncio.gather(*(bus.store_snapshot(one) for one in racing))

            assert sum(outcomes) >= 1
            assert await bus.load_snapshot(PLAN) in racing

    asyncio.run(run())


def test_rejected_entries_and_events_are_kept(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            (version,) = await published(bus, change("a", 1))
            subject = bus.layout.change(shard_of(PLAN, 4), PLAN)
            await bus.session().publish(subject, b"x" * 1_040_000, {"Foo": "bar"})
            (logged,) = await bus.read_log(DocId("a"), 0, None)
            (unreadable,) = await bus.read_log(PLAN, 0, None)

            bus.reject(logged, "no\r\nüse")
            bus.reject(logged, "no use")
            bus.reject(unreadable, "no change")
            bus.emit(PLAN, {"version": "x", "who": "ädä"})

            async def stored(stream: str, doc: str, kind: str) -> list[tuple[dict[str, str], bytes]]:
                session = bus.session()
                found = session.stored(stream, bus.layout.of(kind, DocId(doc)), 0)
                return [(one.headers, await session.payload(one.headers, one.data)) async for one in found]

            await bus.session().link.request("$JS.API.INFO")
            kept: list[tuple[dict[str, str], bytes]] = []
            for _ in range(500):
                kept = await stored(bus.layout.rejected, "notes/plan", "rejected")
                if kept:
                    break
                await asyncio.sleep(0.02)
            assert (kept[0][0]["Skerry-Reason"], kept[0][0]["Foo"], len(kept[0][1])) == ("no change", "bar", 1_040_000)
            ((headers, payload),) = await stored(bus.layout.rejected, "a", "rejected")
            assert headers["Skerry-Version"] == str(version)
            assert headers["Skerry-Dot"] == "7.1"
            assert payload == b"update 1"
            ((_, event),) = await stored(bus.layout.events, "notes/plan", "events")
            assert json.loads(event) == {"version": "x", "who": "ädä"}

    asyncio.run(asyncio.wait_for(run(), 30))


# --- what cannot be ---------------------------------------------------------------------------------------------------
def test_an_unreachable_server_is_a_state(namespace: str) -> None:
    async def run() -> None:
        bus = Bus(BusConfig(("nats://127.0.0.1:1",), namespace), Ear())
        await bus.start()

        await until(lambda: "is a nats-server running there?" in bus.state.reason)

        assert bus.state.state == "down"
        assert bus.fatal is not None
        assert not bus.fatal.done()
        with pytest.raises(BusUnreachable):
            await bus.last_seq()
        await bus.stop()

    asyncio.run(run())


def test_refused_credentials_are_fatal_at_the_first_connection(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        guard = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = guard.sockets[0].getsockname()[1]
        bus = Bus(BusConfig((f"nats://ada:secret@127.0.0.1:{port}",), namespace), Ear())
        await bus.start()
        assert bus.fatal is not None

        with pytest.raises(BusRefused, match="credentials"):
            await asyncio.wait_for(bus.fatal, 10)

        assert "secret" not in bus.state.reason
        await bus.stop()
        guard.close()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"version": "2.15.1", "max_payload": 1048576, "headers": True, "auth_required": True}
        writer.write(b"INFO %s\r\n" % json.dumps(info).encode())
        await reader.readline()
        writer.write(b"-ERR 'Authorization Violation'\r\n")
        await writer.drain()
        writer.close()

    asyncio.run(run())


def test_a_listener_that_raises_harms_nobody(nats: NatsServer, namespace: str) -> None:
    class Clumsy(Ear):
        def presence(self, doc: DocId, payload: bytes) -> None:
            super().presence(doc, payload)
            raise RuntimeError("clumsy")

        def link_up(self, epoch: int, intact: bool) -> None:
            super().link_up(epoch, intact)
            raise RuntimeError("clumsy")

    async def run() -> None:
        ear = Clumsy()
        async with running(nats.url, namespace, ear=ear) as bus:
            bus.follow(PLAN)
            for _ in range(2):
                bus.session().link.send(bus.layout.presence("e", PLAN), b"p")
            await until(lambda: len(ear.heard) == 2)
            assert len(ear.links) == 1

    asyncio.run(run())


def test_stopping_waits_for_what_is_under_way(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        outcomes: list[object] = []
        async with running(nats.url, namespace) as bus:
            for seq in range(1, 201):
                bus.publish(change("a", seq), outcomes.append)
            await bus.stop(5)

        assert sum(isinstance(outcome, Version) for outcome in outcomes) == 200

    asyncio.run(run())


def test_a_queue_for_a_server_that_does_not_read_is_bounded(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace) as bus:
            link: NatsLink = bus.session().link
            sent = [link.send("x", b"x" * 1_000_000) for _ in range(80)]

            assert sent.count(True) == 67
            assert link.dropped_count == 13

    asyncio.run(run())
