"""A damaged store is set aside and its readable part carried over: at every page, cut off anywhere, full of garbage."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from server import salvage
from server.salvage import NO_WITNESS, mark_damaged, open_store, set_aside_of
from server.store import SQLiteStore
from sync.change import Context
from sync.document import Document
from sync.errors import StoreBusy, StoreError
from sync.ids import DocId, Dot, DotSet, Origin, Version
from sync.replica import Replica
from sync.step import AppendUpdate, Compact, MarkShipped, SetVersion, Write

ME = Origin(77)
DOCS = [DocId(f"notes/{number}") for number in range(12)]
EDITS = 40
PAGE = 4096


def _filled(path: Path) -> dict[DocId, str]:
    """Documents with a compacted state, merged rows and unsent rows each; returns their texts."""
    store = SQLiteStore.open(path)
    texts: dict[DocId, str] = {}
    for number, doc in enumerate(DOCS):
        document = Document(client_id=100 + number)
        writes: list[Write] = []
        for edit in range(EDITS):
            update = document.edit_text("text", 0, 0, f"{number}.{edit} " + "x" * 60)
            dot = Dot(ME, edit + 1) if edit >= EDITS // 2 else None
            writes.append(AppendUpdate(doc, update, dot, Context("a", "ada"), DotSet()))
            if edit == EDITS // 4:
                writes.append(Compact(doc, document.state()))
        writes.append(SetVersion(doc, Version(9, 812), DotSet({ME: ((1, EDITS),)})))
        writes.append(MarkShipped(doc, ((Dot(ME, EDITS), Version(9, 900)),)))
        store.commit(writes)
        texts[doc] = document.text("text")
    store.set_meta("witness", "9-812 4d.1 notes/1")
    store.close()
    return texts


def _read(store: SQLiteStore) -> tuple[dict[DocId, str], set[tuple[DocId, Dot]]]:
    """Texts of documents that hold something, and the outbox."""
    texts: dict[DocId, str] = {}
    for doc in store.documents():
        stored = store.load(doc)
        assert stored is not None
        text = Replica(doc, stored.state, stored.updates).materialise().text("text")
        if text:
            texts[doc] = text
    rows = store.outbox(0, 1_000_000, 1 << 40)
    assert [row.row for row in rows] == sorted(row.row for row in rows)
    return texts, {(row.change.doc, row.change.dot) for row in rows}


def _damage(path: Path, kind: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    pages = len(content) // PAGE
    match kind:
        case "page":
            at = rng.randrange(pages) * PAGE
            content[at : at + PAGE] = rng.randbytes(PAGE)
        case "pages":
            for _ in range(3):
                at = rng.randrange(1, pages) * PAGE
                content[at : at + PAGE] = rng.randbytes(PAGE)
        case "zeroes":
            at = rng.randrange(pages) * PAGE
            content[at : at + PAGE] = bytes(PAGE)
        case "cut":
            del content[rng.randrange(1, pages) * PAGE + rng.randrange(PAGE) :]
        case "bytes":
            for _ in range(40):
                content[rng.randrange(100, len(content))] ^= 1 << rng.randrange(8)
        case _:
            content[:] = rng.randbytes(len(content))
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["page", "pages", "zeroes", "cut", "bytes", "garbage"])
@pytest.mark.parametrize("seed", range(6))
def test_what_reads_of_a_damaged_store_is_carried_over_and_true(tmp_path: Path, kind: str, seed: int) -> None:
    path = tmp_path / "edge.db"
    texts = _filled(path)
    _damage(path, kind, random.Random(f"{kind} {seed}"))
    damaged = path.read_bytes()
    mark_damaged(path, "a page does not read")

    store, aside = open_store(path)
    found, unsent = _read(store)
    told, witness = set_aside_of(store), store.get_meta("witness")
    store.close()

    assert aside is not None
    assert told is not None
    assert Path(aside.path).read_bytes() == damaged  # kept as it was
    assert witness == NO_WITNESS  # everything is compared with the leader
    if kind != "bytes":  # flipped bytes within a text are nobody's to notice
        assert all(found[doc] == texts[doc] for doc in found), "a document is carried over whole or not at all"
    assert unsent <= {(doc, Dot(ME, seq)) for doc in DOCS for seq in range(EDITS // 2 + 1, EDITS + 1)}
    if kind in ("page", "zeroes") and aside.documents:
        assert len(unsent) > len(DOCS) * EDITS // 4  # one page of many


def test_a_store_whose_document_pages_are_gone_still_gives_its_unsent_changes(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    _filled(path)
    run = sqlite3.connect(path)
    run.execute("UPDATE states SET state = x'00ff'")
    run.commit()
    run.close()
    mark_damaged(path, "states do not read")

    store, aside = open_store(path)
    found, unsent = _read(store)
    store.close()

    assert aside is not None
    assert (aside.documents, aside.documents_partly) == (0, len(DOCS))
    assert found == {}
    assert len(unsent) == aside.changes == len(DOCS) * EDITS // 2


def test_damage_that_is_found_at_opening_is_set_aside_at_once(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    path.write_bytes(b"x" * 5_000)

    store, aside = open_store(path)

    assert list(store.documents()) == []
    assert aside is not None
    assert "edge.db.damaged-" in aside.path
    store.close()
    again, nothing = open_store(path)
    assert nothing is None
    assert set_aside_of(again) is not None  # named until somebody removes it
    Path(aside.path).unlink()
    assert set_aside_of(again) is None
    again.close()


def test_a_sound_store_is_opened_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    texts = _filled(path)

    store, aside = open_store(path)

    assert aside is None
    assert _read(store)[0] == texts
    assert [file.name for file in tmp_path.iterdir() if "damaged" in file.name] == []
    store.close()


def test_a_store_in_use_and_somebody_else_s_file_are_not_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    store = SQLiteStore.open(path)
    mark_damaged(path, "told by the process that has it open")
    with pytest.raises(StoreBusy):
        open_store(path)
    store.close()
    foreign = tmp_path / "other" / "edge.db"
    foreign.parent.mkdir()
    photos = sqlite3.connect(foreign)
    photos.execute("CREATE TABLE photos(name TEXT)")
    photos.close()

    with pytest.raises(StoreError, match="no Skerry store"):
        open_store(foreign)


@pytest.mark.parametrize("moment", ["carried", "moved"])
def test_a_salvage_that_was_cut_off_goes_on(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "edge.db"
    texts = _filled(path)
    mark_damaged(path, "a page does not read")

    class CutOff(Exception): ...

    def cut_off(*_: object) -> None:
        raise CutOff

    target, name = (SQLiteStore, "set_meta") if moment == "carried" else (salvage, "_finish")
    with monkeypatch.context() as patched:
        patched.setattr(target, name, cut_off)
        with pytest.raises(CutOff):
            open_store(path)

    store, _ = open_store(path)

    assert _read(store)[0] == texts
    assert set_aside_of(store) is not None
    assert not salvage._marker(path).exists()
    store.close()
