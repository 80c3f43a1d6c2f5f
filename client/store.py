"""The client's disk: one SQLite file in WAL mode, one transaction and one fsync a commit.

Room: knows SQL, files and locks; an update is bytes that come back as they went in. Nothing here knows a socket or a
CRDT. Used by one thread.

Invariants:

1. When `commit` returns, all of it is on the disk; when it raises, none of it is, and the store goes on.
2. A row of `updates` is there while its document or an edit needs it: the document does while the row is above its
   `through` (compaction moves that mark), an edit does while `edits` has the row's number.
3. An edit stays until the leader has merged it. Its bytes are written once, and sent again as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sync.errors import StoreBusy, StoreDamaged, StoreError, StoreTooNew
from sync.extension import Edit, Stage
from sync.ids import DocId, Dot, DotSet, Origin, Version

__all__ = [
    "FORMAT",
    "Compacted",
    "Copy",
    "Parked",
    "Pending",
    "Progress",
    "Rejection",
    "Store",
    "StoredDocument",
    "StoredEdit",
    "Writes",
]

FORMAT: Final = 3
"""`PRAGMA user_version`. A change of the tables bumps it, and still reads the older ones.

2: rejected edits. 3: parked documents, and copies of what was in them."""

APPLICATION_ID: Final = 0x534B5943  # "SKYC": an edge's store has another one

_WAL_BYTES_KEPT: Final = 16 * 1024 * 1024

REJECTED_MAX: Final = 1_000  # kept per document, the newest: enough to see what goes wrong

_REJECTED: Final = (
    "CREATE TABLE rejected(row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, origin INTEGER NOT NULL,"
    " dot_seq INTEGER NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL, UNIQUE(document, origin, dot_seq))",
    "PRAGMA user_version = 2",
)
_PARKED: Final = (
    "CREATE TABLE parked(document INTEGER PRIMARY KEY, reason TEXT NOT NULL, at_ms INTEGER NOT NULL)",
    "CREATE TABLE aside(row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, reason TEXT NOT NULL,"
    " at_ms INTEGER NOT NULL, state BLOB NOT NULL)",
    # Before, a document went on with what was rejected in it, and nobody took what was written there.
    "INSERT INTO parked SELECT document, reason, at_ms FROM rejected"
    " WHERE row IN (SELECT max(row) FROM rejected GROUP BY document)",
    "PRAGMA user_version = 3",
)
_SCHEMA: Final = (
    "CREATE TABLE documents(key INTEGER PRIMARY KEY, doc TEXT NOT NULL UNIQUE, epoch TEXT, seq INTEGER)",
    "CREATE TABLE states(document INTEGER PRIMARY KEY, through INTEGER NOT NULL, state BLOB NOT NULL)",
    "CREATE TABLE updates(row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, bytes BLOB NOT NULL)",
    "CREATE INDEX updates_of_document ON updates(document, row)",
    "CREATE TABLE edits(row INTEGER PRIMARY KEY, document INTEGER NOT NULL, origin INTEGER NOT NULL,"
    " dot_seq INTEGER NOT NULL, actor TEXT NOT NULL, causation TEXT NOT NULL, correlation TEXT NOT NULL,"
    " stage INTEGER NOT NULL, since_ms INTEGER NOT NULL, epoch TEXT, seq INTEGER)",
    "CREATE UNIQUE INDEX edits_of_document ON edits(document, origin, dot_seq)",
    # How far each session counted, merged or not; the newest one's last edit is what a token is made of.
    "CREATE TABLE origins(key INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, origin INTEGER NOT NULL,"
    " dot_seq INTEGER NOT NULL, epoch TEXT, seq INTEGER, UNIQUE(document, origin))",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    *_REJECTED,
    *_PARKED,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an edit has come, and since when (Unix milliseconds). `version`: where the log has it, once known."""

    dot: Dot
    stage: Stage
    since_ms: int
    version: Version | None


