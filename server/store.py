"""The edge's disk: one SQLite file in WAL mode, one transaction and one fsync a commit (`sync.ports.Store`).

Room: knows SQL, files and locks. Knows nothing of CRDTs, NATS or the machines: an update is bytes that come back as
they went in. Nobody else opens the file while this process has it.

Invariants:

1. When `commit` returns, all its writes are on the disk; when it raises, none of them is, and the store goes on.
2. Row numbers ascend in the order of commits and are never used twice (AUTOINCREMENT): `through` and a reader's
   place in the outbox are row numbers, and a reused one would hide a change.
3. The bytes of a change are written once and never rewritten: SQLite's UPDATE copies the whole row, blob included. So
   what changes often (version, place in the log) lives in tables of small rows, and compaction moves a mark
   (`states.through`) instead of flagging rows.
4. A row of `changes` exists while its document or the outbox needs it: the document does while the row is neither
   `folded` nor at or below `through`; the outbox does while `outbox` has the row's number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sync.change import Change, Context
from sync.errors import InvalidInput, StoreBusy, StoreDamaged, StoreError, StoreTooNew
from sync.ids import DocId, Dot, DotSet, Origin, Version, parse_document_id
from sync.limits import STORE_CHECK_BYTES_MAX
from sync.ports import OutboxRow, OutboxTotals, StoredDocument
from sync.step import AppendUpdate, Compact, DropOutbox, MarkShipped, SetVersion, Write

__all__ = ["APPLICATION_ID", "FORMAT", "STATEMENTS", "SQLiteStore", "make_directory", "take_lock"]

FORMAT: Final = 2
"""`PRAGMA user_version`. A change of the tables bumps it, and still reads the older ones."""

APPLICATION_ID: Final = 0x534B5259  # "SKRY": tells a store from any other SQLite file

_WAL_BYTES_KEPT: Final = 64 * 1024 * 1024  # after one huge commit the log file shrinks back to this
_CHECKPOINT_PAGES: Final = 4_000  # 16 MB: a commit of one row writes about six pages, and a checkpoint costs two fsyncs
_CACHE_KIB: Final = 16 * 1024  # per connection
_BUSY_S: Final = 10.0  # only our own two connections ever meet

_SCHEMA: Final = (
    "CREATE TABLE documents(key INTEGER PRIMARY KEY, doc TEXT NOT NULL UNIQUE, epoch INTEGER, seq INTEGER,"
    " dots TEXT NOT NULL DEFAULT '')",
    "CREATE TABLE states(document INTEGER PRIMARY KEY, through INTEGER NOT NULL, state BLOB NOT NULL)",
    "CREATE TABLE changes(row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, folded INTEGER NOT NULL,"
    " bytes BLOB NOT NULL)",
    "CREATE INDEX changes_of_document ON changes(document)",
    "CREATE TABLE outbox(row INTEGER PRIMARY KEY, document INTEGER NOT NULL, origin INTEGER NOT NULL,"
    " dot_seq INTEGER NOT NULL, shipped_epoch INTEGER, shipped_seq INTEGER, update_bytes INTEGER NOT NULL,"
    " edge TEXT NOT NULL, actor TEXT NOT NULL, causation TEXT NOT NULL, correlation TEXT NOT NULL,"
    " time_ms INTEGER NOT NULL, covers TEXT NOT NULL, heals INTEGER NOT NULL DEFAULT 0)",
    "CREATE UNIQUE INDEX outbox_dots ON outbox(document, origin, dot_seq)",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

_FROM_1: Final = (  # format 1 did not say which rows were shipped again: they go out as it would have shipped them
    "ALTER TABLE outbox ADD COLUMN heals INTEGER NOT NULL DEFAULT 0",
    "PRAGMA user_version = 2",
)

# What runs per commit, per load and per page of the outbox. A test asks SQLite that none of them scans a table.
STATEMENTS: Final = {
    "find_document": "SELECT key FROM documents WHERE doc = ?",
    "new_document": "INSERT INTO documents(doc) VALUES (?)",
    "append": "INSERT INTO changes VALUES (?, ?, ?, ?)",
    "append_outbox": "INSERT INTO outbox VALUES (?, ?, ?, ?, NULL, NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
    "set_version": "UPDATE documents SET epoch = ?, seq = ?, dots = ? WHERE key = ?",
    "mark_shipped": "UPDATE outbox SET shipped_epoch = ?, shipped_seq = ?"
    " WHERE document = ? AND origin = ? AND dot_seq = ?",
    "drop_outbox": "DELETE FROM outbox WHERE document = ? AND origin = ? AND dot_seq = ? RETURNING row, update_bytes",
    "drop_folded": "DELETE FROM changes WHERE row = ? AND (folded OR row <= ?)",
    "through": "SELECT through FROM states WHERE document = ?",
    "last_row": "SELECT row FROM changes ORDER BY row DESC LIMIT 1",
    # Only rows above the old mark: those below that are left are the outbox's, and it may hold a million of them.
    "fold": "DELETE FROM changes WHERE document = ? AND row > ? AND NOT EXISTS"
    " (SELECT 1 FROM outbox WHERE outbox.row = changes.row)",
    # Not REPLACE: that writes the new state before it frees the old one, and 200 MB take 400.
    "drop_state": "DELETE FROM states WHERE document = ?",
    "set_state": "INSERT INTO states VALUES (?, ?, ?)",
    "oldest_ms": "SELECT time_ms FROM outbox ORDER BY row LIMIT 1",
    "load_document": "SELECT key, epoch, seq, dots FROM documents WHERE doc = ?",
    "load_state": "SELECT through, state FROM states WHERE document = ?",
    "load_updates": "SELECT bytes FROM changes WHERE document = ? AND row > ? AND NOT folded ORDER BY row",
    "load_outbox": "SELECT origin, dot_seq, shipped_epoch, shipped_seq FROM outbox WHERE document = ? ORDER BY row",
    "page": "SELECT o.row, d.doc, o.origin, o.dot_seq, o.shipped_epoch, o.shipped_seq, o.edge, o.actor, o.causation,"
    " o.correlation, o.time_ms, o.covers, o.heals, c.bytes FROM outbox AS o CROSS JOIN changes AS c ON c.row = o.row"
    " CROSS JOIN documents AS d ON d.key = o.document WHERE o.row > ? ORDER BY o.row LIMIT ?",
    "get_meta": "SELECT value FROM meta WHERE key = ?",
    "set_meta": "INSERT OR REPLACE INTO meta VALUES (?, ?)",
}


class SQLiteStore:
    """One edge's store. Any thread may call any method: writes go through one connection, reads through another, so
    that loading a large document does not hold up a commit."""

    def __init__(self, path: Path, lock: int, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        """Of an opened store: use `open`."""
        self._path = path
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._closed = False
        self._keys: dict[DocId, int] = {}
        """Of documents that were written to: a key stays what it is. Under the writer's lock."""
        newest = writer.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0]  # AUTOINCREMENT: that ever was
        self._newest_row = int(newest or 0)
        self._totals = OutboxTotals(
            *writer.execute("SELECT count(*), coalesce(sum(update_bytes), 0), NULL FROM outbox").fetchone()
        )
        self._totals = self._totals_after(0, 0)

    @classmethod
    def open(cls, path: Path) -> SQLiteStore:
        """Open the store at `path`, made anew where there is none, its directory too.

        Raises StoreBusy, StoreTooNew, StoreDamaged, or StoreError for what the operating system refuses.
        """
        try:
            make_directory(path.parent)
            lock = take_lock(path)
        except OSError as error:
            raise StoreError(f"{path}: {_said(error)}; give this user a writable directory for the store") from error
        connections: list[sqlite3.Connection] = []
        try:
            with _told(path, "opening"):
                connections.append(_connect(path))
                _prepare(path, connections[0])
                connections.append(_connect(path))
                return cls(path, lock, *connections)
        except BaseException:
            for connection in connections:
                connection.close()
            os.close(lock)
            raise

    # --- writing ------------------------------------------------------------------------------------------------------
    def commit(self, writes: Sequence[Write]) -> None:
        """A dot that is in its document's outbox already is our own fault: AssertionError, and nothing is written."""
        if not writes:
            return
        with self._writing, self._transaction() as run:
            work = _Work(run.cursor(), self._keys, self._newest_row)
            for write in writes:
                work.apply(write)
            work.end()
            totals = self._totals_after(work.count_change, work.bytes_change) if work.outbox_touched else self._totals
        self._totals, self._newest_row = totals, work.newest_row  # after COMMIT, and only then

    def set_meta(self, key: str, value: str) -> None:
        with self._writing, self._transaction() as run:
            run.execute(STATEMENTS["set_meta"], (key, value))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert not self._closed
        with _told(self._path, "writing"):
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self._keys.clear()  # some may be of documents that are no longer there
                # SQLite has rolled back by itself after some errors (disk full), and not after others.
                if self._writer.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._writer.execute("ROLLBACK")
                raise

    def _totals_after(self, count_change: int, bytes_change: int) -> OutboxTotals:
        oldest = self._writer.execute(STATEMENTS["oldest_ms"]).fetchone()
        was = self._totals
        return OutboxTotals(was.count + count_change, was.bytes + bytes_change, oldest[0] if oldest else None)

    # --- reading ------------------------------------------------------------------------------------------------------
    def load(self, doc: DocId) -> StoredDocument | None:
        with self._snapshot() as run:
            found = run.execute(STATEMENTS["load_document"], (doc,)).fetchone()
            if found is None:
                return None
            key, epoch, seq, dots = found
            through, state = run.execute(STATEMENTS["load_state"], (key,)).fetchone() or (0, None)
            return StoredDocument(
                state=None if state is None else _blob(state),
                updates=tuple([_blob(update) for (update,) in run.execute(STATEMENTS["load_updates"], (key, through))]),
                version=_version(epoch, seq),
                dots=self._dots(dots),
                outbox=tuple(
                    (_dot(origin, dot_seq), _version(shipped_epoch, shipped_seq))
                    for origin, dot_seq, shipped_epoch, shipped_seq in run.execute(STATEMENTS["load_outbox"], (key,))
                ),
            )

    def outbox(self, after: int, count_max: int, bytes_max: int) -> list[OutboxRow]:
        rows: list[OutboxRow] = []
        left = bytes_max
        with self._snapshot() as run:
            for found in run.execute(STATEMENTS["page"], (after, max(1, count_max))):
                row, doc, origin, dot_seq, epoch, seq, *said, time_ms, covers, heals, update = found
                left -= len(_blob(update))
                if rows and left < 0:
                    break
                edge, actor, causation, correlation = map(_text, said)
                context = Context(edge, actor, causation, correlation, _number(time_ms))
                change = Change(parse_document_id(doc), _dot(origin, dot_seq), update, context, self._dots(covers))
                rows.append(OutboxRow(row, change, _version(epoch, seq), bool(heals)))
        return rows

    def outbox_totals(self) -> OutboxTotals:
        return self._totals  # kept with every commit: counting a million rows takes 50 ms

    def documents(self) -> list[DocId]:
        with self._snapshot() as run:  # UTF-8 bytes sort as code points do: Python's order too
            return [parse_document_id(doc) for (doc,) in run.execute("SELECT doc FROM documents ORDER BY doc")]

    def get_meta(self, key: str) -> str | None:
        with self._snapshot() as run:
            found = run.execute(STATEMENTS["get_meta"], (key,)).fetchone()
        return str(found[0]) if found else None

    def size_bytes(self) -> int:
        """What the store takes on the disk now, its write-ahead log included. Space of dropped rows is used again."""
        total = 0
        for path in (self._path, _wal(self._path)):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """One read transaction: everything committed before it, and nothing of a commit that comes in between."""
        with self._reading, _told(self._path, "reading"):
            assert not self._closed
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            except (ValueError, TypeError, AttributeError, InvalidInput) as error:  # what we wrote does not read back
                raise StoreDamaged(_damaged(self._path, str(error))) from error
            finally:
                with contextlib.suppress(sqlite3.Error):
                    self._reader.execute("ROLLBACK")

    def _dots(self, text: str) -> DotSet:
        try:
            return DotSet.from_text(_text(text))
        except (ValueError, TypeError) as error:
            raise StoreDamaged(_damaged(self._path, str(error))) from error

    def close(self) -> None:
        """A clean close: the last connection folds the write-ahead log into the file and removes it."""
        with self._writing, self._reading:
            if self._closed:
                return
            self._closed = True
            try:
                with _told(self._path, "closing"):
                    self._reader.close()
                    self._writer.close()
            finally:
                os.close(self._lock)


