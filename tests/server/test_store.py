"""The edge's SQLite store and the plain one in memory: the contract for both, and what only a real disk can do."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.store import FORMAT, STATEMENTS, SQLiteStore
from sync.change import Context
from sync.errors import SkerryError, StoreBusy, StoreDamaged, StoreError, StoreTooNew
from sync.ids import DocId, Dot, DotSet, Origin, Version
from sync.ports import OutboxTotals, Store
from sync.step import AppendUpdate, Compact, DropOutbox, MarkShipped, SetVersion, Write
from tests.contract_store import ADA, BEN, Disk, StoreContract, dots_of, pages_of
from tests.memory_store import MemoryStore

ROOT = Path(__file__).parents[2]
PLAN = DocId("notes/plan")
CHILD_S_MAX = 30  # a child that has not done its work by then is stuck


class MemoryDisk:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def open(self) -> Store:
        self.store = self.store.copy()
        return self.store


class FileDisk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened: list[SQLiteStore] = []

    def open(self) -> SQLiteStore:
        self.opened.append(SQLiteStore.open(self.path))
        return self.opened[-1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FileDisk]:
    disk = FileDisk(tmp_path / "edge" / "store.db")
    yield disk
    for store in disk.opened:
        store.close()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def disk(self) -> Disk:
        return MemoryDisk()

    def test_a_copy_and_its_source_go_their_own_ways(self) -> None:
        store = MemoryStore()
        store.commit([AppendUpdate(PLAN, b"1", Dot(ADA, 1))])

        old = store.copy()
        store.commit([AppendUpdate(PLAN, b"2"), DropOutbox(PLAN, (Dot(ADA, 1),))])
        old.commit([AppendUpdate(PLAN, b"3")])

        assert [_updates(store), _updates(old)] == [(b"1", b"2"), (b"1", b"3")]
        assert [store.outbox_totals().count, old.outbox_totals().count] == [0, 1]


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def disk(self, disk: FileDisk) -> Disk:
        return disk


def _updates(store: Store, doc: DocId = PLAN) -> tuple[bytes, ...]:
    document = store.load(doc)
    assert document is not None
    return document.updates


# --- the same history, two implementations ----------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_a_random_history_reads_the_same_from_disk_and_from_memory(disk: FileDisk, seed: int) -> None:
    dice = random.Random(seed)
    real: Store = disk.open()
    plain = MemoryStore()
    next_seq = 1

    for _ in range(40):
        writes: list[Write] = []
        for _ in range(dice.randrange(1, 6)):
            write = _any_write(dice, next_seq)
            next_seq += 1
            writes.append(write)
        real.commit(writes)
        plain.commit(writes)
        if dice.random() < 0.1:
            real.close()
            real = disk.open()

        assert list(real.documents()) == plain.documents()
        for doc in plain.documents():
            assert real.load(doc) == plain.load(doc)
        assert real.outbox_totals() == plain.outbox_totals()
        assert _pages(real, 4, 60) == _pages(plain, 4, 60)


def _any_write(dice: random.Random, seq: int) -> Write:
    doc = DocId(dice.choice(("a", "b", "c")))
    seen = [Dot(Origin(dice.randrange(3)), dice.randrange(1, seq + 1)) for _ in range(6)]
    match dice.randrange(8):
        case 0:
            return SetVersion(
                doc, Version(dice.randrange(1, 3), seq), dots_of(*((d.origin, d.seq, d.seq) for d in seen))
            )
        case 1:
            return MarkShipped(doc, tuple((dot, Version(1, seq)) for dot in seen))
        case 2 | 3:
            return DropOutbox(doc, tuple(seen))
        case 4:
            return Compact(doc, dice.randbytes(20))
        case _:
            dot = Dot(Origin(dice.randrange(3)), seq) if dice.random() < 0.7 else None
            return AppendUpdate(
                doc, dice.randbytes(dice.randrange(40)), dot, Context(time_ms=seq), folded=dice.random() < 0.3
            )


def _pages(store: Store, count_max: int, bytes_max: int) -> list[list[tuple[object, ...]]]:
    """Row numbers ascend, and are otherwise each store's own."""
    return [[(row.change, row.shipped) for row in page] for page in pages_of(store, count_max, bytes_max)]


