"""A copy of an edge's store while it is in use, and such a copy in the place of a store.

Room: files and SQLite's own backup. What is copied is one moment of the store: everything committed before it began.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sync.errors import StoreDamaged, StoreError

from .salvage import NO_WITNESS, sync_directory
from .store import APPLICATION_ID, FORMAT, make_directory, take_lock

__all__ = ["backup_store", "restore_store"]

STEP_PAGES: Final = 512  # 2 MB between two looks at the progress

Progress = Callable[[int, int], None]
"""Bytes done, bytes in all."""


def backup_store(store: Path, to: Path, progress: Progress) -> dict[str, object]:
    """Copy the store, whether or not an edge has it open. Raises StoreError; then there is no copy."""
    if not store.is_file():
        raise StoreError(f"{store}: no store there; name its edge's directory with --data")
    if to.exists():
        raise StoreError(f"{to}: is there already; name another file, or remove it")
    part = to.with_name(to.name + ".part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with contextlib.closing(_reading(store)) as source, contextlib.closing(_connection(part)) as target:
            # One read transaction around all steps: without it a commit in between would make SQLite begin again.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            size = source.execute("PRAGMA page_size").fetchone()[0]
            source.backup(
                target,
                pages=STEP_PAGES,
                progress=lambda _, left, total: progress((total - left) * size, total * size),
                sleep=0.0,
            )
            target.execute("PRAGMA journal_mode = DELETE")  # one file
            found = _checked(target, part)
        _synced(part)
        part.rename(to)
        sync_directory(to.parent)
    except sqlite3.Error as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{store}: cannot be copied to {to}: {error}") from error
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{to}: {error.strerror}; name a place with room that this user may write") from error
    except StoreError:
        part.unlink(missing_ok=True)
        raise
    return {"to": str(to), "bytes": to.stat().st_size, **found}


def restore_store(backup: Path, store: Path, replace: bool, progress: Progress) -> dict[str, object]:
    """Put a copy in the store's place. What was there stays beside it under another name.

    The edge that opens it compares every document with the leader: what it has seen is older than what it did see.
    Raises StoreError, StoreBusy.
    """
    if not backup.is_file():
        raise StoreError(f"{backup}: no such file; name a backup")
    try:
        with contextlib.closing(_reading(backup)) as run:
            found = _checked(run, backup)
        make_directory(store.parent)
        lock = take_lock(store)
        try:
            aside = _move_away(store, replace)
            part = store.with_name(store.name + ".part")
            _copy(backup, part, progress)
            with contextlib.closing(_connection(part)) as run:
                run.execute("INSERT OR REPLACE INTO meta VALUES ('witness', ?)", (NO_WITNESS,))
            _synced(part)
            part.rename(store)
            sync_directory(store.parent)
        finally:
            os.close(lock)
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{backup}: no backup of a store: {error}") from error
    except OSError as error:
        raise StoreError(f"{store}: {error.strerror}; name a directory that this user may write") from error
    return {"store": str(store), "before": str(aside) if aside else None, **found}


def _move_away(store: Path, replace: bool) -> Path | None:
    if not store.exists():
        return None
    if not replace:
        raise StoreError(f"{store}: is there already; --replace puts it aside, with what was never sent from it")
    aside = store.with_name(f"{store.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}")
    store.rename(aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            store.with_name(store.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _copy(source: Path, to: Path, progress: Progress) -> None:
    total, done = source.stat().st_size, 0
    with open(source, "rb") as reader, open(to, "wb") as writer:
        while piece := reader.read(4 * 1024 * 1024):
            writer.write(piece)
            done += len(piece)
            progress(done, total)
    shutil.copymode(source, to)


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _connection(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def _checked(run: sqlite3.Connection, path: Path) -> dict[str, object]:
    """Raises StoreError where this is not a whole store of ours."""
    application = run.execute("PRAGMA application_id").fetchone()[0]
    written = run.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID or not 1 <= written <= FORMAT:
        raise StoreError(f"{path}: no store that this program reads (format {written}); name another file")
    verdict = run.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreDamaged(f"{path}: damaged ({verdict}); an edge that opens it saves what can be read of it")
    documents = run.execute("SELECT count(*) FROM documents").fetchone()[0]
    unsent = run.execute("SELECT count(*) FROM outbox").fetchone()[0]
    return {"documents": documents, "outbox": unsent}


def _synced(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