class _Work:
    """One commit's writes, in order, within its transaction."""

    __slots__ = (
        "_changes",
        "_keys",
        "_outbox",
        "_run",
        "_through",
        "bytes_change",
        "count_change",
        "newest_row",
        "outbox_touched",
    )

    def __init__(self, run: sqlite3.Cursor, keys: dict[DocId, int], newest_row: int) -> None:
        self._run = run  # one cursor for all: making one costs as much as an insert
        self._keys = keys
        self._through: dict[int, int] = {}
        self.newest_row = newest_row
        self._changes: list[tuple[int, int, int, bytes]] = []
        self._outbox: list[tuple[object, ...]] = []
        """Rows to be written together: one by one, half of their time is Python's way to SQLite and back."""
        self.count_change = 0
        self.bytes_change = 0
        self.outbox_touched = False

    def apply(self, write: Write) -> None:
        key = self._key(write.doc)
        if isinstance(write, AppendUpdate):
            self._append(key, write)
            return
        self.end()  # in order
        match write:
            case SetVersion(_, version, dots):
                place = (version.epoch, version.seq) if version else (None, None)
                self._run.execute(STATEMENTS["set_version"], (*place, dots.to_text(), key))
            case MarkShipped(_, shipped):
                for dot, version in shipped:
                    where = (version.epoch, version.seq, key, dot.origin, dot.seq)
                    self._run.execute(STATEMENTS["mark_shipped"], where)
            case DropOutbox(_, dropped):
                self._drop(key, dropped)
            case Compact(_, state):
                self._compact(key, state)

    def _key(self, doc: DocId) -> int:
        key = self._keys.get(doc)
        if key is None:
            found = self._run.execute(STATEMENTS["find_document"], (doc,)).fetchone()
            key = found[0] if found else self._run.execute(STATEMENTS["new_document"], (doc,)).lastrowid
            assert key is not None
            self._keys[doc] = key
        return key

    def _append(self, key: int, write: AppendUpdate) -> None:
        dot = write.dot
        if write.folded and dot is None:
            return  # neither the document nor the outbox needs it
        self.newest_row += 1
        self._changes.append(
            (self.newest_row, key, int(write.folded), write.update)
        )  # a bool would go through adapters
        if dot is None:
            return
        context, size = write.context, len(write.update)
        said = (context.edge, context.actor, context.causation, context.correlation, context.time_ms)
        covers = write.covers.to_text() if write.covers else ""
        self._outbox.append((self.newest_row, key, dot.origin, dot.seq, size, *said, covers, int(write.heals)))
        self.count_change += 1
        self.bytes_change += size
        self.outbox_touched = True

    def end(self) -> None:
        """What was appended is written. Dots that are in the outbox already: AssertionError."""
        if not self._changes:
            return
        self._run.executemany(STATEMENTS["append"], self._changes)
        try:
            self._run.executemany(STATEMENTS["append_outbox"], self._outbox)
        except sqlite3.IntegrityError as error:
            raise AssertionError(f"one of {len(self._outbox)} dots is in the outbox already") from error
        self._changes.clear()
        self._outbox.clear()

    def _drop(self, key: int, dots: Sequence[Dot]) -> None:
        through = self._covered(key)
        for dot in dots:
            found = self._run.execute(STATEMENTS["drop_outbox"], (key, dot.origin, dot.seq)).fetchone()
            if found is None:
                continue  # dropped before: broadcasts come more than once
            row, size = found
            self._run.execute(STATEMENTS["drop_folded"], (row, through))  # Invariant 4.
            self.count_change -= 1
            self.bytes_change -= size
            self.outbox_touched = True

    def _compact(self, key: int, state: bytes) -> None:
        self._run.execute(STATEMENTS["fold"], (key, self._covered(key)))
        last = self._run.execute(STATEMENTS["last_row"]).fetchone()  # Invariant 2: every later row is above it
        through = last[0] if last else 0
        self._run.execute(STATEMENTS["drop_state"], (key,))
        self._run.execute(STATEMENTS["set_state"], (key, through, state))
        self._through[key] = through

    def _covered(self, key: int) -> int:
        """The newest row that is in the document's state."""
        through = self._through.get(key)
        if through is None:
            found = self._run.execute(STATEMENTS["through"], (key,)).fetchone()
            through = self._through[key] = int(found[0]) if found else 0
        return through


