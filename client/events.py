"""What a session tells its program: events, changes of others, and the streams that carry them.

Room: frozen values and one bounded queue. A program that does not read costs a LimitReached, never memory (law 8).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sync.change import Context
from sync.errors import LimitReached
from sync.extension import Stage
from sync.ids import DocId, Dot, Version

from .store import Parked, Progress, Rejection

__all__ = [
    "Change",
    "Denied",
    "Event",
    "Feed",
    "Observer",
    "Offline",
    "Online",
    "ReadOnlyHere",
    "Refused",
    "Rejected",
    "Safer",
    "Status",
    "StoreFailed",
    "Stream",
    "guarded",
]

STREAM_COUNT_MAX: Final = 10_000  # not read by the program: a burst of a day offline fits, a forgotten reader does not


@dataclass(frozen=True, slots=True)
class Online:
    """A connection to an edge stands."""

    address: str
    edge: str
    """The edge's name."""


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection is gone, or none could be had. Told once; the session goes on trying."""

    reason: str


@dataclass(frozen=True, slots=True)
class Safer:
    """These edits of this store have come to this stage."""

    doc: DocId
    stage: Stage
    dots: tuple[Dot, ...]
    version: Version | None
    at_ms: int
    """Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The edge has closed this document; it is tried again, later and later. Its edits stay in the store."""

    doc: DocId
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """What came from others could not be stored; it is tried again. (For an own edit, `edit()` raises.)"""

    reason: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The edge does not take this session's token (any more). Connecting goes on, and asks for the token again."""

    address: str
    code: int
    """4401 no token that holds, 4403 it does not grant this, 4419 expired, 4423 revoked."""
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The document is parked: nobody else ever sees these edits of this store, nor what is written behind them."""

    doc: DocId
    dots: tuple[Dot, ...]
    """Refused by the leader; none where an edge has refused something, or has taken the leader's document itself."""
    reason: str
    at_ms: int
    """Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class ReadOnlyHere:
    """The edge lets this session only read this document; edits that were made before stay in the store."""

    doc: DocId
    reason: str


Event = Online | Offline | Safer | Rejected | Refused | Denied | ReadOnlyHere | StoreFailed


@dataclass(frozen=True, slots=True)
class Change:
    """What others did to a document: the update that was just taken in, or who made changes that were taken in before.

    An edge merges many edits into one update, so content and contexts come one after the other: first a change with
    `update`, then one with `contexts` for those edits where somebody said something.
    """

    doc: DocId
    update: bytes
    contexts: tuple[tuple[Dot, Context], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """How safe a document's edits are."""

    online: bool
    edits: tuple[Progress, ...]
    """Of this store, not yet merged by the leader, oldest first."""
    version: Version | None
    """Everything of the document up to here is in this store."""
    rejected: tuple[Rejection, ...] = ()
    """Edits that the leader has refused, or that went with a rejected copy; oldest first, the last 1,000."""
    parked: Parked | None = None
    """Why nothing is written here until `OpenDocument.reload`."""

    def count(self, stage: Stage) -> int:
        """Edits that have come exactly so far."""
        return sum(progress.stage == stage for progress in self.edits)


Observer = Callable[[object], None]


def guarded(callback: Observer) -> Observer:
    """What it raises goes to the event loop's handler."""

    def observer(event: object) -> None:
        try:
            callback(event)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler({"message": "observer", "exception": error})

    return observer


T = TypeVar("T")


class Stream(Generic[T]):
    """`async for item in stream`: from its making on. Ends when the session or the document is closed."""

    def __init__(self, feed: Feed[T]) -> None:
        self._feed = feed
        self._items: deque[T] = deque()
        self._news = asyncio.Event()
        self._ended = False
        self._lost = 0

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        """Raises LimitReached, once what is queued was read, where the program has read too slowly: start anew."""
        while not self._items:
            if self._lost:
                got = STREAM_COUNT_MAX + self._lost
                raise LimitReached(
                    "STREAM_COUNT_MAX", got, STREAM_COUNT_MAX, "read faster, and look at the whole again"
                )
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._items.popleft()

    def push(self, item: T) -> None:
        if self._lost or len(self._items) >= STREAM_COUNT_MAX:
            self._lost += 1
        else:
            self._items.append(item)
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def close(self) -> None:
        """The program wants no more of it."""
        self._feed.leave(self)
        self.end()


class Feed(Generic[T]):
    """Everybody who listens to one kind of news."""

    def __init__(self) -> None:
        self._streams: list[Stream[T]] = []

    def listen(self) -> Stream[T]:
        stream = Stream(self)
        self._streams.append(stream)
        return stream

    def push(self, item: T) -> None:
        for stream in self._streams:
            stream.push(item)

    def leave(self, stream: Stream[T]) -> None:
        if stream in self._streams:
            self._streams.remove(stream)

    def end(self) -> None:
        for stream in self._streams:
            stream.end()
        self._streams.clear()
