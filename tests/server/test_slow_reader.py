"""A client that does not read, at a real edge on a real socket: a bounded buffer, and one difference when it reads."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import Gateway
from sync import extension, wire
from sync.document import Document
from sync.ids import Dot, Origin, parse_document_id
from sync.limits import READER_SLOW_BYTES
from sync.validate import check_state_vector, check_update
from tests.sync.stage import Ada

PLAN = parse_document_id("notes/plan")
DEADLINE_S = 20.0
PASTE = 50_000
PASTES = 200  # 10 MB: more than kernels keep for a socket
CHANNELS = 20

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True, slots=True)
class Harbour:
    """An edge and its gateway, in this process: what lies unsent can be counted."""

    daemon: EdgeDaemon
    gateway: Gateway
    port: int


@asynccontextmanager
async def harbour(tmp_path: Path, **flags: object) -> AsyncIterator[Harbour]:
    known: dict[str, object] = {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",), "name": "a"}
    daemon = EdgeDaemon(load_config(known | flags, None))
    gateway = Gateway(daemon, ("127.0.0.1", 0))
    _, port = await gateway.start()
    await daemon.start()
    try:
        yield Harbour(daemon, gateway, port)
    finally:
        await gateway.stop()
        await daemon.stop(1.0)


def joined(port: int, extended: bool = False, doc: str = PLAN, tls: ssl.SSLContext | None = None) -> connect:
    """A client whose side of the kernel keeps little."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    raw.connect(("127.0.0.1", port))
    return connect(
        f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/{'' if extended else doc}",
        sock=raw,
        ssl=tls,
        subprotocols=[Subprotocol(wire.SUBPROTOCOL)] if extended else None,
        compression=None,
        max_size=None,
        max_queue=1,
        ping_interval=None,
    )


class Text:
    """What a client has, of all the messages that it was sent."""

    def __init__(self, socket: ClientConnection, channel: int | None = None) -> None:
        self.socket = socket
        self.channel = channel
        self.document = Document()
        self.frames = 0
        self.bytes = 0
        self.messages: list[object] = []

    @property
    def text(self) -> str:
        return self.document.text("text")

    async def read(self) -> None:
        frame = await self.socket.recv(decode=False)
        self.frames += 1
        self.bytes += len(frame)
        channel, inner = extension.decode_channel(frame) if self.channel is not None else (None, frame)
        if channel != self.channel:
            return
        message = extension.decode(inner)
        if isinstance(message, wire.Update | wire.SyncStep2):
            self.document.apply(message.update)
        self.messages.append(message)

    async def read_until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not done():
                await self.read()


