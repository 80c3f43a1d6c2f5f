"""A damaged store: set aside, and what can be read of it carried over into a new one, row by row.

Room: files beside the store, and SQLite read past its damage. What is carried over was checked as if it came from
outside: SQLite has no checksums, and a row that reads is not yet a row that was written.

1. The damaged file is never written to, and stays under its new name until somebody removes it.
2. A document is carried over whole or not at all: pycrdt loses what comes before what it depends on (facts 1.1).
   Unsent changes are carried over one by one, whatever became of their document: the leader puts them together.
3. Nothing of what a carried document claims to have seen is believed: it is compared with the leader as after the loss
   of a log, and asks for what it lacks.
4. Cut off at any point, the next opening goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sync.change import Context
from sync.document import Document, merge
from sync.errors import DocumentBroken, InvalidInput, StoreDamaged, StoreError
from sync.ids import DocId, Dot, DotSet, Origin, Version, parse_document_id
from sync.step import AppendUpdate, Compact, MarkShipped, SetVersion, Write
from sync.validate import check_update

from .store import SQLiteStore, take_lock

__all__ = ["NO_WITNESS", "SET_ASIDE", "SetAside", "mark_damaged", "open_store", "set_aside_of", "sync_directory"]

log = logging.getLogger("skerry.store")

SET_ASIDE: Final = "set_aside"  # key of the new store's meta
NO_WITNESS: Final = "1-1 1.1 none"
"""A witness of an epoch that no log has: at the next link, every document is compared with the leader."""
_JUMP_MAX: Final = 2**48
_TOLD_EVERY: Final = 1_000  # documents

_Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SetAside:
    """What became of a damaged store."""

    path: str
    """Where it is now."""
    reason: str
    at_ms: int
    documents: int = 0
    """Carried over whole."""
    documents_partly: int = 0
    """Unreadable in part: the leader has to give them back."""
    changes: int = 0
    """Unsent changes that were carried over."""
    places_unreadable: int = 0


def open_store(path: Path) -> tuple[SQLiteStore, SetAside | None]:
    """`SQLiteStore.open`, over a damaged store too; the second value is what became of it, if it was one now."""
    if _new(path).exists():
        lock = take_lock(path)
        try:
            _finish(path)
        finally:
            os.close(lock)
    try:
        if not _marker(path).exists():
            return SQLiteStore.open(path), None
        reason = _marker(path).read_text("utf-8", "replace").strip()
    except StoreDamaged as error:
        reason = str(error)
    reason = reason.removeprefix(f"{path}: ")
    log.error("store_damaged detail=%r", reason)
    lock = take_lock(path)
    try:
        made = _rebuild(path, reason)
    finally:
        os.close(lock)
    log.warning(
        "store_set_aside path=%r documents=%d documents_partly=%d changes=%d places_unreadable=%d",
        made.path,
        made.documents,
        made.documents_partly,
        made.changes,
        made.places_unreadable,
    )
    return SQLiteStore.open(path), made


def mark_damaged(path: Path, reason: str) -> None:
    """Damage was met while the store was in use: the next opening sets it aside."""
    with contextlib.suppress(OSError):
        _marker(path).write_text(reason + "\n", encoding="utf-8")


def set_aside_of(store: SQLiteStore) -> dict[str, object] | None:
    """For the status: the newest set-aside store, as long as its file is there."""
    try:
        found = json.loads(store.get_meta(SET_ASIDE) or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) and Path(str(found.get("path"))).exists() else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _marker(path: Path) -> Path:
    return _beside(path, ".damaged")


def _new(path: Path) -> Path:
    return _beside(path, ".new")


def _remove_new(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock"):
        _beside(_new(path), suffix).unlink(missing_ok=True)


def _rebuild(path: Path, reason: str) -> SetAside:
    at_ms = time.time_ns() // 1_000_000
    aside = _beside(path, f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at_ms / 1000))}")
    count = 1
    while aside.exists():
        count += 1
        aside = _beside(path, f".damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at_ms / 1000))}.{count}")
    _remove_new(path)
    store = SQLiteStore.open(_new(path))
    try:
        made = _carry(path, store, SetAside(str(aside), reason, at_ms))
        store.set_meta("witness", NO_WITNESS)  # Invariant 3.
        store.set_meta(SET_ASIDE, json.dumps(asdict(made)))  # Invariant 4: last, it says that all is carried over
    finally:
        store.close()
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
    _finish(path)
    return made


def _finish(path: Path) -> None:
    """Invariant 4: the damaged one was moved away, and the new one is not in its place yet."""
    new = _new(path)
    if not path.exists() and new.exists():
        try:
            store = SQLiteStore.open(new)
        except StoreError:
            return  # begun and not finished: made again
        found = store.get_meta(SET_ASIDE)
        store.close()
        if found is not None:
            aside = Path(json.loads(found)["path"])
            for suffix in ("-wal", "-shm"):  # of the old one: SQLite would read them as the new one's
                with contextlib.suppress(FileNotFoundError):
                    _beside(path, suffix).rename(_beside(aside, suffix))
            new.rename(path)
            _marker(path).unlink(missing_ok=True)
            sync_directory(path.parent)
    if path.exists():
        _remove_new(path)


def sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading past damage ----------------------------------------------------------------------------------------------
class _Damaged:
    """The damaged file, read only. What cannot be read is counted and passed."""

    def __init__(self, path: Path) -> None:
        self._run = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        self._run.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self.unreadable = 0
        self.dots: dict[int, tuple[int, int, int]] = {}
        """Row of the outbox -> (document, origin, number), of its index: where the row itself does not read."""

    def close(self) -> None:
        self._run.close()

    def one(self, sql: str, *values: object) -> _Row | None:
        found: _Row | None = self._run.execute(sql, values).fetchone()
        return found

    def all(self, sql: str, *values: object) -> list[_Row]:
        return self._run.execute(sql, values).fetchall()

    def some(self, sql: str) -> list[_Row]:
        """As many rows as there are before the first damage."""
        rows: list[_Row] = []
        with contextlib.suppress(sqlite3.Error):
            rows.extend(self._run.execute(sql))
        return rows

    def walk(self, sql: str) -> Iterator[_Row]:
        """Rows of a table by ascending key; `sql` gives the first one above a key. Damaged places are jumped over."""
        after = 0
        while True:
            try:
                found = self.one(sql, after)
            except sqlite3.Error:
                self.unreadable += 1
                beyond = self._beyond(sql, after)
                if beyond is None:
                    return
                after = beyond
                continue
            if found is None or not isinstance(found[0], int) or found[0] <= after:
                return
            yield found
            after = found[0]

    def _beyond(self, sql: str, after: int) -> int | None:
        """The lowest key behind the damage: wider and wider jumps, then halves."""
        low, jump = after, 1
        while not self._reads(sql, after + jump):
            low = after + jump
            jump *= 2
            if jump > _JUMP_MAX:
                return None
        high = after + jump
        while high - low > 1:
            middle = (low + high) // 2
            if self._reads(sql, middle):
                high = middle
            else:
                low = middle
        return high

    def _reads(self, sql: str, key: int) -> bool:
        try:
            self.one(sql, key)
        except sqlite3.Error:
            return False
        return True


_DOCUMENTS = "SELECT key, doc FROM documents WHERE key > ? ORDER BY key LIMIT 1"
_NAMES = "SELECT key, doc FROM documents INDEXED BY sqlite_autoindex_documents_1 ORDER BY doc"
_OUTBOX = "SELECT row, document FROM outbox WHERE row > ? ORDER BY row LIMIT 1"
_DOTS = "SELECT row, document, origin, dot_seq FROM outbox INDEXED BY outbox_dots ORDER BY document, origin, dot_seq"
_UNSENT = (
    "SELECT origin, dot_seq, shipped_epoch, shipped_seq, edge, actor, causation, correlation, time_ms, covers"
    " FROM outbox WHERE row = ?"
)


def _carry(path: Path, store: SQLiteStore, made: SetAside) -> SetAside:
    try:
        damaged = _Damaged(path)
    except sqlite3.Error:
        return made
    whole = partly = changes = 0
    try:
        names = _names(damaged)
        rows = dict(damaged.walk(_OUTBOX))
        for row, *dot in damaged.some(_DOTS):
            if row not in rows and all(isinstance(number, int) and number > 0 for number in (row, *dot)):
                rows[row] = dot[0]
                damaged.dots[row] = (dot[0], dot[1], dot[2])
        outbox: dict[int, list[int]] = {}
        for row, document in sorted(rows.items()):
            outbox.setdefault(document, []).append(row)
        for key, doc in sorted(names.items()):
            read = _document(damaged, key, doc, outbox.get(key, ()))
            writes = read if read is not None else _unsent(damaged, doc, outbox.get(key, ()))
            store.commit(writes)
            whole, partly = (whole + 1, partly) if read is not None else (whole, partly + 1)
            changes += sum(isinstance(write, AppendUpdate) and write.dot is not None for write in writes)
            if (whole + partly) % _TOLD_EVERY == 0:
                log.info("store_salvaged documents=%d of=%d changes=%d", whole + partly, len(names), changes)
    finally:
        damaged.close()
    return SetAside(made.path, made.reason, made.at_ms, whole, partly, changes, damaged.unreadable)


def _names(damaged: _Damaged) -> dict[int, DocId]:
    """Of the table and of its index: damage seldom hits both."""
    rows = [*damaged.walk(_DOCUMENTS), *damaged.some(_NAMES)]
    names: dict[int, DocId] = {}
    for key, name in rows:
        with contextlib.suppress(InvalidInput, TypeError, AttributeError):
            names[key] = parse_document_id(name)
    taken: dict[DocId, int] = {doc: key for key, doc in sorted(names.items(), reverse=True)}
    return {key: doc for doc, key in taken.items()}


def _document(damaged: _Damaged, key: int, doc: DocId, outbox: Sequence[int]) -> list[Write] | None:
    """Everything of a document as writes into the new store; None where some of it does not read or does not hold."""
    unsent = set(outbox)
    dots: set[Dot] = set()
    try:
        through, state = damaged.one("SELECT through, state FROM states WHERE document = ?", key) or (0, None)
        rows = damaged.all("SELECT row, folded, bytes FROM changes WHERE document = ? ORDER BY row", key)
        updates = [update for row, folded, update in rows if row > through and not folded]
        if not _holds(state, updates):
            return None
        writes: list[Write] = [SetVersion(doc, None, DotSet())]
        if state is not None:
            writes.append(Compact(doc, state))
        for row, folded, update in rows:
            within = bool(folded) or row <= through
            if row in unsent:
                check_update(update)
                writes += _change(damaged, doc, row, update, within, dots, bool(folded))
            elif not within:
                writes.append(AppendUpdate(doc, update))
    except (sqlite3.Error, InvalidInput, ValueError, TypeError):
        return None
    return writes


def _holds(state: object, updates: Sequence[object]) -> bool:
    """A document out of these bytes has everything that they bring, need and delete: no row between them is missing."""
    every = [*([state] if state is not None else []), *updates]
    if not all(isinstance(one, bytes) for one in every):
        return False
    known = [one for one in every if isinstance(one, bytes)]
    shapes = [check_update(one) for one in known]
    try:
        document = Document(known[0] if state is not None else None)
        rest = known[1:] if state is not None else known
        if rest:
            document.apply(merge(rest))
        clocks = document.clocks()
    except DocumentBroken:
        return False
    wanted = [(client, following) for shape in shapes for client, _, following in (*shape.brings, *shape.deletes)]
    wanted += [need for shape in shapes for need in shape.needs]
    return all(clocks.get(client, 0) >= following for client, following in wanted)


def _unsent(damaged: _Damaged, doc: DocId, outbox: Sequence[int]) -> list[Write]:
    """Invariant 2: for the outbox alone; the document itself is empty here until the leader has given it back."""
    writes: list[Write] = [SetVersion(doc, None, DotSet())]
    dots: set[Dot] = set()
    for row in outbox:
        try:
            found = damaged.one("SELECT folded, bytes FROM changes WHERE row = ?", row)
            if found is None or not isinstance(found[1], bytes):
                raise ValueError("no bytes")
            check_update(found[1])
            writes += _change(damaged, doc, row, found[1], True, dots, bool(found[0]))
        except (sqlite3.Error, InvalidInput, ValueError, TypeError):
            damaged.unreadable += 1
    return writes


def _change(
    damaged: _Damaged, doc: DocId, row: int, update: bytes, folded: bool, dots: set[Dot], again: bool
) -> list[Write]:
    """A row of the outbox. Raises ValueError, TypeError, sqlite3.Error where it is none; `dots` are those before it.

    `again`: it was written to be shipped again, and may be all that is left: kept, but it vouches for nothing else.
    """
    known = damaged.dots.get(row)  # of a row that does not read, the name is left
    found = (*known[1:], None, None, "", "", "", "", 0, "") if known is not None else damaged.one(_UNSENT, row)
    if found is None:
        raise ValueError("no such row")
    origin, seq, epoch, shipped, edge, actor, causation, correlation, time_ms, covers = found
    texts, numbers = (edge, actor, causation, correlation, covers), (origin, seq, time_ms)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not what was written")
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise TypeError("not what was written")
    if seq == 0:
        raise ValueError("dots count from 1")
    dot = Dot(Origin(origin), seq)
    if dot in dots:
        raise ValueError("one name for two changes")
    dots.add(dot)
    context = Context(edge, actor, causation, correlation, time_ms)
    within = DotSet() if again else DotSet.from_text(covers)
    writes: list[Write] = [AppendUpdate(doc, update, dot, context, within, folded)]
    if isinstance(epoch, int) and isinstance(shipped, int):
        writes.append(MarkShipped(doc, ((dot, Version(epoch, shipped)),)))
    return writes
