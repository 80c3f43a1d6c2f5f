"""The websocket endpoint: one connection per client and document, at `ws://host:port/<document id>`.

Room: the library `websockets` on one side, the edge daemon on the other. Bytes pass through unread; plain GETs on the
same port go to `server.http`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from sync import extension
from sync.errors import InvalidDocumentId, InvalidInput, LimitReached, SkerryError
from sync.ids import ConnId, DocId, parse_document_id
from sync.limits import CHANNELS_MAX, FRAME_BYTES_MAX, READER_BYTES_MAX
from sync.serving import CLOSE_BAD_FRAME
from sync.wire import SUBPROTOCOL

from . import http
from .config import Address, is_loopback
from .edge import EdgeDaemon

__all__ = ["OPERATOR", "Gateway"]

log = logging.getLogger("skerry.gateway")

EXTENSION = Subprotocol(SUBPROTOCOL)
OPERATOR = Subprotocol("skerry.operator.v1")
"""What an operator on the same machine may ask of this edge, as JSON texts (docs/protocol.md)."""
CLOSE_BAD_PATH = 4404
_CLOSE_CHANNEL = extension.encode(extension.CloseChannel(1000, ""))[:1]
CLOSE_TOO_SLOW = 4408


class Client:
    """One connection towards the daemon (`server.edge.Connection`)."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self._closing: asyncio.Task[None] | None = None

    def send(self, frame: bytes) -> None:
        """Written to the transport at once. A reader that lets READER_BYTES_MAX pile up is closed: law 8."""
        if self._closing is not None or self._socket.state is not State.OPEN:
            return
        if self._socket.transport.get_write_buffer_size() > READER_BYTES_MAX:
            log.warning("client_too_slow buffered=%d", self._socket.transport.get_write_buffer_size())
            self._socket.transport.abort()  # a close frame would wait behind what is not read
            return
        self._socket.protocol.send_binary(frame)
        self._socket.send_data()

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            short = reason.encode("utf-8")[:120].decode("utf-8", "ignore")
            self._closing = asyncio.get_running_loop().create_task(self._close(code, short))

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            await self._socket.close(code, reason)


class Channel:
    """One document on a connection of the extension (`server.edge.Connection`)."""

    def __init__(self, client: Client, number: int, open_channels: dict[int, ConnId]) -> None:
        self._client = client
        self._number = number
        self._open = open_channels

    def send(self, frame: bytes) -> None:
        self._client.send(extension.on_channel(self._number, frame))

    def close(self, code: int, reason: str) -> None:
        """This document alone; the connection and its other documents stay."""
        self.send(extension.encode(extension.CloseChannel(code, reason)))
        self._open.pop(self._number, None)


class Gateway:
    def __init__(self, daemon: EdgeDaemon, address: Address) -> None:
        self._daemon = daemon
        self._address = address
        self._server: Server | None = None

    async def start(self) -> Address:
        """Returns where it listens. Raises SkerryError where the port cannot be had."""
        host, port = self._address
        try:
            self._server = await serve(
                self._serve,
                host,
                port,
                process_request=self._request,
                select_subprotocol=_choose,
                compression=None,  # 50 kB instead of 15 kB a connection, and updates are small (FACTS.md 3.1)
                max_size=FRAME_BYTES_MAX,
                ping_interval=20,
                ping_timeout=40,
                close_timeout=2,
                server_header=None,
            )
        except OSError as error:
            what = (
                "is in use by another program"
                if error.errno == errno.EADDRINUSE
                else f"cannot be had ({error.strerror})"
            )
            raise SkerryError(f"{host}:{port}: the address {what}; choose another with --listen") from None
        bound: tuple[str, int] = next(iter(self._server.sockets)).getsockname()[:2]
        return bound

    async def stop(self) -> None:
        """Stop accepting, tell the clients that the edge goes away."""
        if self._server is not None:
            self._server.close(code=CloseCode.GOING_AWAY, reason="the edge is shutting down; connect again")
            await self._server.wait_closed()

    async def _request(self, socket: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        return await http.answer(self._daemon, socket, request)

    async def _serve(self, socket: ServerConnection) -> None:
        if socket.subprotocol == OPERATOR:
            await self._operate(socket)
            return
        client = Client(socket)
        if socket.subprotocol == EXTENSION:
            await self._serve_channels(socket, client)
            return
        try:
            doc = document_of(socket.request.path if socket.request is not None else "/")
        except InvalidDocumentId as error:
            await socket.close(CLOSE_BAD_PATH, str(error)[:120])
            return
        conn = self._daemon.opened(client, doc)
        try:
            await self._receive(socket, client, conn)
        finally:
            self._daemon.closed(conn)

    async def _receive(self, socket: ServerConnection, client: Client, conn: ConnId) -> None:
        try:
            while True:
                frame = await socket.recv(decode=False)
                assert isinstance(frame, bytes)
                self._daemon.received(conn, frame)
        except ConnectionClosed:
            return

    async def _serve_channels(self, socket: ServerConnection, client: Client) -> None:
        """Many documents on one connection. Bad bytes of one close that one, where it can be told which."""
        conns: dict[int, ConnId] = {}
        config = self._daemon.config
        client.send(extension.on_channel(0, extension.encode(extension.Hello(1, config.namespace, config.name))))
        try:
            while True:
                frame = await socket.recv(decode=False)
                assert isinstance(frame, bytes)
                number, inner = extension.decode_channel(frame)
                if number in conns:
                    if inner[:1] == _CLOSE_CHANNEL:
                        self._daemon.closed(conns.pop(number))
                    else:
                        self._daemon.received(conns[number], inner)
                    continue
                message = extension.decode(inner)
                if isinstance(message, extension.Open):
                    if len(conns) >= CHANNELS_MAX:
                        raise LimitReached("channels", len(conns) + 1, CHANNELS_MAX, "use another connection")
                    channel = Channel(client, number, conns)
                    conns[number] = self._daemon.opened(channel, message.doc, extended=True)
        except ConnectionClosed:
            pass
        except (InvalidInput, LimitReached) as error:
            client.close(CLOSE_BAD_FRAME, str(error))
        finally:
            for conn in list(conns.values()):
                self._daemon.closed(conn)

    async def _operate(self, socket: ServerConnection) -> None:
        """Operators speak JSON, from this machine only."""
        peer = socket.remote_address
        if not peer or not is_loopback(str(peer[0])):
            await socket.close(CLOSE_BAD_FRAME, "operators connect from the edge's own machine")
            return
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                await socket.send(json.dumps(self._operation(text)))

    def _operation(self, text: str | bytes) -> dict[str, object]:
        try:
            wish = json.loads(text)
            seconds = float(wish["seconds"]) if wish["op"] == "cut" else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"ok": False, "error": 'not understood; send {"op": "cut", "seconds": 5}'}
        if seconds is None or not 0 <= seconds <= 86_400:
            return {"ok": False, "error": "cut for 0 to 86400 seconds"}
        log.warning("link_cut seconds=%g", seconds)
        self._daemon.bus.cut(seconds)
        return {"ok": True}


def _choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Stock clients offer none; one that offers something else is served without."""
    return next((known for known in (EXTENSION, OPERATOR) if known in offered), None)


def document_of(path: str) -> DocId:
    """The document of a URL path: everything behind the first `/`, percent-decoded. Raises InvalidDocumentId."""
    raw = urlsplit(path).path.removeprefix("/")
    try:
        return parse_document_id(unquote(raw, errors="strict"))
    except UnicodeDecodeError:
        raise InvalidDocumentId("document id: not UTF-8 behind percent-decoding; encode it as UTF-8") from None
