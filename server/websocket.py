"""One websocket connection: the sans-I/O core of `websockets` under one `asyncio` protocol, without a task of its own.

Room: bytes of one TCP connection in, whole binary messages out, and back. It knows neither documents nor the daemon.
The handshake, control frames, fragments and every error are the library's; the one frame that comes ten thousand times
a second, a short masked binary frame that arrived whole, is read here (docs/decisions.md, row 27).

1. Once the peer was refused or is too slow, nothing more of it is handed on; nor what comes behind its farewell.
2. `closed` is called once, after `opened`; never without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol
from websockets.typing import BytesLike, Subprotocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover: a platform without a compiler
    from websockets.utils import apply_mask

from sync.closing import CLOSE_LIMIT
from sync.limits import FLOOD_RETRY_S, FRAME_BYTES_MAX, READER_BYTES_MAX, READER_DRAINED_BYTES, READER_SLOW_BYTES

from .allowance import Allowance, Rates
from .moderation import counter_of

__all__ = ["Listener", "Socket", "Take", "packed"]

READ_BYTES: Final = 65_536
"""At most so much is read in one turn of the loop: a flood of small frames holds it for some milliseconds only."""
RATES: Final = Rates()
HANDSHAKE_S: Final = 10.0
CLOSE_S: Final = 2.0  # for the peer's farewell
PING_S: Final = 20.0  # silence after which it is asked
SILENCE_S: Final = 60.0  # silence after which it is gone

_WHOLE_BINARY: Final = 0x82  # the first byte of a binary frame that is a message of its own
_MASKED: Final = 0x80
_SHORT_MAX: Final = 125
_ONCE: Final = ("Authorization", "Host", "If-None-Match", "Origin", "Upgrade")  # read by us; twice, they mean nothing
_buffer = bytearray(READ_BYTES)
"""Where the kernel writes: one for all connections, since a read is taken in before the next one begins."""
_view = memoryview(_buffer)


Take = Callable[[list[bytes]], None]
"""Takes messages, at least one, in order. Where one of them ends the connection, it leaves those behind it alone."""


class Listener(Protocol):
    """Whoever serves the connection. Nothing it does may block."""

    def choose(self, offered: Sequence[Subprotocol]) -> Subprotocol | None: ...

    def plain(self, socket: Socket, request: Request) -> Awaitable[Response]:
        """An HTTP request that wants no websocket."""
        ...

    def refusal(self, socket: Socket, request: Request) -> Response | None:
        """Why this request for a websocket is answered with something else; None where it is welcome."""
        ...

    def opened(self, socket: Socket) -> Take:
        """The handshake is over. What is returned is called with every message, and with those of one read at once."""
        ...

    def closed(self, socket: Socket) -> None: ...

    def slow(self, socket: Socket) -> None:
        """So much lies unsent (READER_SLOW_BYTES) that no more should be queued. Called from within `send`."""
        ...

    def drained(self, socket: Socket) -> None:
        """Little does (READER_DRAINED_BYTES)."""
        ...


def packed(message: bytes) -> bytes:
    """The bytes of one binary frame of a server: the same for every client."""
    return Frame(Opcode.BINARY, message).serialize(mask=False)


class Socket(asyncio.BufferedProtocol):
    def __init__(
        self, listener: Listener, sockets: set[Socket], frame_bytes_max: int = FRAME_BYTES_MAX, rates: Rates = RATES
    ) -> None:
        self._listener = listener
        self._sockets = sockets
        self.gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._core = ServerProtocol(
            select_subprotocol=lambda _, offered: listener.choose(offered), max_size=frame_bytes_max
        )
        self._take: Take | None = None
        self._parts: list[BytesLike] = []
        self._heard_s = self._loop.time()
        self._allowance = Allowance(rates, self._heard_s)
        self._resting = False
        self._pauses = 0
        """Of its documents, which read nothing now."""
        self._count = counter_of(self._loop)
        self._messages = 0
        """Taken in this turn."""
        self._whole = 0
        """Bytes of a document's whole state that was sent in one frame: it may wait whole, and the rest behind it."""
        self._over = False
        """Said goodbye to, or given up."""
        self.slow = False
        """The reader lets bytes pile up: between the two calls of its listener."""
        self._pinged = False
        self._timer: asyncio.TimerHandle | None = None
        self._answer: asyncio.Task[None] | None = None
        self.request: Request | None = None
        self.transport: asyncio.Transport

    @property
    def subprotocol(self) -> Subprotocol | None:
        return self._core.subprotocol

    @property
    def over(self) -> bool:
        """It was said goodbye to, or is gone: nothing more of it counts."""
        return self._over or self._take is None

    @property
    def open(self) -> bool:
        return self._core.state is State.OPEN

    @property
    def remote_host(self) -> str:
        peer = self.transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    # --- the transport's side ----------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(READER_SLOW_BYTES, READER_DRAINED_BYTES)
        self._sockets.add(self)
        self._end_within(HANDSHAKE_S)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _view

    def buffer_updated(self, count: int) -> None:
        self._heard_s = self._loop.time()
        at = self._take_short(count) if self._take is not None and not self._core.reader.buffer else 0
        if at < count and not self._core.reader.eof:
            self._core.receive_data(bytes(_view[at:count]))
            self._hear()
        self._count(self._messages)
        rest_s = self._allowance.spend(self._messages, count, self._heard_s)
        self._messages = 0
        if rest_s:
            self._rest(rest_s)

    def _rest(self, seconds: float) -> None:
        """Read nothing for so long: whoever sends too much is slowed down by its own network, and in the end closed."""
        if self._allowance.floods(self._heard_s):
            self.close(CLOSE_LIMIT, f"too much for too long; retry after {FLOOD_RETRY_S} s")
        elif not self.transport.is_closing():
            self._resting = True
            self.transport.pause_reading()
            self._loop.call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        self._resting = False
        self._read_if_wanted()

    def pause(self) -> None:
        """Read nothing more until each pause was undone by a `resume`."""
        self._pauses += 1
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        self._pauses -= 1
        self._heard_s = self._loop.time()  # its silence was ours
        self._read_if_wanted()

    def _read_if_wanted(self) -> None:
        if not (self._pauses or self._resting or self.transport.is_closing()):
            self.transport.resume_reading()

    def _take_short(self, count: int) -> int:
        """Short whole binary frames at the beginning of what was read; returns where the others begin."""
        take, core = self._take, self._core
        assert take is not None
        at = 0
        messages: list[bytes] = []
        if self._over or core.state is not State.OPEN or core.current_size is not None:
            return at
        while at + 6 <= count and _buffer[at] == _WHOLE_BINARY:
            length = _buffer[at + 1] - _MASKED
            end = at + 6 + length
            if not 0 <= length <= _SHORT_MAX or end > count:
                break
            messages.append(apply_mask(_buffer[at + 6 : end], _buffer[at + 2 : at + 6]))
            at = end
        if messages:
            self._messages += len(messages)
            take(messages)
        return at

    def eof_received(self) -> None:
        self._core.receive_eof()
        self._hear()

    def pause_writing(self) -> None:
        self.slow = True
        if self._take is not None:
            self._listener.slow(self)

    def resume_writing(self) -> None:
        self.slow = False
        if self._take is not None and not self._over:
            self._listener.drained(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sockets.discard(self)
        self.gone.set()
        self._stop_timer()
        if self._answer is not None:
            self._answer.cancel()
        if self._take is not None:
            self._take = None
            self._listener.closed(self)

    # --- the library's side ------------------------------------------------------------------------------------------
    def _hear(self) -> None:
        for event in self._core.events_received():
            if isinstance(event, Request):
                self._handshake(event)
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                self._message(event)
        self._write()

    def _message(self, frame: Frame) -> None:
        self._messages += 1
        if not frame.fin or self._parts:
            self._parts.append(frame.data)
            if not frame.fin:
                return
            message, self._parts = b"".join(self._parts), []
        else:
            message = bytes(frame.data)
        if self._take is not None and not self._over:  # Invariant 1. What came before the peer's own farewell counts
            self._take([message])

    def _handshake(self, request: Request) -> None:
        self.request = request
        if self._core.eof_sent:  # what came behind it is no frame, and the library has said so
            return
        if any(len(request.headers.get_all(name)) > 1 for name in _ONCE):
            self._core.send_response(self._core.reject(HTTPStatus.BAD_REQUEST, "a header that says two things\n"))
            return
        if request.headers.get("Upgrade", "").lower() != "websocket":
            self._answer = self._loop.create_task(self._answer_plain(request))
            return
        response = self._listener.refusal(self, request) or self._core.accept(request)
        self._core.send_response(response)
        self._write()
        if self.open:
            self._stop_timer()
            self._take = self._listener.opened(self)

    async def _answer_plain(self, request: Request) -> None:
        self._stop_timer()  # a reader may wait for a token; its own deadline holds
        response = await self._listener.plain(self, request)
        if not self._core.eof_sent:
            self._core.send_response(response)
            self._write()

    def _write(self) -> None:
        for data in self._core.data_to_send():
            if data != SEND_EOF:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                self.transport.write_eof()  # and read on: closing over unread bytes would take the farewell back
                self._end_within(CLOSE_S)
            else:
                self.transport.close()

    def _end_within(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- the listener's side -----------------------------------------------------------------------------------------
    def send(self, frame: bytes) -> int:
        """Write a frame that `packed` made. Else returns how many bytes the reader has let pile up: it is cut off."""
        if self._core.state is State.OPEN:
            waiting = self.transport.get_write_buffer_size()
            if waiting > READER_BYTES_MAX + self._whole:  # law 8
                self._over = True
                self.transport.abort()  # a close frame would wait behind what is not read
                return waiting
            self.transport.write(frame)
            if len(frame) > FRAME_BYTES_MAX:
                self._whole = len(frame)
        return 0

    def trust(self) -> None:
        """Messages may be as large as they may be: it is known who sends them."""
        self._core.max_message_size = FRAME_BYTES_MAX

    def send_text(self, text: str) -> None:
        if self.open:
            self._core.send_text(text.encode("utf-8"))
            self._write()

    def close(self, code: int, reason: str) -> None:
        """Say goodbye, and wait a little for the peer's. The reason is cut to what a close frame holds."""
        self._over = True
        if not self.open:
            return
        self._core.send_close(code, reason.encode("utf-8")[:120].decode("utf-8", "ignore"))
        self._write()
        self._end_within(CLOSE_S)

    def tick(self) -> None:
        """Ask a silent peer; give up one that stays silent."""
        silent_s = self._loop.time() - self._heard_s
        if not self.open or self._pauses or silent_s < PING_S:
            self._pinged = False
        elif silent_s >= SILENCE_S:
            self.transport.abort()
        elif not self._pinged:
            self._pinged = True
            self._core.send_ping(b"")
            self._write()
