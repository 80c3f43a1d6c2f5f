"""Documents that are larger than a frame of a client: opened, read and written through real edges."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from client import connect
from client.document import EDIT_BYTES_MAX
from sync.errors import InvalidFrame, LimitReached
from sync.extension import decode, decode_channel, encode, on_channel
from sync.limits import EDGE_FRAME_BYTES_MAX, FRAME_BYTES_MAX
from sync.wire import SyncStep2
from tests.client.edge import running
from tests.processes import Cluster

PIECE = 12 * 1024 * 1024


def test_a_document_over_16_mib_is_opened_at_another_edge_and_written_to(
    cluster: Cluster, tmp_path: Path, doc: str
) -> None:
    async def test() -> None:
        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc)
            plan.insert("body", 0, "a" * PIECE)
            plan.insert("body", 0, "b" * PIECE)
            await plan.confirmed(timeout=60)
            token = plan.token

        async with connect(cluster["b"].ws, store=tmp_path / "ben.db") as session:
            theirs = await session.open(doc, at_least=token, timeout=60)
            await theirs.synced(timeout=60)
            assert len(theirs.text("body")) == 2 * PIECE > FRAME_BYTES_MAX
            theirs.insert("body", PIECE, "here is the middle")
            await theirs.confirmed(timeout=60)
            token = theirs.token

        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc, at_least=token, timeout=60)
            assert plan.text("body") == "b" * PIECE + "here is the middle" + "a" * PIECE

    running(test, 180)


def test_one_edit_stays_below_a_frame(tmp_path: Path) -> None:
    async def test() -> None:
        async with connect([], store=tmp_path / "ada.db") as session:
            plan = await session.open("notes/plan")
            with pytest.raises(LimitReached, match="make several edits of it"):
                plan.insert("body", 0, "x" * EDIT_BYTES_MAX)
            assert plan.text("body") == ""
            plan.insert("body", 0, "x" * (EDIT_BYTES_MAX - 100))

    asyncio.run(test())


def test_a_client_takes_larger_frames_than_an_edge() -> None:
    frame = on_channel(1, encode(SyncStep2(b"x" * FRAME_BYTES_MAX)))

    with pytest.raises(InvalidFrame, match=f"at most {FRAME_BYTES_MAX}"):
        decode_channel(frame)
    _, inner = decode_channel(frame, EDGE_FRAME_BYTES_MAX)
    assert decode(inner, EDGE_FRAME_BYTES_MAX) == SyncStep2(b"x" * FRAME_BYTES_MAX)
    with pytest.raises(InvalidFrame, match=f"at most {EDGE_FRAME_BYTES_MAX}"):
        decode_channel(bytes(EDGE_FRAME_BYTES_MAX + 10), EDGE_FRAME_BYTES_MAX)
