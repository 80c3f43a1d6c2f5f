"""The edge daemon: the edge machine wired to its store, its bus, its clock and its clients.

Room: performs what `sync.edge` decides, and decides nothing about documents. One event loop; the store's commits run
in a thread of their own, its reads in another.

1. One commit is on its way at a time; what comes meanwhile is the next one. That is the group commit, and it adapts:
   idle, a keystroke is written at once; under load, a commit holds what came during the one before, and `server.pace`
   lets a little more come.
2. Effects are performed in the order in which the machine returned them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from sync import wire
from sync.arriving import look_at
from sync.brink import loading
from sync.change import Beacon, Merged, RepairAsk
from sync.compacting import refusal_of
from sync.content import Captured
from sync.edge import Edge, EdgeSettings, EdgeStep
from sync.errors import BusError, DocumentBroken, InvalidInput, StoreDamaged, StoreError
from sync.hosted import built
from sync.ids import ORIGIN_MAX, ConnId, DocId, Dot, Origin, Version, parse_document_id
from sync.limits import COMMIT_LAZY_MS, OUTBOX_WARN_MS, OUTBOX_WARN_PERCENT, PRESENCE_JOIN_MS, SPLIT_FRAME_BYTES
from sync.nesting import places_of
from sync.ports import StoredDocument
from sync.slow import Readers
from sync.step import (
    AskSync,
    Close,
    Commit,
    EdgeEffect,
    FindPlaces,
    Follow,
    ListDocuments,
    Load,
    LoadLogged,
    Look,
    Pause,
    PresenceOut,
    Publish,
    ReadOutbox,
    Report,
    Resume,
    Send,
    SetAside,
    TakeOn,
    Unfollow,
    Verify,
)
from sync.text import parse_dot, parse_version

from . import aside
from .asking import Asking
from .bus import Bus
from .config import Config
from .large import LargeFrames
from .log import report
from .pace import Pace
from .record import KILLS, Record
from .salvage import NO_WITNESS, open_store
from .tasks import Tasks
from .watchdog import Watchdog

__all__ = ["ASIDE", "STORE", "Connection", "EdgeDaemon"]

log = logging.getLogger("skerry.edge")

TICK_S = 0.1
SPREAD_REST = 4  # presence to thousands of clients takes at most a fifth of the time
RETRY_S = 1.0  # what the disk, or the log, would not say
LOG_WARNING_MS = 10_000  # between two warnings that the log refuses changes
STORE = "edge.db"  # in the directory of its data
ASIDE = "aside"  # there too: what was set aside
WITNESS = "witness"
ORIGINS_LISTED_MAX = 1000
_T = TypeVar("_T")


class Connection(Protocol):
    """One websocket client, as the gateway hands it over."""

    def send(self, frame: bytes) -> None:
        """Never blocks; a reader that is too slow is closed by the connection itself."""
        ...

    def close(self, code: int, reason: str) -> None: ...

    def pause(self) -> None:
        """Read nothing more until `resume`: what comes would only wait here. Each is undone once."""
        ...

    def resume(self) -> None: ...


def _refusal_of(captured: Captured) -> str:
    with loading(captured.doc):
        return refusal_of(captured)


def _witness_of(text: str) -> tuple[Version, DocId, Dot]:
    version, dot, doc = text.split(" ", 2)
    return parse_version(version), parse_document_id(doc), parse_dot(dot)


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class EdgeDaemon:
    """`start()`, then `opened` / `received` / `closed` for each client, then `stop()`. Listens to its bus."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store, _ = open_store(config.data / STORE)
        self.machine = Edge(
            EdgeSettings(config.name, Origin(secrets.randbelow(ORIGIN_MAX) + 1), config.pin, config.namespace)
        )
        pressure = self.machine.pressure
        pressure.document_bytes_max = config.document_bytes_max
        pressure.document_clients_max = config.document_clients_max
        pressure.documents_bytes_max = config.documents_bytes_max
        self.readers = Readers(self.machine)
        self.watchdog = Watchdog()
        self._warn_outbox_ms = 0
        self.bus = Bus(config.bus(config.name), self)
        self.connections: dict[ConnId, Connection] = {}
        self._paused: dict[ConnId, Connection] = {}
        self.started_ms = wall_ms()
        self._next_conn = 0
        self._committer = ThreadPoolExecutor(1, "skerry-commit")
        self._reader = ThreadPoolExecutor(1, "skerry-read")
        self._asking = Asking(self.bus, self.machine, self._reader, self._do, now_ms)
        self._large = LargeFrames(
            lambda work: self.tasks.spawn(work),
            self._received,
            lambda conn, error: self._do(self.machine.refused(conn, error, now_ms())),
            lambda conn: self.machine.pending_bytes(conn),
            lambda conn: self.machine.pieces_come(conn),
            lambda conn: self.machine.replica_of(conn),
            self.connections.get,
        )
        self.tasks = Tasks(log)
        self._committing = False
        self._flush_soon = False
        self._flush_later: asyncio.TimerHandle | None = None
        self._ending = False
        self._spread_soon = False
        self._spread_s = 0.0
        """When presence may go out again."""
        self._pace = Pace()
        self._idle = asyncio.Event()
        self._idle.set()
        self._shipped = asyncio.Event()
        """Set when nothing is in flight to the log any more."""
        self._warn_after_ms = 0
        self._witness_kept: tuple[Version, DocId, Dot] | None = None

    # --- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Serves at once, whether or not there is a link."""
        self._loop = asyncio.get_running_loop()
        self.watchdog.start()
        text = self.store.get_meta(WITNESS)
        if text is not None:
            try:
                self.bus.set_witness(*_witness_of(text))
            except (ValueError, InvalidInput):  # a damaged row: then every document is compared with the leader
                self.bus.set_witness(*_witness_of(NO_WITNESS))
        if self.config.pin:
            self.bus.follow_all()
        self.bus.follow_beacons()
        await self.bus.start()
        self.tasks.spawn(self._tick(), vital=True)

    def set_stored_aside(self, record: Record, doc: DocId) -> None:
        """Before `start`. The process before this one died of this document: where it is no accident, it comes out."""
        stored = self.store.load(doc)
        pieces = [piece for piece in (stored.state, *stored.updates) if piece] if stored is not None else []
        if pieces and record.condemned(doc, pieces):
            for kept in aside.keep_document(self.store, self.config.data / ASIDE, doc, KILLS):
                log.error("set_aside name=%s bytes=%d", kept.name, kept.bytes)

    async def stop(self, deadline_s: float = 5.0) -> None:
        """Commit, ship what can be shipped in that time, leave the rest in the outbox."""
        self.tasks.close()
        self.watchdog.stop()
        ends = time.monotonic() + deadline_s
        for conn in list(self.connections):
            self.closed(conn)
        await self._settle(ends)
        if self.bus.state.state == "up" and self.machine.shipping.inflight_count:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shipped.wait(), max(0.01, ends - time.monotonic()))
        await self.bus.stop(max(0.1, ends - time.monotonic()))
        await self.tasks.stop()
        await self._settle(time.monotonic() + 5)
        self._keep_witness()
        self._committer.shutdown()
        self._reader.shutdown()
        self._large.stop()
        self.store.close()

    async def _settle(self, ends: float) -> None:
        """Until everything pending is on the disk."""
        self._ending = True
        self._flush()
        while (self._committing or self.machine.wants_flush) and time.monotonic() < ends:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), max(0.01, ends - time.monotonic()))
            except TimeoutError:
                break

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._look_at_outbox()
            self._do(self.machine.tick(now_ms()))
            self._large.moved()
            self._keep_witness()

    def _look_at_outbox(self) -> None:
        """Warns before it is full; then new edits are refused, with the reason, until some of it is merged."""
        totals, config = self.store.outbox_totals(), self.config
        full: tuple[str, int, int] | None = None
        filling = False
        for name, got, limit in (
            ("outbox_count", totals.count, config.outbox_count_max),
            ("outbox_bytes", totals.bytes, config.outbox_bytes_max),
        ):
            filling = filling or 100 * got >= OUTBOX_WARN_PERCENT * limit
            if got >= limit:
                full = (name, got, limit)
        self.machine.pressure.outbox_full = full
        if filling and now_ms() >= self._warn_outbox_ms:
            self._warn_outbox_ms = now_ms() + OUTBOX_WARN_MS
            event = "outbox_full" if full else "outbox_filling"
            log.warning("%s count=%d bytes=%d detail='link it, or free its log'", event, totals.count, totals.bytes)

    def _keep_witness(self) -> None:
        """Only when every document has been compared with this log: until then, the next start must sweep again."""
        witness = self.machine.witness
        if witness is None:
            return
        self.bus.set_witness(*witness)
        quiet = not (self.machine.sweeping or self.machine.wants_flush or self._committing)
        if quiet and witness != self._witness_kept:
            self._witness_kept = witness
            version, doc, dot = witness
            kept = f"{version} {dot} {doc}"
            self._in(self._reader, lambda: self.store.set_meta(WITNESS, kept), lambda _: None, again=False)

    # --- clients -----------------------------------------------------------------------------------------------------
    def opened(self, connection: Connection, doc: DocId, extended: bool = False, read_only: bool = False) -> ConnId:
        self._next_conn += 1
        conn = ConnId(self._next_conn)
        self.connections[conn] = connection
        self._do(self.machine.opened(conn, doc, now_ms(), extended, read_only))
        return conn

    def received_all(self, conn: ConnId, frames: list[bytes]) -> None:
        """Frames of one read. Typing is taken in together; whatever asks for an answer gets it before the next is read:
        who does not read its answers is noticed in between."""
        if len(frames) == 1 or self.readers or self._large.waits(conn):
            for frame in frames:
                self.received(conn, frame)
            return
        typed: list[bytes] = []
        behind = False  # a large one
        for frame in frames:
            small = len(frame) <= SPLIT_FRAME_BYTES or not self._large.is_large(conn, frame)
            if small and not behind and wire.short_update(frame) is not None:
                typed.append(frame)
                continue
            self._typed(conn, typed)
            typed = []
            self.received(conn, frame)
            behind = self._large.waits(conn)
        self._typed(conn, typed)

    def _typed(self, conn: ConnId, frames: list[bytes]) -> None:
        if frames:
            self._pace.arrived(len(frames))
            self._do(self.machine.received_all(conn, frames, now_ms()))

    def received(self, conn: ConnId, frame: bytes) -> None:
        if self._large.takes(conn, frame):
            return
        self._received(conn, frame)

    def _received(self, conn: ConnId, frame: bytes) -> None:
        self._pace.arrived(1)
        if self.readers and self.readers.heard(conn, frame):
            return
        self._do(self.machine.received(conn, frame, now_ms()))

    def closed(self, conn: ConnId) -> None:
        if self.connections.pop(conn, None) is not None:
            self._resume(conn)
            self._large.closed(conn)
            self.readers.closed(conn)
            self._do(self.machine.closed(conn, now_ms()))

    def _resume(self, conn: ConnId) -> None:
        """Its socket may have other documents: these are read again also where this one is closed."""
        paused = self._paused.pop(conn, None)
        if paused is not None:
            paused.resume()

    def slow(self, conn: ConnId) -> None:
        """Called while effects are performed: what of them is still to come for this connection counts as sent."""
        self.readers.slow(conn)

    def drained(self, conn: ConnId) -> None:
        for effect in self.readers.drained(conn, now_ms()).now:
            self._perform(effect)
        self._wake_flush()

    # --- what the machine wants --------------------------------------------------------------------------------------
    def _do(self, step: EdgeStep) -> None:
        assert step.commit is None, "only a flush commits"
        if self.readers:
            step = self.readers.sift(step, now_ms())
        for effect in step.now:
            self._perform(effect)
        self._wake_flush()
        if self.machine.wants_spread and not self._spread_soon:
            self._spread_soon = True
            self._loop.call_later(max(0.0, self._spread_s - self._loop.time()), self._spread)

    def _spread(self) -> None:
        self._spread_soon = False
        began_s = self._loop.time()
        self._do(self.machine.spread())
        ended_s = self._loop.time()
        self._spread_s = ended_s + max(PRESENCE_JOIN_MS / 1000, SPREAD_REST * (ended_s - began_s))

    def _wake_flush(self) -> None:
        if self._committing or self._flush_soon or not self.machine.wants_flush:
            return
        if self.machine.wants_flush_now or self._ending:
            self._flush_soon = True
            wait_s = self._pace.wait_s(self._loop.time())
            if wait_s:
                self._loop.call_later(wait_s, self._flush)
            else:
                self._loop.call_soon(self._flush)  # after whatever else this turn of the loop brings
        elif self._flush_later is None:
            self._flush_later = self._loop.call_later(COMMIT_LAZY_MS / 1000, self._flush)

    def _perform(self, effect: EdgeEffect) -> None:
        match effect:
            case Send(conns, frame):
                for conn in conns:
                    connection = self.connections.get(conn)
                    if connection is not None:
                        connection.send(frame)
            case Publish():
                self._publish(effect)
            case Load(doc):
                self._in(
                    self._reader,
                    lambda: self._load(doc),
                    lambda stored: self._go_on(self.machine.loaded(doc, stored, now_ms())),
                )
            case Pause(conn):
                if conn in self.connections:
                    self._paused[conn] = self.connections[conn]
                    self.connections[conn].pause()
            case Resume(conns):
                for conn in conns:
                    self._resume(conn)
            case Close(conn, code, reason):
                self._large.closed(conn)
                self._resume(conn)
                closing = self.connections.pop(conn, None)
                if closing is not None:
                    log.info("client_closed code=%d reason=%r", code, reason)
                    closing.close(code, reason)
            case ReadOutbox(read, after, count_max, bytes_max):
                self._in(
                    self._reader,
                    lambda: self.store.outbox(after, count_max, bytes_max),
                    lambda rows: self._do(self.machine.outbox_read(read, rows, now_ms())),
                )
            case AskSync():
                self.tasks.spawn(self._asking.ask_sync(effect.ask))
            case LoadLogged(doc):
                self.tasks.spawn(self._asking.load_logged(doc))
            case ListDocuments(True):
                self.tasks.spawn(self._list_log())
            case ListDocuments():
                self._in(
                    self._reader,
                    self.store.documents,
                    lambda docs: self._do(self.machine.listed(docs, False, now_ms())),
                )
            case PresenceOut(doc, payload):
                self.bus.send_presence(doc, payload)
            case Follow(doc):
                self.bus.follow(doc)
            case Unfollow(doc):
                self.bus.unfollow(doc)
            case Report():
                report(log, effect)
            case Verify(_, captured):
                self._in(
                    self._reader,
                    lambda: _refusal_of(captured),
                    lambda refusal: self._do(self.machine.verified(captured, refusal)),
                )
            case FindPlaces(_, replica, state):
                self._in(
                    self._large.checker,
                    lambda: places_of(state),
                    lambda places: self._go_on(self.machine.places_found(replica, places, now_ms())),
                )
            case Look(doc, number, update, into):
                self._in(
                    self._large.checker,
                    lambda: look_at(update, into),
                    lambda found: self._do(self.machine.looked(doc, number, found, now_ms())),
                )
            case TakeOn(doc, number):
                self._loop.call_soon(self._take_on, doc, number)
            case SetAside(doc, update, reason):
                work = partial(aside.keep, self.config.data / ASIDE, doc, "replaced", update, reason)
                self._in(
                    self._reader, work, lambda kept: log.warning("set_aside name=%s bytes=%d", kept.name, kept.bytes)
                )

    def _take_on(self, doc: DocId, number: int) -> None:
        self._do(self.machine.take_on(doc, number, now_ms()))

    def _go_on(self, step: EdgeStep) -> None:
        """A document is there, or it was found where everything in it stands."""
        self._do(step)
        self._large.moved()
        self._asking.moved()

    def _load(self, doc: DocId) -> StoredDocument | None:
        """In the reader's thread: the document too is made here, in calls of a few milliseconds (`sync.loading`)."""
        stored = self.store.load(doc)
        if stored is None:
            return None
        with loading(doc):
            try:
                return built(stored)
            except DocumentBroken:
                return stored  # the machine meets it too, and says so

    def _publish(self, effect: Publish) -> None:
        change = effect.change

        def done(result: Version | BusError) -> None:
            if isinstance(result, Version):
                self._do(self.machine.published(change.doc, change.dot, result, now_ms()))
            else:
                self._warn_of_log(result)
                self._do(self.machine.publish_failed(change.doc, change.dot, now_ms()))
            if not self.machine.shipping.inflight_count:
                self._shipped.set()

        self._shipped.clear()
        self.bus.publish(change, done)

    def _warn_of_log(self, error: BusError) -> None:
        """The alarm of a log that takes nothing more (its storage is full): the outbox grows until somebody acts."""
        if self.bus.state.state == "up" and now_ms() >= self._warn_after_ms:
            self._warn_after_ms = now_ms() + LOG_WARNING_MS
            log.warning("log_refuses detail=%r outbox=%d", str(error), self.store.outbox_totals().count)

    async def _list_log(self) -> None:
        while self.bus.state.state == "up":  # else the next link asks anew
            try:
                docs = await self.bus.documents()
            except BusError as error:
                log.warning("documents_unlisted detail=%r", str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self._do(self.machine.listed(docs, True, now_ms()))
                return

    # --- the disk ----------------------------------------------------------------------------------------------------
    def _flush(self) -> None:
        self._flush_soon = False
        if self._flush_later is not None:
            self._flush_later.cancel()
            self._flush_later = None
        if self._committing:
            return
        if not self.machine.wants_flush:
            self._idle.set()
            return
        began_s = self._loop.time()
        step = self.machine.flush(now_ms(), wall_ms())
        if self.readers:
            step = self.readers.flushed(step, now_ms())
        for effect in step.now:
            self._perform(effect)
        self._pace.flushed(began_s, self._loop.time())
        self._large.moved()
        if step.commit is None:
            self._idle.set()
            return
        commit = step.commit
        self._committing = True
        self._committer.submit(self._commit, commit)

    def _commit(self, commit: Commit) -> None:
        """In the committer's thread."""
        try:
            self.store.commit(commit.writes)
        except StoreError as error:
            failure = str(error)
            self._loop.call_soon_threadsafe(self._committed, commit.ticket, failure)
            self._loop.call_soon_threadsafe(self._look_at, error)
        except BaseException as error:
            log.exception("commit_died")
            self._loop.call_soon_threadsafe(self._committed, commit.ticket, repr(error))
        else:
            self._loop.call_soon_threadsafe(self._committed, commit.ticket, None)

    def _committed(self, ticket: int, failure: str | None) -> None:
        self._committing = False
        if failure is None:
            step = self.machine.committed(ticket, now_ms())
        else:
            step = self.machine.commit_failed(ticket, now_ms(), failure)
        if self.readers:
            step = self.readers.committed(ticket, step, now_ms())
        for effect in step.now:
            self._perform(effect)
        if not self.machine.wants_flush:
            self._idle.set()
        self._wake_flush()

    def _in(
        self, executor: ThreadPoolExecutor, work: Callable[[], _T], then: Callable[[_T], None], *, again: bool = True
    ) -> None:
        """Run `work` in a thread of the store, `then` on the loop with what it gave.

        `again`: the machine waits for it, until the disk can be read once more.
        """

        async def run() -> None:
            while True:
                try:
                    result = await self._loop.run_in_executor(executor, work)
                except StoreError as error:
                    log.error("store_failed detail=%r", str(error))
                    self._look_at(error)
                    if not again:
                        return
                    await asyncio.sleep(RETRY_S)
                else:
                    then(result)
                    return

        self.tasks.spawn(run())

    async def read_store(self, work: Callable[[], _T]) -> _T:
        """Raises StoreError."""
        try:
            return await self._loop.run_in_executor(self._reader, work)
        except StoreError as error:
            self._look_at(error)
            raise

    def _look_at(self, error: BaseException) -> None:
        """A damaged store is no use to anybody: this daemon ends; the next opening sets it aside (`server.daemons`)."""
        if isinstance(error, StoreDamaged) and not self.tasks.died.done():
            self.tasks.died.set_exception(error)

    # --- what the bus says (BusListener) -----------------------------------------------------------------------------
    def link_up(self, epoch: int, intact: bool) -> None:
        log.info("link_up epoch=%x intact=%s", epoch, intact)
        self._do(self.machine.link_up(epoch, intact, now_ms()))

    def link_down(self, reason: str) -> None:
        log.warning("link_down reason=%r", reason)
        self._do(self.machine.link_down(now_ms()))

    def merged(self, merged: Merged) -> None:
        self._do(self.machine.merged(merged, now_ms()))

    def presence(self, doc: DocId, payload: bytes) -> None:
        self._do(self.machine.presence(doc, payload, now_ms()))

    def beacon(self, beacon: Beacon) -> None:
        self._do(self.machine.beacon(beacon, now_ms()))

    def repair_asked(self, ask: RepairAsk) -> None:
        self._do(self.machine.repair_asked(ask, now_ms()))

    # --- what readers without a connection need (`server.reads`) ----------------------------------------------------
    async def documents(self) -> list[DocId]:
        return await self.read_store(self.store.documents)

    def touched(self, doc: DocId) -> None:
        """Somebody reads it: it is in use from now on."""
        self._do(self.machine.touched(doc, now_ms()))
