"""Large frames: checked and cut in a thread, handed to the machine in pieces, so that the loop is never held by one.

A megabyte of tiny structs takes Python 0.2 s to check and pycrdt any time to apply. Python code in a thread lets the
loop go on; pieces (`sync.slices`) of a millisecond or two go in one by one, each when the one before was flushed.

Room: one connection's order. What a connection sends behind a large frame waits behind it; other connections do not.
Where a megabyte waits, its socket is not read: whoever sends more waits in its own network, and is not refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from sync import extension, wire
from sync.errors import InvalidInput, LimitReached, SkerryError
from sync.ids import ConnId
from sync.limits import LARGE_FRAME_BYTES, PENDING_BYTES_MAX, SPLIT_FRAME_BYTES, WAITING_BYTES_HELD
from sync.replica import Replica
from sync.slices import cut
from sync.splits import Into, at_once_bytes
from sync.validate import check_update

__all__ = ["LargeFrames", "in_pieces"]


def in_pieces(frame: bytes, into: Into) -> list[bytes]:
    """Frames that say the same in this order; of an edit, the last one has its name. Raises InvalidInput."""
    match extension.decode(frame):
        case (wire.Update() | wire.SyncStep2() | extension.Edit()) as message:
            check_update(message.update)
            pieces = cut(message.update, {}, into)
        case _:
            return [frame]
    if len(pieces) < 2:
        return [frame]
    if isinstance(message, wire.SyncStep2):
        return [wire.encode(wire.SyncStep2(piece)) for piece in pieces]
    frames = [wire.encode(wire.Update(piece)) for piece in pieces]
    if isinstance(message, extension.Edit):
        last = extension.Edit(message.dot, message.actor, message.causation, message.correlation, pieces[-1])
        frames[-1] = extension.encode(last)
    return frames


class Readable(Protocol):
    """Where a connection's frames come from."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(slots=True)
class _Waiting:
    frames: deque[bytes] = field(default_factory=deque)
    bytes: int = 0
    """With the frame that is being seen to."""
    paused: Readable | None = None
    """What is not read meanwhile."""

    def resume(self) -> None:
        paused, self.paused = self.paused, None
        if paused is not None:
            paused.resume()


class LargeFrames:
    def __init__(
        self,
        spawn: Callable[[Coroutine[object, object, None]], None],
        deliver: Callable[[ConnId, bytes], None],
        refuse: Callable[[ConnId, SkerryError], None],
        pending_bytes: Callable[[ConnId], int | None],
        begins: Callable[[ConnId], None],
        replica: Callable[[ConnId], Replica | None],
        readable: Callable[[ConnId], Readable | None],
    ) -> None:
        """`pending_bytes`: of the connection's document, not flushed yet; None while it is being loaded.

        `begins`: called before the first of several pieces. `replica`: the document; None while it is being loaded.
        `readable`: None of a connection that is gone.
        """
        self._spawn = spawn
        self._deliver = deliver
        self._refuse = refuse
        self._pending_bytes = pending_bytes
        self._begins = begins
        self._replica = replica
        self._readable = readable
        self._waiting: dict[ConnId, _Waiting] = {}
        self._moved = asyncio.Event()
        self.checker = ThreadPoolExecutor(1, "skerry-check")
        """Whatever else is too large to be checked on the loop is checked there too."""

    def takes(self, conn: ConnId, frame: bytes) -> bool:
        """False for nearly every frame: go on with it. True: it is seen to, here or behind another one."""
        waiting = self._waiting.get(conn)
        if waiting is None:
            if not self.is_large(conn, frame):
                return False
            waiting = self._waiting[conn] = _Waiting()
            self._spawn(self._work(conn, waiting))
        waiting.frames.append(frame)
        waiting.bytes += len(frame)
        if waiting.bytes > PENDING_BYTES_MAX:
            self._refuse(conn, LimitReached("pending_bytes", waiting.bytes, PENDING_BYTES_MAX, "send less at once"))
        elif waiting.bytes > WAITING_BYTES_HELD and waiting.paused is None:
            waiting.paused = self._readable(conn)
            if waiting.paused is not None:
                waiting.paused.pause()
        return True

    def waits(self, conn: ConnId) -> bool:
        """A large frame of this connection is being seen to."""
        return conn in self._waiting

    def moved(self) -> None:
        """Something was flushed, or a document was loaded, or time has passed."""
        if self._waiting:
            self._moved.set()

    def closed(self, conn: ConnId) -> None:
        waiting = self._waiting.pop(conn, None)
        if waiting is not None:
            waiting.frames.clear()
            waiting.resume()  # it may be of other documents too
            self._moved.set()

    def stop(self) -> None:
        self.checker.shutdown(cancel_futures=True)

    async def _work(self, conn: ConnId, waiting: _Waiting) -> None:
        loop = asyncio.get_running_loop()
        while waiting.frames:
            frame = waiting.frames.popleft()
            frames = [frame]
            if self.is_large(conn, frame):
                while (replica := self._replica(conn)) is None:
                    await self._move()
                    if self._waiting.get(conn) is not waiting:
                        return
                try:
                    frames = await loop.run_in_executor(self.checker, in_pieces, frame, replica.into())
                except InvalidInput as error:
                    self._refuse(conn, error)
                    return
            for at, piece in enumerate(frames):
                while len(frames) > 1 and self._is_busy(conn) and self._waiting.get(conn) is waiting:
                    await self._move()
                if self._waiting.get(conn) is not waiting:
                    return
                if len(frames) > 1 and at == 0:
                    self._begins(conn)
                self._deliver(conn, piece)
                if len(frames) > 1:
                    await asyncio.sleep(0)
            waiting.bytes -= len(frame)
            if waiting.bytes <= WAITING_BYTES_HELD // 2:
                waiting.resume()
        if self._waiting.get(conn) is waiting:
            del self._waiting[conn]

    def is_large(self, conn: ConnId, frame: bytes) -> bool:
        """It cannot be taken as it is; or nobody knows, since its document is being loaded."""
        size = len(frame)
        if size > LARGE_FRAME_BYTES:
            return True
        if size <= SPLIT_FRAME_BYTES:
            return False
        replica = self._replica(conn)
        if replica is not None and size <= at_once_bytes(replica.held_bytes):
            return False
        try:
            match extension.decode(frame):
                case (wire.Update() | wire.SyncStep2() | extension.Edit()) as message:  # an edit is long by its name
                    return replica is None or len(message.update) > at_once_bytes(replica.held_bytes)
        except InvalidInput:
            pass  # refused where it is taken
        return False

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _is_busy(self, conn: ConnId) -> bool:
        return self._pending_bytes(conn) != 0
