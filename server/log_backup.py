"""The log of a namespace in one file, taken while it runs, and put into a log again.

Room: a NATS session on one side, a file of SQLite on the other. Message by message, and not JetStream's own snapshot
of a stream: such a snapshot comes back under its old sequences and its old creation time, which is the epoch that
every edge goes by, into a stream that must not be there. Changes have names (law 4), so they can be put into whatever
log there is, also one that edges are writing to; and a second backup into the same file reads only what is new.

1. What is in the file is the log up to one sequence: changes are never changed or removed, so reading on while others
   write is consistent. Snapshots save work, and are taken after the changes.
2. Putting back adds: what the log has (by document and dot) is not put there twice, nothing is removed or replaced.
   It is put there in the order of the old log; whoever reads puts it together by content.
3. Events are not kept: a program that hears one a second time would act a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sync.change import Change
from sync.errors import BusError, InvalidInput, StoreError
from sync.headers import decode_change, decode_snapshot, parse_dot
from sync.ids import DocId, DotSet, Version, from_subject_token

from .bus import Bus
from .session import OBJECT_HEADER, ObjectMissing, Session, StoredMessage
from .streams import read_log_state

__all__ = ["backup_log", "restore_log"]

APPLICATION_ID: Final = 0x534B4C47  # "SKLG"
FORMAT: Final = 1
WINDOW_COUNT: Final = 1_000  # changes under way into the log at once
TRIES_MAX: Final = 5  # of one change, while the link comes and goes
BATCH: Final = 1_000  # messages of one transaction of the file

Progress = Callable[[str, int, int], None]
"""What is read or written (`changes`, `snapshots`, `rejected`), how much of it, and of how much."""

_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE messages(kind TEXT, seq INTEGER, subject TEXT NOT NULL, headers TEXT NOT NULL, payload BLOB NOT NULL,"
    " PRIMARY KEY(kind, seq))",
)


# --- out of the log ---------------------------------------------------------------------------------------------------
async def backup_log(session: Session, to: Path, progress: Progress) -> dict[str, object]:
    """Everything that the log has now; into a file that is there, what is new since. Raises BusError, StoreError."""
    with _file(to, make=True) as run:
        _fits(run, to, session)
        known = {"namespace": session.layout.namespace, "epoch": f"{session.epoch:x}"}
        run.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", known.items())
        state = await read_log_state(session.link, session.layout)
        if state is None:
            raise BusError(f"{session.layout.changes}: gone while it was looked at; try again")
        lost = await _take(run, session, "changes", session.layout.changes, state.last_seq, progress)
        run.execute(
            "DELETE FROM messages WHERE kind = 'snapshots'"
        )  # one a document: the newest is the one that counts
        lost += await _take(run, session, "snapshots", session.layout.snapshots, None, progress)
        lost += await _take(run, session, "rejected", session.layout.rejected, None, progress)
        found = {"last_seq": str(state.last_seq), "taken_ms": str(time.time_ns() // 1_000_000)}
        run.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", found.items())
        run.execute("COMMIT")
        counts = dict(run.execute("SELECT kind, count(*) FROM messages GROUP BY kind").fetchall())
    return {
        "to": str(to),
        "epoch": f"{session.epoch:x}",
        "last_seq": state.last_seq,
        "changes": counts.get("changes", 0),
        "snapshots": counts.get("snapshots", 0),
        "rejected": counts.get("rejected", 0),
        "unreadable": lost,
        "bytes": to.stat().st_size,
    }


def _fits(run: sqlite3.Connection, to: Path, session: Session) -> None:
    meta = dict(run.execute("SELECT key, value FROM meta").fetchall())
    have = (meta.get("namespace"), meta.get("epoch"))
    want = (session.layout.namespace, f"{session.epoch:x}")
    if meta and have != want:
        raise StoreError(f"{to}: holds another log ({have[0]}, epoch {have[1]}, now {want[1]}); name another file")


async def _take(
    run: sqlite3.Connection, session: Session, kind: str, stream: str, until: int | None, progress: Progress
) -> int:
    """Messages of one stream that the file does not have; returns how many refer to an object that is not there."""
    (after,) = run.execute("SELECT coalesce(max(seq), 0) FROM messages WHERE kind = ?", (kind,)).fetchone()
    subject = f"{session.layout.namespace}.{kind}.>"
    before = None if until is None else until + 1
    lost = count = 0
    async for message in session.stored(stream, subject, after, before):
        payload = message.data
        try:
            payload = await session.payload(message.headers, message.data)
        except ObjectMissing:
            lost += 1
        row = (kind, message.seq, message.subject, json.dumps(message.headers), payload)
        run.execute("INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?)", row)
        count += 1
        if count % BATCH == 0:
            run.execute("COMMIT")
            run.execute("BEGIN")
            progress(kind, message.seq if until is not None else count, until if until is not None else 0)
    progress(kind, until if until is not None else count, until if until is not None else count)
    return lost


# --- into a log -------------------------------------------------------------------------------------------------------
async def restore_log(bus: Bus, backup: Path, progress: Progress) -> dict[str, object]:
    """Put what the file has and the log lacks into the log. Raises BusError, StoreError; run it again to go on."""
    with _file(backup, make=False) as run:
        meta = dict(run.execute("SELECT key, value FROM meta").fetchall())
        counts = dict(run.execute("SELECT kind, count(*) FROM messages GROUP BY kind").fetchall())
        if meta.get("namespace") != bus.layout.namespace:
            raise StoreError(f"{backup}: of namespace {meta.get('namespace')}; name that one with --namespace")
        session = bus.session()
        have = await _dots_of(session, progress)
        try:
            put, unusable = await _put_changes(run, bus, have, counts.get("changes", 0), progress)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        snapshots = await _put_snapshots(run, bus, counts.get("snapshots", 0), progress)
        rejected = await _put_rejected(run, session, counts.get("rejected", 0), progress)
    return {
        "from": str(backup),
        "epoch_then": meta.get("epoch"),
        "epoch_now": f"{session.epoch:x}",
        "changes": put,
        "changes_there": counts.get("changes", 0) - put - unusable,
        "changes_unusable": unusable,
        "snapshots": snapshots,
        "rejected": rejected,
    }


async def _dots_of(session: Session, progress: Progress) -> dict[DocId, DotSet]:
    """What the log has already. Invariant 2."""
    state = await read_log_state(session.link, session.layout)
    last = state.last_seq if state is not None else 0
    have: dict[DocId, DotSet] = {}
    count = 0
    async for message in session.stored(session.layout.changes, f"{session.layout.namespace}.changes.>", 0, last + 1):
        with contextlib.suppress(InvalidInput):
            doc = from_subject_token(message.subject.rpartition(".")[2])
            have.setdefault(doc, DotSet()).add(parse_dot(message.headers.get("Skerry-Dot", "")))
        count += 1
        if count % BATCH == 0:
            progress("there", message.seq, last)
    return have


async def _put_changes(
    run: sqlite3.Connection, bus: Bus, have: dict[DocId, DotSet], total: int, progress: Progress
) -> tuple[int, int]:
    """(put, unusable)."""
    window = asyncio.Semaphore(WINDOW_COUNT)
    put = unusable = done = 0
    async with asyncio.TaskGroup() as group:
        for message in _messages(run, "changes"):
            done += 1
            if done % BATCH == 0:
                progress("changes", done, total)
            try:
                doc = from_subject_token(message.subject.rpartition(".")[2])
                change = decode_change(doc, message.headers, message.data)
            except InvalidInput:
                unusable += 1  # the log had it, and every reader refused it
                continue
            dots = have.setdefault(doc, DotSet())
            if change.dot in dots:
                continue
            dots.add(change.dot)
            await window.acquire()
            put += 1
            group.create_task(_put(bus, change, window))
    progress("changes", total, total)
    return put, unusable


async def _put(bus: Bus, change: Change, window: asyncio.Semaphore) -> None:
    """Raises BusError where the log does not take it."""
    try:
        for attempt in range(TRIES_MAX):
            answer: asyncio.Future[Version | BusError] = asyncio.get_running_loop().create_future()
            bus.publish(change, answer.set_result)
            found = await answer
            if isinstance(found, Version):
                return
            if attempt == TRIES_MAX - 1:
                raise found
            await asyncio.sleep(1.0)
    finally:
        window.release()


async def _put_snapshots(run: sqlite3.Connection, bus: Bus, total: int, progress: Progress) -> int:
    """Where the log has none that is newer. A leader ships what the log lacks of an old log's snapshot."""
    put = 0
    for done, message in enumerate(_messages(run, "snapshots"), 1):
        with contextlib.suppress(InvalidInput):
            doc = from_subject_token(message.subject.rpartition(".")[2])
            put += await bus.store_snapshot(decode_snapshot(doc, message.headers, message.data))
        progress("snapshots", done, total)
    return put


