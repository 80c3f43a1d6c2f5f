"""The edge's power fails: what a commit has returned for, and what a client was told is safe, is on the disk."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from server import store as store_module
from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import Gateway
from server.reads import read
from server.store import SQLiteStore
from sync import wire
from sync.document import Document
from sync.ids import DocId, Dot, Origin
from sync.ports import Store
from sync.step import AppendUpdate, Compact, DropOutbox, Write
from tests.contract_store import pages_of
from tests.memory_store import MemoryStore
from tests.power import Power, sync_no_commit

DOCS = tuple(map(DocId, "abc"))
SYNC_S = 0.05  # a disk this slow shows whoever does not wait for it


def _held(store: Store) -> object:
    return (
        {doc: store.load(doc) for doc in DOCS},
        [(row.change, row.shipped) for page in pages_of(store, 50, 100_000) for row in page],
        store.outbox_totals(),
    )


def _found(image: Path) -> object:
    store = SQLiteStore.open(image / "edge.db")
    try:
        return _held(store)
    finally:
        store.close()


def _some(dice: random.Random, seq: int) -> list[Write]:
    doc = dice.choice(DOCS)
    writes: list[Write] = [AppendUpdate(doc, dice.randbytes(dice.randrange(3_000)), Dot(Origin(1), seq))]
    if dice.random() < 0.2:
        writes.append(Compact(doc, dice.randbytes(dice.randrange(30_000))))
    if dice.random() < 0.3:
        writes.append(DropOutbox(doc, (Dot(Origin(1), dice.randrange(1, seq + 1)),)))
    return writes


@pytest.mark.parametrize("seed", range(6))
def test_a_store_that_loses_its_power_has_every_commit_that_returned_and_none_by_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Also where the power fails within a commit, or while the write-ahead log is copied into the file."""
    monkeypatch.setattr(store_module, "_CHECKPOINT_PAGES", 40)
    dice, plain = random.Random(seed), MemoryStore()
    within: list[tuple[int, Path]] = []
    with Power() as power:
        store = SQLiteStore.open(tmp_path / "edge" / "edge.db")
        history: list[object] = [_held(plain)]
        returned: list[tuple[int, Path]] = []

        def cut() -> None:
            if dice.random() < 0.3:
                within.append((len(history), tmp_path / f"within-{len(within)}"))
                power.fails(tmp_path / "edge", within[-1][1], dice)

        power.before_sync = cut
        for seq in range(1, 61):
            writes = _some(dice, seq)
            store.commit(writes)
            plain.commit(writes)
            history.append(_held(plain))
            if dice.random() < 0.5:
                returned.append((seq, tmp_path / f"after-{seq}"))
                power.fails(tmp_path / "edge", returned[-1][1], dice)
        syncs = power.sync_count
        store.close()

    assert syncs > 70, "more syncs than commits: the write-ahead log was copied into the file as well"
    for commits, image in returned:
        assert _found(image) == history[commits], f"after commit {commits}"
    assert len(within) > 10
    for next_commit, image in within:
        assert _found(image) in history[next_commit - 1 : next_commit + 1], f"within commit {next_commit}"


def test_a_store_that_does_not_sync_its_commits_would_lose_them(tmp_path: Path) -> None:
    """The test above can fail."""
    with Power() as power:
        store = SQLiteStore.open(tmp_path / "edge" / "edge.db")
        store._writer.execute("PRAGMA synchronous = NORMAL")
        store.commit([AppendUpdate(DOCS[0], b"never synced")])
        power.fails(tmp_path / "edge", tmp_path / "after")
        store.close()

    after = SQLiteStore.open(tmp_path / "after" / "edge.db")
    assert after.load(DOCS[0]) is None
    after.close()


def _edge(directory: Path) -> EdgeDaemon:
    return EdgeDaemon(load_config({"data": directory, "nats": ("nats://127.0.0.1:9",)}, None))


def _survives(tmp_path: Path) -> list[str]:
    """Texts that the edge shows after each loss of power, one at every "it is safe" that an editor is told."""

    async def told() -> list[Path]:
        images: list[Path] = []
        daemon = _edge(tmp_path / "edge")
        gateway = Gateway(daemon, ("127.0.0.1", 0))
        host, at = await gateway.start()
        await daemon.start()
        try:
            document = Document()
            async with connect(f"ws://{host}:{at}/plan", compression=None) as ada:
                for number in range(5):
                    update = document.edit_text("t", number, 0, str(number))
                    await ada.send(wire.encode(wire.Update(update)))
                    while wire.decode_frame(await ada.recv(decode=False)) != wire.Update(update):
                        pass
                    images.append(tmp_path / f"after-{number}")
                    power.fails(tmp_path / "edge", images[-1])
        finally:
            await gateway.stop()
            await daemon.stop(0.1)
        return images

    async def shown(image: Path) -> str:
        daemon = _edge(image)
        await daemon.start()
        try:
            reading = await read(daemon, DocId("plan"), contents=True)
            text = reading.contents.get("t") if reading is not None and reading.contents else None
            return str(text["value"]) if isinstance(text, dict) else ""
        finally:
            await daemon.stop(0.1)

    with Power(SYNC_S) as power:
        images = asyncio.run(told())
    return [asyncio.run(shown(image)) for image in images]


def test_what_an_editor_was_told_is_safe_is_shown_after_the_edges_power_failed(tmp_path: Path) -> None:
    assert _survives(tmp_path) == ["0", "01", "012", "0123", "01234"]


def test_an_edge_whose_commits_are_not_synced_would_not_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail."""
    sync_no_commit(monkeypatch, store_module)

    assert "01234" not in _survives(tmp_path)
