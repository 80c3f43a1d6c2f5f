"""What a frame costs the gateway, as counts of calls (tests/sync/test_hot_path.py says how the bounds are kept)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server.bench.wires import masked
from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import Gateway
from server.websocket import Socket, Take
from sync import wire
from tests.calls import calls, calls_by_name
from tests.sync.test_hot_path import typed

FRAME_CALLS = 4
FRAMES = 100
READERS = 20
DEADLINE_S = 10.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def connected(address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that is through the handshake; what it reads from here on are frames."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(
        f"GET /notes/plan HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    async with asyncio.timeout(DEADLINE_S):
        await reader.readuntil(b"\r\n\r\n")
    return reader, writer


class Shelf:
    """A listener that keeps what comes."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.sockets: list[Socket] = []

    def choose(self, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return None

    def plain(self, socket: Socket, request: Request) -> Awaitable[Response]:
        raise AssertionError("a keystroke is no request")

    def refusal(self, socket: Socket, request: Request) -> Response | None:
        return None

    def opened(self, socket: Socket) -> Take:
        self.sockets.append(socket)
        return self.got.extend

    def closed(self, socket: Socket) -> None: ...

    def slow(self, socket: Socket) -> None: ...

    def drained(self, socket: Socket) -> None: ...


async def test_reading_a_keystroke_from_the_socket_is_a_few_calls() -> None:
    shelf, sockets = Shelf(), set[Socket]()
    listening = await asyncio.get_running_loop().create_server(lambda: Socket(shelf, sockets), "127.0.0.1", 0)
    _, writer = await connected(listening.sockets[0].getsockname())
    (socket,) = shelf.sockets
    data = b"".join(masked(frame) for frame in typed(FRAMES))

    def read() -> None:
        view = socket.get_buffer(-1)
        view[: len(data)] = data
        socket.buffer_updated(len(data))

    count = calls(read) / FRAMES

    assert shelf.got == typed(FRAMES)
    assert count <= FRAME_CALLS
    writer.close()
    listening.close()


async def test_what_goes_to_many_sockets_is_packed_once(tmp_path: Path) -> None:
    flags: dict[str, object] = {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",)}
    daemon = EdgeDaemon(load_config(flags, None))
    gateway = Gateway(daemon, ("127.0.0.1", 0))
    address = await gateway.start()
    await daemon.start()
    try:
        clients = [await connected(address) for _ in range(READERS + 1)]
        hello = masked(wire.encode(wire.SyncStep1(b"\x00")))
        for reader, writer in clients:
            writer.write(hello)
            await until(reader, wire.encode(wire.SyncStep2(b"\x00\x00")))
        (keystroke,) = typed(1)

        with calls_by_name() as found:
            clients[0][1].write(masked(keystroke))
            await asyncio.gather(*(until(reader, keystroke) for reader, _ in clients))

        assert found["Frame.serialize"] <= 4  # to all readers; the echo; what a timer may send
        for _, writer in clients:
            writer.close()
    finally:
        await gateway.stop()
        await daemon.stop(1.0)


async def until(reader: asyncio.StreamReader, message: bytes) -> None:
    """Reads until this message has come."""
    came = b""
    async with asyncio.timeout(DEADLINE_S):
        while message not in came:
            came += await reader.read(65_536)
