"""The client's store: what a commit keeps, what compaction keeps, what is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from client import connect
from client import store as store_module
from client.store import FORMAT, Compacted, Pending, Progress, Store, StoredEdit, Writes
from sync.document import Document
from sync.errors import StoreBusy, StoreDamaged, StoreError, StoreTooNew
from sync.extension import Edit, Stage
from sync.ids import DocId, Dot, DotSet, Origin, Version
from tests.power import Power, sync_no_commit
from tests.processes import ROOT

PLAN = DocId("notes/plan")
MINE = Origin(7)
VERSION = Version(2**63 + 5, 812)


def edit_of(seq: int, update: bytes = b"\x00\x00") -> Edit:
    return Edit(Dot(MINE, seq), "ada", "7.1", "trip-42", update)


def opened(tmp_path: Path, namespace: str = "skerry") -> Store:
    return Store.open(tmp_path / "notes.db", namespace)


def test_a_document_that_was_never_written_is_none(tmp_path: Path) -> None:
    store = opened(tmp_path)

    assert store.load(PLAN) is None
    assert store.documents() == []
    assert store.pending(PLAN, 0, 10, 1000) == []
    store.close()


def test_what_was_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([Writes(PLAN, [b"theirs"], edit_of(1, b"mine"), 5, VERSION)])
    store.commit([Writes(PLAN, edit=edit_of(2, b"more"), edit_ms=6)])
    store.close()

    store = opened(tmp_path)
    found = store.load(PLAN)

    assert found is not None
    assert found.updates == (b"theirs", b"mine", b"more")
    assert (found.state, found.version) == (None, VERSION)
    assert found.dots == DotSet({MINE: ((1, 2),)})
    assert found.edits == (
        Progress(Dot(MINE, 1), Stage.DISK, 5, None),
        Progress(Dot(MINE, 2), Stage.DISK, 6, None),
    )
    assert found.last == StoredEdit(Dot(MINE, 2), None)
    assert [p.edit for p in store.pending(PLAN, 0, 10, 1000)] == [edit_of(1, b"mine"), edit_of(2, b"more")]
    assert store.unmerged_documents() == store.documents() == [PLAN]
    store.close()


def test_a_merged_edit_is_pending_no_more_and_stays_in_the_document(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([Writes(PLAN, edit=edit_of(1, b"one"))])
    store.commit([Writes(PLAN, edit=edit_of(2, b"two"))])
    store.commit([Writes(PLAN, progress=[Progress(Dot(MINE, 1), Stage.LOG, 8, VERSION)])])
    store.commit([Writes(PLAN, progress=[Progress(Dot(MINE, 2), Stage.MERGED, 9, VERSION)])])

    found = store.load(PLAN)

    assert found is not None
    assert found.edits == (Progress(Dot(MINE, 1), Stage.LOG, 8, VERSION),)
    assert found.updates == (b"one", b"two")
    assert found.last == StoredEdit(Dot(MINE, 2), VERSION)
    store.close()


def test_compaction_replaces_rows_and_keeps_unmerged_edits_to_be_sent(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([Writes(PLAN, [b"a", b"b"], edit_of(1, b"mine"))])
    assert store.update_rows(PLAN) == (3, 6)

    store.commit([Writes(PLAN, compacted=Compacted(b"abmine", *store.behind(PLAN)))])
    store.commit([Writes(PLAN, [b"c"])])

    found = store.load(PLAN)
    assert found is not None
    assert (found.state, found.updates) == (b"abmine", (b"c",))
    assert store.update_rows(PLAN) == (1, 1)
    assert store.pending(PLAN, 0, 10, 1000) == [Pending(3, edit_of(1, b"mine"))]

    store.commit([Writes(PLAN, progress=[Progress(Dot(MINE, 1), Stage.MERGED, 9, None)])])
    found = store.load(PLAN)
    assert found is not None
    assert (found.state, found.updates) == (b"abmine", (b"c",))
    store.close()
    run = sqlite3.connect(tmp_path / "notes.db")
    assert run.execute("SELECT count(*) FROM updates").fetchone() == (1,)
    run.close()


def test_pending_edits_come_in_pages_and_one_at_least(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for seq in range(1, 6):
        store.commit([Writes(PLAN, edit=edit_of(seq, b"x" * 100))])

    first = store.pending(PLAN, 0, 10, 250)
    rest = store.pending(PLAN, first[-1].row, 10, 1)

    assert [p.edit.dot.seq for p in first] == [1, 2]
    assert [p.edit.dot.seq for p in rest] == [3]
    assert [p.edit.dot.seq for p in store.pending(PLAN, 0, 4, 10_000)] == [1, 2, 3, 4]
    store.close()


def test_a_commit_is_all_or_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([Writes(PLAN, edit=edit_of(1))])

    with pytest.raises(sqlite3.IntegrityError):
        store.commit([Writes(DocId("other"), [b"x"]), Writes(PLAN, edit=edit_of(1))])

    assert store.load(DocId("other")) is None
    store.commit([Writes(PLAN, edit=edit_of(2))])
    store.close()


def test_a_store_is_opened_once(tmp_path: Path) -> None:
    store = opened(tmp_path)

    with pytest.raises(StoreBusy, match=r"notes\.db: somebody has it open"):
        opened(tmp_path)

    store.close()
    opened(tmp_path).close()


def test_a_store_belongs_to_one_namespace(tmp_path: Path) -> None:
    opened(tmp_path).close()

    with pytest.raises(StoreError, match="namespace skerry, not tide"):
        opened(tmp_path, "tide")


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    run = sqlite3.connect(tmp_path / "notes.db")
    run.execute(f"PRAGMA user_version = {FORMAT + 1}")
    run.close()

    with pytest.raises(StoreTooNew, match="start a newer Skerry"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be looked at" * 40, None])
def test_another_file_is_no_store(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "notes.db"
    if content is not None:
        path.write_bytes(content)
    else:
        run = sqlite3.connect(path)
        run.execute("CREATE TABLE somebodys(x)")
        run.close()

    with pytest.raises(StoreDamaged):
        opened(tmp_path)


def test_a_directory_that_cannot_be_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match="writable directory"):
        Store.open(tmp_path / "file" / "notes.db", "skerry")


def test_a_full_disk_takes_nothing_back_and_the_store_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.commit([Writes(PLAN, edit=edit_of(1, b"kept"))])
    pages = store._run.execute("PRAGMA page_count").fetchone()[0]
    store._run.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StoreError, match="no space left"):
        store.commit([Writes(PLAN, edit=edit_of(2, b"x" * 100_000))])

    store._run.execute("PRAGMA max_page_count = 100000")
    store.commit([Writes(PLAN, edit=edit_of(2, b"now"))])
    found = store.load(PLAN)
    assert found is not None
    assert found.updates == (b"kept", b"now")
    store.close()


CHILD = """
import asyncio, sys
from client import connect