@dataclass(frozen=True, slots=True)
class Rejection:
    """An edit that the leader has refused, why, and since when this is known (Unix milliseconds)."""

    dot: Dot
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Parked:
    """Nothing more is written in this document: why, and since when (Unix milliseconds)."""

    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A parked document as it was when another took its place."""

    parked: Parked
    state: bytes


@dataclass(frozen=True, slots=True)
class Compacted:
    """A state in the place of the rows that it was made of: all behind row `after`, up to row `through`.

    Nothing is written where another has taken the place of some of them meanwhile.
    """

    state: bytes
    after: int
    through: int


@dataclass(frozen=True, slots=True)
class Pending:
    """An edit to be sent. `row` ascends in the order of edits."""

    row: int
    edit: Edit


@dataclass(frozen=True, slots=True)
class StoredEdit:
    """The newest edit that this store has made in a document."""

    dot: Dot
    version: Version | None


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is on disk: `state` (compacted) and the updates after it, oldest first."""

    state: bytes | None
    updates: tuple[bytes, ...]
    version: Version | None
    dots: DotSet
    """Every edit that this store has made, merged or not."""
    edits: tuple[Progress, ...]
    """Not yet merged, oldest first."""
    last: StoredEdit | None
    rejected: tuple[Rejection, ...] = ()
    """Oldest first."""
    parked: Parked | None = None
    copies: int = 0
    """How many there are (`Store.copies`)."""


@dataclass(frozen=True, slots=True)
class Writes:
    """What one document adds to a commit, in this order."""

    doc: DocId
    updates: Sequence[bytes] = ()
    """What came from others."""
    edit: Edit | None = None
    edit_ms: int = 0
    version: Version | None = None
    """Where the document is now; None: as before."""
    progress: Sequence[Progress] = ()
    """Of edits that are in the store; one that is merged leaves it."""
    compacted: Compacted | None = None
    rejected: Sequence[Rejection] = ()
    """Edits that leave the store: nobody will merge them."""
    parked: Parked | None = None
    replaced: bytes | None = None
    """The whole document from now on, with every edit that is left: parked no more, and at no version yet."""
    copy: Copy | None = None
    """What was there before."""


