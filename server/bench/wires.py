"""Many websocket clients in one thread, as cheap as they can be: the load generator must not be what is measured.

Room: sockets, frames, one turn of a selector. asyncio costs more for each wake-up than a server under test has for an
update, so clients are bare sockets. Frames are packed and masked before the clock starts. A client whose words nobody
judges (`deaf`) is emptied every few milliseconds without being read; the others are heard as soon as something comes.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sync.errors import SkerryError

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover: a platform without a compiler
    from websockets.utils import apply_mask

__all__ = ["Address", "BenchError", "Client", "Wires", "masked"]

Address = tuple[str, int]

EMPTYING_S: Final = 0.005
"""How often deaf clients are emptied: at 100 MB/s a receive buffer holds more than that."""
RESTING_S: Final = 15.0
"""How often every client says that it is there; servers close those that are silent for 30 s and more."""
BUFFER_BYTES: Final = 1 << 20
_MASK: Final = b"\x37\xfa\x21\x3d"  # some: a mask of zeros is skipped by one server and not by another
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10
_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)


class BenchError(SkerryError):
    """A run that cannot be measured, and why."""


def masked(message: bytes, opcode: int = _BINARY) -> bytes:
    """The bytes of one frame of a client."""
    size = len(message)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)
    return head + _MASK + apply_mask(message, _MASK)


_HERE: Final = masked(b"", _PONG)


class Client:
    """One connection. `hear` gets whole messages; `ready` is true once the upgrade is through."""

    __slots__ = (
        "_head",
        "_needed",
        "_partial",
        "_parts",
        "_unsent",
        "_wires",
        "closed",
        "deaf",
        "hear",
        "heard",
        "read_bytes",
        "ready",
        "sock",
        "turned",
    )

    def __init__(self, wires: Wires, sock: socket.socket, hello: bytes) -> None:
        self._wires = wires
        self._unsent = bytearray()
        self._partial = bytearray()
        self._needed = 0  # bytes of the frame that has begun, where its head is known
        self._parts: list[bytes] = []
        self._head = hello
        self.sock = sock
        self.ready = False
        self.deaf = False
        self.closed: str | None = None
        """Why, where it is."""
        self.heard = 0
        self.read_bytes = 0
        self.hear: Callable[[bytes], None] = _ignored
        self.turned: Callable[[], None] | None = None
        """Called when what came in one go has been heard."""

    def send(self, frames: bytes) -> None:
        """Masked frames; what the kernel does not take now follows as soon as it does."""
        if self.closed is not None:
            return
        if self._unsent:
            self._unsent += frames
            return
        try:
            sent = self.sock.send(frames)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._wires.lost(self, f"send: {error.strerror}")
            return
        if sent < len(frames):
            self._unsent += memoryview(frames)[sent:]
            self._wires.wants_write(self, True)

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def close(self) -> None:
        self._wires.lost(self, "closed by the bench")

    # --- called by Wires ---------------------------------------------------------------------------------------------
    def writable(self) -> None:
        try:
            sent = self.sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._wires.lost(self, f"send: {error.strerror}")
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._wires.wants_write(self, False)

    def readable(self) -> None:
        try:
            count = self.sock.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._wires.lost(self, f"receive: {error.strerror}")
            return
        if count == 0:
            self._wires.lost(self, "closed by the server")
            return
        self.read_bytes += count
        if self.deaf:
            return
        if self._partial:
            self._partial += _view[:count]
            if len(self._partial) < self._needed:
                return
            data = bytes(self._partial)
            self._partial.clear()
        else:
            data = bytes(_view[:count])
        if not self.ready:
            data = self._upgraded(data)
        if data:
            self._frames(data)
        if self.turned is not None:
            self.turned()

    def connected(self) -> None:
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._wires.lost(self, f"connect: error {error}")
            return
        self.send(self._head)

    def _upgraded(self, data: bytes) -> bytes:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._partial += data
            return b""
        status = data[: data.find(b"\r\n")].decode("latin-1")
        if " 101 " not in status:
            self._wires.lost(self, f"refused: {status}")
            return b""
        self.ready = True
        return data[end + 4 :]

    def _frames(self, data: bytes) -> None:
        at, size = 0, len(data)
        self._needed = 0
        while size - at >= 2:
            length = data[at + 1]
            begin = at + 2
            if length == 126:
                if size - at < 4:
                    break
                length, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                if size - at < 10:
                    break
                length, begin = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if begin + length > size:
                self._needed = begin + length - at
                break
            self._frame(data[at], data[begin : begin + length])
            at = begin + length
        self._partial += data[at:]

    def _frame(self, first: int, body: bytes) -> None:
        opcode = first & 0x0F
        if opcode == _PING:
            self.send(masked(body, _PONG))
        elif opcode == _CLOSE:
            code = int.from_bytes(body[:2], "big")
            self._wires.lost(self, f"closed by the server: {code} {body[2:].decode('utf-8', 'replace')}")
        elif opcode != _PONG:
            if not first & 0x80 or self._parts:
                self._parts.append(body)
                if not first & 0x80:
                    return
                body, self._parts = b"".join(self._parts), []
            self.heard += 1
            self.hear(body)


def _ignored(message: bytes) -> None:
    pass


class Wires:
    """All clients of a run, and the one loop that they live in."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._deaf = selectors.DefaultSelector()
        self.emptying_s = EMPTYING_S
        self._next_emptying_s = 0.0
        self._next_rest_s = time.perf_counter() + RESTING_S
        self.clients: set[Client] = set()
        self.lost_count = 0
        self.lost_why: str | None = None

    def __enter__(self) -> Wires:
        return self

    def __exit__(self, *_: object) -> None:
        for client in list(self.clients):
            client.close()
        self._selector.close()
        self._deaf.close()

    # --- clients -----------------------------------------------------------------------------------------------------
    def connect(self, address: Address, path: str) -> Client:
        """Begins; `client.ready` when it is through."""
        host, port = address
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: c2tlcnJ5IGJlbmNoIHJ1bg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(self, sock, head.encode("ascii"))
        self.clients.add(client)
        sock.connect_ex(address)
        self._selector.register(sock, selectors.EVENT_WRITE, (client, True))
        return client

    def deafen(self, clients: Iterable[Client]) -> None:
        """From here on these are emptied and not read."""
        for client in clients:
            if client.closed is None and not client.deaf:
                client.deaf = True
                self._deaf.register(client.sock, selectors.EVENT_READ, client)
                if client.unsent_bytes:
                    self._selector.modify(client.sock, selectors.EVENT_WRITE, (client, False))
                else:
                    self._selector.unregister(client.sock)

    def wants_write(self, client: Client, wanted: bool) -> None:
        events = (0 if client.deaf else selectors.EVENT_READ) | (selectors.EVENT_WRITE if wanted else 0)
        try:
            if events:
                self._selector.modify(client.sock, events, (client, False))
            else:
                self._selector.unregister(client.sock)
        except KeyError:
            self._selector.register(client.sock, events, (client, False))

    def lost(self, client: Client, why: str) -> None:
        if client.closed is not None:
            return
        client.closed = why
        if why != "closed by the bench":
            self.lost_count += 1
            self.lost_why = self.lost_why or why
        for selector in (self._selector, self._deaf):
            try:
                selector.unregister(client.sock)
            except KeyError:
                continue
        self.clients.discard(client)
        client.sock.close()

    # --- turning -----------------------------------------------------------------------------------------------------
    def turn(self, wait_s: float) -> None:
        """Whatever is ready now, or within so long."""
        now = time.perf_counter()
        if now >= self._next_emptying_s:
            self._next_emptying_s = now + self.emptying_s
            for key, _ in self._deaf.select(0):
                key.data.readable()
        if now >= self._next_rest_s:
            self._next_rest_s = now + RESTING_S
            for client in list(self.clients):
                if client.ready:
                    client.send(_HERE)
        for key, events in self._selector.select(max(0.0, wait_s)):
            client, connecting = key.data
            if connecting:
                self._selector.modify(client.sock, selectors.EVENT_READ, (client, False))
                client.connected()
                continue
            if events & selectors.EVENT_WRITE:
                client.writable()
            if events & selectors.EVENT_READ and client.closed is None:
                client.readable()

    def until(self, condition: Callable[[], bool], deadline_s: float, what: str) -> float:
        """Turns until it holds; returns the seconds that it took. Raises BenchError past the deadline."""
        began = time.perf_counter()
        while not condition():
            if time.perf_counter() - began > deadline_s:
                lost = f"; {self.lost_count} connections lost, the first: {self.lost_why}" if self.lost_count else ""
                raise BenchError(f"not within {deadline_s:g} s: {what}{lost}")
            self.turn(0.005)
        return time.perf_counter() - began

    def rest(self, seconds: float) -> None:
        ends = time.perf_counter() + seconds
        while (left := ends - time.perf_counter()) > 0:
            self.turn(min(left, 0.01))

    def all_ready(self, clients: Sequence[Client], deadline_s: float = 30.0) -> None:
        self.until(
            lambda: all(client.ready or client.closed is not None for client in clients),
            deadline_s,
            "all are connected",
        )
        refused = [client.closed for client in clients if client.closed is not None]
        if refused:
            raise BenchError(f"{len(refused)} of {len(clients)} connections failed: {refused[0]}")
