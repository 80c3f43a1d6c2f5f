"""A document's rows give way to its state while the program goes on."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from client import connect
from client.document import OpenDocument
from client.store import Compacted, Store, StoredDocument, Writes
from sync.content import Captured
from sync.errors import DocumentBroken
from sync.ids import DocId
from sync.limits import COMPACT_ROWS
from tests.calls import calls_by_name
from tests.client.edge import running, until

PLAN = DocId("notes/plan")


def stored(store: Store) -> StoredDocument:
    found = store.load(PLAN)
    assert found is not None
    return found


def fill(plan: OpenDocument, count: int = COMPACT_ROWS) -> None:
    for at in range(count):
        plan.insert("body", 0, f"{at} ")


def test_the_loop_does_not_load_the_state_that_takes_the_place_of_the_rows(tmp_path: Path) -> None:
    async def test() -> None:
        async with connect([], store=tmp_path / "ada.db") as session:
            plan = await session.open(PLAN)
            fill(plan)
            with calls_by_name() as found:
                await until(lambda: stored(session.store).state is not None, "compacted")

            assert found["Content.capture"] == 1
            assert found["Captured.verify"] == found["document_of"] == 0, "in a thread"
            assert stored(session.store).updates == ()

    running(test)


def test_what_is_written_while_the_state_is_looked_at_stays_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = Captured.verify

    async def test() -> None:
        loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def waiting(captured: Captured) -> None:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)
            verify(captured)

        monkeypatch.setattr(Captured, "verify", waiting)
        async with connect([], store=tmp_path / "ada.db") as session:
            plan = await session.open(PLAN)
            fill(plan)
            await begun.wait()
            plan.insert("body", 0, "meanwhile ")
            assert stored(session.store).state is None
            go_on.set()
            await until(lambda: stored(session.store).state is not None, "compacted")
            assert len(stored(session.store).updates) == 1
            text = plan.text("body")

        async with connect([], store=tmp_path / "ada.db") as session:
            plan = await session.open(PLAN)
            assert plan.text("body") == text
            assert text.startswith("meanwhile ")
            assert len(plan.pending(0, 10 * COMPACT_ROWS, 10**9)) == COMPACT_ROWS + 1

    running(test)


def test_a_session_that_ends_waits_for_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with connect([], store=tmp_path / "ada.db") as session:
            plan = await session.open(PLAN)
            fill(plan)
            await plan.close()
            assert stored(session.store).state is None
        store = Store.open(tmp_path / "ada.db", "skerry")
        assert stored(store).state is not None
        store.close()

    running(test)


def test_a_state_that_is_not_the_same_document_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Captured] = []

    def refuse(captured: Captured) -> None:
        refused.append(captured)
        raise DocumentBroken("it is another one")

    monkeypatch.setattr(Captured, "verify", refuse)

    async def test() -> None:
        async with connect([], store=tmp_path / "ada.db") as session:
            plan = await session.open(PLAN)
            fill(plan)
            text, crdt = plan.text("body"), plan.crdt
            await until(lambda: plan.crdt is not crdt, "made again from its rows")
            assert plan.text("body") == text
            assert (stored(session.store).state, len(stored(session.store).updates)) == (None, COMPACT_ROWS)
            plan.insert("body", 0, "on ")
        assert len(refused) == 1

    running(test)


def test_a_state_does_not_take_the_place_of_what_has_replaced_its_rows(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "ada.db", "skerry")
    store.commit([Writes(PLAN, [b"a", b"b"])])
    late = Compacted(b"ab", *store.behind(PLAN))
    store.commit([Writes(PLAN, replaced=b"theirs")])
    store.commit([Writes(PLAN, [b"c"])])

    store.commit([Writes(PLAN, compacted=late)])

    assert (stored(store).state, stored(store).updates) == (b"theirs", (b"c",))
    store.close()
    run = sqlite3.connect(tmp_path / "ada.db")
    assert run.execute("SELECT count(*) FROM updates").fetchone() == (1,)
    run.close()
