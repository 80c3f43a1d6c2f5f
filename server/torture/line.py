"""A line between a client and a server, over TCP: cuts (reset), swallows one way or both, delays. One event loop.

Room: bytes, whatever they say. A swallowed direction is no longer read, as behind a broken router: the sender's buffers
fill, nobody is told, and what was under way arrives when it is healed, unless the connection was given up meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

__all__ = ["Line"]

CHUNK_BYTES = 64 * 1024


class Line:
    """`await start(port)`; then change its fields."""

    def __init__(self) -> None:
        self.host = ""
        self.port = 0
        self.delay_s = 0.0
        """Held back before each piece is passed on, in both directions."""
        self.refusing = False
        """True: new connections are reset at once."""
        self.accepted_count = 0
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._target = ("", 0)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, target: int, listening: socket.socket | None = None, host: str = "127.0.0.1") -> None:
        """`listening`: a socket to listen on, elsewhere than on this machine's own address."""
        self._target = host, target
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

    def swallow(self, *ways: str) -> None:
        """`up`: towards the server; `down`: towards the client. Others are left as they are."""
        for way in ways:
            self._open[way].clear()

    def heal(self) -> None:
        self.refusing = False
        self.delay_s = 0.0
        for event in self._open.values():
            event.set()

    def passing(self, way: str, writer: asyncio.StreamWriter) -> Callable[[bytes], None]:
        """What passes the pieces of one connection's direction on."""
        return writer.write

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.accepted_count += 1
        far: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            far_reader, far = await asyncio.open_connection(*self._target)
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
            pass  # the other side sees the reset below
        finally:
            for one in (writer, far):
                if one is not None:
                    _reset(one)
                    self._writers.discard(one)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        onwards = self.passing(way, writer)
        with contextlib.suppress(OSError):
            while True:
                await self._open[way].wait()
                piece = await reader.read(CHUNK_BYTES)
                if not piece:
                    return
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._open[way].wait()
                onwards(piece)
                await writer.drain()
                if writer.is_closing():
                    return


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: no lingering, nothing more is delivered."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