async def main() -> None:
    async with connect([], store=sys.argv[1]) as session:
        plan = await session.open("notes/plan")
        at = 0
        while True:
            with plan.edit() as crdt:
                crdt["body"] += f"{at} "
            print(at, flush=True)
            at += 1

asyncio.run(main())
"""


def _after_power_failed(tmp_path: Path) -> list[str]:
    """Texts that a program finds in its store after losses of power, one just behind each edit."""

    async def edited() -> list[Path]:
        images: list[Path] = []
        async with connect([], store=tmp_path / "disk" / "notes.db") as session:
            plan = await session.open("notes/plan")
            for number in range(5):
                with plan.edit() as crdt:
                    crdt["body"] += str(number)
                images.append(tmp_path / f"after-{number}")
                power.fails(tmp_path / "disk", images[-1])
        return images

    async def shown(image: Path) -> str:
        async with connect([], store=image / "notes.db") as session:
            return str((await session.open("notes/plan")).crdt["body"])

    (tmp_path / "disk").mkdir()
    with Power(0.02) as power:
        images = asyncio.run(edited())
    return [asyncio.run(shown(image)) for image in images]


def test_an_edit_that_returned_is_there_after_the_power_failed(tmp_path: Path) -> None:
    assert _after_power_failed(tmp_path) == ["0", "01", "012", "0123", "01234"]


def test_a_store_that_does_not_sync_its_edits_would_lose_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    sync_no_commit(monkeypatch, store_module)

    assert "01234" not in _after_power_failed(tmp_path)


def test_every_edit_that_returned_is_there_after_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if int(line) == 60:
                break
    finally:
        os.kill(child.pid, signal.SIGKILL)
    returned = 60 + len(child.stdout.read().split())  # what it printed before it died
    child.stdout.close()
    child.wait()

    copy = tmp_path / "copy.db"
    for suffix in ("", "-wal"):  # a copied store is as good
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    for each in (path, copy):
        store = Store.open(each, "skerry")
        found = store.load(PLAN)
        assert found is not None
        document = Document(found.state)
        for update in found.updates:
            document.apply(update)
        numbers = [int(word) for word in document.text("body").split()]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) in (returned + 1, returned + 2)  # the one that was made and not printed yet
        assert len(found.edits) == len(numbers)
        store.close()
