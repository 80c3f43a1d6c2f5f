"""Between one node and NATS: cuts, one-way cuts, delays; and, as it reads the protocol, what core NATS may do to a
broadcast: lose it, repeat it, let others overtake it.

Room: NATS' client protocol as frames, and nothing of what is in them but the subject. A swallowed direction is no
longer read, as behind a broken router; what was under way arrives when it is healed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator

__all__ = ["Relay"]

CHUNK_BYTES = 64 * 1024
CORE = ("merged", "beacon", "presence", "repair")
LATE_S_MAX = 1.5
SHARE = 0.3
"""Of the messages that a mischief is done to."""


class Relay:
    """`await start(port)`; then change its fields."""

    def __init__(self, namespace: str, seed: str) -> None:
        self.host = ""
        self.port = 0
        self.delay_s = 0.0
        self.refusing = False
        self.mischief: set[str] = set()
        """Of `drop`, `duplicate`, `reorder` (broadcasts towards the node) and `repeat` (changes towards the log)."""
        self.done_count = 0
        self._namespace = namespace
        self._chance = random.Random(seed)
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._target = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, target: int, listening: socket.socket | None = None) -> None:
        """`listening`: a socket to listen on, elsewhere than on this machine's own address."""
        self._target = target
        self.heal()
        if listening is None:
            listening = socket.create_server(("127.0.0.1", 0))
        self._server = await asyncio.start_server(self._serve, sock=listening)
        self.host, self.port = listening.getsockname()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            _reset(writer)

    def swallow(self, way: str) -> None:
        """`up`: towards NATS; `down`: towards the node."""
        self._open[way].clear()

    def heal(self) -> None:
        self.refusing = False
        self.delay_s = 0.0
        self.mischief.clear()
        for event in self._open.values():
            event.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far)
            pumps = [
                asyncio.ensure_future(self._pump(reader, far, "up")),
                asyncio.ensure_future(self._pump(far_reader, writer, "down")),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in (writer, far):
                if one is not None:
                    _reset(one)
                    self._writers.discard(one)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        frames = Frames()
        with contextlib.suppress(OSError):
            while True:
                await self._open[way].wait()
                piece = await reader.read(CHUNK_BYTES)
                if not piece:
                    return
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._open[way].wait()
                for subject, frame in frames.feed(piece):
                    self._pass(writer, way, subject, frame)
                await writer.drain()
                if writer.is_closing():
                    return

    def _pass(self, writer: asyncio.StreamWriter, way: str, subject: str, frame: bytes) -> None:
        what = self._mischief(way, subject)
        if what == "drop":
            return
        if what == "reorder":
            asyncio.get_running_loop().call_later(self._chance.uniform(0, LATE_S_MAX), _write, writer, frame)
            return
        _write(writer, frame)
        if what == "duplicate":
            asyncio.get_running_loop().call_later(self._chance.uniform(0, LATE_S_MAX), _write, writer, frame)
        elif what == "repeat":
            _write(writer, frame)

    def _mischief(self, way: str, subject: str) -> str | None:
        if not self.mischief or not subject.startswith(f"{self._namespace}."):
            return None
        kind = subject.split(".", 2)[1]
        if way == "up":
            wanted = self.mischief & {"repeat"} if kind == "changes" else set()
        else:
            wanted = self.mischief - {"repeat"} if kind in CORE else set()
        if not wanted or self._chance.random() > SHARE:
            return None
        self.done_count += 1
        return self._chance.choice(sorted(wanted))


class Frames:
    """Pieces of a stream in, whole frames with their subject out (empty: no message)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[str, bytes]]:
        self._buffer += piece
        while (end := self._buffer.find(b"\r\n")) >= 0:
            words = bytes(self._buffer[:end]).split()
            size, subject = end + 2, ""
            if words and words[0].upper() in (b"MSG", b"HMSG", b"PUB", b"HPUB"):
                size += int(words[-1]) + 2
                subject = words[1].decode("utf-8", "replace")
            if len(self._buffer) < size:
                return
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield subject, frame


def _write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    if not writer.is_closing():
        writer.write(frame)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: no lingering, nothing more is delivered."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
