"""The websocket clients of a replay: authors who type a trace, readers who watch a document.

Room: ordinary y-websocket clients, as `sync.wire` frames them; nothing of an edge's inside. What they type, how fast
and what is counted is given to them by `server.replay`.

Invariants:
1. An author sends its updates in order, and each only when its own document holds what the update needs: as an editor,
   which can only type behind letters that it has been shown.
2. An author whose edge does not show it what others have sent carries that to the edge itself, as a laptop does that
   was in two networks. So a cut edge has work, and the leader gets everything twice.
3. An update counts as acknowledged when its content came back in an update frame: then it is on the edge's disk. What
   is not acknowledged is sent again on the next connection.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from sync import wire
from sync.closing import CLOSE_BAD_FRAME, CLOSE_BAD_UPDATE
from sync.document import Document
from sync.errors import LimitReached, SkerryError
from sync.ids import DocId
from sync.replica import Replica, Verdict
from sync.validate import Shape, check_state_vector, check_update

from .admission import CLOSE_FORBIDDEN, CLOSE_NO_TOKEN
from .config import is_loopback
from .http_client import credentials

__all__ = ["Author", "Client", "Typed", "connected"]

OPEN_S_MAX = 5.0
FIRST_CONTACT_S_MAX = 15.0  # an edge that never answered by then is a wrong address, not a restart
RETRY_S_MIN = 0.1
RETRY_S_MAX = 5.0
WINDOW_COUNT = 256  # sent and not acknowledged; an edge commits every few milliseconds, so this never starves it
CARRY_S = 1.0  # what others sent is waited for so long: invariant 2
CLOSE_BAD_PATH = 4404
_FATAL = (CLOSE_BAD_FRAME, CLOSE_BAD_PATH, CLOSE_BAD_UPDATE, CLOSE_NO_TOKEN, CLOSE_FORBIDDEN)
"""Trying again would end the same way."""


@dataclass(frozen=True, slots=True)
class Typed:
    """One update of a trace, ready to be sent."""

    order: int
    """Its place among all updates of the trace."""
    agent: int
    update: bytes
    shape: Shape
    knows: tuple[int, ...]


async def connected(url: str, subprotocols: Sequence[str] = ()) -> ClientConnection:
    """A connection as an editor's, never over a proxy to this machine itself. Raises SkerryError for a bad address."""
    try:
        return await connect(
            url,
            additional_headers=credentials(),
            subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]  # Subprotocol is a NewType of str
            compression=None,
            max_size=None,
            open_timeout=OPEN_S_MAX,
            close_timeout=1,
            proxy=None if is_loopback(urlsplit(url).hostname or "") else True,
        )
    except InvalidURI:
        raise SkerryError(f"{url}: no websocket address; give one as in ws://127.0.0.1:8787") from None


