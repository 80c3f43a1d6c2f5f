"""An open document: edits that are on the disk when `edit()` returns, what is known of their safety, reads that wait.

Room: what its program asks of a document, and what an edge says of it (`client.channel`); a connection is never seen
here. A session (`Host`) lends it the store and the clock. What is here is `client.stored_replica`'s, what becomes of
own edits `client.own_edits`', who waits for what `client.waiting`'s.

Invariants:
1. An edit is in the store before it is anywhere else, and everything that it can depend on is stored no later.
2. While an edit is being made, what comes from others waits (`client.link`).
3. Once something in it was refused, nothing more is written (`client.parking`), also after a restart, until `reload`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from sync.change import Context
from sync.document import EMPTY_UPDATE, Crdt, Document, JsonValue
from sync.errors import DocumentBroken, InvalidInput, InvalidUpdate, LimitReached, NotYet, SkerryError, StoreError
from sync.extension import Edit, Stage
from sync.ids import DocId, Dot, Version
from sync.limits import CONTEXT_TEXT_BYTES_MAX, DOT_RANGES_MAX, FRAME_BYTES_MAX
from sync.replica import Replica, Verdict
from sync.token import Token, decode_token, encode_token
from sync.validate import check_update

from .awareness import Awareness
from .events import Change, Event, Feed, Observer, ReadOnlyHere, Rejected, Safer, Status, Stream, guarded
from .history import History
from .host import Host, ReadOnly, SessionClosed
from .own_edits import OwnEdits
from .parking import GIVE_WAY_MS, Aside, Fresh, fresh_of, rejected
from .store import Copy, Parked, Pending, Progress, Rejection, Writes
from .stored_replica import Compaction, StoredReplica
from .waiting import Waiting

__all__ = ["EDIT_BYTES_MAX", "OpenDocument"]

EDIT_BYTES_MAX: Final = FRAME_BYTES_MAX - 4096  # a frame, less the texts around the update


class OpenDocument:
    """Made by `Session.open`."""

    def __init__(self, doc: DocId, host: Host[OpenDocument], *, read_only: bool) -> None:
        """Raises StoreError, DocumentBroken."""
        self.doc = doc
        self.read_only = read_only
        self.denied = ""
        """Why the edge lets this client only read."""
        self.editing = False
        self._host = host
        self._feed: Feed[Change] = Feed()
        self._events: Feed[Event] = Feed()
        self._observers: list[Observer] = []
        self._reload_ms = 0
        """When it was asked for."""
        self.waiting = Waiting(doc, lambda: host.wake(self), lambda: host.why_offline)
        self._closed = False
        stored = host.store.load(doc)
        self._edits = OwnEdits(host.origin, stored)
        self._here = StoredReplica(doc, host.store, stored)
        self.awareness = Awareness(self.client_id, lambda: host.wake(self))

    def __repr__(self) -> str:
        return f"OpenDocument({self.doc!r})"

    # --- what is there -----------------------------------------------------------------------------------------------
    @property
    def crdt(self) -> Crdt:
        """The pycrdt document, to be read. Change it within `edit()` only: what is changed elsewhere is not stored.

        After a failed store or a broken document this is another one, and after somebody has deleted half of an
        emoji, or typed within it, as editors that count UTF-16 units do: ask for it, and for its roots, each time.
        """
        return self.document.crdt

    @property
    def client_id(self) -> int:
        """Of the CRDT: new at every opening, so that a copied store is safe (facts 1.6)."""
        return self.crdt.client_id

    @property
    def document(self) -> Document:
        """The CRDT as the engine sees it."""
        return self._here.document

    @property
    def replica(self) -> Replica:
        return self._here.replica

    @property
    def version(self) -> Version | None:
        """Everything of the document up to this version is here."""
        return self.replica.version

    def text(self, root: str) -> str:
        return self.document.text(root)

    def contents(self) -> dict[str, JsonValue]:
        """Every root by name, with its kind and its value as JSON (`sync.document.Document.contents`)."""
        return self.document.contents()

    @property
    def status(self) -> Status:
        edits = self._edits
        unmerged, rejections = tuple(edits.unmerged.values()), tuple(edits.rejections)
        return Status(self._host.online, unmerged, self.version, rejections, edits.parked)

    @property
    def unmerged(self) -> dict[Dot, Progress]:
        """Edits of this store that the leader has not merged, oldest first."""
        return self._edits.unmerged

    @property
    def parked(self) -> Parked | None:
        """Why nothing is written here; None where it is."""
        return self._edits.parked

    @property
    def sends(self) -> bool:
        """There are edits that the leader may yet merge."""
        return self._edits.sends

    # --- edits -------------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def edit(self, *, correlation: str = "", causation: str = "", actor: str | None = None) -> Iterator[Crdt]:
        """One transaction, on the disk (fsync) when the block has ended; it works offline.

        Gives the pycrdt document; a root that is not there is made on first use: a Text by `crdt["body"]`, others by
        `crdt.get("rows", type=Array)`. Do not await within the block: nothing else of this document goes on meanwhile.
        Where the block raises, what ran before it is kept and stored as well (facts 1.9), and the error goes on.
        Raises ReadOnly, EditRejected (until `reload`); LimitReached, StoreError, DocumentBroken: then the whole edit is
        undone, and `crdt` is another.
        """
        context = self._context(correlation, causation, actor)
        with self._alone() as document:
            try:
                with document.edit() as made:
                    yield document.crdt
            except BaseException as error:
                if type(error).__name__ == "PanicException":  # pycrdt's; the document is undefined now
                    self._undo_all()
                    what = f"{self.doc}: pycrdt failed within an edit; it was undone, try another"
                    raise DocumentBroken(what) from error
                self._keep(made, context)
                raise
            self._keep(made, context)

    def insert(self, root: str, position: int, text: str, *, correlation: str = "", causation: str = "") -> None:
        """Insert into the text `root`. `position` in characters (code points). Raises IndexError, and as `edit()`."""
        self._edit_text(root, position, 0, text, self._context(correlation, causation, None))

    def delete(self, root: str, position: int, count: int, *, correlation: str = "", causation: str = "") -> None:
        """Delete `count` characters of the text `root`. Raises IndexError, and as `edit()`."""
        self._edit_text(root, position, count, "", self._context(correlation, causation, None))

    def _edit_text(self, root: str, position: int, deleted: int, inserted: str, context: Context) -> None:
        def edit(document: Document) -> list[bytes]:
            made = document.edit_text(root, position, deleted, inserted)
            return [] if made == EMPTY_UPDATE else [made]

        self._make(context, edit)

    def take_in(self, update: bytes, *, correlation: str = "", causation: str = "") -> bool:
        """Bytes from elsewhere (a Yjs update, v1) as an edit; False where all of it is here already.

        Raises InvalidUpdate, NotYet where it depends on what is not here, and as `edit()`.
        """
        context = self._context(correlation, causation, None)
        shape = check_update(update)

        def take(document: Document) -> list[bytes]:
            judgement = self.replica.judge(shape)
            if judgement.verdict is Verdict.EARLY:
                client, clock = judgement.missing[0]
                raise NotYet(self.doc, str(self.replica.clocks.get(client, 0)), f"clock {clock} of client {client}")
            if judgement.verdict is Verdict.SEEN:
                return []
            document.apply(update)
            return [update]

        return self._make(context, take)

    def state(self) -> bytes:
        """The whole document as one Yjs update (v1)."""
        return self.document.state()

    def history(self, *roots: str) -> History:
        """Undo and redo of what is edited in these roots from now on."""
        return History(self, roots)

    def step(self, step: Callable[[], list[bytes]]) -> bool:
        """One undo or redo, kept as an edit. For `History`."""
        return self._make(self._context("", "", None), lambda _: step())

    def _context(self, correlation: str, causation: str, actor: str | None) -> Context:
        context = Context("", self._host.actor if actor is None else actor, causation, correlation)
        for name, text in (("actor", context.actor), ("causation", causation), ("correlation", correlation)):
            if len(text.encode("utf-8", "replace")) > CONTEXT_TEXT_BYTES_MAX:
                raise InvalidInput(f"{name}: over {CONTEXT_TEXT_BYTES_MAX} bytes; give a shorter one")
        return context

    def check_writable(self) -> None:
        """Raises ReadOnly, EditRejected, SessionClosed, as an edit would now."""
        if self._closed:
            raise SessionClosed(f"{self.doc}: is closed; open it again")
        if self.read_only or self.denied:
            raise self._read_only()
        self._must_not_be_parked()

    def _must_not_be_parked(self) -> None:
        if self.parked is not None:
            raise rejected(self.doc, self.parked.reason)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Document]:
        """Nothing else happens to this document within it. Invariant 2."""
        self.check_writable()
        if self.editing:
            raise InvalidInput(f"{self.doc}: an edit within an edit; end the first one")
        self.editing = True
        try:
            yield self.document
        finally:
            self.editing = False
            self._host.resume(self)

    def _make(self, context: Context, make: Callable[[Document], Sequence[bytes]]) -> bool:
        """An edit that the engine makes: `make` gives what it has said of it. False where that is nothing."""
        with self._alone() as document:
            try:
                made = make(document)
                self._keep(made, context)
            except DocumentBroken:
                self._undo_all()
                raise
        return bool(made)

    def _keep(self, made: Sequence[bytes], context: Context) -> None:
        """Invariant 1. Nothing of the edit is left where this raises."""
        if not made:
            return
        try:
            update, shape = self._here.one_update(made)
            if len(update) > EDIT_BYTES_MAX:
                raise LimitReached("EDIT_BYTES_MAX", len(update), EDIT_BYTES_MAX, "make several edits of it")
            self.replica.check_depth(update, shape)
            now_ms = self._host.now_ms()
            edit = Edit(self._edits.next, context.actor, context.causation, context.correlation, update)
            self._host.store.commit([self.writes(edit, now_ms)])
        except (StoreError, LimitReached, DocumentBroken, InvalidUpdate):
            self._undo_all()
            raise
        self.stored()
        dot = self._edits.made(now_ms)
        self._here.edited(update, shape, now_ms)
        if self._here.is_long:
            self._host.store_soon(self)
        self._tell(Safer(self.doc, Stage.DISK, (dot,), None, now_ms))
        self._host.wake(self)

    def _undo_all(self) -> None:
        with contextlib.suppress(SkerryError):  # the first error tells more
            self._here.rebuild()

    # --- the store ---------------------------------------------------------------------------------------------------
    def writes(self, edit: Edit | None = None, edit_ms: int = 0) -> Writes:
        """What is not stored yet; `stored()` when it is."""
        edits, here = self._edits, self._here
        return Writes(
            self.doc,
            here.arrived,
            edit,
            edit_ms,
            here.moved_to,
            edits.progressed,
            rejected=edits.refused,
            parked=edits.parked,
        )

    def stored(self) -> None:
        self._here.stored()
        self._edits.stored()

    def pending(self, after: int, count_max: int, bytes_max: int) -> list[Pending]:
        """Edits behind this row of the store that the leader has not merged. Raises StoreError."""
        return self._host.store.pending(self.doc, after, count_max, bytes_max) if self.unmerged else []

    def compaction(self) -> Compaction | None:
        """Where it is time to replace the rows, and all of them are stored. Raises StoreError, DocumentBroken."""
        return None if self.editing else self._here.compaction()

    def compaction_refused(self, compaction: Compaction) -> None:
        """Nothing was replaced."""
        if not (self.editing or self._closed):
            with contextlib.suppress(StoreError):  # the rows stay as they are, and are tried again after as many
                self._here.refused(compaction)

    # --- what the edge says ------------------------------------------------------------------------------------------
    def take(self, update: bytes) -> None:
        """Raises InvalidInput, LimitReached, DocumentBroken; then nothing of it is kept."""
        news = self._here.take(update, self._observers, self._host.now_ms())
        for each in news:
            self._feed.push(Change(self.doc, each, ()))
        if news:
            self._host.store_soon(self)

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """What is taken within it are the pieces of one update."""
        try:
            with self._here.arriving():
                yield
        finally:
            self._host.store_soon(self)

    def safe(self, stage: Stage, dots: Sequence[Dot], version: Version | None) -> None:
        now_ms = self._host.now_ms()
        moved = self._edits.safe(stage, dots, version, now_ms)
        if moved:
            self._host.store_soon(self)
            self.waiting.safe(stage, moved)
            self._tell(Safer(self.doc, stage, tuple(moved), version, now_ms))

    def rejected(self, dots: Sequence[Dot], reason: str) -> None:
        """The leader refuses these edits. They stay in this document, and are not sent again."""
        refused = self._edits.refuse(dots, reason, self._host.now_ms())
        if refused:
            self.park(reason, tuple(refused))

    def park(self, reason: str, dots: tuple[Dot, ...] = ()) -> None:
        """Invariant 3. `dots`: the edits that are refused, where that is known."""
        now_ms = self._host.now_ms()
        if self.parked is None or dots:
            self._edits.parked = Parked(reason, now_ms)  # the leader's reason says more
            self._host.store_soon(self)
            self.waiting.fail_confirmations(rejected(self.doc, reason))
            self._tell(Rejected(self.doc, dots, reason, now_ms))

    async def reload(self, *, timeout: float | None = None) -> None:
        """Take what an edge holds in the place of a parked document; nothing happens where it is not parked.

        What is here goes to `asides()`. `crdt` and its shared types are others from then on. Edits that others have, or
        that an edge took and that build on nothing refused, go on; what goes with the copy is in `status.rejected`.
        Raises NotYet when `timeout` seconds are over (then it stays parked), StoreError, SessionClosed.
        """
        if self._closed:
            raise SessionClosed(f"{self.doc}: is closed; open it again")
        if self.parked is not None:
            self._reload_ms = self._reload_ms if self.waiting.reloading else self._host.now_ms()
            await self.waiting.until_reloaded(timeout)

    async def fresh(self, whole: bytes) -> Fresh:
        """What takes this document's place where an edge holds `whole`, made in a thread.

        While it is being made nothing else may come from the edge; what is parked has no edits either.
        Raises StoreError, InvalidUpdate, DocumentBroken.
        """
        return await asyncio.to_thread(self._freshly(whole))

    def _freshly(self, whole: bytes) -> Callable[[], Fresh]:
        """Raises StoreError."""
        edits = [each.edit for each in self.pending(0, sys.maxsize, sys.maxsize)]
        return partial(fresh_of, self.doc, whole, self.state(), edits, {**self.unmerged}, self._host.now_ms())

    def adopt(self, whole: bytes, fresh: Fresh | None = None) -> bool:
        """What an edge holds has come, all of it. False: it has yet to give way to the leader; ask it again.

        `fresh`: was made of it. Raises InvalidUpdate, DocumentBroken.
        """
        parked = self.parked
        assert parked is not None
        now_ms = self._host.now_ms()
        try:
            if fresh is None:
                fresh = self._freshly(whole)()
            if fresh.complete and now_ms - self._reload_ms < GIVE_WAY_MS:
                return False
            lost = [Rejection(dot, parked.reason, now_ms) for dot in self.unmerged if dot not in fresh.kept]
            self._host.store.commit(
                [
                    Writes(
                        self.doc,
                        progress=self._edits.progressed,
                        rejected=(*self._edits.refused, *lost),
                        replaced=fresh.state,
                        copy=None if fresh.complete else Copy(parked, fresh.old),
                    )
                ]
            )
        except StoreError as error:
            self.waiting.reloaded(error)
            return False
        self._edits.replaced(lost)
        self._here.replaced(fresh.document)
        self._feed.push(Change(self.doc, whole, ()))
        self.waiting.reloaded()
        return True

    def asides(self) -> list[Aside]:
        """What was here before each `reload`, oldest first. Raises StoreError."""
        copies = self._host.store.copies(self.doc)
        return [Aside(self.doc, each.parked.reason, each.parked.at_ms, each.state) for each in copies]

    def at(self, version: Version) -> None:
        if self._here.at(version):
            self._host.store_soon(self)
            self.waiting.look(self._covers)

    def changed(self, changes: tuple[tuple[Dot, Context], ...]) -> None:
        news = tuple((dot, context) for dot, context in changes if dot not in self.replica.dots)
        for dot, _ in news:
            self.replica.dots.add(dot)
        self.replica.dots.trim(DOT_RANGES_MAX)
        if news:  # an edge says it when it takes an edit, and again when the leader has merged it
            self._feed.push(Change(self.doc, b"", news))

    def tell(self, event: Event) -> None:
        """To those who listen to this document alone."""
        self._events.push(event)

    def _tell(self, event: Event) -> None:
        self._events.push(event)
        self._host.tell(event)

    def deny(self, reason: str) -> None:
        """The edge takes no edits of this document from this session."""
        if self.denied != reason:
            self.denied = reason
            self._tell(ReadOnlyHere(self.doc, reason))
        self.waiting.fail_confirmations(self._read_only())

    def _read_only(self) -> ReadOnly:
        kept = f"; {len(self.unmerged)} edits stay in the store" if self.unmerged else ""
        why = self.denied.removeprefix("read-only: ") or "opened so"
        return ReadOnly(f"{self.doc}: read-only ({why}){kept}; edit another document")

    # --- waiting -----------------------------------------------------------------------------------------------------
    async def synced(self, *, timeout: float | None = None) -> None:
        """Until an edge has sent what it holds, on the present connection or the next one.

        Raises NotYet when `timeout` seconds are over, SessionClosed.
        """
        await self.waiting.until_synced(timeout)

    async def confirmed(self, stage: Stage = Stage.MERGED, *, timeout: float | None = None) -> None:
        """Until every edit of this store in this document, made so far, has come to `stage`.

        Raises NotYet when `timeout` seconds are over, SessionClosed, ReadOnly where the edge takes none of them, and
        EditRejected where one is refused, until `reload`.
        """
        self._must_not_be_parked()
        left = [dot for dot, progress in self.unmerged.items() if progress.stage < stage]
        if left and self.denied:
            raise self._read_only()
        await self.waiting.confirmed(left, stage, timeout)

    @property
    def token(self) -> str:
        """For this store's newest edit in this document, or, where there is none, for what the document has.

        It can be made offline, and it is good for ever. Raises NotYet where there is neither.
        """
        last, version = self._edits.newest
        if last is None:
            version = self.version
            if version is None:
                raise NotYet(self.doc, "no edit and no version", "one of them")
        return encode_token(Token(self._host.namespace, self.doc, version, last))

    async def read(self, *, at_least: str | None = None, timeout: float = 10.0) -> dict[str, JsonValue]:
        """`contents()`, when the document has come as far as the token.

        Raises NotYet when `timeout` seconds are over; InvalidToken where it is damaged, or for something else.
        """
        if at_least is not None:
            await self.reach(at_least, timeout)
        return self.contents()

    async def reach(self, text: str, timeout: float) -> None:
        """As `read`, without reading."""
        token = decode_token(text, self._host.namespace, self.doc)
        if self._covers(token):
            return
        await self.waiting.reach(
            text, token, timeout, lambda: str(self.version) if self.version is not None else "no version"
        )

    def _covers(self, token: Token) -> bool:
        if token.dot is not None and self._edits.has(token.dot):
            return True
        if self.replica.early:
            return False
        if token.dot is not None and token.dot in self.replica.dots:
            return True
        version = self.version
        return token.version is not None and version is not None and version.covers(token.version)

    # --- listening ---------------------------------------------------------------------------------------------------
    def changes(self) -> Stream[Change]:
        """What others change from now on: `async for change in plan.changes()`."""
        return self._feed.listen()

    def events(self) -> Stream[Event]:
        """How safe this document's edits become, from now on; going offline and coming back."""
        return self._events.listen()

    def observe(self, callback: Observer) -> Callable[[], None]:
        """Call `callback` with pycrdt's TransactionEvent of every change of others; returns what ends that.

        It runs within the transaction: it reads, and changes nothing. What it raises goes to the event loop's handler.
        """
        observer = guarded(callback)
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    async def close(self) -> None:
        """Store what is left and say good-bye to the edge. Edits that are not merged are sent by the next session."""
        self._host.forget(self)

    def end(self) -> None:
        """Nobody may wait for this object any more."""
        self._closed = True
        error = SessionClosed(f"{self.doc}: was closed; what is stored stays stored")
        self.waiting.fail(error)
        self._feed.end()
        self._events.end()
