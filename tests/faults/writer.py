"""One edit by somebody who then waits to be killed: `python -m tests.faults.writer STORE ADDRESS DOC TEXT STAGE`.

Room: a process. It says "reached" when the edit has come to this stage: own, edge, log or merged. An empty text edits
nothing, and waits until what is in the store already has come so far.
"""

from __future__ import annotations

import asyncio
import sys
import threading

from client import Stage, connect

STAGES = {"own": Stage.DISK, "edge": Stage.EDGE, "log": Stage.LOG, "merged": Stage.MERGED}


async def _write(store: str, address: str, doc: str, text: str, stage: str) -> None:
    async with connect(address, store=store) as session:
        document = await session.open(doc)
        if text:
            with document.edit() as crdt:
                crdt["text"] += text
        await document.confirmed(STAGES[stage], timeout=60)
        print("reached", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    asyncio.run(_write(*sys.argv[1:6]))