class Store:
    def __init__(self, path: Path, lock: int, run: sqlite3.Connection) -> None:
        """Of an opened store: use `open`."""
        self.path = path
        self._lock = lock
        self._run = run
        self._closed = False

    @classmethod
    def open(cls, path: Path, namespace: str) -> Store:
        """Open the store at `path`, made anew where there is none, its directory too.

        Raises StoreBusy, StoreTooNew, StoreDamaged, or StoreError: what the operating system refuses, and a store of
        another namespace.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}; give this user a writable directory") from error
        run: sqlite3.Connection | None = None
        try:
            with _told(path, "opening"):
                run = sqlite3.connect(path, timeout=1.0, isolation_level=None)
                _prepare(path, run)
                store = cls(path, lock, run)
                store._bind(namespace)
                return store
        except BaseException:
            if run is not None:
                run.close()
            os.close(lock)
            raise

    def _bind(self, namespace: str) -> None:
        """The tokens of a store are of one namespace, and so are its documents."""
        found = self._run.execute("SELECT value FROM meta WHERE key = 'namespace'").fetchone()
        if found is None:
            self._run.execute("INSERT INTO meta VALUES ('namespace', ?)", (namespace,))
        elif found[0] != namespace:
            raise StoreError(
                f"{self.path}: holds documents of namespace {found[0]}, not {namespace};"
                f" connect with namespace={found[0]!r}, or name another path"
            )

    # --- writing -----------------------------------------------------------------------------------------------------
    def commit(self, writes: Iterable[Writes]) -> None:
        with self._transaction():
            for of_document in writes:
                self._write(of_document)

    def _write(self, writes: Writes) -> None:
        key = self._key(writes.doc)
        for update in writes.updates:
            self._append(key, update)
        if writes.edit is not None:
            self._append_edit(key, writes.edit, writes.edit_ms)
        if writes.version is not None:
            self._run.execute("UPDATE documents SET epoch = ?, seq = ? WHERE key = ?", (*_place(writes.version), key))
        for progress in writes.progress:
            self._progress(key, progress)
        for rejection in writes.rejected:
            self._reject(key, rejection)
        if writes.parked is not None:
            values = (key, writes.parked.reason, writes.parked.at_ms)
            self._run.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?)", values)
        if writes.copy is not None:
            self._run.execute(
                "INSERT INTO aside(document, reason, at_ms, state) VALUES (?, ?, ?, ?)",
                (key, writes.copy.parked.reason, writes.copy.parked.at_ms, writes.copy.state),
            )
        if writes.replaced is not None:
            self._run.execute("DELETE FROM parked WHERE document = ?", (key,))
            self._run.execute("UPDATE documents SET epoch = NULL, seq = NULL WHERE key = ?", (key,))
            self._replace_rows(key, Compacted(writes.replaced, *self._behind(key)))
        if writes.compacted is not None and writes.compacted.after == self._through(key):
            self._replace_rows(key, writes.compacted)

    def _key(self, doc: DocId) -> int:
        found = self._run.execute("SELECT key FROM documents WHERE doc = ?", (doc,)).fetchone()
        key = found[0] if found else self._run.execute("INSERT INTO documents(doc) VALUES (?)", (doc,)).lastrowid
        assert isinstance(key, int)
        return key

    def _append(self, key: int, update: bytes) -> int:
        row = self._run.execute("INSERT INTO updates(document, bytes) VALUES (?, ?)", (key, update)).lastrowid
        assert row is not None
        return row

    def _append_edit(self, key: int, edit: Edit, now_ms: int) -> None:
        row = self._append(key, edit.update)
        texts = (edit.actor, edit.causation, edit.correlation)
        self._run.execute(
            "INSERT INTO edits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
            (row, key, edit.dot.origin, edit.dot.seq, *texts, Stage.DISK, now_ms),
        )
        self._run.execute(
            "INSERT INTO origins(document, origin, dot_seq) VALUES (?, ?, ?)"
            " ON CONFLICT(document, origin) DO UPDATE SET dot_seq = excluded.dot_seq, epoch = NULL, seq = NULL",
            (key, edit.dot.origin, edit.dot.seq),
        )

    def _progress(self, key: int, progress: Progress) -> None:
        where = (key, progress.dot.origin, progress.dot.seq)
        place = _place(progress.version)
        if progress.version is not None:
            self._run.execute(
                "UPDATE origins SET epoch = ?, seq = ? WHERE document = ? AND origin = ? AND dot_seq = ?",
                (*place, *where),
            )
        if progress.stage < Stage.MERGED:
            self._run.execute(
                "UPDATE edits SET stage = ?, since_ms = ?, epoch = ?, seq = ?"
                " WHERE document = ? AND origin = ? AND dot_seq = ?",
                (progress.stage, progress.since_ms, *place, *where),
            )
            return
        self._forget_edit(key, where)

    def _reject(self, key: int, rejection: Rejection) -> None:
        where = (key, rejection.dot.origin, rejection.dot.seq)
        self._forget_edit(key, where)
        self._run.execute(
            "INSERT OR IGNORE INTO rejected(document, origin, dot_seq, reason, at_ms) VALUES (?, ?, ?, ?, ?)",
            (*where, rejection.reason, rejection.at_ms),
        )
        self._run.execute(
            "DELETE FROM rejected WHERE document = ? AND row NOT IN"
            " (SELECT row FROM rejected WHERE document = ? ORDER BY row DESC LIMIT ?)",
            (key, key, REJECTED_MAX),
        )

    def _forget_edit(self, key: int, where: tuple[int, int, int]) -> None:
        found = self._run.execute(
            "DELETE FROM edits WHERE document = ? AND origin = ? AND dot_seq = ? RETURNING row", where
        ).fetchone()
        if found is not None:  # Invariant 2.
            self._run.execute("DELETE FROM updates WHERE row = ? AND row <= ?", (found[0], self._through(key)))

    def _through(self, key: int) -> int:
        found = self._run.execute("SELECT through FROM states WHERE document = ?", (key,)).fetchone()
        return int(found[0]) if found else 0

    def _behind(self, key: int) -> tuple[int, int]:
        """The rows behind the state: all above the first, up to the second."""
        after = self._through(key)
        last = self._run.execute("SELECT max(row) FROM updates WHERE document = ?", (key,)).fetchone()[0]
        return after, max(after, last or 0)

    def _replace_rows(self, key: int, by: Compacted) -> None:
        self._run.execute(
            "DELETE FROM updates WHERE document = ? AND row > ? AND row <= ? AND row NOT IN (SELECT row FROM edits)",
            (key, by.after, by.through),
        )
        self._run.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (key, by.through, by.state))

    # --- reading -----------------------------------------------------------------------------------------------------
    def load(self, doc: DocId) -> StoredDocument | None:
        """None for a document that was never written."""
        with self._reading():
            found = self._run.execute("SELECT key, epoch, seq FROM documents WHERE doc = ?", (doc,)).fetchone()
            if found is None:
                return None
            key, epoch, seq = found
            through, state = self._run.execute(
                "SELECT through, state FROM states WHERE document = ?", (key,)
            ).fetchone() or (0, None)
            updates = self._run.execute(
                "SELECT bytes FROM updates WHERE document = ? AND row > ? ORDER BY row", (key, through)
            )
            edits = self._run.execute(
                "SELECT origin, dot_seq, stage, since_ms, epoch, seq FROM edits WHERE document = ? ORDER BY row", (key,)
            )
            origins = self._run.execute(
                "SELECT origin, dot_seq, epoch, seq FROM origins WHERE document = ? ORDER BY key", (key,)
            ).fetchall()
            last = origins[-1] if origins else None
            rejected = self._run.execute(
                "SELECT origin, dot_seq, reason, at_ms FROM rejected WHERE document = ? ORDER BY row", (key,)
            )
            parked = self._run.execute("SELECT reason, at_ms FROM parked WHERE document = ?", (key,)).fetchone()
            copies = self._run.execute("SELECT count(*) FROM aside WHERE document = ?", (key,)).fetchone()[0]
            return StoredDocument(
                state=state,
                updates=tuple([update for (update,) in updates]),
                version=_version(epoch, seq),
                dots=DotSet({Origin(origin): ((1, count),) for origin, count, _, _ in origins}),
                edits=tuple(
                    [Progress(Dot(Origin(o), n), Stage(stage), ms, _version(e, s)) for o, n, stage, ms, e, s in edits]
                ),
                last=StoredEdit(Dot(Origin(last[0]), last[1]), _version(last[2], last[3])) if last else None,
                rejected=tuple([Rejection(Dot(Origin(o), n), reason, at) for o, n, reason, at in rejected]),
                parked=Parked(*parked) if parked else None,
                copies=copies,
            )

    def copies(self, doc: DocId) -> list[Copy]:
        """What was put aside of this document, oldest first."""
        with self._reading():
            rows = self._run.execute(
                "SELECT a.reason, a.at_ms, a.state FROM aside AS a JOIN documents AS d ON d.key = a.document"
                " WHERE d.doc = ? ORDER BY a.row",
                (doc,),
            )
            return [Copy(Parked(reason, at_ms), state) for reason, at_ms, state in rows]

    def pending(self, doc: DocId, after: int, count_max: int, bytes_max: int) -> list[Pending]:
        """Edits that are not merged, behind row `after`, oldest first, at least one where there is any."""
        pending: list[Pending] = []
        left = bytes_max
        with self._reading():
            rows = self._run.execute(
                "SELECT e.row, e.origin, e.dot_seq, e.actor, e.causation, e.correlation, u.bytes FROM edits AS e"
                " CROSS JOIN updates AS u ON u.row = e.row WHERE e.document = (SELECT key FROM documents WHERE doc = ?)"
                " AND e.row > ? ORDER BY e.row LIMIT ?",
                (doc, after, count_max),
            )
            for row, origin, seq, actor, causation, correlation, update in rows:
                left -= len(update)
                if pending and left < 0:
                    break
                edit = Edit(Dot(Origin(origin), seq), actor, causation, correlation, update)
                pending.append(Pending(row, edit))
        return pending

    def documents(self) -> list[DocId]:
        """Every document, sorted."""
        with self._reading():
            return [DocId(doc) for (doc,) in self._run.execute("SELECT doc FROM documents ORDER BY doc")]

    def unmerged_documents(self) -> list[DocId]:
        """Documents with edits that the leader has not merged and may yet, sorted."""
        with self._reading():
            return [
                DocId(doc)
                for (doc,) in self._run.execute(
                    "SELECT doc FROM documents WHERE key IN (SELECT document FROM edits)"
                    " AND key NOT IN (SELECT document FROM parked) ORDER BY doc"
                )
            ]

    def update_rows(self, doc: DocId) -> tuple[int, int]:
        """(count, bytes) of the updates behind the compacted state."""
        with self._reading():
            found = self._run.execute(
                "SELECT count(*), coalesce(sum(length(u.bytes)), 0) FROM updates AS u JOIN documents AS d"
                " ON d.key = u.document WHERE d.doc = ?"
                " AND u.row > coalesce((SELECT through FROM states WHERE document = d.key), 0)",
                (doc,),
            ).fetchone()
        return int(found[0]), int(found[1])

    def behind(self, doc: DocId) -> tuple[int, int]:
        """The rows behind the compacted state of a document that was written: all above the first, up to the second."""
        with self._reading():
            found = self._run.execute("SELECT key FROM documents WHERE doc = ?", (doc,)).fetchone()
            return self._behind(found[0])

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with _told(self.path, "closing"):
                self._run.close()
        finally:
            os.close(self._lock)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        assert not self._closed
        try:
            with _told(self.path, "reading"):
                yield
        except (ValueError, TypeError) as error:  # what we wrote does not read back
            raise StoreDamaged(_damaged(self.path, str(error))) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        assert not self._closed
        with _told(self.path, "writing"):
            try:
                self._run.execute("BEGIN IMMEDIATE")
                yield
                self._run.execute("COMMIT")
            except BaseException:
                if self._run.in_transaction:  # after a full disk SQLite has rolled back by itself
                    with contextlib.suppress(sqlite3.Error):
                        self._run.execute("ROLLBACK")
                raise


def _place(version: Version | None) -> tuple[str | None, int | None]:
    """The epoch as text: it may have 64 bits, and an SQLite integer has 63."""
    return (str(version.epoch), version.seq) if version is not None else (None, None)


def _version(epoch: str | None, seq: int | None) -> Version | None:
    return Version(int(epoch), seq) if epoch is not None and seq is not None else None


# --- the file ---------------------------------------------------------------------------------------------------------
def _prepare(path: Path, run: sqlite3.Connection) -> None:
    """Refuse what is no store of ours before anything is changed in it; then make it durable."""
    application = run.execute("PRAGMA application_id").fetchone()[0]
    written = run.execute("PRAGMA user_version").fetchone()[0]
    tables = run.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    fresh = (application, written, tables) == (0, 0, 0)
    if not fresh and (application != APPLICATION_ID or written < 1):
        raise StoreDamaged(f"{path}: an SQLite file, but no store of a Skerry client; name another path")
    if written > FORMAT:
        raise StoreTooNew(f"{path}: format {written}, this program reads up to {FORMAT}; start a newer Skerry")
    if run.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreError(f"{path}: this file system cannot hold a write-ahead log; put the store on a local disk")
    for pragma in (
        "synchronous = FULL",  # Invariant 1: in WAL mode NORMAL does not fsync at commit
        "fullfsync = ON",  # where fsync alone leaves the bytes in the drive
        f"journal_size_limit = {_WAL_BYTES_KEPT}",
    ):
        run.execute(f"PRAGMA {pragma}").fetchall()
    verdict = run.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreDamaged(_damaged(path, str(verdict).replace("\n", " ")))
    run.execute("BEGIN IMMEDIATE")  # also for an old store: a read-only file is refused now, not at the first edit
    if fresh:
        for statement in _SCHEMA:
            run.execute(statement)
    else:
        for statement in (*(_REJECTED if written < 2 else ()), *(_PARKED if written < 3 else ())):
            run.execute(statement)
    run.execute("COMMIT")


def _take_lock(path: Path) -> int:
    """The lock is the kernel's and goes with the process, also by SIGKILL. The file stays: removing it would let two
    processes hold locks on two files of one name. Raises StoreBusy, OSError."""
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StoreBusy(f"{path}: somebody has it open; close that session, or name another path") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "no space left; free some on that disk, nothing that was stored is lost",
    sqlite3.SQLITE_READONLY: "read-only; give this user the right to write it",
    sqlite3.SQLITE_PERM: "no permission; give this user the right to read and write it",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that it is a file this user may read and write",
    sqlite3.SQLITE_IOERR: "the disk failed, or a quota is used up; check both, nothing that was stored was taken back",
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
        f"{path}: damaged ({what}); move it away and start again, what was merged comes back from an edge;"
        " keep the file: edits that were never sent may be rescued from it (.recover in the sqlite3 shell)"
    )
