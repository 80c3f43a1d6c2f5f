"""A disk that cannot be read for a moment: what waited for it goes on by itself."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

import client
from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import Gateway
from sync.errors import StoreError
from sync.ids import DocId
from sync.ports import StoredDocument

DEADLINE_S = 20.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_document_that_could_not_be_read_is_read_again_and_nobody_is_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.threads.RETRY_S", 0.05)
    config = load_config(
        {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",), "name": "a"}, None
    )
    daemon = EdgeDaemon(config)
    gateway = Gateway(daemon, ("127.0.0.1", 0))
    host, port = await gateway.start()
    await daemon.start()
    load, failures = daemon.store.load, [sqlite3.OperationalError("disk I/O error"), StoreError("no file handle left")]

    def failing(doc: DocId) -> StoredDocument | None:
        if failures:
            raise StoreError("cannot be read") from failures.pop()
        return load(doc)

    monkeypatch.setattr(daemon.store, "load", failing)
    try:
        async with asyncio.timeout(DEADLINE_S):
            async with client.connect(f"ws://{host}:{port}", store=tmp_path / "ada.db") as session:
                document = await session.open("d")
                with document.edit() as crdt:
                    crdt["text"] += "there"
                await document.confirmed(client.Stage.EDGE)
        assert not failures
    finally:
        await gateway.stop()
        await daemon.stop(1.0)
