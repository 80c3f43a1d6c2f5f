"""A document in which something was refused: parked, told as such, reloaded, and what was written is still there."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client import EditRejected, Rejected, Session, Stage, connect, parking
from client.document import OpenDocument
from client.store import FORMAT, Parked, Rejection, Store, Writes
from sync import extension
from sync.closing import CLOSE_BAD_UPDATE, CLOSE_CLIENT_ID, CLOSE_GAP, CLOSE_LIMIT
from sync.document import Document
from sync.errors import NotYet
from sync.ids import DocId, Dot, Origin
from sync.validate import check_update
from tests.calls import calls_by_name
from tests.client.edge import FakeEdge, running, until
from tests.client.test_cli import Skerry, skerry
from tests.client.test_rejected import STRICT
from tests.processes import Cluster, Node

__all__ = ["skerry"]

PLAN = DocId("notes/plan")


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Cluster]:
    """Two edges, and a leader with a rule that they do not know."""
    (tmp_path / "strict").mkdir()
    (tmp_path / "strict" / "sitecustomize.py").write_text(STRICT)
    with Cluster(tmp_path, ["a", "b"], leader=False) as cluster:
        command = ["leader", "--nats", cluster.nats.url]
        leader = Node("leader", "strict", tmp_path, command, {"PYTHONPATH": str(tmp_path / "strict")})
        leader.start()
        try:
            yield cluster
        finally:
            leader.end()


def test_what_a_leader_refuses_parks_until_reload_and_then_typing_reaches_everybody(
    strict: Cluster, tmp_path: Path
) -> None:
    async def test() -> None:
        async with connect(strict["b"].ws, store=tmp_path / "ben.db") as far:
            async with connect(strict["a"].ws, store=tmp_path / "ada.db") as session:
                plan = await session.open(PLAN)
                plan.insert("body", 0, "allowed ")
                await plan.confirmed(timeout=20)
                plan.insert("body", 8, "forbidden")
                with pytest.raises(EditRejected, match=r"notes/plan: rejected: update: forbidden here; .*reload"):
                    await plan.confirmed(timeout=20)
                with pytest.raises(EditRejected, match="forbidden here"):
                    plan.insert("body", 0, "more")
                with pytest.raises(EditRejected), plan.edit():
                    pytest.fail("an edit has begun")
                assert plan.text("body") == "allowed forbidden"

            async with connect(strict["a"].ws, store=tmp_path / "ada.db") as session:
                plan = await session.open(PLAN)
                assert plan.status.parked is not None
                assert plan.status.parked.reason == "update: forbidden here"
                with pytest.raises(EditRejected, match="forbidden here"):
                    plan.insert("body", 0, "more")
                theirs = await far.open(PLAN)
                await theirs.synced(timeout=10)
                theirs.insert("body", 0, "Ben: ")
                await until(lambda: plan.text("body") == "Ben: allowed forbidden", "others' changes go on coming")

                before, client_id, refused = plan.crdt, plan.client_id, plan.token
                await plan.read(at_least=refused)
                await plan.reload(timeout=20)
                assert plan.status.parked is None
                assert plan.text("body") == "Ben: allowed "
                assert plan.crdt is not before
                assert plan.client_id != client_id
                with pytest.raises(NotYet):
                    await plan.read(at_least=refused, timeout=0.5)
                await plan.read(at_least=plan.token, timeout=10)
                plan.insert("body", 13, "again")
                await plan.confirmed(timeout=20)
                await until(lambda: theirs.text("body") == "Ben: allowed again")
                (copy,) = plan.asides()
                assert copy.text("body") == "Ben: allowed forbidden"
                assert copy.contents()["body"] == {"kind": "text", "value": "Ben: allowed forbidden"}

    running(test)


def test_a_reload_at_once_waits_until_the_edge_has_given_way(strict: Cluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with connect(strict["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(PLAN)
            for round in range(5):
                plan.insert("body", 0, "forbidden")
                with pytest.raises(EditRejected):
                    await plan.confirmed(timeout=20)
                await plan.reload(timeout=20)
                assert plan.text("body") == ""
                assert len(plan.asides()) == round + 1
            plan.insert("body", 0, "fine")
            await plan.confirmed(timeout=20)

    running(test)


def test_who_has_read_what_is_refused_is_parked_too_and_goes_on(strict: Cluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            connect(strict["a"].ws, store=tmp_path / "ada.db") as session,
            connect(strict["a"].ws, store=tmp_path / "ben.db") as beside,
        ):
            plan, theirs = await session.open(PLAN), await beside.open(PLAN)
            await theirs.synced(timeout=10)
            events = theirs.events()
            plan.insert("body", 0, "forbidden")
            with pytest.raises(EditRejected):
                await plan.confirmed(timeout=20)
            while not isinstance(event := await anext(events), Rejected):
                pass
            assert event.dots == ()
            with pytest.raises(EditRejected, match="refused by the leader"):
                theirs.insert("body", 0, "more")
            await asyncio.gather(plan.reload(timeout=20), theirs.reload(timeout=20))
            theirs.insert("body", 0, "fine")
            await theirs.confirmed(timeout=20)
            await until(lambda: plan.text("body") == "fine")

    running(test)


def test_what_an_edge_finds_too_large_parks_and_the_command_line_reloads_it(
    tmp_path: Path, doc: str, skerry: Skerry
) -> None:
    command = ["edge", "--name", "small", "--data", str(tmp_path / "small"), "--listen", "{listen}"]
    command += ["--nats", "nats://127.0.0.1:1"]
    edge = Node("edge", "small", tmp_path, command, {"SKERRY_DOCUMENT_BYTES_MAX": "2000"})
    edge.start()
    store = ("--offline", tmp_path / "ada.db")
    there = ("--edge", edge.ws, *store)
    try:
        assert skerry("set", doc, "/body", '"short"', "--edge", edge.ws).status == 0
        assert skerry("sync", doc, *there).status == 0
        assert skerry("set", doc, "/body", json.dumps("x" * 3000), *store).status == 0
        assert "document_bytes" in skerry("sync", *there).err
        told = skerry("unmerged", *store)
        refused = skerry("set", doc, "/body", '"more"', *store)
        done = skerry("sync", "--reload", *there)
        assert skerry("get", doc, "/body", *store).out == "short\n"
        assert skerry("set", doc, "/body", '"short again"', *there).status == 0
        assert skerry("get", doc, "/body", "--edge", edge.ws).out == "short again\n"
    finally:
        edge.end()

    assert f"skerry: {doc}: rejected: document_bytes: " in told.err
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "skerry doc sync --reload" in refused.err
    assert done.status == 0
    assert f"skerry doc export {doc} --aside 1 --offline " in done.err
    assert skerry("export", doc, "--aside", 1, "--format", "text", *store).out == "x" * 3000
    assert "1 copies are there" in skerry("export", doc, "--aside", 2, *store).err


def session_at(tmp_path: Path, edge: FakeEdge) -> Session:
    return connect(edge.address, store=tmp_path / "notes.db", actor="ada")


@pytest.mark.parametrize("code", [CLOSE_CLIENT_ID, CLOSE_BAD_UPDATE])
def test_an_edge_that_will_never_take_it_parks_and_nothing_is_sent_to_it_again(tmp_path: Path, code: int) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            edge.stage = Stage.EDGE
            plan = await session.open(PLAN)
            plan.insert("body", 0, "good ")
            await plan.confirmed(Stage.EDGE, timeout=5)
            await edge.drop()
            edge.refuse[PLAN] = (code, "not this")
            plan.insert("body", 5, "bad")
            await until(lambda: plan.status.parked)
            assert plan.status.parked is not None
            assert plan.status.parked.reason == f"not this ({code})"
            del edge.refuse[PLAN]
            edge.stage = Stage.MERGED
            await until(lambda: len(plan.status.edits) == 1, "what the edge has is asked about")
            await edge.type(PLAN, "theirs")
            await until(lambda: "theirs" in plan.text("body"))
            assert edge.text(PLAN) == "good theirs"
            assert edge.early == []
            await plan.reload(timeout=5)
            assert plan.text("body") == "good theirs"
            assert [each.dot for each in plan.status.rejected] == [Dot(session.origin, 2)]
            plan.insert("body", 0, "fine: ")
            await plan.confirmed(timeout=5)
            assert edge.text(PLAN) == "fine: good theirs"

    running(test)


@pytest.mark.parametrize("code", [CLOSE_GAP, CLOSE_LIMIT])
def test_what_a_later_try_may_pass_does_not_park(tmp_path: Path, code: int) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            edge.refuse[PLAN] = (code, "later")
            plan = await session.open(PLAN)
            plan.insert("body", 0, "x")
            await until(lambda: len(edge.came) > 2)
            plan.insert("body", 1, "y")
            del edge.refuse[PLAN]
            await plan.confirmed(timeout=10)

    running(test)


def test_edits_that_build_on_nothing_refused_go_on(tmp_path: Path) -> None:
    """Made in three sessions: the second one's is refused, the third one's stands on the first one's alone."""

    async def test() -> None:
        for text in ("one ", "bad "):
            async with connect([], store=tmp_path / "notes.db") as session:
                (await session.open(PLAN)).insert("body", 0, text)
        async with FakeEdge().serving() as edge:
            edge.stage = Stage.EDGE
            async with session_at(tmp_path, edge) as session:
                plan = await session.open(PLAN)
                with plan.edit() as crdt:
                    crdt["other"] += "three"
                await plan.confirmed(Stage.EDGE, timeout=5)
                assert len(edge.dots) == 3
                whole, edge.docs = edge.docs, {}
                edge.replica(PLAN)
                edge._take(edge.replica(PLAN), edge.edits[0].update)
                edge.stage = None
                await edge.say_all(PLAN, extension.Rejected((edge.dots[1],), "no"))
                await until(lambda: plan.status.parked)
                await plan.reload(timeout=5)
                assert whole
                assert plan.text("body") == "one "
                assert plan.text("other") == "three"
                await until(lambda: edge.text(PLAN, "other") == "three", "sent again, by its name")
                assert [progress.dot for progress in plan.status.edits] == [edge.dots[0], edge.dots[2]]
                assert edge.early == []

    running(test)


