"""The edge daemon: the edge machine wired to its store, its bus, its clock and its clients.

Room: performs what `sync.edge` decides, and decides nothing about documents. One event loop; the store's commits run
in a thread of their own (`server.flushing`), its reads in another (`server.threads`).

Effects are performed in the order in which the machine returned them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sync import wire
from sync.arriving import look_at
from sync.brink import loading
from sync.change import Beacon, Merged, RepairAsk
from sync.compacting import refusal_of
from sync.content import Captured
from sync.edge import Edge, EdgeSettings, EdgeStep
from sync.errors import DocumentBroken
from sync.hosted import built
from sync.ids import ORIGIN_MAX, ConnId, DocId, Origin
from sync.limits import PRESENCE_JOIN_MS, SPLIT_FRAME_BYTES
from sync.nesting import places_of
from sync.ports import Store, StoredDocument
from sync.slow import Readers
from sync.step import (
    AskSync,
    Close,
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

from . import aside
from .asking import Asking
from .bus import Bus
from .clock import now_ms, wall_ms
from .config import Config
from .connections import Connection, Connections
from .flushing import Flushing
from .large import LargeFrames
from .log import report
from .outbox import Outbox
from .record import KILLS, Record
from .salvage import open_store
from .tasks import Tasks
from .threads import Threads
from .watchdog import Watchdog
from .witness import Witness

__all__ = ["ASIDE", "STORE", "EdgeDaemon"]

log = logging.getLogger("skerry.edge")

TICK_S = 0.1
SPREAD_REST = 4  # presence to thousands of clients takes at most a fifth of the time
STORE = "edge.db"  # in the directory of its data
ASIDE = "aside"  # there too: what was set aside
_T = TypeVar("_T")


def _refusal_of(captured: Captured) -> str:
    with loading(captured.doc):
        return refusal_of(captured)


def _load(store: Store, doc: DocId) -> StoredDocument | None:
    """In the reader's thread: the document too is made here, in calls of a few milliseconds (`sync.loading`)."""
    stored = store.load(doc)
    if stored is None:
        return None
    with loading(doc):
        try:
            return built(stored)
        except DocumentBroken:
            return stored  # the machine meets it too, and says so


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
        self.bus = Bus(config.bus(config.name), self)
        self.connections = Connections()
        self.started_ms = wall_ms()
        self.tasks = Tasks(log)
        self._threads = Threads(self.tasks)
        self._asking = Asking(self.bus, self.machine, self._threads.reader, self._do)
        self._large = LargeFrames(
            lambda work: self.tasks.spawn(work),
            self._received,
            lambda conn, error: self._do(self.machine.refused(conn, error, now_ms())),
            lambda conn: self.machine.pending_bytes(conn),
            lambda conn: self.machine.pieces_come(conn),
            lambda conn: self.machine.replica_of(conn),
            self.connections.get,
        )
        self._flushing = Flushing(
            self.machine, self.readers, self.store, self._perform, self._large.moved, self._threads.look_at
        )
        self._pace = self._flushing.pace
        self._outbox = Outbox(config, self.store, self.bus, self.machine, self._do)
        self._witness = Witness(self.store, self.bus, self.machine, self._threads)
        self._spread_soon = False
        self._spread_s = 0.0
        """When presence may go out again."""

    # --- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Serves at once, whether or not there is a link."""
        self._loop = asyncio.get_running_loop()
        self.watchdog.start()
        self._witness.recall()
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
        for conn in self.connections:
            self.closed(conn)
        await self._flushing.settle(ends)
        await self._outbox.shipped(ends - time.monotonic())
        await self.bus.stop(max(0.1, ends - time.monotonic()))
        await self.tasks.stop()
        await self._flushing.settle(time.monotonic() + 5)
        self._keep_witness()
        self._flushing.stop()
        self._threads.stop()
        self._large.stop()
        self.store.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._outbox.look()
            self._do(self.machine.tick(now_ms()))
            self._large.moved()
            self._keep_witness()

    def _keep_witness(self) -> None:
        self._witness.keep(quiet=not (self.machine.wants_flush or self._flushing.committing))

    # --- clients -----------------------------------------------------------------------------------------------------
    def opened(self, connection: Connection, doc: DocId, extended: bool = False, read_only: bool = False) -> ConnId:
        conn = self.connections.add(connection)
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
        if self.connections.remove(conn) is not None:
            self._large.closed(conn)
            self.readers.closed(conn)
            self._do(self.machine.closed(conn, now_ms()))

    def slow(self, conn: ConnId) -> None:
        """Called while effects are performed: what of them is still to come for this connection counts as sent."""
        self.readers.slow(conn)

    def drained(self, conn: ConnId) -> None:
        for effect in self.readers.drained(conn, now_ms()).now:
            self._perform(effect)
        self._flushing.wake()

    # --- what the machine wants --------------------------------------------------------------------------------------
    def _do(self, step: EdgeStep) -> None:
        assert step.commit is None, "only a flush commits"
        if self.readers:
            step = self.readers.sift(step, now_ms())
        for effect in step.now:
            self._perform(effect)
        self._flushing.wake()
        if self.machine.wants_spread and not self._spread_soon:
            self._spread_soon = True
            self._loop.call_later(max(0.0, self._spread_s - self._loop.time()), self._spread)

    def _spread(self) -> None:
        self._spread_soon = False
        began_s = self._loop.time()
        self._do(self.machine.spread())
        ended_s = self._loop.time()
        self._spread_s = ended_s + max(PRESENCE_JOIN_MS / 1000, SPREAD_REST * (ended_s - began_s))

    def _perform(self, effect: EdgeEffect) -> None:
        match effect:
            case Send(conns, frame):
                self.connections.send(conns, frame)
            case Publish(change):
                self._outbox.publish(change)
            case Load(doc):
                self._threads.run(
                    lambda: _load(self.store, doc),
                    lambda stored: self._go_on(self.machine.loaded(doc, stored, now_ms())),
                )
            case Pause(conn):
                self.connections.pause(conn)
            case Resume(conns):
                for conn in conns:
                    self.connections.resume(conn)
            case Close(conn, code, reason):
                self._large.closed(conn)
                closing = self.connections.remove(conn)
                if closing is not None:
                    log.info("client_closed code=%d reason=%r", code, reason)
                    closing.close(code, reason)
            case ReadOutbox(read, after, count_max, bytes_max):
                self._threads.run(
                    lambda: self.store.outbox(after, count_max, bytes_max),
                    lambda rows: self._do(self.machine.outbox_read(read, rows, now_ms())),
                )
            case AskSync():
                self.tasks.spawn(self._asking.ask_sync(effect.ask))
            case LoadLogged(doc):
                self.tasks.spawn(self._asking.load_logged(doc))
            case ListDocuments(True):
                self.tasks.spawn(self._asking.list_log())
            case ListDocuments():
                self._threads.run(
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
                self._threads.run(
                    lambda: _refusal_of(captured),
                    lambda refusal: self._do(self.machine.verified(captured, refusal)),
                )
            case FindPlaces(_, replica, state):
                self._threads.run(
                    lambda: places_of(state),
                    lambda places: self._go_on(self.machine.places_found(replica, places, now_ms())),
                    self._large.checker,
                )
            case Look(doc, number, update, into):
                self._threads.run(
                    lambda: look_at(update, into),
                    lambda found: self._do(self.machine.looked(doc, number, found, now_ms())),
                    self._large.checker,
                )
            case TakeOn(doc, number):
                self._loop.call_soon(self._take_on, doc, number)
            case SetAside(doc, update, reason):
                work = partial(aside.keep, self.config.data / ASIDE, doc, "replaced", update, reason)
                self._threads.run(work, lambda kept: log.warning("set_aside name=%s bytes=%d", kept.name, kept.bytes))

    def _take_on(self, doc: DocId, number: int) -> None:
        self._do(self.machine.take_on(doc, number, now_ms()))

    def _go_on(self, step: EdgeStep) -> None:
        """A document is there, or it was found where everything in it stands."""
        self._do(step)
        self._large.moved()
        self._asking.moved()

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

    async def read_store(self, work: Callable[[], _T]) -> _T:
        """Raises StoreError."""
        return await self._threads.read(work)

    def touched(self, doc: DocId) -> None:
        """Somebody reads it: it is in use from now on."""
        self._do(self.machine.touched(doc, now_ms()))