# --- a process dies ---------------------------------------------------------------------------------------------------
WRITER = """
import sys
from pathlib import Path
from server.store import SQLiteStore
from sync.ids import DocId, Dot, DotSet, Origin, Version
from sync.step import AppendUpdate, Compact, DropOutbox, MarkShipped, SetVersion

store = SQLiteStore.open(Path(sys.argv[1]))
doc, origin, n = DocId("notes/plan"), Origin(7), 0
while True:
    n += 1
    writes = [AppendUpdate(doc, b"%d" % n, Dot(origin, n)), SetVersion(doc, Version(1, n), DotSet())]
    if n % 10 == 0:
        writes.append(MarkShipped(doc, ((Dot(origin, n), Version(1, n)),)))
        writes.append(DropOutbox(doc, (Dot(origin, n - 9),)))
    if n % 25 == 0:
        writes.append(Compact(doc, b"%d" % n))
    store.commit(writes)
    print(n, flush=True)
"""


def _killed_while_writing(path: Path, after_commits: int) -> int:
    """Start a writer, kill it after so many acknowledgements; the last number that it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = threading.Timer(CHILD_S_MAX, child.kill)
    deadline.start()
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        lines: list[str] = []
        for line in child.stdout:
            lines.append(line)
            if len(lines) == after_commits:
                child.send_signal(signal.SIGKILL)  # what it wrote to the pipe until now is read to the end
        complaint = child.stderr.read()
    finally:
        deadline.cancel()
        child.kill()
        child.wait()
        child.stdout.close() if child.stdout else None
        child.stderr.close() if child.stderr else None
    assert len(lines) >= after_commits, complaint
    return max(int(line) for line in lines if line.endswith("\n"))


@pytest.mark.parametrize("after_commits", [1, 24, 60, 131, 300])
def test_what_was_acknowledged_is_there_after_the_process_was_killed(disk: FileDisk, after_commits: int) -> None:
    acknowledged = _killed_while_writing(disk.path, after_commits)

    store = disk.open()

    document = store.load(PLAN)
    assert document is not None
    assert document.version is not None
    last = document.version.seq
    assert acknowledged <= last <= acknowledged + 1  # one commit may have been on its way to the pipe
    folded = last - last % 25
    assert document.state == (b"%d" % folded if folded else None)
    assert document.updates == tuple(b"%d" % n for n in range(folded + 1, last + 1))
    dropped = {n - 9 for n in range(10, last + 1, 10)}
    waiting = [n for n in range(1, last + 1) if n not in dropped]
    rows = store.outbox(0, 10_000, 10_000_000)
    assert [row.change.update for row in rows] == [b"%d" % n for n in waiting]
    assert [row.shipped for row in rows] == [Version(1, n) if n % 10 == 0 else None for n in waiting]
    assert store.outbox_totals() == OutboxTotals(len(rows), sum(len(row.change.update) for row in rows), 0)


@pytest.mark.parametrize("harm", ["cut", "overwritten"])
def test_a_torn_last_frame_costs_only_the_commit_that_it_belongs_to(disk: FileDisk, harm: str) -> None:
    acknowledged = _killed_while_writing(disk.path, 20)
    wal = disk.path.with_name(disk.path.name + "-wal")
    content = wal.read_bytes()
    torn = content[:-1000] if harm == "cut" else content[:-1000] + bytes(1000)
    wal.write_bytes(torn)

    store = disk.open()

    updates = _updates(store)
    assert updates == tuple(b"%d" % n for n in range(1, len(updates) + 1))
    assert acknowledged - 1 <= len(updates) <= acknowledged
    store.commit([AppendUpdate(PLAN, b"goes on")])
    assert _updates(store)[-1] == b"goes on"


# --- one owner --------------------------------------------------------------------------------------------------------
def test_a_second_opening_is_refused_until_the_first_has_closed(disk: FileDisk) -> None:
    store = disk.open()

    with pytest.raises(StoreBusy, match=r"open in process \d+; stop that one"):
        SQLiteStore.open(disk.path)

    store.commit([AppendUpdate(PLAN, b"still mine")])
    store.close()
    assert _updates(disk.open()) == (b"still mine",)


def test_an_opening_that_failed_leaves_the_store_free(disk: FileDisk) -> None:
    disk.path.parent.mkdir()
    disk.path.write_bytes(b"no database, but long enough to be looked at. " * 100)

    for _ in range(2):
        with pytest.raises(StoreDamaged):
            disk.open()


# --- files that are no store ------------------------------------------------------------------------------------------
def test_a_newer_format_is_refused_and_left_alone(disk: FileDisk) -> None:
    store = disk.open()
    store.commit([AppendUpdate(PLAN, b"1")])
    store.close()
    _pragma(disk.path, f"user_version = {FORMAT + 1}")
    before = disk.path.read_bytes()

    with pytest.raises(StoreTooNew, match=f"format {FORMAT + 1}, this program reads up to {FORMAT}"):
        disk.open()

    assert disk.path.read_bytes() == before


def test_somebody_else_s_database_is_refused_and_left_alone(disk: FileDisk) -> None:
    disk.path.parent.mkdir()
    foreign = sqlite3.connect(disk.path)
    foreign.execute("CREATE TABLE photos(name TEXT)")
    foreign.close()
    before = disk.path.read_bytes()

    with pytest.raises(StoreError, match="no Skerry store"):
        disk.open()

    assert disk.path.read_bytes() == before


@pytest.mark.parametrize("garbage", [b"x" * 5_000, bytes(5_000), b"SQLite format 3\x00" + b"\xff" * 5_000, b"short"])
def test_a_garbage_file_is_refused_with_its_name_and_advice(disk: FileDisk, garbage: bytes) -> None:
    disk.path.parent.mkdir()
    disk.path.write_bytes(garbage)

    with pytest.raises(StoreDamaged) as caught:
        disk.open()

    _tells(caught.value, disk.path)
    assert disk.path.read_bytes() == garbage


def test_an_empty_file_is_a_new_store(disk: FileDisk) -> None:
    """A process that died in its very first moments leaves one."""
    disk.path.parent.mkdir()
    disk.path.write_bytes(b"")

    assert list(disk.open().documents()) == []


def _damaged_store(disk: FileDisk) -> None:
    """Closed cleanly, then its last pages, which hold updates, lose their headers."""
    store = disk.open()
    store.commit([AppendUpdate(PLAN, bytes(3_000)) for _ in range(100)])
    store.close()
    content = bytearray(disk.path.read_bytes())
    for start in range(len(content) - 10 * 4096, len(content), 4096):
        content[start : start + 64] = b"\xa5" * 64
    disk.path.write_bytes(content)


def test_damage_is_found_at_opening_after_an_unclean_close(disk: FileDisk) -> None:
    _damaged_store(disk)
    disk.path.with_name(disk.path.name + "-wal").write_bytes(b"left behind by a process that died")

    with pytest.raises(StoreDamaged) as caught:
        disk.open()

    _tells(caught.value, disk.path)


def test_damage_that_is_met_later_is_told_as_damage(disk: FileDisk) -> None:
    _damaged_store(disk)
    store = disk.open()

    with pytest.raises(StoreDamaged) as caught:
        store.load(PLAN)

    _tells(caught.value, disk.path)


def test_a_path_that_cannot_be_a_store_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "directory").mkdir()

    for path in (tmp_path / "file" / "store.db", tmp_path / "directory"):
        with pytest.raises(StoreError) as caught:
            SQLiteStore.open(path)
        _tells(caught.value, path)


def _pragma(path: Path, pragma: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA {pragma}")
    connection.close()


def _tells(error: SkerryError, path: Path) -> None:
    """What, which file, what to do now: in one line."""
    text = str(error)
    assert text.startswith(f"{path}: ")
    assert ";" in text
    assert "\n" not in text


# --- a full disk ------------------------------------------------------------------------------------------------------
def test_a_full_disk_fails_the_commit_and_not_the_store(disk: FileDisk) -> None:
    store = disk.open()
    store.commit([AppendUpdate(PLAN, b"before", Dot(ADA, 1), Context(time_ms=3))])
    before = (store.load(PLAN), store.outbox(0, 10, 1000), store.outbox_totals())
    with _full(store):
        with pytest.raises(StoreError, match="no space left; free some") as caught:
            store.commit(
                [AppendUpdate(PLAN, b"kept?", Dot(ADA, 2)), AppendUpdate(DocId("new"), bytes(500_000), Dot(BEN, 1))]
            )

        _tells(caught.value, disk.path)
        assert (store.load(PLAN), store.outbox(0, 10, 1000), store.outbox_totals()) == before
        assert store.load(DocId("new")) is None

    store.commit([AppendUpdate(PLAN, b"after", Dot(ADA, 2))])
    assert _updates(store) == (b"before", b"after")
    assert store.outbox_totals() == OutboxTotals(2, 11, 3)
    store.close()
    assert _updates(disk.open()) == (b"before", b"after")


def test_a_log_file_that_cannot_grow_fails_the_commit_and_not_the_store(disk: FileDisk) -> None:
    """The write-ahead log is written at COMMIT: here the operating system refuses, not SQLite's page count."""
    store = disk.open()
    store.commit([AppendUpdate(PLAN, b"before", Dot(ADA, 1))])
    before = (store.load(PLAN), store.outbox(0, 10, 1000), store.outbox_totals())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(
        resource.RLIMIT_FSIZE, (disk.path.with_name(disk.path.name + "-wal").stat().st_size + 9_000, hard)
    )
    try:
        with pytest.raises(StoreError) as caught:
            store.commit([AppendUpdate(PLAN, bytes(500_000), Dot(ADA, 2))])
        after = (store.load(PLAN), store.outbox(0, 10, 1000), store.outbox_totals())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    _tells(caught.value, disk.path)
    assert after == before
    store.commit([AppendUpdate(PLAN, b"after", Dot(ADA, 2))])
    store.close()
    assert _updates(disk.open()) == (b"before", b"after")