async def _put_rejected(run: sqlite3.Connection, session: Session, total: int, progress: Progress) -> int:
    def mark(message: StoredMessage) -> tuple[str, ...]:
        names = ("Skerry-Version", "Skerry-Dot", "Skerry-Reason")
        return (message.subject, *(message.headers.get(name, "") for name in names))

    stream, subject = session.layout.rejected, f"{session.layout.namespace}.rejected.>"
    there = {mark(message) async for message in session.stored(stream, subject, 0)}
    put = 0
    for done, message in enumerate(_messages(run, "rejected"), 1):
        if mark(message) not in there:
            await session.publish(message.subject, message.data, message.headers)
            put += 1
        progress("rejected", done, total)
    return put


def _messages(run: sqlite3.Connection, kind: str) -> Iterator[StoredMessage]:
    sql = "SELECT subject, seq, headers, payload FROM messages WHERE kind = ? ORDER BY seq"
    for subject, seq, headers, payload in run.execute(sql, (kind,)):
        kept = {str(name): str(value) for name, value in json.loads(headers).items()}
        kept.pop(OBJECT_HEADER, None)  # the payload is here
        yield StoredMessage(subject, seq, kept, payload)


# --- the file ---------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _file(path: Path, *, make: bool) -> Iterator[sqlite3.Connection]:
    if not make and not path.is_file():
        raise StoreError(f"{path}: no such file; name a backup of a log")
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as run:
            application = run.execute("PRAGMA application_id").fetchone()[0]
            tables = run.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            written = run.execute("PRAGMA user_version").fetchone()[0]
            if make and tables == 0:
                for statement in _SCHEMA:
                    run.execute(statement)
            elif application != APPLICATION_ID or written > FORMAT:
                raise StoreError(f"{path}: no backup of a log that this program reads; name another file")
            run.execute("BEGIN")
            yield run
            if run.in_transaction:
                run.execute("ROLLBACK" if not make else "COMMIT")
    except (sqlite3.Error, ValueError) as error:
        raise StoreError(f"{path}: {error}; name a file that can be read and written, with room beside it") from error
