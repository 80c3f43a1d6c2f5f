"""Golden: what the formats of the edge's store look like on the disk. A newer one keeps reading the older."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from server.store import FORMAT, SQLiteStore
from sync.change import Change, Context
from sync.ids import DocId, Dot, Origin, Version
from sync.ports import OutboxRow, OutboxTotals, StoredDocument
from tests.contract_store import dots_of

PLAN = DocId("notes/plan")

FORMAT_1 = """
CREATE TABLE documents(key INTEGER PRIMARY KEY, doc TEXT NOT NULL UNIQUE, epoch INTEGER, seq INTEGER, dots TEXT NOT NULL DEFAULT '');
CREATE TABLE states(document INTEGER PRIMARY KEY, through INTEGER NOT NULL, state BLOB NOT NULL);
CREATE TABLE changes(row INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, folded INTEGER NOT NULL, bytes BLOB NOT NULL);
CREATE INDEX changes_of_document ON changes(document);
CREATE TABLE outbox(row INTEGER PRIMARY KEY, document INTEGER NOT NULL, origin INTEGER NOT NULL, dot_seq INTEGER NOT NULL, shipped_epoch INTEGER, shipped_seq INTEGER, update_bytes INTEGER NOT NULL, edge TEXT NOT NULL, actor TEXT NOT NULL, causation TEXT NOT NULL, correlation TEXT NOT NULL, time_ms INTEGER NOT NULL, covers TEXT NOT NULL);
CREATE UNIQUE INDEX outbox_dots ON outbox(document, origin, dot_seq);
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id = 1397445209;
PRAGMA user_version = 1;
INSERT INTO documents VALUES (1, 'notes/plan', 17, 42, 'f:1-3');
INSERT INTO states VALUES (1, 5, x'aa');
INSERT INTO changes VALUES (4, 1, 0, x'b4'), (6, 1, 0, x'b6'), (7, 1, 1, x'b7');
INSERT INTO outbox VALUES (4, 1, 15, 2, 17, 41, 1, 'e', 'a', 'c', 'k', 99, ''), (7, 1, 15, 3, NULL, NULL, 1, '', '', '', '', 0, 'e:1-9');
INSERT INTO meta VALUES ('edge', 'name');
"""  # noqa: E501

FORMAT_2 = (
    FORMAT_1.replace("covers TEXT NOT NULL)", "covers TEXT NOT NULL, heals INTEGER NOT NULL DEFAULT 0)")
    .replace("user_version = 1", "user_version = 2")
    .replace("99, '')", "99, '', 0)")
    .replace("'e:1-9')", "'e:1-9', 1)")
)


def test_a_store_of_format_1_is_read(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "store.db")
    writer.executescript(FORMAT_1)
    writer.close()
    first, second = Dot(Origin(15), 2), Dot(Origin(15), 3)

    store = SQLiteStore.open(tmp_path / "store.db")

    dots = dots_of((Origin(15), 1, 3))
    outbox = ((first, Version(17, 41)), (second, None))
    assert store.load(PLAN) == StoredDocument(b"\xaa", (b"\xb6",), Version(17, 42), dots, outbox)
    assert store.outbox(0, 10, 10) == [
        OutboxRow(4, Change(PLAN, first, b"\xb4", Context("e", "a", "c", "k", 99)), Version(17, 41)),
        OutboxRow(7, Change(PLAN, second, b"\xb7", covers=dots_of((Origin(14), 1, 9))), None),
    ]
    assert store.outbox_totals() == OutboxTotals(2, 2, 99)
    assert store.get_meta("edge") == "name"
    store.close()


def test_a_store_of_format_2_says_which_rows_heal(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "store.db")
    writer.executescript(FORMAT_2)
    writer.close()

    store = SQLiteStore.open(tmp_path / "store.db")

    assert [(row.row, row.change.dot, row.heals) for row in store.outbox(0, 10, 10)] == [
        (4, Dot(Origin(15), 2), False),
        (7, Dot(Origin(15), 3), True),
    ]
    store.close()


@pytest.mark.parametrize("before", [None, FORMAT_1])
def test_what_is_written_today_is_format_2(tmp_path: Path, before: str | None) -> None:
    """Fails where a table was changed without a new format number; an older store becomes one of today's."""
    if before is not None:
        older = sqlite3.connect(tmp_path / "store.db")
        older.executescript(before)
        older.close()
    SQLiteStore.open(tmp_path / "store.db").close()
    golden = sqlite3.connect(":memory:")
    golden.executescript(FORMAT_2)
    written = sqlite3.connect(tmp_path / "store.db")

    assert FORMAT == 2
    for query in ("SELECT sql FROM sqlite_master ORDER BY name", "PRAGMA application_id", "PRAGMA user_version"):
        assert written.execute(query).fetchall() == golden.execute(query).fetchall()
    golden.close()
    written.close()
