"""Raw bytes of a TCP connection: the request that opens it, and the frames behind it.

The frames are judged twice: what the quick reading of `server.websocket` hands on is what the library alone would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server import websocket
from server.admission import token_of
from server.gateway import document_of
from server.http import refused
from server.origin import origin_allowed
from server.websocket import READ_BYTES, Socket, Take
from sync.errors import InvalidDocumentId
from tests.fuzz.judging import Decoder

__all__ = ["SOCKETS"]

_REQUEST = (
    b"GET /notes%2Fplan?token=x HTTP/1.1\r\nHost: 127.0.0.1:8787\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


class _Transport:
    """Takes everything, and says whether it was given up."""

    def __init__(self) -> None:
        self.bytes_written = 0
        self.ended = False

    def write(self, data: bytes) -> None:
        self.bytes_written += len(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    abort = close

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def get_write_buffer_size(self) -> int:
        return 0


class _Listener:
    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def choose(self, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return offered[0] if offered else None

    def plain(self, socket: Socket, request: Request) -> Awaitable[Response]:
        token_of(request.path, request.headers)
        return asyncio.sleep(0, refused(HTTPStatus.NOT_FOUND, request.headers.get("If-None-Match", "")))

    def refusal(self, socket: Socket, request: Request) -> Response | None:
        get = request.headers.get
        allowed = origin_allowed(get("Origin"), get("Host"), (), loopback=True, tokens=False)
        return None if allowed else refused(HTTPStatus.FORBIDDEN, "foreign")

    def opened(self, socket: Socket) -> Take:
        assert socket.request is not None
        token_of(socket.request.path, socket.request.headers)
        try:
            document_of(socket.request.path)
        except InvalidDocumentId:
            socket.close(4404, "no document")
        return self.messages.extend

    def closed(self, socket: Socket) -> None: ...

    def slow(self, socket: Socket) -> None: ...

    def drained(self, socket: Socket) -> None: ...


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


async def _run(pieces: Sequence[bytes]) -> tuple[list[bytes], bool]:
    listener, transport = _Listener(), _Transport()
    socket = Socket(listener, set(), 100_000)
    # `connection_made` asserts a real one; nothing else of it is asked for.
    socket.transport = cast(asyncio.Transport, transport)
    for piece in pieces:
        for at in range(0, len(piece), READ_BYTES):
            part = piece[at : at + READ_BYTES]
            websocket._buffer[: len(part)] = part
            socket.buffer_updated(len(part))
    socket.eof_received()
    answer = socket._answer
    if answer is not None:
        await answer
    socket.connection_lost(None)
    return listener.messages, transport.ended


def _opening(data: bytes) -> object:
    return _loop().run_until_complete(_run([data]))


def _frames(data: bytes) -> object:
    """In one read, and byte by byte, which leaves the library alone with it."""
    quick, _ = _loop().run_until_complete(_run([_REQUEST + b"\r\n", data]))
    if len(data) < 4_000:
        pieces = [data[at : at + 1] for at in range(len(data))]
        slow, _ = _loop().run_until_complete(_run([_REQUEST + b"\r\n", *pieces]))
        assert slow == quick, "two readings of the same frames"
    return quick


def _frame(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def _seeds() -> list[bytes]:
    short = _frame(Opcode.BINARY, b"\0\2\2\0\0")
    return [
        short * 3,
        short + _frame(Opcode.PING, b"x") + short,
        _frame(Opcode.BINARY, b"\0\2", fin=False) + _frame(Opcode.CONT, b"\2\0\0") + short,
        short + _frame(Opcode.CLOSE, b"\x03\xe8bye") + short,
        _frame(Opcode.BINARY, bytes(130)) + short + _frame(Opcode.TEXT, b"text"),
        _frame(Opcode.BINARY, bytes(70_000)),
    ]


def _requests() -> list[bytes]:
    return [
        _REQUEST + b"\r\n",
        _REQUEST + b"Sec-WebSocket-Protocol: skerry.v1, x\r\nOrigin: http://localhost\r\n\r\n",
        b"GET /status?token=a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a.b.c\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    ]


SOCKETS: tuple[Decoder, ...] = (
    Decoder("websocket", _seeds, _frames, (), weight=2),
    Decoder("handshake", _requests, _opening, (), words=(b"Upgrade: websocket\r\n", b"Connection: ", b"\r\n\r\n")),
)