async def pastes(harbour: Harbour, socket: ClientConnection, after: Callable[[], Awaitable[None]]) -> Ada:
    """Ada pastes, and waits for the echo each time; nobody's queue may grow meanwhile."""
    ada = Ada(11)
    for number in range(PASTES):
        update = ada.type(f"{number:05}" * (PASTE // 5))
        await socket.send(wire.encode(wire.Update(update)))
        async with asyncio.timeout(DEADLINE_S):
            while not holds(wire.decode_frame(await socket.recv(decode=False)), ada):
                pass
        assert harbour.gateway.unsent_bytes <= READER_SLOW_BYTES + 2 * PASTE
        await after()
    return ada


def holds(message: wire.Message, ada: Ada) -> bool:
    """Whether this is the echo of the last that she typed: what others wrote meanwhile comes in the same update."""
    mine = check_state_vector(ada.crdt.get_state())[11]
    return isinstance(message, wire.Update) and (11, mine) in [
        (client, following) for client, _, following in check_update(message.update).brings
    ]


async def nothing() -> None:
    pass


def certificate(directory: Path) -> tuple[dict[str, object], ssl.SSLContext]:
    """Flags of an edge, and who trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return {"listen_tls_cert": directory / "both.pem", "listen_tls_key": directory / "both.pem"}, trust


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_reader_that_sleeps_through_megabytes_reads_one_difference_and_stays_connected(
    tmp_path: Path, tls: bool
) -> None:
    flags: dict[str, object] = {}
    trust: ssl.SSLContext | None = None
    if tls:
        flags, trust = certificate(tmp_path)
    async with harbour(tmp_path, **flags) as edge:
        scheme = "wss" if tls else "ws"
        async with (
            joined(edge.port, tls=trust) as asleep,
            connect(f"{scheme}://127.0.0.1:{edge.port}/{PLAN}", max_size=None, ssl=trust) as socket,
        ):
            mine = await pastes(edge, socket, nothing)
            assert len(edge.daemon.readers) == 1

            ben = Text(asleep)
            await ben.read_until(lambda: ben.bytes > PASTE * PASTES and len(ben.text) == PASTE * PASTES)

            assert ben.text == str(mine.text)
            assert ben.frames < PASTES  # what was queued, and a difference or two
            assert not edge.daemon.readers
            update = mine.type("on it goes")
            await socket.send(wire.encode(wire.Update(update)))
            await ben.read_until(lambda: len(ben.text) > PASTE * PASTES)
            assert ben.messages[-1] == wire.Update(update)


async def test_a_slow_client_of_the_extension_hears_in_the_end_how_safe_its_edits_are(tmp_path: Path) -> None:
    async with (
        harbour(tmp_path) as edge,
        joined(edge.port, extended=True) as asleep,
        connect(f"ws://127.0.0.1:{edge.port}/{PLAN}", max_size=None) as ada,
    ):
        await asleep.send(extension.on_channel(1, extension.encode(extension.Open(PLAN))))
        own = Document()
        dots = [Dot(Origin(77), seq) for seq in range(1, PASTES + 1)]
        unsent = iter(dots)

        async def edit() -> None:
            edit = extension.Edit(next(unsent), "ben", "", "", own.edit_text("other", 0, 0, "x"))
            await asleep.send(extension.on_channel(1, extension.encode(edit)))

        await pastes(edge, ada, edit)
        ben = Text(asleep, 1)

        def safe() -> list[Dot]:
            return [dot for message in ben.messages if isinstance(message, extension.Safe) for dot in message.dots]

        await ben.read_until(lambda: len(safe()) == len(dots))
        assert safe() == dots
        await ben.read_until(lambda: ben.bytes > PASTE * PASTES and len(ben.text) == PASTE * PASTES)


async def test_many_large_documents_on_one_connection_are_answered_one_after_the_other(tmp_path: Path) -> None:
    """All at once they would have been more than one reader may let pile up."""
    docs = [f"notes/{number}" for number in range(CHANNELS)]
    size = 2_000_000
    async with harbour(tmp_path) as edge, joined(edge.port, extended=True) as session:
        for doc in docs:
            async with connect(f"ws://127.0.0.1:{edge.port}/{doc}", max_size=None) as ada:
                update = Document().edit_text("text", 0, 0, "a" * size)
                await ada.send(wire.encode(wire.Update(update)))
                while wire.decode_frame(await ada.recv(decode=False)) != wire.Update(update):
                    pass
        for number, doc in enumerate(docs, 1):
            await session.send(extension.on_channel(number, extension.encode(extension.Open(parse_document_id(doc)))))
            await session.send(extension.on_channel(number, wire.encode(wire.SyncStep1(b"\x00"))))
        async with asyncio.timeout(DEADLINE_S):
            while len(edge.daemon.readers) < len(docs):  # noqa: ASYNC110 - until it has heard all, and holds back
                await asyncio.sleep(0.01)
        answered: set[int] = set()
        async with asyncio.timeout(DEADLINE_S):
            while len(answered) < len(docs):
                assert edge.gateway.unsent_bytes <= READER_SLOW_BYTES + 2 * size
                channel, inner = extension.decode_channel(await session.recv(decode=False))
                message = extension.decode(inner) if channel else None
                if isinstance(message, wire.SyncStep2):
                    answered.add(channel)
                    document = Document()
                    document.apply(message.update)
                    assert len(document.text("text")) == size
    assert not edge.daemon.readers


async def test_a_few_that_never_read_take_their_bound_and_nothing_from_busy_and_idle_ones(tmp_path: Path) -> None:
    """`skerry bench --cases 10`, in small, and by bytes: 60 idle, 10 busy, 5 that never read."""
    async with harbour(tmp_path) as edge, AsyncExitStack() as open_sockets:

        async def opened(doc: str) -> ClientConnection:
            return await open_sockets.enter_async_context(
                connect(f"ws://127.0.0.1:{edge.port}/{doc}", compression=None, max_size=None, max_queue=None)
            )

        for number in range(60):
            await opened(f"idle/{number // 10}")
        busy = [await opened("notes/busy") for _ in range(10)]
        paster = await opened(PLAN)
        for _ in range(5):
            asleep = await open_sockets.enter_async_context(joined(edge.port))
            open_sockets.callback(asleep.transport.abort)  # it would wait for a farewell that it does not read
        authors = [Ada(20 + number) for number in range(10)]
        turns = iter(range(PASTES))

        async def everybody_types() -> None:
            if next(turns) % 10:
                return
            for author, socket in zip(authors, busy, strict=True):
                await socket.send(wire.encode(wire.Update(author.type("x"))))

        await pastes(edge, paster, everybody_types)

        assert len(edge.daemon.readers) == 5
        assert sum(edge.gateway.unsent) <= 5 * (READER_SLOW_BYTES + 2 * PASTE)
        for socket in busy:
            reader = Text(socket)
            await reader.read_until(lambda reader=reader: len(reader.text) == PASTES // 10 * len(busy))  # type: ignore[misc]
