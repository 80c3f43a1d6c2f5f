"""An author: edits at random through the offline-first client or as a stock Yjs client would, and keeps a journal.

    python -m client.torture.author offline --name ada --store ada.db --journal ada.journal --doc notes/1 ws://…
    python -m client.torture.author stock --name ben --journal ben.journal --doc notes/1 ws://…

Room: one process of a campaign (`skerry torture`), driven by lines on standard input: `pause`, `go`, `show`,
`at ADDRESS…`; each is answered by one JSON line. It ends with its standard input.

`offline` has a store of its own and hears every stage; `stock` speaks plain y-websocket, keeps nothing, and takes the
server's echo as the promise that an edit is on the edge's disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import sys
from collections import deque
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, WebSocketException

from client import Safer, Session, Stage, connect
from sync import wire
from sync.digest import encode_clocks
from sync.document import Document, JsonValue
from sync.errors import SkerryError
from sync.limits import FRAME_BYTES_MAX
from sync.validate import check_update

from .hand import plan
from .journal import Journal, read_lines

__all__ = ["main"]

STAGES = {Stage.DISK: "own", Stage.EDGE: "edge", Stage.LOG: "log", Stage.MERGED: "merged"}
AGAIN_S = 0.2
SILENCE_S = 3.0


class Author(Protocol):
    async def edit(self, doc: str, chance: random.Random, mark: str) -> None: ...

    async def move(self, addresses: list[str]) -> None: ...

    def contents(self, doc: str) -> dict[str, JsonValue]: ...


# --- through the offline-first client ---------------------------------------------------------------------------------
class Offline:
    def __init__(self, session: Session, journal: Journal, marks: dict[tuple[str, str], str]) -> None:
        self._session = session
        self._journal = journal
        self._marks = marks
        """(Document, dot) -> mark, of earlier processes too: dots are counted in each document."""

    async def open(self, docs: list[str]) -> None:
        self._documents = {doc: await self._session.open(doc) for doc in docs}

    async def edit(self, doc: str, chance: random.Random, mark: str) -> None:
        document = self._documents[doc]
        edit = plan(document.crdt, chance, mark)
        self._journal.trying(mark, doc, edit.root, edit.deletes)
        with document.edit() as crdt:
            edit.make(crdt)
        dot = str(document.status.edits[-1].dot)
        self._marks[doc, dot] = mark
        self._journal.named(mark, doc, dot)
        self._journal.safe([mark], "own", "")

    async def listen(self) -> None:
        async for event in self._session.events():
            if isinstance(event, Safer) and event.stage is not Stage.DISK:
                marks = [mark for dot in event.dots if (mark := self._marks.get((event.doc, str(dot))))]
                if marks:
                    self._journal.safe(marks, STAGES[event.stage], self._session.edge)

    async def move(self, addresses: list[str]) -> None:
        self._session.addresses = addresses
        await self._session.roam(addresses[0])

    def contents(self, doc: str) -> dict[str, JsonValue]:
        return self._documents[doc].contents()


# --- as a stock Yjs client --------------------------------------------------------------------------------------------
class Page:
    """One document on one websocket, again and again."""

    def __init__(self, doc: str, journal: Journal, address: str) -> None:
        self.doc = doc
        self.address = address
        self.document = Document()
        self._journal = journal
        self._unsafe: deque[tuple[int, str, str]] = deque()
        """(own clock behind it, mark, address of the edge that it was sent to): not echoed yet."""
        self._echoed = 0
        self.socket: ClientConnection | None = None

    async def edit(self, chance: random.Random, mark: str) -> None:
        edit = plan(self.document.crdt, chance, mark)
        self._journal.trying(mark, self.doc, edit.root, edit.deletes)
        with self.document.edit() as made:
            edit.make(self.document.crdt)
        self._unsafe.append((self.document.clocks()[self.document.crdt.client_id], mark, self.address))
        if self.socket is not None:
            with contextlib.suppress(ConnectionClosed):
                for update in made:
                    await self.socket.send(wire.encode(wire.Update(update)))

    async def stay(self) -> None:
        while True:
            with contextlib.suppress(OSError, WebSocketException, ConnectionClosed, TimeoutError):
                async with open_socket(
                    f"{self.address}/{quote(self.doc, safe='/')}",
                    max_size=4 * FRAME_BYTES_MAX,
                    open_timeout=SILENCE_S,
                    ping_interval=SILENCE_S,
                    ping_timeout=SILENCE_S,
                    close_timeout=1,
                    compression=None,
                ) as socket:
                    await self._converse(socket)
            self.socket = None
            await asyncio.sleep(AGAIN_S)

    async def _converse(self, socket: ClientConnection) -> None:
        clocks = self.document.clocks()
        # What was echoed, not what is here: an edge that has never seen the rest answers nothing of it.
        clocks[self.document.crdt.client_id] = self._echoed
        self.socket = socket
        await socket.send(wire.encode(wire.SyncStep1(encode_clocks(clocks))))
        synced = False
        early: list[bytes] = []
        while True:
            frame = await socket.recv(decode=False)
            match wire.decode_frame(frame):
                case wire.SyncStep1(state_vector):
                    await socket.send(wire.encode(wire.SyncStep2(self.document.diff(state_vector))))
                case wire.SyncStep2(update):
                    self.document.apply(update)
                    synced = True
                    held, early = early, []
                    for update in held:
                        self._live(update)
                case wire.Update(update):
                    if synced:
                        self._live(update)
                    else:  # pycrdt loses what comes before what it depends on (facts 1.1)
                        early.append(update)
                case _:
                    pass

    def _live(self, update: bytes) -> None:
        shape = check_update(update)
        self.document.apply(update)
        own = self.document.crdt.client_id
        for client, first, following in shape.brings:
            if client == own and first <= self._echoed:
                self._echoed = max(self._echoed, following)
        safe: dict[str, list[str]] = {}
        while self._unsafe and self._unsafe[0][0] <= self._echoed:
            _, mark, address = self._unsafe.popleft()
            # At another edge than it was sent to it may come from the log: safe, and not yet on this edge's disk.
            safe.setdefault(address if address == self.address else "the log", []).append(mark)
        for at, marks in safe.items():
            self._journal.safe(marks, "edge", at)


class Stock:
    def __init__(self, docs: list[str], journal: Journal, address: str) -> None:
        self.pages = {doc: Page(doc, journal, address) for doc in docs}

    async def edit(self, doc: str, chance: random.Random, mark: str) -> None:
        await self.pages[doc].edit(chance, mark)

    async def move(self, addresses: list[str]) -> None:
        for page in self.pages.values():
            page.address = addresses[0]
            if page.socket is not None:
                page.socket.transport.abort()

    def contents(self, doc: str) -> dict[str, JsonValue]:
        return self.pages[doc].document.contents()


# --- the program ------------------------------------------------------------------------------------------------------
async def _write(author: Author, options: argparse.Namespace, going: asyncio.Event) -> None:
    chance = random.Random(f"{options.seed} {options.name}")
    life = secrets.token_hex(4)
    count = 0
    while True:
        await going.wait()
        count += 1
        try:
            await author.edit(chance.choice(options.doc), chance, f"<{options.name}.{life}.{count}>")
        except SkerryError as error:  # the disk of the author, say: it was told, and goes on
            print(error, file=sys.stderr)
        await asyncio.sleep(chance.expovariate(1 / options.every))


async def _obey(author: Author, docs: list[str], going: asyncio.Event) -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    going.set()
    while line := (await orders.readline()).decode().split():
        answer: dict[str, object] = {"ok": line[0]}
        match line:
            case ["pause"]:
                going.clear()
            case ["go"]:
                going.set()
            case ["at", *addresses]:
                await author.move(addresses)
            case ["show"]:
                answer["docs"] = {doc: author.contents(doc) for doc in docs}
            case _:
                answer = {"error": f"{line[0]}: no such order"}
        print(json.dumps(answer), flush=True)


async def _run(options: argparse.Namespace) -> None:
    marks = {(str(at["doc"]), str(at["dot"])): str(at["of"]) for at in read_lines(options.journal) if "dot" in at}
    journal = Journal(options.journal, options.name)
    going = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        author: Offline | Stock
        if options.kind == "offline":
            session = await stack.enter_async_context(
                connect(
                    options.address,
                    store=options.store,
                    namespace=options.namespace,
                    actor=options.name,
                    silence_s=SILENCE_S,
                )
            )
            author = Offline(session, journal, marks)
            beside = [author.listen()]
            await author.open(options.doc)
        else:
            author = Stock(options.doc, journal, options.address[0])
            beside = [page.stay() for page in author.pages.values()]
        tasks = [asyncio.create_task(work) for work in (*beside, _write(author, options, going))]
        try:
            print("ready", flush=True)
            obeying = asyncio.create_task(_obey(author, options.doc, going))
            done, _ = await asyncio.wait({obeying, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m client.torture.author")
    parser.add_argument("kind", choices=("offline", "stock"))
    parser.add_argument("address", nargs="+")
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", default="skerry")
    parser.add_argument("--seed", default="")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--doc", action="append", required=True)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two edits, on the average")
    asyncio.run(_run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
