"""One connection to one edge at a time, for ever: connecting, several addresses, backing off, noticing silence.

Room: sockets and time. Documents come and go (`client.channel`); what they say is not looked at here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from sync import extension, wire
from sync.errors import InvalidFrame, InvalidInput, LimitReached, SkerryError, StoreError
from sync.ids import DocId
from sync.limits import (
    ADMIT_MS_MAX,
    EDGE_FRAME_BYTES_MAX,
    LARGE_FRAME_BYTES,
    LOADING_FRAMES_MAX,
    RETRY_MS_MAX,
    RETRY_MS_MIN,
)

from .channel import Channel, pieces_of
from .document import OpenDocument
from .events import Denied, Event, Offline, Online, Refused
from .parking import Fresh, refusal_of

__all__ = ["InvalidAddress", "Link", "Token", "check_addresses"]

OPEN_S_MAX: Final = 5.0  # connecting
GREETING_S: Final = 2.0  # the edge's first message, once it knows who comes
SILENCE_S: Final = 10.0  # then a ping; as long again without an answer, and the edge counts as gone
STEADY_S: Final = 5.0  # a connection that lasts so long ends the backing off
_DENIED: Final = (4401, 4403, 4419, 4423)  # docs/security.md: the token, not the network
_BURST: Final = 32  # frames taken in before others have their turn


class InvalidAddress(InvalidInput):
    """Not the address of an edge."""


Token: TypeAlias = str | Callable[[], str | Awaitable[str]]


def check_addresses(addresses: Iterable[str]) -> list[str]:
    """Raises InvalidAddress. Duplicates are left out, the order stays."""
    checked: list[str] = []
    for address in addresses:
        try:
            parse_uri(address)
        except (InvalidURI, ValueError) as error:
            raise InvalidAddress(f"{address!r}: no address of an edge; write ws://host:port or wss://host") from error
        if address not in checked:
            checked.append(address)
    return checked


class Link:
    """`run()` until it is cancelled. Everything happens in the event loop's thread."""

    def __init__(
        self,
        addresses: Sequence[str],
        namespace: str,
        documents: dict[DocId, OpenDocument],
        tell: Callable[[Event], None],
        now_ms: Callable[[], int],
        silence_s: float = SILENCE_S,
        token: Token | None = None,
    ) -> None:
        self.addresses = check_addresses(addresses)
        self.address = ""
        """Of the edge that is connected; empty for none."""
        self.edge = ""
        self.why = "not connected yet"
        self.up = asyncio.Event()
        self._namespace = namespace
        self._documents = documents
        self._tell = tell
        self._now_ms = now_ms
        self._silence_s = silence_s
        self._token = token
        self._socket: ClientConnection | None = None
        self._channels: dict[int, Channel] = {}
        self._by_doc: dict[DocId, Channel] = {}
        self._number = 0
        self._dirty: dict[DocId, None] = {}
        self._wake = asyncio.Event()
        self._held: dict[DocId, list[tuple[Channel, bytes]]] = {}
        """What came for a document while an edit of it was being made."""
        self._refusals: dict[DocId, tuple[int, int]] = {}
        """Documents that the edge has closed: how often, and when to try again."""
        self._farewell: list[bytes] = []
        self._told_down = False
        self._again = asyncio.Event()
        self._next = 0
        self._moved = False
        self._dropped = ""
        """Why this side has ended the connection."""
        self._attempt: asyncio.Task[None] | None = None

    # --- documents ---------------------------------------------------------------------------------------------------
    def open(self, document: OpenDocument) -> None:
        if self._socket is not None and document.doc not in self._by_doc:
            self._number += 1
            channel = Channel(self._number, document)
            self._channels[channel.number] = self._by_doc[document.doc] = channel
            self.wake(document)

    def close(self, document: OpenDocument) -> None:
        channel = self._by_doc.pop(document.doc, None)
        self._held.pop(document.doc, None)
        self._refusals.pop(document.doc, None)
        if channel is not None and self._socket is not None:
            del self._channels[channel.number]
            self._farewell.append(extension.on_channel(channel.number, _GOODBYE))
            self._wake.set()

    def wake(self, document: OpenDocument) -> None:
        self._dirty[document.doc] = None
        self._wake.set()

    def resume(self, document: OpenDocument) -> None:
        """The edit is over. What came meanwhile is taken in soon, and not within the caller's block."""
        if document.doc in self._held:
            asyncio.get_running_loop().call_soon(self._take_held, document.doc)

    def tick(self) -> None:
        now_ms = self._now_ms()
        for channel in list(self._channels.values()):
            if not channel.document.editing and (channel.tick(now_ms) or channel.stale(now_ms)):
                self.wake(channel.document)
        for doc, (_, at_ms) in list(self._refusals.items()):
            if now_ms >= at_ms and doc in self._documents:
                self.open(self._documents[doc])

    # --- addresses ---------------------------------------------------------------------------------------------------
    def change(self, addresses: Sequence[str], *, leave: bool) -> None:
        """Raises InvalidAddress. `leave`: end the present connection, and begin with the first of them."""
        self.addresses = check_addresses(addresses)
        if leave or (self.address and self.address not in self.addresses):
            self._next = 0
            self._moved = True
            self.up.clear()
            self._drop("moving to another address")
            if self._attempt is not None:
                self._attempt.cancel()
        self._again.set()

    def _drop(self, why: str) -> None:
        """End the present connection without waiting for the edge's farewell: it may never come."""
        self._dropped = why
        if self._socket is not None:
            self._socket.transport.abort()

    # --- connecting --------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        rounds = tried = 0
        loop = asyncio.get_running_loop()
        while True:
            self._again.clear()
            if not self.addresses:
                self.why = "no address"
                await self._again.wait()
                continue
            self._moved = False
            address = self.addresses[self._next % len(self.addresses)]
            began = loop.time()
            self._attempt = asyncio.create_task(self._connect(address), name=f"skerry {address}")
            try:
                await asyncio.wait({self._attempt})
            finally:
                self._attempt.cancel()
                await asyncio.wait({self._attempt})
            if not self._attempt.cancelled():
                self._attempt.result()  # what it raises is our own fault
            if self._moved:
                rounds = tried = 0
                continue
            self._next = (self._next + 1) % len(self.addresses)
            if loop.time() - began >= STEADY_S + OPEN_S_MAX:
                rounds = tried = 0
            tried += 1
            if tried >= len(self.addresses):  # each had its turn
                tried = 0
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_pause_s(rounds)):
                        await self._again.wait()
                rounds += 1

    async def _connect(self, address: str) -> None:
        """Until the connection ends, one way or another; `why` says which."""
        was_up = False
        self._dropped = ""
        try:
            async with connect(
                address,
                additional_headers=await self._credentials(),
                subprotocols=[Subprotocol(wire.SUBPROTOCOL)],
                compression=None,  # updates are small, and it costs memory (facts 3.1)
                max_size=EDGE_FRAME_BYTES_MAX,
                open_timeout=OPEN_S_MAX,
                ping_interval=self._silence_s,
                ping_timeout=self._silence_s,
                close_timeout=1,
            ) as socket:
                hello = await self._hello(socket)
                was_up = True
                if hello.extension >= 2:  # an edge of version 1 does not expect it
                    mine = extension.encode(extension.Hello(extension.EXTENSION_VERSION, "", ""))
                    await socket.send(extension.on_channel(extension.CONNECTION, mine))
                self._begin(socket, address, hello)
                await self._converse(socket)
        except ConnectionClosed as error:
            close = error.rcvd
            self.why = f"{address}: closed ({close.code} {close.reason})" if close else f"{address}: {error}"
            if close is not None and close.code in _DENIED:
                self._tell(Denied(address, close.code, close.reason))
        except (OSError, WebSocketException, TimeoutError, SkerryError) as error:
            self.why = f"{address}: {_in_words(error)}"
        finally:
            self.why = self._dropped or self.why
            self._end(was_up)

    async def _credentials(self) -> dict[str, str]:
        """What an edge is told of who this is. Raises SkerryError where the program has no token now: tried again."""
        token = self._token
        if callable(token):
            try:
                asked = token()
                token = asked if isinstance(asked, str) else await asked
            except Exception as error:
                raise SkerryError(f"no token: {error!r}; it is asked for again") from error
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _hello(self, socket: ClientConnection) -> extension.Hello:
        if socket.subprotocol != wire.SUBPROTOCOL:
            raise InvalidFrame(f"does not speak {wire.SUBPROTOCOL}; give the address of an edge of Skerry")
        async with asyncio.timeout(ADMIT_MS_MAX / 1000 + GREETING_S):  # an edge that waits for a token says so then
            frame = await socket.recv(decode=False)
        assert isinstance(frame, bytes)
        channel, inner = extension.decode_channel(frame)
        hello = extension.decode(inner)
        if channel != extension.CONNECTION or not isinstance(hello, extension.Hello):
            raise InvalidFrame("its first message is no greeting; give the address of an edge of Skerry")
        if hello.namespace != self._namespace:
            raise InvalidFrame(
                f"is of namespace {hello.namespace}, this session of {self._namespace};"
                f" connect with namespace={hello.namespace!r} and a store of its own"
            )
        return hello

    def _begin(self, socket: ClientConnection, address: str, hello: extension.Hello) -> None:
        self._socket = socket
        self.address, self.edge, self.why = address, hello.edge, ""
        self._farewell = []
        self._number = 0
        for document in list(self._documents.values()):
            self.open(document)
        self._told_down = False
        self.up.set()
        self._tell(Online(address, hello.edge))

    def _end(self, was_up: bool) -> None:
        first = was_up or not self._told_down
        self._told_down = True
        self._socket = None
        self.address = self.edge = ""
        self.up.clear()
        self._channels.clear()
        self._by_doc.clear()
        self._held.clear()
        self._dirty.clear()
        self._refusals.clear()
        for document in self._documents.values():
            document.awareness.offline()
            document.waiting.synced(False)
        if first:
            self._tell(Offline(self.why))

    # --- talking -----------------------------------------------------------------------------------------------------
    async def _converse(self, socket: ClientConnection) -> None:
        writer = asyncio.create_task(self._write(socket), name="skerry writer")
        try:
            count = 0
            while True:
                frame = await socket.recv(decode=False)
                assert isinstance(frame, bytes)
                if len(frame) > LARGE_FRAME_BYTES or self._reloads(frame):
                    await self._receive_large(frame)
                else:
                    self._receive(frame)
                count += 1
                if count % _BURST == 0:
                    await asyncio.sleep(0)
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await writer

    def _reloads(self, frame: bytes) -> bool:
        channel = self._channels.get(extension.decode_channel(frame, EDGE_FRAME_BYTES_MAX)[0])
        return channel is not None and channel.reloads

    def _receive(self, frame: bytes, fresh: Fresh | None = None) -> None:
        number, inner = extension.decode_channel(frame, EDGE_FRAME_BYTES_MAX)
        channel = self._channels.get(number)
        if channel is None:
            return  # a channel that was closed here, and the edge has not read it yet
        held = self._held.get(channel.document.doc)
        if channel.document.editing or held is not None:
            held = self._held.setdefault(channel.document.doc, [])
            if len(held) >= LOADING_FRAMES_MAX:
                raise LimitReached("held frames", len(held) + 1, LOADING_FRAMES_MAX, "do not await within an edit")
            held.append((channel, inner))
            return
        self._hear(channel, inner, fresh)

    async def _receive_large(self, frame: bytes) -> None:
        """Looked at in a thread and taken a piece a turn, so that it does not hold the program up. What comes behind it
        waits unread: what it says of how far a document is, it says of the last piece."""
        number, inner = extension.decode_channel(frame, EDGE_FRAME_BYTES_MAX)
        channel = self._channels.get(number)
        if channel is None:
            return  # as in `_receive`
        if channel.reloads:
            fresh = None
            with contextlib.suppress(StoreError):  # who takes it in meets it again, and tells who waits
                fresh = await channel.look_at(inner)
            self._receive(frame, fresh)
            return
        pieces = await asyncio.to_thread(pieces_of, frame)
        if len(pieces) < 2:
            self._receive(frame)
            return
        with channel.document.arriving():
            for piece in pieces:
                self._receive(piece)
                await asyncio.sleep(0)

    def _take_held(self, doc: DocId) -> None:
        held = self._held.pop(doc, ())
        try:
            for channel, inner in held:
                self._hear(channel, inner)
        except SkerryError as error:
            self._drop(f"{self.address}: {error}")

    def _hear(self, channel: Channel, inner: bytes, fresh: Fresh | None = None) -> None:
        if channel.receive(inner, self._now_ms(), fresh):
            self.wake(channel.document)
        if channel.closed is not None:
            self._refused(channel, channel.closed)

    def _refused(self, channel: Channel, close: extension.CloseChannel) -> None:
        """The edge has closed this document. The others go on; this one is tried again, later and later."""
        doc = channel.document.doc
        if reason := refusal_of(close):
            channel.document.park(reason)
        self._channels.pop(channel.number, None)
        if self._by_doc.get(doc) is channel:
            del self._by_doc[doc]
        times = self._refusals.get(doc, (0, 0))[0]
        self._refusals[doc] = (times + 1, self._now_ms() + int(1000 * _pause_s(times)))
        channel.document.awareness.offline()
        channel.document.waiting.synced(False)
        self._tell(Refused(doc, close.code, close.reason))

    async def _write(self, socket: ClientConnection) -> None:
        opened: set[int] = set()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._dirty or self._farewell:
                    farewell, self._farewell = self._farewell, []
                    for frame in farewell:
                        await socket.send(frame)
                    if self._dirty:
                        doc = next(iter(self._dirty))
                        del self._dirty[doc]
                        await self._say(socket, doc, opened)
        except SkerryError as error:
            self._drop(f"{self.address}: {error}")

    async def _say(self, socket: ClientConnection, doc: DocId, opened: set[int]) -> None:
        """One page of one document; it comes back behind the others while it has more."""
        channel, document = self._by_doc.get(doc), self._documents.get(doc)
        stale = document is not None and (
            channel.stale(self._now_ms()) if channel is not None else document.waiting.reloading
        )
        if stale and document is not None:
            self.close(document)
            self.open(document)
            return
        if channel is None:
            return
        if channel.number in opened:
            messages = channel.outgoing(self._now_ms())
            if messages:
                self._dirty[doc] = None
        else:
            opened.add(channel.number)
            messages = channel.opening(self._now_ms())
            self._dirty[doc] = None
        for message in messages:
            await socket.send(extension.on_channel(channel.number, extension.encode(message)))


_GOODBYE = extension.encode(extension.CloseChannel(1000, ""))


def _in_words(error: Exception) -> str:
    """asyncio says `[Errno 111] Connect call failed ('127.0.0.1', 1)`, and again for each address that a name has."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | socket.gaierror):
        numbers = re.findall(r"\[Errno (\d+)\]", str(error))
        if numbers:
            return ", ".join(dict.fromkeys(os.strerror(int(number)).lower() for number in numbers))
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    return str(error) or "no answer"


def _pause_s(rounds: int) -> float:
    """Twice as long with every round, half of it by chance: a fleet that lost its edge does not come back at once."""
    longest = min(RETRY_MS_MAX, RETRY_MS_MIN << min(rounds, 10)) / 1000
    return random.uniform(longest / 2, longest)
