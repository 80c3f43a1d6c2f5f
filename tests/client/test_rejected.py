"""An edit that the leader refuses: awaitables raise, the event stream and the status say so, and nothing repeats it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from websockets.asyncio.client import connect as connect_socket
from websockets.typing import Subprotocol

import client.store
from client import EditRejected, Rejected, Session, Stage, connect
from client.store import APPLICATION_ID, FORMAT, Rejection, Store
from sync import extension, wire
from sync.document import Document
from sync.errors import NotYet
from sync.ids import DocId, Dot, Origin, Version
from sync.token import Token, encode_token
from tests.client.edge import FakeEdge, running, until
from tests.processes import Cluster, Node

PLAN = DocId("notes/plan")

STRICT = """
import sync.folding
from sync.errors import InvalidUpdate
check = sync.folding.check_update

def strict(update):
    if b"forbidden" in update:
        raise InvalidUpdate("update: forbidden here")
    return check(update)

sync.folding.check_update = strict
"""
"""Makes a leader that has a rule its edges do not know, as one of another release may have."""


def session_at(tmp_path: Path, edge: FakeEdge) -> Session:
    return connect(edge.address, store=tmp_path / "notes.db", actor="ada")


def test_who_waits_is_told_and_the_edit_is_not_sent_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge:
            edge.stage = Stage.EDGE
            async with session_at(tmp_path, edge) as session:
                plan = await session.open(PLAN)
                events = plan.events()
                plan.insert("body", 0, "x")
                plan.insert("body", 1, "y")
                dot = Dot(session.origin, 1)
                waiting = asyncio.create_task(plan.confirmed(timeout=5))
                await plan.confirmed(Stage.EDGE, timeout=5)
                await edge.say_all(PLAN, extension.Rejected((dot,), "nested too deeply"))
                with pytest.raises(EditRejected, match=r"notes/plan: rejected: nested too deeply"):
                    await waiting
                while not isinstance(event := await anext(events), Rejected):
                    pass
                assert (event.dots, event.reason) == ((dot,), "nested too deeply")
                assert [(each.dot, each.reason) for each in plan.status.rejected] == [(dot, "nested too deeply")]
                assert [progress.dot.seq for progress in plan.status.edits] == [2]
                assert plan.text("body") == "xy"

            sent = len(edge.dots)
            edge.stage = Stage.MERGED
            async with session_at(tmp_path, edge) as session:
                plan = await session.open(PLAN)
                assert [each.dot for each in plan.status.rejected] == [dot]
                await until(lambda: not plan.status.edits, "the edge has it, and says how safe it is")
                with pytest.raises(EditRejected, match="nested too deeply"):
                    await plan.confirmed(timeout=5)
                assert [each.seq for each in edge.dots[sent:]] == [2]
                assert plan.text("body") == "xy"

    running(test)


def test_a_rejection_that_nobody_waited_for_is_raised_by_all_who_do_later(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            edge.stage = Stage.EDGE
            plan = await session.open(PLAN)
            plan.insert("body", 0, "x")
            await plan.confirmed(Stage.EDGE, timeout=5)
            await edge.say_all(PLAN, extension.Rejected((Dot(session.origin, 1),), "no"))
            await until(lambda: plan.status.rejected)
            for _ in range(2):
                with pytest.raises(EditRejected):
                    await plan.confirmed()

    running(test)


def test_a_rejected_edit_is_on_the_disk_as_such(tmp_path: Path) -> None:
    async def test() -> Dot:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            edge.stage = None
            plan.insert("body", 0, "x")
            await until(lambda: edge.dots)
            await edge.say_all(PLAN, extension.Rejected((Dot(session.origin, 1),), "no"))
            await until(lambda: plan.status.rejected)
            return Dot(session.origin, 1)

    dot = running(test)
    store = Store.open(tmp_path / "notes.db", "skerry")
    stored = store.load(PLAN)
    assert stored is not None
    assert stored.edits == ()
    assert [(each.dot, each.reason) for each in stored.rejected] == [(dot, "no")]
    assert stored.updates
    assert store.unmerged_documents() == []
    store.close()


def test_a_store_of_format_1_is_read_and_becomes_one_of_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = Store.open(path, "skerry")
    store.close()
    run = sqlite3.connect(path)
    for table in ("rejected", "parked", "aside"):
        run.execute(f"DROP TABLE {table}")
    run.execute("PRAGMA user_version = 1")
    run.execute("INSERT INTO documents(doc) VALUES ('notes/plan')")
    run.commit()
    run.close()

    store = Store.open(path, "skerry")
    stored = store.load(PLAN)
    store.close()

    assert stored is not None
    assert stored.rejected == ()
    run = sqlite3.connect(path)
    assert run.execute("PRAGMA user_version").fetchone()[0] == FORMAT == 3
    assert run.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    run.close()


def test_only_the_newest_rejections_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.store, "REJECTED_MAX", 3)
    store = Store.open(tmp_path / "notes.db", "skerry")
    for number in range(1, 6):
        rejected = (Rejection(Dot(Origin(7), number), f"no {number}", number),)
        store.commit([client.store.Writes(PLAN, rejected=rejected)])
    stored = store.load(PLAN)
    store.close()

    assert stored is not None
    assert [each.reason for each in stored.rejected] == ["no 3", "no 4", "no 5"]


def test_a_strict_leader_refuses_and_the_client_hears_it_at_a_real_edge(tmp_path: Path) -> None:
    (tmp_path / "strict").mkdir()
    (tmp_path / "strict" / "sitecustomize.py").write_text(STRICT)
    with Cluster(tmp_path, ["a", "b"], leader=False) as cluster:
        command = ["leader", "--nats", cluster.nats.url]
        leader = Node("leader", "strict", tmp_path, command, {"PYTHONPATH": str(tmp_path / "strict")})
        leader.start()
        try:

            async def test() -> None:
                async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
                    plan = await session.open(PLAN)
                    plan.insert("body", 0, "allowed ")
                    await plan.confirmed(timeout=20)
                    plan.insert("body", 8, "forbidden")
                    with pytest.raises(EditRejected, match="forbidden here"):
                        await plan.confirmed(timeout=20)
                    assert [each.reason for each in plan.status.rejected] == ["update: forbidden here"]
                    assert plan.status.edits == ()
                async with connect(cluster["b"].ws, store=tmp_path / "ben.db") as session:
                    theirs = await session.open(PLAN)
                    await theirs.synced(timeout=10)
                    assert theirs.text("body") == "allowed "

            running(test)
            old_client(cluster["a"].ws)
        finally:
            leader.end()


def test_who_wrote_is_told_by_an_edge_that_was_killed_before_the_leader_refused(tmp_path: Path) -> None:
    (tmp_path / "strict").mkdir()
    (tmp_path / "strict" / "sitecustomize.py").write_text(STRICT)
    with Cluster(tmp_path, ["a"], leader=False) as cluster:

        async def test() -> None:
            async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
                plan = await session.open(PLAN)
                plan.insert("body", 0, "forbidden")
                await plan.confirmed(Stage.LOG, timeout=20)
                await asyncio.to_thread(cluster["a"].restart)
                command = ["leader", "--nats", cluster.nats.url]
                leader = Node("leader", "strict", tmp_path, command, {"PYTHONPATH": str(tmp_path / "strict")})
                await asyncio.to_thread(leader.start)
                try:
                    with pytest.raises(EditRejected):
                        await plan.confirmed(timeout=40)
                    await until(lambda: plan.status.rejected, "what the edge said first is what had become of it")
                    with pytest.raises(EditRejected, match="forbidden here"):
                        await plan.confirmed()
                finally:
                    await asyncio.to_thread(leader.end)

        running(test)


def old_client(address: str) -> None:
    """One of version 1 of the extension: it is not told what it could not read, and nothing false either."""

    async def test() -> None:
        async with connect_socket(address, subprotocols=[Subprotocol(wire.SUBPROTOCOL)]) as socket:

            async def say(channel: int, message: extension.Message | wire.Message) -> None:
                await socket.send(extension.on_channel(channel, extension.encode(message)))

            update = Document().edit_text("body", 0, 0, "forbidden")
            await say(1, extension.Open(DocId("old")))
            await say(1, extension.Edit(Dot(Origin(7), 1), "", "", "", update))
            await say(2, extension.Open(DocId("other")))
            await say(2, extension.Edit(Dot(Origin(7), 1), "", "", "", Document().edit_text("body", 0, 0, "x")))
            told: list[tuple[int, extension.Stage]] = []
            async with asyncio.timeout(20):
                while (2, Stage.MERGED) not in told or (1, Stage.LOG) not in told:
                    frame = await socket.recv(decode=False)
                    assert isinstance(frame, bytes)
                    channel, inner = extension.decode_channel(frame)
                    message = extension.decode(inner)
                    assert not isinstance(message, extension.Rejected)
                    if isinstance(message, extension.Safe):
                        told.append((channel, message.stage))
            await say(
                2, extension.Await(1, encode_token(Token("skerry", DocId("other"), Version(2**60, 1), None)), 500)
            )
            while frame[:2] != b"\x02\x6a":  # half a second later: what was to be said has been said
                frame = await socket.recv(decode=False)
                assert isinstance(frame, bytes)
                assert frame[1] != 109

    running(test)


def test_time_goes_on_for_those_who_wait_for_others(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            edge.stage = None
            plan, other = await session.open(PLAN), await session.open("other")
            plan.insert("body", 0, "x")
            other.insert("body", 0, "y")
            await until(lambda: len(edge.dots) == 2)
            waiting = asyncio.create_task(other.confirmed(timeout=0.5))
            await edge.say_all(PLAN, extension.Rejected((Dot(session.origin, 1),), "no"))
            with pytest.raises(NotYet):
                await waiting

    running(test)