class _full:
    """While inside, the file cannot grow."""

    def __init__(self, store: SQLiteStore) -> None:
        self._run = store._writer.execute

    def __enter__(self) -> None:
        self._run("PRAGMA max_page_count = 1").fetchall()  # SQLite takes the present size where that is more

    def __exit__(self, *_: object) -> None:
        self._run("PRAGMA max_page_count = 4294967294").fetchall()


# --- what it is made of -----------------------------------------------------------------------------------------------
def test_a_commit_is_synced_before_it_returns(disk: FileDisk) -> None:
    """In WAL mode, only FULL (2) and EXTRA (3) sync the log at every commit."""
    store = disk.open()

    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone()[0] >= 2


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_no_statement_scans_a_table_or_sorts_one(disk: FileDisk, name: str) -> None:
    store = disk.open()
    values = [1] * STATEMENTS[name].count("?")

    plan = [row[3] for row in store._reader.execute("EXPLAIN QUERY PLAN " + STATEMENTS[name], values)]

    if name == "load_outbox":  # one document's dots, found by an index that orders them by origin
        plan.remove("USE TEMP B-TREE FOR ORDER BY")
    if name in ("last_row", "oldest_ms"):  # along the primary key, one step
        assert plan.pop().startswith("SCAN")
    assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step], plan


