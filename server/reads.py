"""A document as an edge has it, for people and programs that have no connection: plain HTTP and operators.

Room: reads of the edge daemon. A reader that has to wait is a connection of the machine's like any other.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sync import extension, wire
from sync.document import JsonValue
from sync.errors import StoreError
from sync.ids import DocId, Version
from sync.limits import FIRST_OPEN_MS_MAX
from sync.replica import Replica
from sync.token import decode_token

from .edge import EdgeDaemon

__all__ = ["Reading", "fetch", "read", "wait_for"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A document as this edge has it, for people and programs."""

    doc: DocId
    version: Version | None
    digest: str
    contents: dict[str, JsonValue] | None
    outbox_count: int


class _Reader:
    """A connection that sends nothing (`Connection`)."""

    __slots__ = ()

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Waiting(_Reader):
    """It hears only that its token was reached."""

    reached: asyncio.Future[extension.Reached]

    def send(self, frame: bytes) -> None:
        message = extension.decode(frame)
        if isinstance(message, extension.Reached) and not self.reached.done():
            self.reached.set_result(message)

    def close(self, code: int, reason: str) -> None:
        if not self.reached.done():
            self.reached.set_exception(StoreError(reason))


@dataclass(frozen=True, slots=True)
class _Opening(_Reader):
    """It hears only that the document is ready."""

    ready: asyncio.Future[None]

    def send(self, frame: bytes) -> None:
        if isinstance(wire.decode_frame(frame), wire.SyncStep2) and not self.ready.done():
            self.ready.set_result(None)

    def close(self, code: int, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(StoreError(reason))


async def read(daemon: EdgeDaemon, doc: DocId, contents: bool) -> Reading | None:
    """The document as it is here, from memory or disk; None where it was never here. Raises StoreError.

    A document on the disk is answered at once and is in use from then on: where it has lain untouched it may be
    older than the log, and is brought up to date for whoever reads it next (or waits with a token).
    """
    host = daemon.machine.hosted.get(doc)
    if host is not None and host.replica is not None:
        replica, count = host.replica, host.unmerged.count()
        if not replica.clocks:
            return None
    else:
        stored = await daemon.read_store(lambda: daemon.store.load(doc))
        if stored is None:
            return None
        replica = Replica(doc, stored.state, stored.updates, stored.version, stored.dots)
        count = len(stored.outbox)
        daemon.touched(doc)
    document = replica.materialise()
    found = document.contents() if contents else None
    return Reading(doc, replica.version, document.digest(), found, count)


async def fetch(daemon: EdgeDaemon, doc: DocId) -> None:
    """Open a document as a client would: one that was never here is asked for, where there is a link."""
    opening = _Opening(asyncio.get_running_loop().create_future())
    conn = daemon.opened(opening, doc, read_only=True)
    try:
        daemon.received(conn, wire.encode(wire.SyncStep1(Replica(doc).state_vector())))
        async with asyncio.timeout(2 * FIRST_OPEN_MS_MAX / 1000):
            await opening.ready
    except TimeoutError:
        pass  # what is here is what there is
    finally:
        daemon.closed(conn)


async def wait_for(daemon: EdgeDaemon, doc: DocId, token: str, wait_ms: int) -> tuple[bool, str]:
    """Until the document here has come as far as the token; False and what there is when time is up.

    Raises InvalidToken where the token is damaged or not for this document.
    """
    decode_token(token, daemon.config.namespace, doc)
    waiting = _Waiting(asyncio.get_running_loop().create_future())
    conn = daemon.opened(waiting, doc, extended=True, read_only=True)
    daemon.machine.reads_itself(conn)
    try:
        daemon.received(conn, extension.encode(extension.Await(1, token, wait_ms)))
        async with asyncio.timeout(wait_ms / 1000 + 5):
            reached = await waiting.reached
        return reached.reached, reached.have
    except TimeoutError:
        return False, "nothing"
    finally:
        daemon.closed(conn)
