"""An edge of the extension in a few lines, within the test's own event loop: it does what the test says.

Room: it holds documents in memory, lets in only what the gate calls NEW, and notes what came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from sync import extension, wire
from sync.extension import Stage
from sync.ids import DocId, Dot, Version
from sync.replica import Replica, Verdict
from sync.token import decode_token
from sync.validate import check_update

__all__ = ["FakeEdge", "running", "until"]

T = TypeVar("T")

LOCAL = "127.0.0.1"


def running(test: Callable[[], Coroutine[Any, Any, T]], deadline_s: float = 60.0) -> T:
    """Run a test's coroutine; it fails when the deadline is over."""

    async def bounded() -> T:
        async with asyncio.timeout(deadline_s):
            return await test()

    return asyncio.run(bounded())


async def until(condition: Callable[[], object], what: str = "", deadline_s: float = 10.0) -> None:
    """Wait for a condition."""
    try:
        async with asyncio.timeout(deadline_s):
            while not condition():  # noqa: ASYNC110 — what it waits for knows nothing of it
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:g} s: {what}") from None


class FakeEdge:
    def __init__(self, name: str = "harbour", namespace: str = "skerry") -> None:
        self.name = name
        self.namespace = namespace
        self.docs: dict[DocId, Replica] = {}
        self.dots: list[Dot] = []
        """Every edit that came, repeats as well."""
        self.edits: list[extension.Edit] = []
        """Every edit that was let in, in order."""
        self.early: list[object] = []
        self.came: list[object] = []
        """Every message, decoded."""
        self.stage: Stage | None = Stage.MERGED
        """What is said of an edit at once; None: nothing."""
        self.seq = 0
        self.connections: list[ServerConnection] = []
        self.opened: list[tuple[ServerConnection, int, DocId]] = []
        self.refuse: dict[DocId, tuple[int, str]] = {}
        self.greets = True
        self.subprotocols: list[Subprotocol] | None = [Subprotocol(wire.SUBPROTOCOL)]
        self.address = ""

    def replica(self, doc: str) -> Replica:
        return self.docs.setdefault(DocId(doc), Replica(DocId(doc)))

    def text(self, doc: str, root: str = "body") -> str:
        return self.replica(doc).materialise().text(root)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[FakeEdge]:
        async with serve(
            self._serve, LOCAL, port, subprotocols=self.subprotocols, compression=None, close_timeout=0.5
        ) as server:
            bound: int = next(iter(server.sockets)).getsockname()[1]
            self.address = f"ws://{LOCAL}:{bound}"
            yield self
            for connection in self.connections:
                connection.transport.abort()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def _serve(self, socket: ServerConnection) -> None:
        self.connections.append(socket)
        channels: dict[int, DocId] = {}
        try:
            if self.greets:
                hello = extension.encode(extension.Hello(1, self.namespace, self.name))
                await socket.send(extension.on_channel(0, hello))
            async for frame in socket:
                assert isinstance(frame, bytes)
                number, inner = extension.decode_channel(frame)
                message = extension.decode(inner)
                self.came.append(message)
                if isinstance(message, extension.Open):
                    assert number > 0
                    assert number not in channels
                    channels[number] = message.doc
                    await self._open(socket, number, message.doc)
                elif number in channels:
                    await self._message(socket, number, channels[number], message)
        except ConnectionClosed:
            pass

    async def say(self, socket: ServerConnection, number: int, message: extension.Message | wire.Message) -> None:
        await socket.send(extension.on_channel(number, extension.encode(message)))

    async def say_all(self, doc: str, message: extension.Message | wire.Message) -> None:
        """On every open channel of this document."""
        for socket, number, of in self.opened:
            if of == doc and socket.state.name == "OPEN":
                await self.say(socket, number, message)

    async def _open(self, socket: ServerConnection, number: int, doc: DocId) -> None:
        if doc in self.refuse:
            await self.say(socket, number, extension.CloseChannel(*self.refuse[doc]))
            return
        self.opened.append((socket, number, doc))
        await self.say(socket, number, wire.SyncStep1(self.replica(doc).state_vector()))

    async def _message(self, socket: ServerConnection, number: int, doc: DocId, message: object) -> None:
        replica = self.replica(doc)
        match message:
            case wire.SyncStep1(state_vector):
                await self.say(socket, number, wire.SyncStep2(replica.diff(state_vector)))
                if self.seq:
                    await self.say(socket, number, extension.At(Version(1, self.seq)))
            case wire.SyncStep2(update) | wire.Update(update):
                self._take(replica, update)
            case extension.Edit() as edit:
                self.dots.append(edit.dot)
                if self._take(replica, edit.update) is Verdict.NEW:
                    self.edits.append(edit)
                    self.seq += 1
                replica.dots.add(edit.dot)
                if self.stage is not None:
                    version = Version(1, self.seq) if self.stage > Stage.EDGE else None
                    await self.say(socket, number, extension.Safe(self.stage, (edit.dot,), version))
            case extension.Await(wanted, text, wait_ms):
                token = decode_token(text, self.namespace, doc)
                reached = token.dot is not None and token.dot in replica.dots
                await self.say(socket, number, extension.Reached(wanted, reached, f"asked with {wait_ms}"))
            case _:
                pass

    def _take(self, replica: Replica, update: bytes) -> Verdict:
        verdict = replica.take(update, check_update(update), 0).verdict
        if verdict is Verdict.EARLY:
            self.early.append(update)
        return verdict

    async def type(self, doc: str, text: str, root: str = "body") -> None:
        """Somebody else writes at the end."""
        document = self.replica(doc).materialise()
        update = document.edit_text(root, len(document.text(root)), 0, text)
        self.replica(doc).take(update, check_update(update), 0)
        await self.say_all(doc, wire.Update(update))

    async def drop(self) -> None:
        """Cut every connection, without a farewell."""
        for connection in self.connections:
            connection.transport.abort()
        self.connections.clear()

    async def close(self, code: int, reason: str) -> None:
        closing: list[Awaitable[None]] = [connection.close(code, reason) for connection in self.connections]
        await asyncio.gather(*closing)