def _version(epoch: object, seq: object) -> Version | None:
    return None if epoch is None or seq is None else Version(_number(epoch), _number(seq))


# SQLite gives back what is there, whatever the column says; a flipped byte in a row makes a blob a text.
def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} where bytes were written")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text was written")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{type(value).__name__} where a number was written")
    return value


def _dot(origin: object, seq: object) -> Dot:
    return Dot(Origin(_number(origin)), _number(seq))


# --- opening ----------------------------------------------------------------------------------------------------------
def _connect(path: Path) -> sqlite3.Connection:
    """Transactions are ours alone (`isolation_level=None`); locks in SQLiteStore make any thread welcome."""
    return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64)


def _prepare(path: Path, writer: sqlite3.Connection) -> None:
    """Refuse what is no store of ours before anything is changed in it; then make it durable, whole and present."""
    unclean = _wal(path).exists() and _wal(path).stat().st_size > 0
    written = _check_format(path, writer)
    mode = writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"{path}: this file system cannot hold a write-ahead log; put the store on a local disk")
    for pragma in (
        "synchronous = FULL",  # Invariant 1: in WAL mode NORMAL does not fsync at commit
        "fullfsync = ON",  # where fsync alone leaves the bytes in the drive
        "secure_delete = FAST",  # some builds zero every freed page: a replaced state of 200 MB would be written twice
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        f"journal_size_limit = {_WAL_BYTES_KEPT}",
        f"cache_size = -{_CACHE_KIB}",
    ):
        writer.execute(f"PRAGMA {pragma}").fetchall()
    # After a clean close nothing has written to the file but SQLite. After an unclean one the machine may have lost
    # power and the disk may have lied: look once. It reads every page, so a large store does without: damage there
    # still shows as StoreDamaged when the page is read.
    if unclean and path.stat().st_size <= STORE_CHECK_BYTES_MAX:
        verdict = writer.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreDamaged(_damaged(path, str(verdict).replace("\n", " ")))
    writer.execute("BEGIN IMMEDIATE")  # also for an old store: a read-only file is refused now, not at the first edit
    for statement in _SCHEMA if written == 0 else _FROM_1 if written == 1 else ():
        writer.execute(statement)
    writer.execute("COMMIT")


