"""A TCP proxy for tests of faults: cut (reset), swallow one way or both, delay. One event loop, no threads.

A swallowed direction is no longer read, as behind a broken router: the sender's buffers fill, nobody is told, and what
was under way arrives when the direction is healed, unless the connection was given up meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType

__all__ = ["Proxy"]

CHUNK_BYTES = 64 * 1024


class Proxy:
    """`async with Proxy(host, port) as proxy:` listens on `proxy.port` of the loopback."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay_s = 0.0
        """Held back before each piece is passed on, in both directions."""
        self.refusing = False
        """True: new connections are reset at once."""
        self.accepted_count = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Proxy:
        self.heal()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            _reset(writer)

    def swallow(self, *, up: bool = True, down: bool = True) -> None:
        """`up`: from clients to the server; `down`: from the server to clients. Unset ones are left as they are."""
        if up:
            self._open["up"].clear()
        if down:
            self._open["down"].clear()

    def heal(self) -> None:
        self.refusing = False
        for event in self._open.values():
            event.set()

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
        with contextlib.suppress(OSError):
            while True:
                await self._open[way].wait()
                piece = await reader.read(CHUNK_BYTES)
                if not piece:
                    return
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._open[way].wait()
                writer.write(piece)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: no lingering, nothing more is delivered."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