def test_compaction_and_dropping_give_their_rows_back(disk: FileDisk) -> None:
    store = disk.open()

    def count() -> int:
        return int(store._reader.execute("SELECT count(*) FROM changes").fetchone()[0])

    store.commit([AppendUpdate(PLAN, b"leader's"), AppendUpdate(PLAN, b"ours", Dot(ADA, 1))])
    store.commit([AppendUpdate(PLAN, b"again", Dot(ADA, 2), folded=True)])

    store.commit([Compact(PLAN, b"state")])
    assert count() == 2

    store.commit([DropOutbox(PLAN, (Dot(ADA, 1), Dot(ADA, 2)))])
    assert count() == 0


def test_a_large_state_comes_back_and_the_log_file_shrinks_again(disk: FileDisk) -> None:
    state = random.Random(1).randbytes(80_000_000)
    store = disk.open()

    store.commit([Compact(PLAN, state)])
    store.commit([SetVersion(PLAN, Version(1, 1), DotSet())])

    document = store.load(PLAN)
    assert document is not None
    assert document.state == state
    assert 80_000_000 <= store.size_bytes() < 80_000_000 + 70_000_000


def test_loading_goes_on_beside_commits_and_sees_each_whole(disk: FileDisk) -> None:
    store = disk.open()
    store.commit([SetVersion(PLAN, Version(1, 0), DotSet())])
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                document = store.load(PLAN)
                assert document is not None
                assert document.version is not None
                assert len(document.updates) == len(document.outbox) == 2 * document.version.seq
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(1, 101):
        two = [AppendUpdate(PLAN, b"x", Dot(Origin(origin), n)) for origin in (1, 2)]
        store.commit([*two, SetVersion(PLAN, Version(1, n), DotSet())])
        assert len(_updates(store)) == 2 * n  # what is committed is seen at once
    done.set()
    for reader in readers:
        reader.join(CHILD_S_MAX)

    assert failures == []
