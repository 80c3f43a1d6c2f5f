"""The websocket endpoint: one connection per client and document, at `ws://host:port/<document id>`.

Room: `server.websocket` on one side, the edge daemon on the other. Bytes pass through unread; plain GETs on the same
port go to `server.http`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from sync import extension, wire
from sync.closing import CLOSE_BAD_FRAME, CLOSE_LIMIT
from sync.errors import InvalidDocumentId, InvalidInput, LimitReached, SkerryError
from sync.ids import ConnId, DocId, parse_document_id
from sync.limits import (
    ADMIT_MS_MAX,
    CHANNELS_MAX,
    CLIENT_BYTES_BURST,
    CLIENT_MESSAGES_BURST,
    FLOOD_RETRY_S,
    FRAME_BYTES_MAX,
    UNADMITTED_FRAME_BYTES_MAX,
)
from sync.wire import SUBPROTOCOL

from . import http
from .admission import CLOSE_FORBIDDEN, CLOSE_NO_TOKEN, NO_TOKEN, Admission, forwarded, target_of, token_of
from .allowance import Rates
from .auth import OPERATOR_CLAIM, Grant, TokenRefused
from .config import Address, is_loopback
from .edge import EdgeDaemon
from .websocket import Socket, Take, packed

__all__ = ["OPERATOR", "Gateway"]

log = logging.getLogger("skerry.gateway")

EXTENSION = Subprotocol(SUBPROTOCOL)
OPERATOR = Subprotocol("skerry.operator.v1")
"""What an operator on the same machine may ask of this edge, as JSON texts (docs/protocol.md)."""
CLOSE_BAD_PATH = 4404
NOT_GRANTED: Final = "this token does not grant this document; ask for one that does"
_REJECTED = extension.encode(extension.Rejected((), ""))[:1]
_REJECTIONS_SINCE: Final = 2  # version of the extension
_CLOSE_CHANNEL = extension.encode(extension.CloseChannel(1000, ""))[:1]
TICK_S: Final = 5.0  # between two looks for silent connections
ACCEPT_BACKLOG: Final = 1024  # connections that the kernel holds until they are accepted: an office after a power cut


class Client:
    """One connection towards the daemon (`server.connections.Connection`)."""

    def __init__(self, socket: Socket, pack: Callable[[bytes], bytes]) -> None:
        self._socket = socket
        self._pack = pack
        self.extension = 1
        """Version of the extension that the client reads."""

    def send(self, frame: bytes) -> None:
        """Written to the transport at once."""
        waiting = self._socket.send(self._pack(frame))
        if waiting:
            log.warning("client_too_slow buffered=%d", waiting)

    def close(self, code: int, reason: str) -> None:
        self._socket.close(code, reason)

    def pause(self) -> None:
        self._socket.pause()

    def resume(self) -> None:
        self._socket.resume()


class Channel:
    """One document on a connection of the extension (`server.connections.Connection`)."""

    def __init__(self, client: Client, number: int, open_channels: dict[int, ConnId]) -> None:
        self._client = client
        self._number = number
        self._open = open_channels

    def send(self, frame: bytes) -> None:
        if frame[:1] == _REJECTED and self._client.extension < _REJECTIONS_SINCE:
            return  # it would end the connection over it; the edit stays unconfirmed there
        self._client.send(extension.on_channel(self._number, frame))

    def close(self, code: int, reason: str) -> None:
        """This document alone; the connection and its other documents stay."""
        self.send(extension.encode(extension.CloseChannel(code, reason)))
        self._open.pop(self._number, None)

    def pause(self) -> None:
        """The whole connection: the other documents wait with this one."""
        self._client.pause()

    def resume(self) -> None:
        self._client.resume()


class Gateway:
    """Listens, and is the `Listener` of its sockets."""

    def __init__(self, daemon: EdgeDaemon, address: Address, admission: Admission | None = None) -> None:
        self._daemon = daemon
        self._admission = admission or Admission(daemon.config)
        config = daemon.config
        self._rates = Rates(
            config.client_messages_per_s,
            min(CLIENT_MESSAGES_BURST, 10 * config.client_messages_per_s),
            config.client_bytes_per_s,
            min(CLIENT_BYTES_BURST, 10 * config.client_bytes_per_s),
        )
        self._address = address
        self._server: asyncio.Server | None = None
        self._sockets: set[Socket] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._leave: dict[Socket, Callable[[], None]] = {}
        self._conns: dict[Socket, Collection[ConnId]] = {}
        """What is open on each: one document, or many (the view of a dictionary)."""
        self._packed = (b"", b"")

    async def start(self) -> Address:
        """Returns where it listens. Raises SkerryError where the port cannot be had."""
        host, port = self._address
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._socket, host, port, backlog=ACCEPT_BACKLOG, ssl=self._admission.tls
            )
        except OSError as error:
            what = (
                "is in use by another program"
                if error.errno == errno.EADDRINUSE
                else f"cannot be had ({error.strerror})"
            )
            raise SkerryError(f"{host}:{port}: the address {what}; choose another with --listen") from None
        self._ticking = loop.create_task(self._tick())
        self._daemon.tasks.spawn(self._admission.run(), vital=True)
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return bound

    @property
    def unsent(self) -> list[int]:
        """Bytes that each connection has let pile up."""
        return [socket.transport.get_write_buffer_size() for socket in self._sockets]

    @property
    def unsent_bytes(self) -> int:
        """Of the slowest reader."""
        return max(self.unsent, default=0)

    async def stop(self) -> None:
        """Stop accepting, tell the clients that the edge goes away, and wait for them a little."""
        if self._server is None:
            return
        self._server.close()
        if self._ticking is not None:
            self._ticking.cancel()
        for socket in list(self._sockets):
            if socket.open:
                socket.close(CloseCode.GOING_AWAY, "the edge is shutting down; connect again")
            else:
                socket.transport.abort()
        await asyncio.gather(*(socket.gone.wait() for socket in list(self._sockets)))  # each has its own time limit

    def _socket(self) -> Socket:
        strange = self._admission.required  # so much is read of somebody of whom nothing is known
        return Socket(self, self._sockets, UNADMITTED_FRAME_BYTES_MAX if strange else FRAME_BYTES_MAX, self._rates)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for socket in list(self._sockets):
                socket.tick()

    def _pack(self, message: bytes) -> bytes:
        """Packed once for all the clients that it goes to, one after the other."""
        if self._packed[0] is not message:
            self._packed = (message, packed(message))
        return self._packed[1]

    # --- a connection's life (Listener) ------------------------------------------------------------------------------
    def choose(self, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        """Stock clients offer none; one that offers something else is served without."""
        return next((known for known in (EXTENSION, OPERATOR) if known in offered), None)

    async def plain(self, socket: Socket, request: Request) -> Response:
        return await http.answer(self._daemon, request, self._admission)

    def refusal(self, socket: Socket, request: Request) -> Response | None:
        """A page of a foreign origin is not let in. Who has no token is, and is told by a code: a browser shows a page
        the code of a closing, and nothing of an HTTP status."""
        foreign = self._admission.refusal(request.headers)
        if foreign is not None:
            return http.refused(foreign.status, foreign.reason)
        if len(self._sockets) > self._daemon.config.connections_max:
            count = self._daemon.config.connections_max
            full = http.refused(HTTPStatus.SERVICE_UNAVAILABLE, f"connections: {count} are open; use another edge")
            full.headers["Retry-After"] = str(FLOOD_RETRY_S)
            return full
        return None

    def opened(self, socket: Socket) -> Take:
        assert socket.request is not None
        token = token_of(socket.request.path, socket.request.headers)
        if self._admission.required and token is None:
            return _Door(self, socket)
        return self.admitted(socket, token)

    def admitted(self, socket: Socket, token: str | None) -> Take:
        """From here on it is known who this is. What is returned takes its messages."""
        try:
            grant = self._admission.grant(token)
        except TokenRefused as error:
            return self.turned_away(socket, CLOSE_NO_TOKEN, str(error))
        socket.trust()
        admitted = self._admission.admit(grant, socket.close)
        self._leave[socket] = partial(self._admission.leave, admitted)
        if socket.subprotocol == OPERATOR:
            return self._operate(socket, grant)
        if socket.subprotocol == EXTENSION:
            return self._serve_channels(socket, grant)
        return self._serve_document(socket, grant)

    def waits(self, socket: Socket, leave: Callable[[], None]) -> None:
        """Until its token has come, this is all that has to be undone."""
        self._leave[socket] = leave

    def turned_away(self, socket: Socket, code: int, reason: str) -> Take:
        """Stock clients are told in their own words too: theirs show a closing's reason to nobody."""
        log.info("client_refused code=%d", code)
        if socket.subprotocol is None:
            socket.send(packed(wire.encode(wire.PermissionDenied(reason))))
        socket.close(code, reason)
        return _ignore

    def _serve_document(self, socket: Socket, grant: Grant) -> Take:
        try:
            doc = document_of(socket.request.path if socket.request is not None else "/")
        except InvalidDocumentId as error:
            socket.close(CLOSE_BAD_PATH, str(error))
            return _ignore
        if not grant.may_read(doc):
            return self.turned_away(socket, CLOSE_FORBIDDEN, NOT_GRANTED)
        conn = self._daemon.opened(Client(socket, self._pack), doc, read_only=not grant.may_write(doc))
        self._leaves(socket, partial(self._daemon.closed, conn))
        self._conns[socket] = (conn,)
        self._look_at_pace(socket, conn)
        return partial(self._daemon.received_all, conn)

    def _leaves(self, socket: Socket, leave: Callable[[], None]) -> None:
        """What has to be undone when this connection is gone, besides what is known already."""
        before = self._leave.get(socket)

        def both() -> None:
            leave()
            if before is not None:
                before()

        self._leave[socket] = both

    def slow(self, socket: Socket) -> None:
        for conn in tuple(self._conns.get(socket, ())):
            self._daemon.slow(conn)

    def drained(self, socket: Socket) -> None:
        """Until it is slow again: the rest waits for the next time."""
        for conn in tuple(self._conns.get(socket, ())):
            if socket.slow:
                return
            self._daemon.drained(conn)

    def _look_at_pace(self, socket: Socket, conn: ConnId) -> None:
        """Opened while its socket was slow, or so by its own opening."""
        if socket.slow:
            self._daemon.slow(conn)

    def closed(self, socket: Socket) -> None:
        self._conns.pop(socket, None)
        leave = self._leave.pop(socket, None)
        if leave is not None:
            leave()

    # --- many documents on one connection ----------------------------------------------------------------------------
    def _serve_channels(self, socket: Socket, grant: Grant) -> Take:
        client = Client(socket, packed)
        config = self._daemon.config
        hello = extension.Hello(extension.EXTENSION_VERSION, config.namespace, config.name)
        client.send(extension.on_channel(0, extension.encode(hello)))
        conns: dict[int, ConnId] = {}
        self._conns[socket] = conns.values()
        self._leaves(socket, partial(self._leave_all, conns))
        return _each(socket, partial(self._on_channel, socket, client, conns, grant))

    def _leave_all(self, conns: dict[int, ConnId]) -> None:
        for conn in list(conns.values()):
            self._daemon.closed(conn)

    def _on_channel(self, socket: Socket, client: Client, conns: dict[int, ConnId], grant: Grant, frame: bytes) -> None:
        """Bad bytes of one document close that one, where it can be told which."""
        try:
            number, inner = extension.decode_channel(frame)
            if number in conns:
                if inner[:1] == _CLOSE_CHANNEL:
                    self._daemon.closed(conns.pop(number))
                else:
                    self._daemon.received(conns[number], inner)
                return
            message = extension.decode(inner)
            if isinstance(message, extension.Hello):
                client.extension = message.extension
            if isinstance(message, extension.Open):
                channel = Channel(client, number, conns)
                if len(conns) >= CHANNELS_MAX:
                    full = LimitReached("channels", len(conns) + 1, CHANNELS_MAX, "use another connection")
                    channel.close(CLOSE_LIMIT, str(full))
                elif grant.may_read(message.doc):
                    read_only = not grant.may_write(message.doc)
                    conn = self._daemon.opened(channel, message.doc, True, read_only)
                    if conn in self._daemon.connections:  # else it was closed at once
                        conns[number] = conn
                        self._look_at_pace(socket, conn)
                else:
                    channel.close(CLOSE_FORBIDDEN, NOT_GRANTED)
        except (InvalidInput, LimitReached) as error:
            client.close(CLOSE_BAD_FRAME, str(error))

    # --- operators ---------------------------------------------------------------------------------------------------
    def _operate(self, socket: Socket, grant: Grant) -> Take:
        """Operators speak JSON, from this machine only."""
        assert socket.request is not None
        if not is_loopback(socket.remote_host) or forwarded(socket.request.headers):
            socket.close(CLOSE_BAD_FRAME, "operators connect from the edge's own machine")
            return _ignore
        if not grant.operator:
            socket.close(CLOSE_FORBIDDEN, f"this token does not operate the edge ({OPERATOR_CLAIM})")
            return _ignore
        return _each(socket, lambda text: socket.send_text(json.dumps(self._operation(text))))

    def _operation(self, text: bytes) -> dict[str, object]:
        try:
            wish = json.loads(text)
            seconds = float(wish["seconds"]) if wish["op"] == "cut" else None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return {"ok": False, "error": 'not understood; send {"op": "cut", "seconds": 5}'}
        if seconds is None or not 0 <= seconds <= 86_400:
            return {"ok": False, "error": "cut for 0 to 86400 seconds"}
        log.warning("link_cut seconds=%g", seconds)
        self._daemon.bus.cut(seconds)
        return {"ok": True}


