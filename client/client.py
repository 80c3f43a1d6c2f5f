"""A session: one store, one link, many documents.

    async with connect("ws://localhost:8787", store="notes.db") as session:
        plan = await session.open("notes/plan")
        with plan.edit(correlation="trip-42") as crdt:
            crdt["body"] += "Hello"
        await plan.confirmed()

Room: beginning and ending, the timer, and what the documents share. Everything runs in one event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from sync.errors import DocumentBroken, InvalidUpdate, LimitReached, SkerryError, StoreError
from sync.ids import DocId, Origin, parse_document_id
from sync.limits import CHANNELS_MAX

from .document import OpenDocument
from .events import Event, Feed, Offline, Online, Refused, StoreFailed, Stream
from .host import ReadOnly, SessionClosed
from .link import SILENCE_S, Link, Token, check_addresses
from .store import Compacted, Store, Writes
from .stored_replica import Compaction

__all__ = ["Session", "Unreachable", "connect"]

STORE_S: Final = 0.05  # what came from others is stored together; an own edit takes it along at once
TICK_S: Final = 0.5
BACKGROUND_MAX: Final = 100  # documents opened at once only because their edits are not merged yet


class Unreachable(SkerryError):
    """No edge could be reached in time. The session goes on trying, and everything works offline."""


def connect(
    addresses: str | Sequence[str],
    *,
    store: str | Path,
    namespace: str = "skerry",
    actor: str = "",
    silence_s: float = SILENCE_S,
    token: Token | None = None,
) -> Session:
    """A session with the edges at these addresses (`ws://host:port`), tried in turn; none: offline.

    `store`: path of this program's own SQLite file, made where there is none. `actor`: who edits, unless an edit says
    otherwise. `silence_s`: an edge that is silent so long is asked, and left after as long again. `token`: shown to
    edges that ask who comes (docs/security.md); a function is called at each connecting, and may be async.
    Raises InvalidAddress.
    """
    listed = [addresses] if isinstance(addresses, str) else list(addresses)
    return Session(check_addresses(listed), Path(store), namespace, actor, silence_s, token)


class Session:
    """`async with` it, or `await session.start()` and `await session.close()`."""

    def __init__(
        self,
        addresses: list[str],
        path: Path,
        namespace: str,
        actor: str,
        silence_s: float,
        token: Token | None = None,
    ) -> None:
        """Use `connect`."""
        self.namespace = namespace
        self.actor = actor
        self.origin = Origin(0)
        self.store: Store
        self._path = path
        self._addresses = addresses
        self._silence_s = silence_s
        self._token = token
        self._link: Link
        self._documents: dict[DocId, OpenDocument] = {}
        self._background: set[DocId] = set()
        """Open only until their edits are merged: the program has not asked for them."""
        self._feed: Feed[Event] = Feed()
        self._unstored: dict[DocId, OpenDocument] = {}
        self._storing: asyncio.TimerHandle | None = None
        self._compactions: set[asyncio.Task[None]] = set()
        self._compacting = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False

    # --- life --------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Open the store and begin to connect. Raises StoreError and what is below it."""
        assert not self._running, "started already"
        self.store = Store.open(self._path, self.namespace)
        self.origin = Origin(secrets.randbits(53))  # never used before: a copied store is safe
        self._link = Link(
            self._addresses, self.namespace, self._documents, self._told, self.now_ms, self._silence_s, self._token
        )
        self._running = True
        self._open_background()
        self._tasks = [
            asyncio.create_task(self._link.run(), name="skerry link"),
            asyncio.create_task(self._tick(), name="skerry tick"),
        ]
        for task in self._tasks:
            task.add_done_callback(_tell_loop)

    async def close(self) -> None:
        """Store what is left, and end the connection. What is not merged yet is sent by the next session."""
        if not self._running:
            return
        self._running = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._storing is not None:
            self._storing.cancel()
        try:
            self._store()
            await asyncio.gather(*self._compactions, return_exceptions=True)
        finally:
            for compaction in self._compactions:
                compaction.cancel()
            for document in self._documents.values():
                document.end()
            self._documents.clear()
            self._feed.end()
            self.store.close()

    async def __aenter__(self) -> Session:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- documents ---------------------------------------------------------------------------------------------------
    async def open(
        self, doc: str, *, at_least: str | None = None, timeout: float = 10.0, read_only: bool = False
    ) -> OpenDocument:
        """The document, from the own store, at once and offline; or, with a token, when it has come so far.

        The same object for the same id. Raises InvalidDocumentId, InvalidToken, NotYet when `timeout` seconds are over
        (the document stays open), LimitReached, StoreError.
        """
        self._must_run()
        name = parse_document_id(doc)
        document = self._documents.get(name)
        if document is None:
            document = self._open(name, read_only=read_only)
        elif document.read_only != read_only and name not in self._background:
            raise ReadOnly(f"{name}: is open {'read-only' if document.read_only else 'for editing'}; close it first")
        self._background.discard(name)
        document.read_only = read_only
        if at_least is not None:
            await document.reach(at_least, timeout)
        return document

    def _open(self, doc: DocId, *, read_only: bool) -> OpenDocument:
        if len(self._documents) >= CHANNELS_MAX:
            count = len(self._documents) + 1
            raise LimitReached("CHANNELS_MAX", count, CHANNELS_MAX, "close documents, or use another session")
        document = self._documents[doc] = OpenDocument(doc, self, read_only=read_only)
        self._link.open(document)
        return document

    def documents(self) -> list[str]:
        """Every document in the store, sorted."""
        self._must_run()
        return [*self.store.documents()]

    def _open_background(self) -> None:
        room = BACKGROUND_MAX - len(self._background)
        if room <= 0 or len(self._documents) + BACKGROUND_MAX > CHANNELS_MAX:
            return
        waiting = [doc for doc in self.store.unmerged_documents() if doc not in self._documents]
        for doc in waiting[:room]:
            self._background.add(doc)
            self._open(doc, read_only=False)

    def _must_run(self) -> None:
        if not self._running:
            raise SessionClosed(f"{self._path}: the session is not open; use it within `async with`")

    # --- where the edges are -----------------------------------------------------------------------------------------
    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._link.addresses if self._running else self._addresses)

    @addresses.setter
    def addresses(self, addresses: Sequence[str]) -> None:
        """Tried in turn from now on; a connection to one that is still among them stays. Raises InvalidAddress."""
        self._addresses = check_addresses(addresses)
        if self._running:
            self._link.change(self._addresses, leave=False)

    @property
    def online(self) -> bool:
        return self._running and self._link.up.is_set()

    @property
    def edge(self) -> str:
        """Name of the edge that is connected; empty for none."""
        return self._link.edge if self._running else ""

    @property
    def address(self) -> str:
        return self._link.address if self._running else ""

    @property
    def why_offline(self) -> str:
        """One line; empty while online."""
        return self._link.why if self._running else "closed"

    async def connected(self, timeout: float | None = None) -> None:
        """Until an edge is connected. Raises Unreachable with what was wrong last, when `timeout` seconds are over."""
        self._must_run()
        try:
            async with asyncio.timeout(timeout):
                await self._link.up.wait()
        except TimeoutError:
            raise Unreachable(f"no edge within {timeout:g} s; {self.why_offline}; work on offline, or wait") from None

    async def roam(self, address: str) -> None:
        """Leave this edge for that one; the other addresses stay behind it. `connected()` waits for it.

        Raises InvalidAddress.
        """
        self._must_run()
        others = [other for other in self._link.addresses if other != address]
        self._link.change([address, *others], leave=True)

    def events(self) -> Stream[Event]:
        """From now on: offline and online, and how safe every edit becomes."""
        return self._feed.listen()

    # --- what documents ask for (`client.host.Host`) -----------------------------------------------------------------
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def wake(self, document: OpenDocument) -> None:
        self._link.wake(document)

    def resume(self, document: OpenDocument) -> None:
        self._link.resume(document)

    def tell(self, event: Event) -> None:
        self._feed.push(event)

    def store_soon(self, document: OpenDocument) -> None:
        self._unstored[document.doc] = document
        if self._storing is None:
            self._storing = asyncio.get_running_loop().call_later(STORE_S, self._store_or_tell)

    def forget(self, document: OpenDocument) -> None:
        if self._documents.get(document.doc) is document:
            self._store()
            self._link.close(document)
            del self._documents[document.doc]
            document.end()

    def _told(self, event: Event) -> None:
        """By the link."""
        self._feed.push(event)
        match event:
            case Online() | Offline():
                for document in self._documents.values():
                    document.tell(event)
            case Refused(doc):
                self._documents[doc].tell(event)

    # --- the store ---------------------------------------------------------------------------------------------------
    def _store_or_tell(self) -> None:
        self._storing = None
        try:
            self._store()
        except StoreError as error:
            self._feed.push(StoreFailed(str(error)))
        for document in list(self._unstored.values()):
            self.store_soon(document)

    def _store(self) -> None:
        """One commit for all documents; then what is due begins to be compacted. Raises StoreError."""
        documents = [document for document in self._unstored.values() if not document.editing]
        if not documents:
            return
        self.store.commit([document.writes() for document in documents])
        for document in documents:
            document.stored()
            del self._unstored[document.doc]
            if (compaction := document.compaction()) is not None:
                task = asyncio.create_task(self._compact(document, compaction), name=f"skerry compacts {document.doc}")
                self._compactions.add(task)
                task.add_done_callback(self._compactions.discard)
                task.add_done_callback(_tell_loop)

    async def _compact(self, document: OpenDocument, compaction: Compaction) -> None:
        """Also where the document is closed meanwhile. One at a time: each holds its document twice."""
        try:
            async with self._compacting:
                await asyncio.to_thread(compaction.captured.verify)
            compacted = Compacted(compaction.captured.state, compaction.after, compaction.through)
            self.store.commit([Writes(document.doc, compacted=compacted)])
        except (InvalidUpdate, DocumentBroken):
            document.compaction_refused(compaction)
        except StoreError as error:
            self._feed.push(StoreFailed(str(error)))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._link.tick()
            for doc in [doc for doc in self._background if not self._documents[doc].sends]:
                self._background.discard(doc)
                with contextlib.suppress(StoreError):  # told by `_store_or_tell`, which tries again
                    self.forget(self._documents[doc])
            with contextlib.suppress(StoreError):
                self._open_background()


def _tell_loop(task: asyncio.Task[None]) -> None:
    """A task that ends before the session is our own fault, and nobody awaits it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        asyncio.get_running_loop().call_exception_handler({"message": f"{task.get_name()} ended", "exception": error})
