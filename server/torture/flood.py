"""A client that writes as fast as its socket takes it, and reads nothing: `python -m server.torture.flood URL SECONDS`.

Room: rudeness. Nobody promised it anything. It types at the end of its own text: at the beginning, every letter would
conflict with those of all floods before, and campaigns of hours would measure nothing else (seconds per load).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from sync.document import Document
from sync.wire import Update, encode

__all__ = ["main"]

EDITS_MAX = 20_000
LENGTH_KEPT = 2_000


async def _flood(url: str, seconds: float) -> None:
    document = Document()
    ends = time.monotonic() + seconds
    count = length = 0
    while time.monotonic() < ends and count < EDITS_MAX:
        with contextlib.suppress(OSError, WebSocketException, TimeoutError):
            async with connect(url, compression=None, max_queue=1, close_timeout=0.2) as socket:
                while time.monotonic() < ends and count < EDITS_MAX:
                    if length < LENGTH_KEPT:
                        update = document.edit_text("text", length, 0, "x")
                        length += 1
                    else:
                        update = document.edit_text("text", 0, length, "x")
                        length = 1
                    count += 1
                    await socket.send(encode(Update(update)))
        await asyncio.sleep(0.1)


def main() -> None:
    asyncio.run(_flood(sys.argv[1], float(sys.argv[2])))


if __name__ == "__main__":
    main()