async def parked_with(edge: FakeEdge, session: Session) -> OpenDocument:
    """`good ` is on the edge, and `bad` behind it was refused."""
    edge.stage = Stage.EDGE
    plan = await session.open(PLAN)
    plan.insert("body", 0, "good ")
    await plan.confirmed(Stage.EDGE, timeout=5)
    whole = edge.replica(PLAN).materialise().state()
    plan.insert("body", 5, "bad")
    await plan.confirmed(Stage.EDGE, timeout=5)
    edge.docs = {}
    edge.replica(PLAN).take(whole, check_update(whole), 0)
    edge.stage = None
    await edge.say_all(PLAN, extension.Rejected((edge.dots[1],), "no"))
    await until(lambda: plan.status.parked)
    return plan


def test_the_loop_does_not_make_what_takes_the_place_of_a_document(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await parked_with(edge, session)
            with calls_by_name() as found:
                await plan.reload(timeout=10)
            assert plan.text("body") == "good "
            assert found["OpenDocument.adopt"] == 1
            assert found["fresh_of"] == found["Captured.verify"] == 0, "in a thread"

    running(test)


def test_a_document_is_parked_and_reloaded_again_on_the_same_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await parked_with(edge, session)
            await plan.reload(timeout=10)
            edge.stage = Stage.EDGE
            whole = edge.replica(PLAN).materialise().state()
            plan.insert("body", 0, "worse ")
            await plan.confirmed(Stage.EDGE, timeout=5)
            edge.docs = {}
            edge.replica(PLAN).take(whole, check_update(whole), 0)
            await edge.say_all(PLAN, extension.Rejected((edge.dots[-1],), "no"))
            await until(lambda: plan.status.parked)
            await plan.reload(timeout=10)
            assert plan.text("body") == "good "
            assert [copy.text("body") for copy in plan.asides()] == ["good bad", "worse good "]

    running(test)


def test_what_is_made_for_a_reload_that_nobody_waits_for_any_more_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_of = parking.fresh_of
    begun, go_on = threading.Event(), threading.Event()

    def waiting(*given: Any) -> parking.Fresh:
        begun.set()
        assert go_on.wait(30)
        return fresh_of(*given)

    monkeypatch.setattr("client.document.fresh_of", waiting)

    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await parked_with(edge, session)
            reload = asyncio.create_task(plan.reload(timeout=30))
            await until(begun.is_set)
            reload.cancel()
            await asyncio.wait({reload})
            await edge.type(PLAN, "theirs")
            go_on.set()
            await until(lambda: "theirs" in plan.text("body"), "read on")
            assert plan.status.parked is not None
            assert "bad" in plan.text("body")
            await plan.reload(timeout=10)
            assert plan.text("body") == "good theirs"
            assert "bad" in plan.asides()[0].text("body")

    running(test)


def test_a_reload_without_an_edge_is_not_yet_and_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            edge.stage = Stage.EDGE
            plan = await session.open(PLAN)
            plan.insert("body", 0, "x")
            await plan.confirmed(Stage.EDGE, timeout=5)
            edge.refuse[PLAN] = (CLOSE_BAD_UPDATE, "no")
            await edge.say_all(PLAN, extension.Rejected((Dot(session.origin, 1),), "no"))
            await until(lambda: plan.status.parked)
            session.addresses = ()
            with pytest.raises(NotYet, match="and no edge"):
                await plan.reload(timeout=0.3)
            assert plan.text("body") == "x"
            assert plan.status.parked is not None
            assert plan.asides() == []

    running(test)


def test_a_parked_document_is_not_opened_for_its_edits_alone(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "notes.db", "skerry")
    edit = extension.Edit(Dot(Origin(7), 1), "", "", "", Document().edit_text("body", 0, 0, "x"))
    store.commit([Writes(PLAN, edit=edit)])
    assert store.unmerged_documents() == [PLAN]

    store.commit([Writes(PLAN, parked=Parked("no", 5))])

    assert store.unmerged_documents() == []
    store.close()


def test_a_store_of_format_2_is_read_and_what_was_rejected_in_it_is_parked(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    store = Store.open(path, "skerry")
    rejections = [Rejection(Dot(Origin(7), number), f"no {number}", number) for number in (1, 2)]
    store.commit([Writes(PLAN, [Document().edit_text("body", 0, 0, "x")], rejected=rejections), Writes(DocId("other"))])
    store.close()
    run = sqlite3.connect(path)
    for table in ("parked", "aside"):
        run.execute(f"DROP TABLE {table}")
    run.execute("PRAGMA user_version = 2")
    run.commit()
    run.close()

    store = Store.open(path, "skerry")
    stored, other = store.load(PLAN), store.load(DocId("other"))
    store.close()

    assert stored is not None
    assert other is not None
    assert stored.parked == Parked("no 2", 2)
    assert (other.parked, stored.copies) == (None, 0)
    run = sqlite3.connect(path)
    assert run.execute("PRAGMA user_version").fetchone()[0] == FORMAT == 3
    run.close()