def _check_format(path: Path, writer: sqlite3.Connection) -> int:
    """The format that it is written in; 0 for a file that holds nothing yet."""
    application = writer.execute("PRAGMA application_id").fetchone()[0]
    written = writer.execute("PRAGMA user_version").fetchone()[0]
    tables = writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (application, written, tables) == (0, 0, 0):
        return 0
    if application != APPLICATION_ID or written < 1:
        ours = writer.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('outbox', 'states')").fetchone()[0]
        if ours == 2:
            raise StoreDamaged(_damaged(path, "its first page does not say what it is"))
        raise StoreError(f"{path}: an SQLite file, but no Skerry store; name another path")
    if written > FORMAT:
        raise StoreTooNew(f"{path}: format {written}, this program reads up to {FORMAT}; start a newer Skerry")
    return int(written)


def make_directory(directory: Path) -> None:
    """With the names of new directories on the disk: an acknowledged commit must not vanish with its directory."""
    made = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for new in made:
        above = os.open(new.parent, os.O_RDONLY)
        try:
            os.fsync(above)
        finally:
            os.close(above)


def take_lock(path: Path) -> int:
    """The lock is the kernel's and goes with the process, also by SIGKILL. The file stays: removing it would let two
    processes hold locks on two files of one name. Raises StoreBusy, OSError."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise StoreBusy(f"{path}: open in process {owner}; stop that one, or name another path") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


# --- what went wrong --------------------------------------------------------------------------------------------------
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "no space left; free some on that disk, nothing acknowledged is lost",
    sqlite3.SQLITE_READONLY: "read-only; give this user the right to write it",
    sqlite3.SQLITE_PERM: "no permission; give this user the right to read and write it",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that it is a file this user may read and write",
    sqlite3.SQLITE_IOERR: "the disk failed, or a quota is used up; check both, nothing acknowledged was taken back",
    sqlite3.SQLITE_TOOBIG: "larger than SQLite stores in one row; split the document",
    sqlite3.SQLITE_BUSY: "another program holds it; close that one",
    sqlite3.SQLITE_LOCKED: "another program holds it; close that one",
}


@contextlib.contextmanager
def _told(path: Path, doing: str) -> Iterator[None]:
    """SQLite's errors as ours: what, which file, what to do now. Misuse of SQLite stays as it is: our own fault."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF  # extended codes keep theirs above
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreDamaged(_damaged(path, str(error))) from error
        if code not in _ADVICE:
            raise
        raise StoreError(f"{path}: {doing}: {error}: {_ADVICE[code]}") from error


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path}: damaged ({what}); an edge that starts sets it aside, saves what can be read of it, and gets the rest"
        " from the leader (docs/operations.md)"
    )


def _said(error: OSError) -> str:
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error.strerror or error)
