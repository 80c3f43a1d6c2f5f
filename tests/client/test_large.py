"""Documents that are larger than a frame of a client: opened, read and written through real edges."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pycrdt import Array, Doc, Text

from client import connect
from client.document import EDIT_BYTES_MAX, OpenDocument
from sync import extension, wire
from sync.errors import InvalidFrame, LimitReached
from sync.extension import decode, decode_channel, encode, on_channel
from sync.ids import Version
from sync.limits import EDGE_FRAME_BYTES_MAX, FRAME_BYTES_MAX
from sync.validate import check_update
from sync.wire import SyncStep2
from tests.client.edge import FakeEdge, running, until
from tests.processes import Cluster

PIECE = 12 * 1024 * 1024


def test_a_document_over_16_mib_is_opened_at_another_edge_and_written_to(
    cluster: Cluster, tmp_path: Path, doc: str
) -> None:
    async def test() -> None:
        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc)
            plan.insert("body", 0, "a" * PIECE)
            plan.insert("body", 0, "b" * PIECE)
            await plan.confirmed(timeout=60)
            token = plan.token

        async with connect(cluster["b"].ws, store=tmp_path / "ben.db") as session:
            theirs = await session.open(doc, at_least=token, timeout=60)
            await theirs.synced(timeout=60)
            assert len(theirs.text("body")) == 2 * PIECE > FRAME_BYTES_MAX
            theirs.insert("body", PIECE, "here is the middle")
            await theirs.confirmed(timeout=60)
            token = theirs.token

        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc, at_least=token, timeout=60)
            assert plan.text("body") == "b" * PIECE + "here is the middle" + "a" * PIECE

    running(test, 180)


@pytest.mark.parametrize("made_of", ["two edits", "many edits"])
def test_a_client_that_alone_has_more_than_16_mib_brings_it_to_an_edge_that_has_nothing(
    tmp_path: Path, made_of: str
) -> None:
    """Every disk but the client's is gone, and what was merged stands in its store as one state."""
    rows = 20_000 if made_of == "many edits" else 0

    def write(plan: OpenDocument) -> None:
        plan.insert("body", 0, "a" * PIECE)
        plan.insert("body", PIECE // 2, "b" * (PIECE // 2))
        with plan.edit() as crdt:
            listed = crdt.get("rows", type=Array)
            for number in range(rows):
                listed.insert(number // 2, {"n": number})

    async def first(cluster: Cluster) -> None:
        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open("notes/plan")
            write(plan)
            await plan.confirmed(timeout=60)
            plan.delete("body", 0, 10)
            await plan.confirmed(timeout=60)

    async def second(cluster: Cluster) -> None:
        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open("notes/plan")
            assert len(plan.state()) > FRAME_BYTES_MAX
            await plan.synced(timeout=60)
            plan.insert("body", 0, "and on. ")
            await plan.confirmed(timeout=60)
        async with connect(cluster["b"].ws, store=tmp_path / "ben.db") as session:
            theirs = await session.open("notes/plan", at_least=plan.token, timeout=60)
            body = "a" * (PIECE // 2) + "b" * (PIECE // 2) + "a" * (PIECE - PIECE // 2)
            await theirs.synced(timeout=60)
            await until(lambda: theirs.contents() == plan.contents())
            assert theirs.text("body") == "and on. " + body[10:]

    with Cluster(tmp_path / "old", ["a"]) as cluster:
        running(lambda: first(cluster), 120)
    with Cluster(tmp_path / "new", ["a", "b"]) as cluster:
        running(lambda: second(cluster), 180)


def test_one_edit_stays_below_a_frame(tmp_path: Path) -> None:
    async def test() -> None:
        async with connect([], store=tmp_path / "ada.db") as session:
            plan = await session.open("notes/plan")
            with pytest.raises(LimitReached, match="make several edits of it"):
                plan.insert("body", 0, "x" * EDIT_BYTES_MAX)
            assert plan.text("body") == ""
            plan.insert("body", 0, "x" * (EDIT_BYTES_MAX - 100))

    asyncio.run(test())


def test_a_client_takes_larger_frames_than_an_edge() -> None:
    frame = on_channel(1, encode(SyncStep2(b"x" * FRAME_BYTES_MAX)))

    with pytest.raises(InvalidFrame, match=f"at most {FRAME_BYTES_MAX}"):
        decode_channel(frame)
    _, inner = decode_channel(frame, EDGE_FRAME_BYTES_MAX)
    assert decode(inner, EDGE_FRAME_BYTES_MAX) == SyncStep2(b"x" * FRAME_BYTES_MAX)
    with pytest.raises(InvalidFrame, match=f"at most {EDGE_FRAME_BYTES_MAX}"):
        decode_channel(bytes(EDGE_FRAME_BYTES_MAX + 10), EDGE_FRAME_BYTES_MAX)


def scattered(count: int) -> bytes:
    """An update of so many structs, each put before all others."""
    crdt: Doc[Text] = Doc()
    body = crdt.get("body", type=Text)
    with crdt.transaction():
        for _ in range(count):
            body.insert(0, "x" * 80)
    return crdt.get_update()


@pytest.mark.parametrize("live", [True, False], ids=["an update", "an answer"])
def test_a_large_update_comes_a_piece_a_turn_and_is_told_when_all_of_it_is_there(tmp_path: Path, live: bool) -> None:
    count = 30_000
    update = scattered(count)

    async def test() -> None:
        async with FakeEdge().serving() as edge, connect(edge.address, store=tmp_path / "ada.db") as session:
            if not live:
                edge.replica("notes/plan").take(update, check_update(update), 0)
                edge.seq = 7
            plan = await session.open("notes/plan")
            changes = plan.changes()
            turns: list[int] = []
            loop = asyncio.get_running_loop()

            def turn() -> None:
                turns.append(len(plan.text("body")))
                if turns[-1] < count * 80:
                    loop.call_soon(turn)

            if live:
                await plan.synced(timeout=10)
                loop.call_soon(turn)
                await edge.say_all("notes/plan", wire.Update(update))
                await edge.say_all("notes/plan", extension.At(Version(1, 7)))
            else:
                loop.call_soon(turn)
                await plan.synced(timeout=30)
                assert len(plan.text("body")) == count * 80
            while plan.version is None:
                assert len(plan.text("body")) in turns or not turns
                await asyncio.sleep(0)
            assert plan.version == Version(1, 7)
            assert len(plan.text("body")) == count * 80
            assert len(set(turns)) > 50, "others had their turns between the pieces"
            assert len((await anext(changes)).update) < len(update) / 50

        async with connect([], store=tmp_path / "ada.db") as session:
            assert len((await session.open("notes/plan")).text("body")) == count * 80

    running(test)
