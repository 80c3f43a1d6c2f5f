"""The author of `skerry torture`: its journal says of each edit what was said of that edit, and of no other."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

from client import Safer, Stage, connect
from client.torture.author import Offline
from client.torture.journal import Journal, read_lines
from sync.ids import DocId, Dot
from tests.client.edge import until


def test_an_edit_is_known_by_its_document_and_its_dot(tmp_path: Path) -> None:
    """Dots count from 1 in each document: two edits of one author may have the same."""

    async def story() -> list[Dot]:
        async with connect([], store=tmp_path / "ada.db") as session:
            author = Offline(session, Journal(tmp_path / "ada.journal", "ada"), {})
            await author.open(["notes/1", "notes/2"])
            dots = []
            for number in (1, 2):
                await author.edit(f"notes/{number}", random.Random(number), f"<ada.0a.{number}>")
                dots.append((await session.open(f"notes/{number}")).status.edits[-1].dot)
            listening = asyncio.create_task(author.listen())
            await asyncio.sleep(0)
            session.tell(Safer(DocId("notes/2"), Stage.EDGE, (dots[1],), None, 0))
            await until(
                lambda: any(line.get("stage") == "edge" for line in read_lines(tmp_path / "ada.journal")), "told", 20
            )
            listening.cancel()
            return dots

    first, second = asyncio.run(story())

    told = [line["safe"] for line in read_lines(tmp_path / "ada.journal") if line.get("stage") == "edge"]
    assert first == second, json.dumps([str(first), str(second)])
    assert told == [["<ada.0a.2>"]]
