"""A note taker that is cut off and comes back: nothing waits for the network, and it knows when its notes are safe.

python note_taker.py ws://localhost:8787 notes.db
"""

from __future__ import annotations

import asyncio
import sys

from client import Stage, connect


async def main(address: str, store: str) -> None:
    async with connect(address, store=store, actor="ada") as session:
        plan = await session.open("notes/plan")
        with plan.edit(correlation="trip-42") as crdt:
            crdt["body"] += "Pack the tent.\n"
        await plan.confirmed()  # merged by the leader
        print("merged:", plan.text("body").splitlines())

        session.addresses = ()  # a valley without a network
        with plan.edit(correlation="trip-42") as crdt:
            crdt["body"] += "Buy a map.\n"
        plan.insert("body", len("Pack the tent"), " and the stove", correlation="trip-42")
        print("offline:", plan.status.count(Stage.DISK), "edits are only here")

        session.addresses = (address,)  # and back
        await plan.confirmed(Stage.EDGE)
        print("at the edge")
        await plan.confirmed()
        print("merged:", plan.text("body").splitlines())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
