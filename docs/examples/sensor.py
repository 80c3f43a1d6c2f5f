"""A sensor that writes down readings with no network, all day, and brings them in when there is one.

    python sensor.py sensor.db                              offline: one reading a second, until it is ended
    python sensor.py sensor.db --count 1000 --every 0       as many, as fast as the disk is
    python sensor.py sensor.db --deliver ws://localhost:8787

Ended in the middle, by a power cut as well, it has lost nothing that it had written down.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time

from pycrdt import Array

from client import connect


async def measure(store: str, count: int | None, every_s: float) -> None:
    async with connect([], store=store, actor="sensor-7") as session:
        harbour = await session.open("readings/harbour")
        numbers = itertools.count() if count is None else range(count)
        for number in numbers:
            reading = {"number": number, "at": time.time(), "metres": round(random.gauss(2.0, 0.3), 2)}
            with harbour.edit() as crdt:
                crdt.get("readings", type=Array).append(reading)
            await asyncio.sleep(every_s)
        print("written down:", len(harbour.status.edits))


async def deliver(store: str, address: str) -> None:
    async with connect(address, store=store, actor="sensor-7") as session:
        harbour = await session.open("readings/harbour")
        print("to be delivered:", len(harbour.status.edits))
        await harbour.confirmed()
        print("merged at version", harbour.token)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--count", type=int)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--deliver")
    options = parser.parse_args()
    if options.deliver:
        asyncio.run(deliver(options.store, options.deliver))
    else:
        asyncio.run(measure(options.store, options.count, options.every))
