"""One connection to NATS, from its opening to its end; `server.bus` makes a new one when it has ended.

Room: a nats-py client and all that is wrong with it as part of a daemon (facts 2.5). No streams, no documents.
nats-py connects, proves who we are, reads and parses; a message goes from its parser to our handler, and what we send
is spelt by its own commands and written here, without the queues and tasks that it has for each subscription and for
sending (docs/decisions.md, row 60).

1. A link never reconnects: it ends once, with a reason, and is thrown away with its transport aborted. So nothing of an
   old connection (half-written bytes, outstanding pings, lost subscriptions) can be carried into a new one.
2. It is alive while its own messages come back to it from the server, and not because the client says so.
3. Sending never waits: what is sent is queued, in order, bounded, and written once per turn of the loop. What does not
   fit is refused.
4. No handler can raise into nats-py, and many messages in a row leave the loop room for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import command

from sync.errors import BusError, BusRefused, BusUnreachable

from .moderation import counter_of

__all__ = ["Handler", "LinkOptions", "NatsLink", "parse_header_lines"]

log = logging.getLogger("skerry.bus")

CONNECT_S_MAX = 5.0
BEAT_S = 2.0
BEATS_MISSED_MAX = 3  # 6 s of silence; counted in beats, so that an event loop that slept does not accuse the server
SEND_BYTES_MAX = 64 * 1024 * 1024  # queued for one connection; beyond it, a server that does not read costs no memory
WRITTEN_BYTES_MAX = 256 * 1024  # handed to the transport and not sent yet: what is urgent overtakes only the rest
MESSAGE_OVERHEAD_BYTES = 256  # of a queued message beside its payload
HEADER_NAME_BYTES_MAX = 64  # names that long are none of ours, nor of NATS
LATE_S = 10.0  # what is on its way when a subscription ends arrives by then, or the link has ended (BEATS_MISSED_MAX)
HANDLED_MAX = 64  # messages in a row before the loop's other work has its turn

Handler = Callable[[Msg], None]


@dataclass(frozen=True, slots=True)
class LinkOptions:
    name: str
    credentials: Path | None
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    nkey: Path | None = None

    def tls(self, url: str) -> ssl.SSLContext | None:
        if not (self.tls_ca or self.tls_cert or url.startswith("tls://")):
            return None
        context = ssl.create_default_context(cafile=self.tls_ca)
        if self.tls_cert is not None:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        return context


class NatsLink:
    """Open one with `NatsLink.open`. `closed` is done when it has ended; its result is why."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._client = _Client()
        self._last_error = ""
        self._inbox = f"_INBOX.{secrets.token_urlsafe(9)}"  # short: each question and each change names it
        self._replies: dict[str, Handler] = {}
        self._reply_next = 0
        self._loop = loop
        self._transport: asyncio.WriteTransport
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._writing = False
        """A write is to come, or the transport has not sent enough yet."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._beats_missed = 0
        self._sids: dict[str, int] = {}
        self._sid_next = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.dropped_count = 0
        """Messages refused because SEND_BYTES_MAX was reached."""

    @classmethod
    async def open(cls, url: str, options: LinkOptions) -> NatsLink:
        """Raises BusUnreachable, BusRefused."""
        link = cls()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await link._connect(url, options)
        except BaseException as error:
            link.abort("never opened")
            if isinstance(error, (OSError, nats.errors.Error, TimeoutError, ValueError)):
                raise link._why_not(url, error) from error
            raise
        return link

    @property
    def max_payload(self) -> int:
        return self._client.max_payload

    @property
    def server_version(self) -> tuple[int, int]:
        version = self._client.connected_server_version
        return version.major, version.minor

    def send(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> bool:
        """Queue a message. False: refused, because the link has ended, or is too slow, or the message is too large."""
        if self.closed.done():
            return False
        if headers:
            block = _header_block(headers)
            message: bytes = command.hpub_cmd(subject, reply, block, data)
            size = len(block) + len(data)
        else:
            message = command.pub_cmd(subject, reply, data)
            size = len(data)
        if size > self.max_payload:  # the server would close the connection over it
            return False
        if self._queue_bytes + size > SEND_BYTES_MAX:
            self.dropped_count += 1
            return False
        self._put(message)
        return True

    async def sent(self) -> None:
        """Returns when everything queued was handed to the operating system's side of the client, or the link ended."""
        idle = asyncio.ensure_future(self._idle.wait())
        try:
            waits: list[asyncio.Future[Any]] = [idle, self.closed]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.cancel()

    def inbox(self, handler: Handler) -> str:
        """A fresh reply subject; `handler` is called for each message on it until `forget`."""
        self._reply_next += 1
        subject = f"{self._inbox}.{self._reply_next:x}"
        self._replies[subject] = handler
        return subject

    def own_subject(self) -> str:
        """A fresh subject under which nobody else sends, for a subscription of its own: what a consumer delivers comes
        under its original subject, and `inbox` cannot tell whose it is."""
        self._reply_next += 1
        return f"{self._inbox}-own.{self._reply_next:x}"

    def forget(self, reply: str) -> None:
        self._replies.pop(reply, None)

    async def request(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, timeout_s: float = 5.0
    ) -> tuple[dict[str, str], bytes]:
        """One answer, as (headers, payload). Raises BusUnreachable; "nobody listens" is an answer with Status 503."""
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def take(message: Msg) -> None:
            if not answer.done():
                answer.set_result(message)

        reply = self.inbox(take)
        try:
            if not self.send(subject, data, headers, reply):
                raise BusUnreachable(
                    f"{subject}: not sent, the link is {'down' if self.closed.done() else 'full'}; retry"
                )
            waits: list[asyncio.Future[Any]] = [answer, self.closed]
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                why = self.closed.result() if self.closed.done() else f"no answer within {timeout_s:g} s"
                raise BusUnreachable(f"{subject}: {why}; retry")
            message = answer.result()
            return message.headers or {}, message.data
        finally:
            self.forget(reply)

    def subscribe(self, subject: str, handler: Handler, queue: str = "") -> None:
        """In the order of what is sent: a subscription made before a request is there when it is answered."""
        if subject not in self._sids and not self.closed.done():
            self._sid_next += 1
            self._sids[subject] = self._sid_next
            self._client.handlers[self._sid_next] = handler
            self._put(command.sub_cmd(subject, queue, self._sid_next))

    def unsubscribe(self, subject: str, late: Handler | None = None) -> None:
        """`late` is given what was on its way already, for LATE_S."""
        sid = self._sids.pop(subject, None)
        if sid is not None:
            handlers = self._client.handlers
            handlers.pop(sid, None)
            self._put(command.unsub_cmd(sid, 0))
            if late is not None:
                handlers[sid] = late
                asyncio.get_running_loop().call_later(LATE_S, handlers.pop, sid, None)

    def abort(self, reason: str) -> None:
        """End it now: no farewell, nothing flushed."""
        if self.closed.done():
            return
        self.closed.set_result(reason)
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._queue.clear()
        self._idle.set()
        stream = self._stream()
        if stream is not None:
            # nats-py's close() writes what is pending and waits for it: behind a black hole, for ever (facts 2.5).
            stream.transport.abort()
        _ABORTED.add(task := asyncio.get_running_loop().create_task(_dispose(self._client)))
        task.add_done_callback(_ABORTED.discard)

    # --- inside ------------------------------------------------------------------------------------------------------
    async def _connect(self, url: str, options: LinkOptions) -> None:
        async def failed(error: Exception) -> None:
            self._last_error = str(error) or type(error).__name__
            if "permissions violation" in self._last_error.lower():
                log.warning("bus_permission detail=%r", self._last_error)

        async def ended() -> None:
            self.abort(self._last_error or "the server closed the connection")

        await self._client.connect(
            servers=[url],
            name=options.name or "skerry",
            error_cb=failed,
            closed_cb=ended,
            disconnected_cb=ended,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # of one opening: nats-py would try for ever before it raises
            reconnect_time_wait=0,
            connect_timeout=int(CONNECT_S_MAX),
            ping_interval=8,
            tls=options.tls(url),
            user_credentials=options.credentials,
            nkeys_seed=None if options.nkey is None else str(options.nkey),
        )
        self._transport = self._stream().transport
        self.subscribe(f"{self._inbox}.*", self._reply)
        self._tasks = [self._loop.create_task(self._beat())]

    def _stream(self) -> Any:
        """nats-py's StreamWriter; None before there is one."""
        return getattr(self._client._transport, "_io_writer", None)

    def _why_not(self, url: str, error: BaseException) -> BusError:
        shown = url.rpartition("@")[2]  # a password may stand before it
        detail = f"{error} {self._last_error}".lower()
        if "authorization" in detail or "authentication" in detail or "expired" in detail:
            return BusRefused(f"{shown}: the server refuses these credentials; check credentials, user or token")
        if isinstance(error, (ssl.SSLError, ValueError)) or "certificate" in detail or "tls" in detail:
            return BusRefused(f"{shown}: {error or self._last_error}; check the address and the TLS files")
        what = "no answer in time" if isinstance(error, TimeoutError) else self._last_error or str(error)
        return BusUnreachable(f"{shown}: {what}; is a nats-server running there?")

    def _reply(self, message: Msg) -> None:
        # Any answer to what we sent is a sign of life both ways: behind megabytes on a slow line a beat comes late.
        # What others send is none: it would hide that our own way out is a black hole.
        self._beats_missed = 0
        handler = self._replies.get(message.subject)
        if handler is not None:
            handler(message)

    def _put(self, message: bytes) -> None:
        if self.closed.done():
            return
        self._queue.append(message)
        self._queue_bytes += len(message) + MESSAGE_OVERHEAD_BYTES
        self._idle.clear()
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write)  # with whatever else this turn of the loop sends

    def _write(self) -> None:
        """Invariant 3."""
        self._writing = False
        if self.closed.done():
            return
        room = WRITTEN_BYTES_MAX - self._transport.get_write_buffer_size()
        messages: list[bytes] = []
        while self._queue and room > 0:
            message = self._queue.popleft()
            messages.append(message)
            room -= len(message)
            self._queue_bytes -= len(message) + MESSAGE_OVERHEAD_BYTES
        if messages:
            self._transport.write(messages[0] if len(messages) == 1 else b"".join(messages))
        if not self._queue:
            self._queue_bytes = 0
            self._idle.set()
        elif self._transport.get_write_buffer_size() >= WRITTEN_BYTES_MAX:
            self._writing = True
            task = self._loop.create_task(self._drain())
            self._tasks = [*(each for each in self._tasks if not each.done()), task]
        else:
            self._write_soon()

    async def _drain(self) -> None:
        try:
            await self._stream().drain()  # below the transport's own mark, which is lower than ours
        except OSError as error:
            self.abort(str(error) or type(error).__name__)
        else:
            self._write()

    async def _beat(self) -> None:
        """Invariant 2."""

        subject = self.inbox(lambda _: None)
        while True:
            if self._beats_missed >= BEATS_MISSED_MAX:
                self.abort(f"no sign of life for {BEATS_MISSED_MAX * BEAT_S:g} s")
                return
            self._beats_missed += 1
            beat: bytes = command.pub_cmd(subject, "", b"")
            self._queue.appendleft(beat)  # before all that waits
            self._queue_bytes += len(beat) + MESSAGE_OVERHEAD_BYTES
            self._write_soon()
            await asyncio.sleep(BEAT_S)