class _Door:
    """In front of a connection whose token has to come as its first message: nothing else is taken, nothing queued."""

    __slots__ = ("_gateway", "_socket", "_take", "_timer")

    def __init__(self, gateway: Gateway, socket: Socket) -> None:
        self._gateway = gateway
        self._socket = socket
        self._take: Take | None = None
        self._timer = asyncio.get_running_loop().call_later(ADMIT_MS_MAX / 1000, self._too_late)
        gateway.waits(socket, self._timer.cancel)

    def __call__(self, frames: list[bytes]) -> None:
        if self._take is not None:
            self._take(frames)
            return
        self._timer.cancel()
        token = _token_in(frames[0], self._socket.subprotocol == EXTENSION)
        if token is None:
            self._take = self._gateway.turned_away(self._socket, CLOSE_NO_TOKEN, NO_TOKEN)
        else:
            self._take = self._gateway.admitted(self._socket, token)
        if frames[1:]:
            self._take(frames[1:])

    def _too_late(self) -> None:
        self._take = self._gateway.turned_away(
            self._socket, CLOSE_NO_TOKEN, f"no token within {ADMIT_MS_MAX / 1000:g} s; send it as the first message"
        )


def _token_in(frame: bytes, extended: bool) -> str | None:
    """Of a first message; None where it is another one."""
    try:
        number, inner = extension.decode_channel(frame) if extended else (0, frame)
        message = wire.decode_frame(inner)
    except InvalidInput:
        return None
    return message.token if isinstance(message, wire.Authenticate) and number == 0 else None


def _each(socket: Socket, take: Callable[[bytes], None]) -> Take:
    def take_all(messages: list[bytes]) -> None:
        for message in messages:
            if socket.over:
                return
            take(message)

    return take_all


def _ignore(_: list[bytes]) -> None:
    """A connection that is being closed says nothing that counts."""


def document_of(path: str) -> DocId:
    """The document of a URL path: everything behind the first `/`, percent-decoded. Raises InvalidDocumentId."""
    raw = target_of(path).path.removeprefix("/")
    try:
        return parse_document_id(unquote(raw, errors="strict"))
    except UnicodeDecodeError:
        raise InvalidDocumentId("document id: not UTF-8 behind percent-decoding; encode it as UTF-8") from None
