"""An open document without any edge: edits, what is kept of them, positions, undo, what raises."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pycrdt import Array, Map

from client import (
    Change,
    InvalidAddress,
    ReadOnly,
    Safer,
    Session,
    SessionClosed,
    Stage,
    Stream,
    Unreachable,
    connect,
)
from client.document import OpenDocument
from client.events import STREAM_COUNT_MAX, Feed
from sync.document import Document
from sync.errors import InvalidDocumentId, InvalidInput, InvalidToken, LimitReached, NotYet, StoreBusy, StoreError
from sync.ids import DocId
from sync.limits import COMPACT_ROWS
from sync.token import decode_token
from tests.client.edge import running, until


def offline(tmp_path: Path, actor: str = "") -> Session:
    return connect([], store=tmp_path / "notes.db", actor=actor)


def test_the_snippet_of_the_first_page(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            with plan.edit(correlation="trip-42") as crdt:
                crdt["body"] += "Hello"

            assert plan.text("body") == "Hello"
            assert decode_token(plan.token, "skerry", DocId("notes/plan")).dot == next(iter(plan.unmerged))

        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            assert plan.text("body") == "Hello"

    running(test)


def test_roots_have_the_kind_that_they_have(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            with plan.edit() as crdt:
                crdt.get("rows", type=Array).append("first")
                crdt.get("meta", type=Map)["by"] = "ada"

        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            with plan.edit() as crdt:
                rows, meta, body = crdt["rows"], crdt["meta"], crdt["body"]
                assert [type(root).__name__ for root in (rows, meta, body)] == ["Array", "Map", "Text"]
                crdt.get("rows", type=Array).append("second")

            assert await plan.read() == {
                "meta": {"kind": "map", "value": {"by": "ada"}},
                "rows": {"kind": "array", "value": ["first", "second"]},
            }

    running(test)


def test_an_edit_says_who_why_and_what_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path, actor="ada") as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "one", correlation="trip-42", causation="7.1")
            with plan.edit(actor="robot") as crdt:
                crdt["body"] += "two"
            with pytest.raises(InvalidInput, match="correlation: over 256 bytes"):
                plan.insert("body", 0, "three", correlation="x" * 257)

            first, second = [pending.edit for pending in plan.pending(0, 10, 1000)]
            assert (first.actor, first.correlation, first.causation) == ("ada", "trip-42", "7.1")
            assert (second.actor, second.correlation, second.causation) == ("robot", "", "")
            assert (first.dot.seq, second.dot.seq) == (1, 2)
            assert first.dot.origin == second.dot.origin == session.origin
            assert plan.text("body") == "onetwo"

    running(test)


def test_positions_are_characters(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "日本語🏝テキスト")
            plan.insert("body", 4, "X")
            plan.delete("body", 2, 2)

            assert plan.text("body") == "日本Xテキスト"
            with pytest.raises(IndexError):
                plan.insert("body", 9, "y")
            with pytest.raises(InvalidInput, match="surrogate"):
                plan.insert("body", 0, "\ud800")
            plan.insert("body", 0, "!")

        async with offline(tmp_path) as session:
            assert (await session.open("notes/plan")).text("body") == "!日本Xテキスト"

    running(test)


def test_what_ran_before_an_exception_is_kept_on_the_disk_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            with pytest.raises(ZeroDivisionError), plan.edit() as crdt:  # noqa: PT012 — what ran before is the point
                crdt["body"] += "kept"
                crdt["body"] += str(1 // 0)
            with plan.edit() as crdt:
                crdt["body"] += ", and on"

        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            assert plan.text("body") == "kept, and on"
            assert len(plan.unmerged) == 2

    running(test)


def test_an_edit_that_changes_nothing_is_none(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            with plan.edit() as crdt:
                assert str(crdt["body"]) == ""

            assert plan.unmerged == {}
            await plan.confirmed()
            with pytest.raises(NotYet, match="no edit and no version"):
                _ = plan.token

    running(test)


def test_an_edit_that_the_disk_refuses_is_undone_and_the_next_one_works(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "kept")
            run = session.store._run
            run.execute(f"PRAGMA max_page_count = {run.execute('PRAGMA page_count').fetchone()[0]}")
            client_id = plan.client_id

            with pytest.raises(StoreError, match="no space left"), plan.edit() as crdt:
                crdt["body"] += "x" * 100_000

            assert plan.text("body") == "kept"
            assert plan.client_id != client_id
            run.execute("PRAGMA max_page_count = 100000")
            plan.insert("body", 4, " on")

        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            assert plan.text("body") == "kept on"
            assert [dot.seq for dot in plan.unmerged] == [1, 2]

    running(test)


def test_an_edit_larger_than_a_frame_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.document.EDIT_BYTES_MAX", 1000)

    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            with pytest.raises(LimitReached, match="make several edits of it"):
                plan.insert("body", 0, "x" * 1000)

            assert plan.text("body") == ""
            assert plan.unmerged == {}

    running(test)


def test_a_change_outside_an_edit_goes_with_the_next_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.crdt["body"] += "stray "
            plan.insert("body", 6, "edit")

        async with offline(tmp_path) as session:
            assert (await session.open("notes/plan")).text("body") == "stray edit"

    running(test)


def test_an_edit_within_an_edit_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            with plan.edit() as crdt:
                crdt["body"] += "one"
                with pytest.raises(InvalidInput, match="within an edit"), plan.edit():
                    pass
            assert plan.text("body") == "one"

    running(test)


def test_a_read_only_document_raises_on_edit(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan", read_only=True)
            with pytest.raises(ReadOnly, match="opened so"), plan.edit():
                pass
            with pytest.raises(ReadOnly):
                plan.insert("body", 0, "x")
            with pytest.raises(ReadOnly, match="close it first"):
                await session.open("notes/plan")

            await plan.close()
            (await session.open("notes/plan")).insert("body", 0, "x")

    running(test)


def test_undo_takes_back_own_edits_and_is_an_edit_itself(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "before ")
            history = plan.history("body")
            assert not history.can_undo
            plan.insert("body", 7, "one ")
            plan.insert("body", 11, "two ")

            assert history.undo()
            assert plan.text("body") == "before one "
            assert history.undo()
            assert not history.undo()
            assert plan.text("body") == "before "
            assert history.redo()
            assert plan.text("body") == "before one "

        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            assert plan.text("body") == "before one "
            assert len(plan.unmerged) == 6

    running(test)


def test_rows_are_compacted_and_every_edit_stays_to_be_sent(tmp_path: Path) -> None:
    count = COMPACT_ROWS + 20

    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            for at in range(count):
                plan.insert("body", 0, f"{at} ")

        async with offline(tmp_path) as session:
            stored = session.store.load(DocId("notes/plan"))
            assert stored is not None
            assert stored.state is not None
            assert len(stored.updates) < COMPACT_ROWS
            plan = await session.open("notes/plan")
            assert plan.text("body").split() == [str(at) for at in reversed(range(count))]
            assert len(plan.unmerged) == len(plan.pending(0, count * 2, 10**9)) == count

    running(test)


def test_status_and_events_say_how_safe_an_edit_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            events, all_events = plan.events(), session.events()
            plan.insert("body", 0, "x")

            (progress,) = plan.status.edits
            assert (progress.stage, progress.version) == (Stage.DISK, None)
            assert plan.status.count(Stage.DISK) == 1
            assert not plan.status.online
            assert abs(progress.since_ms - session.now_ms()) < 60_000
            event = await anext(events)
            assert event == Safer(plan.doc, Stage.DISK, (progress.dot,), None, progress.since_ms)
            await plan.confirmed(Stage.DISK)
            with pytest.raises(NotYet, match="1 edits that are not merged"):
                await plan.confirmed(timeout=0.01)
            assert await anext(all_events) == event

    running(test)


def test_a_token_of_an_own_edit_is_covered_at_once_also_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "x")
            token = plan.token
            assert await plan.read(at_least=token, timeout=0) == {"body": {"kind": "text", "value": "x"}}

        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan", at_least=token, timeout=0)
            assert plan.token == token
            other = await session.open("other")
            other.insert("body", 0, "y")
            with pytest.raises(InvalidToken, match="another document"):
                await plan.read(at_least=other.token)
            with pytest.raises(InvalidToken):
                await plan.read(at_least="sk1.nonsense")

    running(test)


def test_a_token_of_somebody_else_fails_past_the_deadline(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            (await session.open("notes/plan")).insert("body", 0, "x")
            token = (await session.open("notes/plan")).token
        async with connect([], store=tmp_path / "other.db") as session:
            with pytest.raises(NotYet, match=r"have no version and no edge \(no address\), want "):
                await session.open("notes/plan", at_least=token, timeout=0.05)

    running(test)


def test_a_copied_store_names_nothing_twice(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            (await session.open("notes/plan")).insert("body", 0, "shared ")
        (tmp_path / "copy.db").write_bytes((tmp_path / "notes.db").read_bytes())

        async with offline(tmp_path) as one, connect([], store=tmp_path / "copy.db") as two:
            first, second = await one.open("notes/plan"), await two.open("notes/plan")
            first.insert("body", 7, "one")
            second.insert("body", 7, "two")

            assert first.text("body") == "shared one"
            assert second.text("body") == "shared two"
            assert set(first.unmerged) & set(second.unmerged) == {next(iter(first.unmerged))}
            assert first.client_id != second.client_id
            first.take(second.replica.materialise().state())
            second.take(first.replica.materialise().state())
            assert first.text("body") == second.text("body")
            assert first.replica.digest() == second.replica.digest()

    running(test)


def test_a_second_session_on_a_store_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path):
            with pytest.raises(StoreBusy):
                await offline(tmp_path).start()

    running(test)


def test_somebody_with_our_client_id_makes_us_take_another(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "mine")
            taken = plan.client_id
            thief = OpenDocument(DocId("notes/thief"), session, read_only=False)
            thief.take(plan.replica.materialise().state())
            crdt = type(plan.document)(plan.replica.materialise().state(), client_id=taken)
            plan.take(crdt.edit_text("body", 4, 0, " theirs"))

            assert plan.client_id != taken
            assert plan.text("body") == "mine theirs"
            plan.insert("body", 0, "still ")
            assert plan.text("body") == "still mine theirs"

    running(test)


def test_what_waits_for_a_gap_to_close_survives_an_edit_that_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            others = Document()
            first, second = others.edit_text("body", 0, 0, "one "), others.edit_text("body", 4, 0, "two")
            plan.take(second)
            monkeypatch.setattr("client.document.EDIT_BYTES_MAX", 1000)
            with pytest.raises(LimitReached):
                plan.insert("body", 0, "x" * 1000)
            plan.take(first)

            assert plan.text("body") == "one two"

    running(test)


def test_hostile_bytes_touch_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "mine")
            with pytest.raises(InvalidInput):
                plan.take(b"\x01\x01\x01\x00\x04\x01\x04body")
            assert plan.text("body") == "mine"

    running(test)


def test_an_observer_that_raises_harms_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        async with offline(tmp_path) as session, connect([], store=tmp_path / "ben.db") as others:
            plan, theirs = await session.open("notes/plan"), await others.open("notes/plan")
            theirs.insert("body", 0, "hello")
            seen: list[object] = []
            stop = plan.observe(lambda event: seen.append(1 / 0))
            plan.observe(seen.append)
            changes = plan.changes()
            plan.take(theirs.replica.materialise().state())
            stop()

            assert plan.text("body") == "hello"
            assert [type(event).__name__ for event in seen] == ["TransactionEvent"]
            assert [type(error) for error in told] == [ZeroDivisionError]
            change = await anext(changes)
            assert (change.doc, change.contexts) == ("notes/plan", ())

    running(test)


def test_streams_end_with_the_session_and_waiters_are_told(tmp_path: Path) -> None:
    async def test() -> None:
        session = offline(tmp_path)
        await session.start()
        plan = await session.open("notes/plan")
        plan.insert("body", 0, "x")
        waiting = asyncio.create_task(plan.confirmed())
        changes = plan.changes()
        await asyncio.sleep(0)
        await session.close()

        with pytest.raises(SessionClosed):
            await waiting
        assert [change async for change in changes] == []
        with pytest.raises(SessionClosed), plan.edit():
            pass
        with pytest.raises(SessionClosed):
            await session.open("notes/plan")
        await session.close()

    running(test)


def test_a_stream_that_nobody_reads_is_bounded() -> None:
    async def test() -> None:
        feed: Feed[Change] = Feed()
        stream: Stream[Change] = feed.listen()
        for _ in range(STREAM_COUNT_MAX + 5):
            feed.push(Change(DocId("x"), b"", ()))
        for _ in range(STREAM_COUNT_MAX):
            await anext(stream)
        with pytest.raises(LimitReached, match="read faster"):
            await anext(stream)

    running(test)


@pytest.mark.parametrize("address", ["localhost:8787", "http://localhost", "ws://", "ws://host:port"])
def test_a_wrong_address_is_said_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidAddress, match="write ws://host:port"):
        connect(address, store=tmp_path / "notes.db")


def test_a_document_id_that_cannot_be_is_said(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            for doc in ("", "a" * 257, "a\tb", "\ud800"):
                with pytest.raises(InvalidDocumentId, match="document id: "):
                    await session.open(doc)

    running(test)


def test_no_address_is_unreachable(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            with pytest.raises(Unreachable, match="no address"):
                await session.connected(0.05)

    running(test)


@pytest.mark.parametrize(
    ("address", "says"), [("ws://127.0.0.1:1", "connection refused"), ("ws://nobody.invalid", "ws://nobody.invalid: ")]
)
def test_an_edge_that_is_not_there_is_said_in_a_line_and_nothing_is_lost(
    tmp_path: Path, address: str, says: str
) -> None:
    async def test() -> None:
        async with connect(address, store=tmp_path / "notes.db") as session:
            plan = await session.open("notes/plan")
            plan.insert("body", 0, "kept")
            await until(lambda: session.why_offline != "not connected yet", deadline_s=30)
            with pytest.raises(Unreachable, match=says) as raised:
                await session.connected(0.05)
            assert "\n" not in str(raised.value)
            with pytest.raises(NotYet, match=f"1 edits that are not merged and no edge .*{says}"):
                await plan.confirmed(timeout=0.05)
        async with offline(tmp_path) as session:
            assert (await session.open("notes/plan")).text("body") == "kept"

    running(test)


def test_awareness_without_a_link_is_ones_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with offline(tmp_path) as session:
            plan = await session.open("notes/plan")
            plan.awareness.state = {"name": "ada"}

            assert plan.awareness.states == {plan.client_id: {"name": "ada"}}
            with pytest.raises(InvalidInput, match="keep only the cursor"):
                plan.awareness.state = "x" * 100_000

    running(test)