@lru_cache(maxsize=256)
def _header_name(raw: bytes) -> str | None:
    """None for what is no name. Few names come in all messages."""
    return raw.strip().decode("ascii") if raw.isascii() and len(raw.split()) == 1 else None


def parse_header_lines(raw: bytes) -> dict[str, str]:
    """`Name: value` lines. A line that is none is left out; the last of a repeated name counts: what the server adds to
    a stored message comes after what was stored."""
    headers: dict[str, str] = {}
    for line in raw.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        known = _header_name(name) if colon and len(name) <= HEADER_NAME_BYTES_MAX else None
        if known is not None:
            headers[known] = value.strip().decode("utf-8", "replace")
    return headers


_LINE_ENDS = str.maketrans({"\r": " ", "\n": " "})


def _header_block(headers: Mapping[str, str]) -> bytes:
    if not "".join(headers.values()).isprintable():
        headers = {name: text.translate(_LINE_ENDS) for name, text in headers.items()}
    lines = [f"{name}: {text}" for name, text in headers.items()]
    return "\r\n".join(("NATS/1.0", *lines, "\r\n")).encode()


class _Client(Client):
    """Hands messages to `handlers`, by number of the subscription. Invariant 4."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, Handler] = {}
        self._handled = 0
        self._count = counter_of(asyncio.get_running_loop())

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Called by nats-py's parser."""
        handler = self.handlers.get(sid)
        if handler is None:
            return  # not subscribed any more
        found = await self._process_headers(headers) if headers else None
        message = Msg(self, subject.decode(), reply.decode(), data, found)
        try:
            handler(message)
        except Exception:  # one message is lost, not the link
            log.exception("bus_handler subject=%s", message.subject)
        self._count(1)
        self._handled += 1
        if self._handled >= HANDLED_MAX:
            self._handled = 0
            await asyncio.sleep(0)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """nats-py's own looks at each character of each name: 17 us for a change as it is read, instead of 4."""
        return parse_header_lines(raw)


_ABORTED: set[asyncio.Task[None]] = set()
"""Clients being closed: asyncio keeps only weak references to tasks."""


async def _dispose(client: Client) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(2):
            await client.close()
    # Over a socket that has just died its own closing stops half-way; what it leaves behind would run on, and asyncio
    # would print a traceback for each.
    tasks = [client._flusher_task, client._reading_task, client._ping_interval_task]
    left = [task for task in tasks if task is not None]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
