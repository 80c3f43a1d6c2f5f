"""Two programs that hand a token to each other: the second one reads what the first one wrote, at whichever edge.

python handover.py ws://localhost:8787 ada.db ada               writes a line, prints a token
python handover.py ws://localhost:8788 ben.db ben TOKEN         reads that line, answers, prints a token
python handover.py ws://localhost:8787 ada.db ada TOKEN         reads the answer, and so on
"""

from __future__ import annotations

import asyncio
import sys

from client import connect


async def main(address: str, store: str, name: str, token: str | None = None) -> None:
    async with connect(address, store=store, actor=name) as session:
        # Not before this document has come as far as the other program's line; NotYet after ten seconds.
        talk = await session.open("talks/handover", at_least=token, timeout=10)
        print("read:", talk.text("body").splitlines(), file=sys.stderr)
        with talk.edit(causation=token or "") as crdt:
            crdt["body"] += f"{name} was here\n"
        await talk.confirmed()
        print(talk.token)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
