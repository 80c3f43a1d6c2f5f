"""An edge as a process: the machine (`sync.edge`) with its disk, its clients, its link and its clock.

Room: what `server.edge` does, in simulated time. The machine decides; here things take time and get lost, and every
effect is held against what must be true of it:

1. Only what this disk has committed is published.
2. A writer sees its own update only when this disk holds it (law 2).
3. Nothing that an operator would be called for happens to people who do no wrong.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from sync.answered import look
from sync.arriving import Found, difference_of, look_at
from sync.change import Beacon, Change, Merged, RepairAsk, SyncAnswer
from sync.compacting import refusal_of
from sync.content import Captured
from sync.edge import Edge, EdgeSettings
from sync.folding import fold_log
from sync.headers import encode_sync_ask
from sync.ids import ConnId, DocId, Dot, Origin, Version
from sync.limits import LOAD_MS_MAX, SYNC_MS_MAX
from sync.nesting import Places, places_of
from sync.replica import Replica
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
    Step,
    TakeOn,
    Unfollow,
    Verify,
)
from sync.wire import Update, decode_frame

from .contents import shape_of
from .disk import Disk, Violation
from .schedule import Action
from .uplink import Owner, Uplink, Witness

if TYPE_CHECKING:
    from .editors import Conn
    from .listeners import Listener
    from .world import World

__all__ = ["EdgeNode"]

ALARMS = (
    "answer_refused",
    "change_rejected",
    "compaction_refused",
    "document_rebuilt",
    "document_unreadable",
    "log_unreadable",
    "merged_refused",
    "update_refused",
)
"""Reports that honest editors must never cause."""

WALL_MS = 1_700_000_000_000


class EdgeNode:
    watched = True
    """False: what leaves is not held against the disk (for the mutation tests)."""

    def __init__(self, world: World, name: str, pins: tuple[str, ...]) -> None:
        self.world = world
        self.name = name
        self.pins = pins
        self.disk = Disk(name, world.schedule, world.rng)
        self.disk.watched = self.watched
        self.edge: Edge | None = None
        self.readers: Readers | None = None
        self._pace = Random(f"{name} {world.seed}")
        """Which readers are slow, and for how long, in every third world: the others stay as they were."""
        self.run = 0
        self.conns: dict[ConnId, Conn] = {}
        self.listeners: dict[ConnId, Listener] = {}
        self.answering = False
        """What is sent now answers a commit or a frame: else it is fan-out, which may hold a writer's own deletion
        because somebody else deleted the same."""
        self.follows: set[DocId] = set()
        self._flushing = self._spreading = False
        self._commits = 0
        self._stored_witness: Witness | None = None
        self._known_witness: Witness | None = None
        """What an earlier process knew, until the log was found to be another one."""
        self.uplink = Uplink(
            world,
            name,
            Owner(self._linked, self._unlinked, self._witness, self._published, self._publish_failed),
        )

    # --- the process -------------------------------------------------------------------------------------------------
    def start(self) -> None:
        assert self.edge is None
        self.run += 1
        self.edge = Edge(EdgeSettings(self.name, Origin(self.world.rng.getrandbits(53)), self.pins))
        self.readers = Readers(self.edge)
        self._commits = 0
        self._flushing = self._spreading = False
        self._stored_witness = _witness_of(self.disk.image.store.get_meta("witness"))
        self._known_witness = self._stored_witness
        self.world.note(self.name, f"starts, origin {self.edge.settings.origin:x}")
        self.uplink.epoch = 0
        self.uplink.boot()
        self._tick(self.run)

    def kill(self) -> None:
        """SIGKILL: memory is gone, connections break."""
        if self.edge is None:
            return
        self.world.note(self.name, "killed")
        self.run += 1
        self.edge = None
        self.readers = None
        self.disk.crash()
        self.uplink.halt()
        self.follows.clear()
        conns, self.conns = self.conns, {}
        for conn in conns.values():
            conn.broken()
        listeners, self.listeners = self.listeners, {}
        for listener in listeners.values():
            listener.broken()

    def _tick(self, run: int) -> None:
        if run != self.run or self.edge is None:
            return
        self._do(self.edge.tick(self.world.now_ms))
        self.world.after(100, lambda: self._tick(run))

    # --- clients -----------------------------------------------------------------------------------------------------
    def accept(self, conn: Conn) -> None:
        assert self.edge is not None
        self.conns[conn.id] = conn
        self._do(self.edge.opened(conn.id, conn.doc, self.world.now_ms))
        if self.world.seed % 3 == 1:
            self.later(self._pace.randint(0, 300), lambda: self._slow(conn.id))

    def _slow(self, conn: ConnId) -> None:
        """It stops reading for a while, and perhaps once more a little later."""
        if self.readers is None or (conn not in self.conns and conn not in self.listeners):
            return
        self.readers.slow(conn)
        self.later(self._pace.choice((2, 20, 200, 1_000, 1_000)), lambda: self._drained(conn))
        if not self.world.calm:
            self.later(self._pace.choice((0, 5, 50, 200)), lambda: self._slow(conn))

    def _drained(self, conn: ConnId) -> None:
        if self.readers is not None and (conn in self.conns or conn in self.listeners):
            for effect in self.readers.drained(conn, self.world.now_ms).now:
                self._effect(effect)

    def frame(self, conn: Conn, frame: bytes) -> None:
        if self.readers is not None and self.readers.heard(conn.id, frame):
            return
        if self.edge is not None and conn.id in self.conns:
            self._answer(self.edge.received(conn.id, frame, self.world.now_ms))

    def hung_up(self, conn: Conn) -> None:
        if self.edge is not None and self.readers is not None and self.conns.pop(conn.id, None) is not None:
            self.readers.closed(conn.id)
            self._do(self.edge.closed(conn.id, self.world.now_ms))

    def listen(self, listener: Listener) -> None:
        assert self.edge is not None
        self.listeners[listener.id] = listener
        self._do(self.edge.opened(listener.id, listener.doc, self.world.now_ms, extended=True, read_only=True))
        if self.world.seed % 3 == 1:
            self.later(self._pace.randint(0, 300), lambda: self._slow(listener.id))

    def hears(self, listener: Listener, frame: bytes) -> None:
        if self.edge is not None and self.readers is not None and not self.readers.heard(listener.id, frame):
            self._answer(self.edge.received(listener.id, frame, self.world.now_ms))

    def listens_no_more(self, listener: Listener) -> None:
        if self.edge is not None and self.readers is not None and self.listeners.pop(listener.id, None) is not None:
            self.readers.closed(listener.id)
            self._do(self.edge.closed(listener.id, self.world.now_ms))

    # --- effects -----------------------------------------------------------------------------------------------------
    def _answer(self, step: Step[EdgeEffect], sifted: bool = False) -> None:
        self.answering = True
        self._do(step, sifted)
        self.answering = False

    def _do(self, step: Step[EdgeEffect], sifted: bool = False) -> None:
        if self.readers and not sifted:
            step = self.readers.sift(step, self.world.now_ms)
        for effect in step.now:
            self._effect(effect)
        if step.commit is not None:
            self.store(step.commit)
        edge = self.edge
        if edge is not None:
            if edge.wants_spread and not self._spreading:
                self._spreading = True
                self.later(self._pace.choice((0, 0, 5, 30)), self._spread)
            if edge.wants_flush and not self._flushing:
                self._flushing = True
                self.later(self.world.rng.choice(self.world.weather.flush_ms), self._flush)
            elif edge.witness is not None:
                self._keep_witness(edge)

    def later(self, delay_ms: int, action: Action) -> None:
        """Unless the process has died by then."""
        run = self.run
        self.world.after(delay_ms, lambda: action() if run == self.run else None)

    def _spread(self) -> None:
        self._spreading = False
        if self.edge is not None:
            self._do(self.edge.spread())

    def _flush(self) -> None:
        self._flushing = False
        if self._commits and self.world.seed % 2:
            return  # as the daemon does: what comes meanwhile waits for the next one
        if self.edge is not None and self.readers is not None:
            step = self.edge.flush(self.world.now_ms, WALL_MS + self.world.now_ms)
            self._do(self.readers.flushed(step, self.world.now_ms), sifted=True)

    def store(self, commit: Commit) -> None:
        self._commits += 1
        self.disk.commit(
            commit.writes,
            lambda: self.committed(commit),
            lambda reason: self._commit_failed(commit, reason),
        )

    def committed(self, commit: Commit) -> None:
        assert self.edge is not None
        self._commits -= 1
        self.world.note(self.name, f"committed {commit.ticket}: {len(commit.writes)} writes")
        self.world.truth.committed(commit.writes)
        self._answer(self._ended(commit, self.edge.committed(commit.ticket, self.world.now_ms)), sifted=True)

    def _ended(self, commit: Commit, step: Step[EdgeEffect]) -> Step[EdgeEffect]:
        assert self.readers is not None
        return self.readers.committed(commit.ticket, step, self.world.now_ms)

    def _commit_failed(self, commit: Commit, reason: str) -> None:
        assert self.edge is not None
        self._commits -= 1
        self.world.note(self.name, f"commit {commit.ticket} failed")
        step = self.edge.commit_failed(commit.ticket, self.world.now_ms, reason)
        self._do(self._ended(commit, step), sifted=True)

    def _keep_witness(self, edge: Edge) -> None:
        """On disk whenever nothing that it vouches for is on its way there."""
        witness = edge.witness
        if witness != self._stored_witness and witness is not None and not edge.sweeping and not self._commits:
            self._stored_witness = witness
            version, doc, dot = witness
            text = f"{version.epoch} {version.seq} {dot.origin} {dot.seq} {doc}"
            self.disk.submit(lambda: self.disk.image.store.set_meta("witness", text), lambda: None)

    def _effect(self, effect: EdgeEffect) -> None:
        match effect:
            case Send(conns, frame):
                self._send(conns, frame)
            case Close(conn, code, reason):
                self.world.note(self.name, f"closes {conn}: {code} {reason}")
                if not self.disk.full:
                    self.world.alarm(f"{self.name} closed an honest client: {code} {reason}")
                found = self.conns.pop(conn, None) or self.listeners.pop(conn, None)
                if found is not None:
                    found.broken()
            case Pause() | Resume():
                pass  # an honest editor never sends so much while a document is loaded
            case Load(doc):
                self._load(doc)
            case Publish(change):
                self._on_disk(change)
                self.world.note(self.name, f"publishes {change.doc} {change.dot}, {len(change.update)} bytes")
                self.uplink.publish(change)
            case AskSync(ask):
                self.world.note(self.name, f"asks for {ask.doc} from {ask.version}")
                headers, payload = encode_sync_ask(ask)
                failed = self.uplink.in_session(lambda: self._sync_failed(ask.doc, ask.ask))
                self.world.bus.ask(self, headers, payload, failed)
                self.world.after(SYNC_MS_MAX, failed)
            case ReadOutbox(read, after, count_max, bytes_max):
                self._read_outbox(read, after, min(count_max, self.world.page_max), bytes_max)
            case ListDocuments(in_log):
                self._list(in_log)
            case Follow(doc):
                self.follows.add(doc)
            case Unfollow(doc):
                self.follows.discard(doc)
            case LoadLogged(doc, before):
                self._load_logged(doc, before)
            case PresenceOut(doc, payload):
                self.world.bus.presence(self, doc, payload)
            case Verify(_, captured):
                refusal = refusal_of(captured)
                self.later(self.world.rng.randint(0, 200), lambda: self._verified(captured, refusal))
            case FindPlaces(_, replica, state):
                places = places_of(state)
                self.later(self.world.rng.randint(0, 200), lambda: self._places_found(replica, places))
            case Look(doc, number, update, into):
                pieces = look_at(update, into)
                self.world.looked_count += 1
                self.later(self._pace.choice((0, 5, 50, 500)), lambda: self._looked(doc, number, pieces))
            case TakeOn(doc, number):
                self.later(self._pace.choice((0, 0, 5, 50)), lambda: self._take_on(doc, number))
            case SetAside(doc, _, reason):
                self.world.alarm(f"{self.name} set {doc} aside: {reason}")
            case Report(event, about, detail):
                self.world.note(self.name, f"reports {event} {about}: {detail}")
                self.world.reports[event] += 1
                if event in ALARMS:
                    self.world.alarm(f"{self.name} reported {event} {about}: {detail}")

    def _verified(self, captured: Captured, refusal: str) -> None:
        assert self.edge is not None
        self._do(self.edge.verified(captured, refusal))

    def _places_found(self, replica: Replica, places: Places | None) -> None:
        assert self.edge is not None
        self._do(self.edge.places_found(replica, places, self.world.now_ms))

    def _looked(self, doc: DocId, number: int, found: Found) -> None:
        assert self.edge is not None
        self._do(self.edge.looked(doc, number, found, self.world.now_ms))

    def _take_on(self, doc: DocId, number: int) -> None:
        assert self.edge is not None
        self._do(self.edge.take_on(doc, number, self.world.now_ms))

    def _on_disk(self, change: Change) -> None:
        """1. Of a run, which has a name of its own: each of its rows."""
        if (change.doc, change.dot) in self.disk.image.dots:
            return
        self.world.truth.shipped(change)
        rows = [dot for dot in change.covers.dots() if (change.doc, dot) in self.disk.image.dots]
        self.world.joined_count += len(rows)
        whole = len(rows) > 1 and self.disk.image.holds(change.doc, shape_of(change.update))
        if self.watched and not whole:
            raise Violation(f"{self.name}: {change.doc}: {change.dot} is published before it is on the disk")

    def _send(self, conns: tuple[ConnId, ...], frame: bytes) -> None:
        for number in conns:
            if number in self.listeners:
                self.listeners[number].frame(frame)
        editors = [number for number in conns if number in self.conns]
        if not editors:
            return
        message = decode_frame(frame)
        for number in editors:
            conn = self.conns[number]
            if isinstance(message, Update) and conn.open_here:
                told = conn.editor.told(conn, shape_of(message.update), self.answering)
                for written in told:
                    if self.watched and not self.disk.image.holds(conn.doc, written.shape):
                        raise Violation(
                            f"{self.name}: {conn.doc}: {written.words()} is echoed before it is on the disk"
                        )
                    written.acked = True
            conn.down(frame)

    # --- the disk ----------------------------------------------------------------------------------------------------
    def _load(self, doc: DocId) -> None:
        stored = [self.disk.image.store.load(doc)]

        def work() -> None:
            stored[0] = self.disk.image.store.load(doc)

        def done() -> None:
            assert self.edge is not None
            self._do(self.edge.loaded(doc, stored[0], self.world.now_ms))

        self.disk.submit(work, done)

    def _read_outbox(self, read: int, after: int, count_max: int, bytes_max: int) -> None:
        rows = self.disk.image.store.outbox(after, count_max, bytes_max)

        def work() -> None:
            rows[:] = self.disk.image.store.outbox(after, count_max, bytes_max)

        def done() -> None:
            assert self.edge is not None
            self._do(self.edge.outbox_read(read, rows, self.world.now_ms))

        self.disk.submit(work, done)

    def _list(self, in_log: bool) -> None:
        if in_log:
            self.uplink.request(lambda: self._listed(self.world.log.documents(), True))
        else:
            self.disk.submit(lambda: None, lambda: self._listed(self.disk.image.store.documents(), False)())

    def _listed(self, docs: list[DocId], in_log: bool) -> Action:
        def told() -> None:
            assert self.edge is not None
            self._do(self.edge.listed(docs, in_log, self.world.now_ms))

        return told

    # --- the link ----------------------------------------------------------------------------------------------------
    def _linked(self, epoch: int, intact: bool) -> None:
        assert self.edge is not None
        if not intact:
            self._known_witness = None
        self._do(self.edge.link_up(epoch, intact, self.world.now_ms))

    def _unlinked(self) -> None:
        assert self.edge is not None
        self._do(self.edge.link_down(self.world.now_ms))

    def _witness(self) -> Witness | None:
        if self.edge is not None and self.edge.witness is not None:
            return self.edge.witness
        return self._known_witness

    def _published(self, doc: DocId, dot: Dot, version: Version) -> None:
        assert self.edge is not None
        self.world.note(self.name, f"published {doc} {dot} at {version}")
        self._do(self.edge.published(doc, dot, version, self.world.now_ms))

    def _publish_failed(self, doc: DocId, dot: Dot) -> None:
        assert self.edge is not None
        self._do(self.edge.publish_failed(doc, dot, self.world.now_ms))

    def _sync_failed(self, doc: DocId, ask: int) -> None:
        assert self.edge is not None
        self._do(self.edge.sync_failed(doc, ask, self.world.now_ms))

    def _load_logged(self, doc: DocId, before: int | None) -> None:
        epoch = self.uplink.epoch

        def read() -> Action:
            snapshot, entries = self.world.read_log(doc, epoch, before)
            asks = self.edge.asks_log(doc) if self.edge is not None else None
            at_ms = self.world.now_ms

            def told() -> None:
                assert self.edge is not None
                fold = fold_log(doc, snapshot, entries, self.edge.epoch, at_ms)
                found = difference_of(fold, *asks) if asks is not None else None
                self._do(self.edge.logged(doc, snapshot, entries, self.world.now_ms, fold, found))

            return told

        def failed() -> None:
            assert self.edge is not None
            self._do(self.edge.log_failed(doc, self.world.now_ms))

        self.uplink.request(read, failed, LOAD_MS_MAX)

    # --- what the bus brings -----------------------------------------------------------------------------------------
    def answered(self, answer: SyncAnswer) -> None:
        """One in three is looked at beforehand as what an empty document asked for, one in three is taken in pieces."""
        if self.edge is None or not self.uplink.linked:
            return
        looked = look(answer, answer.ask % 3 == 1, self.edge.into(answer.doc)) if answer.ask % 3 else None
        for piece in looked.pieces if looked is not None else ():
            step = self.edge.sync_piece(answer, piece, self.world.now_ms)
            if step is None:
                break
            self._do(step)
            if self.edge.seeks(answer.doc):
                break
        else:
            if looked is not None and looked.pieces:
                looked = replace(looked, taken=True)
        self._do(self.edge.sync_answered(answer, self.world.now_ms, looked))

    def merged(self, merged: Merged) -> None:
        if self.edge is not None and self.uplink.linked:
            self._do(self.edge.merged(merged, self.world.now_ms))

    def beacon(self, beacon: Beacon) -> None:
        if self.edge is not None and self.uplink.linked:
            self._do(self.edge.beacon(beacon, self.world.now_ms))

    def repair_asked(self, ask: RepairAsk) -> None:
        if self.edge is not None and self.uplink.linked:
            self._do(self.edge.repair_asked(ask, self.world.now_ms))

    def presence(self, doc: DocId, payload: bytes) -> None:
        if self.edge is not None and self.uplink.linked:
            self._do(self.edge.presence(doc, payload, self.world.now_ms))


def _witness_of(text: str | None) -> Witness | None:
    if text is None:
        return None
    epoch, seq, origin, dot_seq, doc = text.split(" ", 4)
    return Version(int(epoch), int(seq)), DocId(doc), Dot(Origin(int(origin)), int(dot_seq))