class Client:
    """Holds a document, follows it at one edge, connects again when the connection drops. `run` never returns."""

    def __init__(self, edge: str, doc: DocId) -> None:
        self.edge = edge
        self.replica = Replica(doc)
        self.connections = 0
        self.news = asyncio.Event()
        """Set whenever anything came."""
        self._url = f"{edge}/{quote(doc, safe='')}"

    @property
    def document(self) -> Document:
        return self.replica.materialise()

    async def run(self) -> None:
        """Raises SkerryError where the edge was never there, or says that trying again is no use."""
        began = time.monotonic()
        retry_s = RETRY_S_MIN
        while True:
            try:
                async with await connected(self._url) as socket:
                    self.connections += 1
                    retry_s = RETRY_S_MIN
                    await self._session(socket)
            except ConnectionClosed as closed:
                frame = closed.rcvd
                if frame is not None and frame.code in _FATAL:
                    raise SkerryError(f"{self._url}: closed by the edge ({frame.code} {frame.reason})") from None
            except LimitReached:
                pass  # too much came before what it depends on: a new connection begins with everything
            except (OSError, InvalidHandshake, TimeoutError) as error:
                if not self.connections and time.monotonic() - began > FIRST_CONTACT_S_MAX:
                    reason = str(error) or type(error).__name__
                    raise SkerryError(f"{self.edge}: {reason}; is an edge running there?") from None
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, RETRY_S_MAX)

    async def _session(self, socket: ClientConnection) -> None:
        """One connection, until it closes."""
        await _send(socket, wire.SyncStep1(self.replica.state_vector()))
        await self._read(socket)

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            match wire.decode_frame(await socket.recv(decode=False)):
                case wire.Update(update):
                    self._take(update, echo=True)
                case wire.SyncStep2(update):
                    self._take(update, echo=False)
                case wire.SyncStep1(state_vector):
                    check_state_vector(state_vector)
                    await self._asked(socket, state_vector)
                case _:
                    continue
            self.news.set()

    def _take(self, update: bytes, *, echo: bool) -> None:
        self.replica.take(update, check_update(update), _now_ms())

    async def _asked(self, socket: ClientConnection, state_vector: bytes) -> None:
        """A reader tells an edge nothing: it would hide what the edge has lost."""

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition, looked at when something came."""
        while not condition():
            self.news.clear()
            await self.news.wait()


class Author(Client):
    def __init__(
        self,
        edge: str,
        doc: DocId,
        typed: Sequence[Typed],
        others: Sequence[Author],
        due: Callable[[int], Awaitable[None]],
    ) -> None:
        """`others`: all authors by number, this one too once it is made. `due(order)` waits for an update's time."""
        super().__init__(edge, doc)
        self.typed = typed
        self.sent = 0
        """How many updates were ever sent."""
        self.acknowledged = 0
        """How many, from the first, came back. Falls where the edge no longer has what it acknowledged."""
        self.resent = 0
        self.carried = 0
        self.taken_back = 0
        """Acknowledged updates that the edge did not have when it was connected to again: it must stay 0."""
        self._others = others
        self._due = due
        self._next = 0
        self._alone = False
        self._echoed = _Ranges()
        self._deleted = _Ranges()

    @property
    def done(self) -> bool:
        return self.acknowledged == len(self.typed)

    async def _session(self, socket: ClientConnection) -> None:
        self._next = self.acknowledged
        await _send(socket, wire.SyncStep1(self.replica.state_vector()))
        tasks = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._write(socket))]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # neither ends but by raising
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, update: bytes, *, echo: bool) -> None:
        shape = check_update(update)
        if self.replica.take(update, shape, _now_ms()).verdict is Verdict.NEW:
            self._alone = False  # the edge shows what others do
        if not echo:
            return  # Invariant 3: what step 2 brings may be on its way to the disk
        for client, first, following in shape.brings:
            self._echoed.add(client, first, following)
        for client, first, following in shape.deletes:
            self._deleted.add(client, first, following)
        while self.acknowledged < self._next and self._came_back(self.typed[self.acknowledged].shape):
            self.acknowledged += 1

    def _came_back(self, shape: Shape) -> bool:
        return all(self._echoed.hold(*run) for run in shape.brings) and all(
            self._deleted.hold(*span) for span in shape.deletes
        )

    async def _asked(self, socket: ClientConnection, state_vector: bytes) -> None:
        clocks = check_state_vector(state_vector)
        for at in range(self.acknowledged):
            if any(clocks.get(client, 0) < following for client, _, following in self.typed[at].shape.brings):
                self.taken_back += self.acknowledged - at
                self.acknowledged = self._next = at
                self._echoed, self._deleted = _Ranges(), _Ranges()
                break
        await _send(socket, wire.SyncStep2(self.replica.diff(state_vector)))

    # --- typing ------------------------------------------------------------------------------------------------------
    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await self.until(lambda: self._next < min(len(self.typed), self.acknowledged + WINDOW_COUNT))
            at = self._next
            typed = self.typed[at]
            if at >= self.sent:
                await self._due(typed.order)
                await self._know(socket, typed)
            if at != self._next:
                continue  # the edge asked for earlier ones meanwhile
            self.replica.take(typed.update, typed.shape, _now_ms())
            if at < self.sent:
                self.resent += 1
            self._next = at + 1
            self.sent = max(self.sent, self._next)
            await _send(socket, wire.Update(typed.update))

    async def _know(self, socket: ClientConnection, typed: Typed) -> None:
        """Wait until this author's document holds what the update needs. Invariants 1 and 2."""
        ends = time.monotonic() + CARRY_S
        while self.replica.judge(typed.shape).verdict is Verdict.EARLY:
            if self._alone and all(of.sent >= count for of, count in self._colleagues(typed)):
                await self._carry(socket, typed)
                return
            self.news.clear()
            try:
                async with asyncio.timeout(max(0.01, ends - time.monotonic())):
                    await self.news.wait()
            except TimeoutError:
                self._alone = True

    async def _carry(self, socket: ClientConnection, typed: Typed) -> None:
        causes = [each for of, count in self._colleagues(typed) for each in of.typed[:count]]
        for cause in sorted(causes, key=lambda each: each.order):
            if self.replica.take(cause.update, cause.shape, _now_ms()).verdict is Verdict.NEW:
                self.carried += 1
                await _send(socket, wire.Update(cause.update))

    def _colleagues(self, typed: Typed) -> list[tuple[Author, int]]:
        """Every other author, and how many of its updates this one's author had seen."""
        return [(of, count) for of, count in zip(self._others, typed.knows, strict=True) if of is not self]


class _Ranges:
    """Clock ranges per client: ascending, disjoint, joined."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}

    def add(self, client: int, first: int, following: int) -> None:
        spans = self._ranges.setdefault(client, [])
        at = bisect_right(spans, (first, following))
        if at and spans[at - 1][1] >= first:
            at -= 1
            first, following = spans[at][0], max(following, spans[at][1])
        end = at
        while end < len(spans) and spans[end][0] <= following:
            following = max(following, spans[end][1])
            end += 1
        spans[at:end] = [(first, following)]

    def hold(self, client: int, first: int, following: int) -> bool:
        spans = self._ranges.get(client, ())
        at = bisect_right(spans, first, key=lambda span: span[0]) - 1
        return at >= 0 and following <= spans[at][1]


def _now_ms() -> int:
    return int(time.monotonic() * 1000)


async def _send(socket: ClientConnection, message: wire.Message) -> None:
    await socket.send(wire.encode(message))
