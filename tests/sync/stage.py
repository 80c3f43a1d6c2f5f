"""A stage for scenarios: real machines, a log and a leader, and every message delivered by hand.

Nothing moves unless the test says so: `publish`, `commit`, `deliver` and so on are the steps of the story.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pycrdt

from sync import wire
from sync.answered import look
from sync.arriving import look_at
from sync.change import Change, LogEntry, Logged, Merged, Snapshot, SyncAnswer, SyncAsk
from sync.compacting import refusal_of
from sync.edge import Edge, EdgeSettings, EdgeStep
from sync.elsewhere import Work
from sync.ids import ConnId, DocId, Origin, Version, parse_document_id
from sync.leader import Delivery, Leader, LeaderSettings, LeaderStep
from sync.nesting import places_of
from sync.step import (
    Ack,
    AnswerSync,
    AskRepair,
    AskSync,
    Broadcast,
    Close,
    Commit,
    Elsewhere,
    Emit,
    FindPlaces,
    Follow,
    ListDocuments,
    Load,
    LoadLogged,
    Look,
    LookAtLog,
    PresenceOut,
    Publish,
    ReadOutbox,
    Reject,
    Report,
    Send,
    SendBeacon,
    SetAside,
    StoreSnapshot,
    TakeOn,
    Unfollow,
    Verify,
)
from tests.memory_store import MemoryStore

PLAN = parse_document_id("notes/plan")
EPOCH = 7


class Ada:
    """An editor: a stock Yjs client's document, and the frames it would send."""

    def __init__(self, client_id: int) -> None:
        self.crdt: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc(client_id=client_id)
        self.text = self.crdt.get("text", type=pycrdt.Text)

    def type(self, inserted: str) -> bytes:
        """Appends; returns the update."""
        before = self.crdt.get_state()
        self.text += inserted
        return self.crdt.get_update(before)

    def delete_first(self) -> bytes:
        """Deletes the first letter; returns an update that holds the deletion alone."""
        before = self.crdt.get_state()
        del self.text[0:1]
        return self.crdt.get_update(before)


def frame(update: bytes) -> bytes:
    return wire.encode(wire.Update(update))


@dataclass
class Island:
    """One edge with its disk; what it wants of the world piles up until the story goes on."""

    name: str
    origin: int
    pins: tuple[str, ...] = ()
    store: MemoryStore = field(default_factory=MemoryStore)
    now: int = 0

    def __post_init__(self) -> None:
        self.edge = Edge(EdgeSettings(self.name, Origin(self.origin), self.pins))
        self.sent: dict[int, list[wire.Message]] = {}
        self.closed: dict[int, tuple[int, str]] = {}
        self.published: list[Change] = []
        self.asks: list[SyncAsk] = []
        self.commits: list[Commit] = []
        self.reports: list[Report] = []
        self.logged: list[DocId] = []
        self.presence: list[bytes] = []
        self.aside: list[SetAside] = []
        self.by_turns = False
        """What is to be looked at, and to be taken with later turns of the loop, waits for `turn`."""
        self.waiting: list[Look | TakeOn | FindPlaces] = []

    def do(self, step: EdgeStep) -> None:
        self._perform(step)
        if self.edge.wants_spread:
            self.do(self.edge.spread())

    def _perform(self, step: EdgeStep) -> None:
        for effect in step.now:
            match effect:
                case Send(conns, data):
                    for conn in conns:
                        self.sent.setdefault(conn, []).append(wire.decode_frame(data))
                case Close(conn, code, reason):
                    self.closed[conn] = (code, reason)
                case Load(doc):
                    self.do(self.edge.loaded(doc, self.store.load(doc), self.now))
                case Publish(change):
                    self.published.append(change)
                case AskSync(ask):
                    self.asks.append(ask)
                case ReadOutbox(read, after, count, size):
                    self.do(self.edge.outbox_read(read, self.store.outbox(after, count, size), self.now))
                case ListDocuments(in_log):
                    if not in_log:
                        self.do(self.edge.listed(self.store.documents(), in_log, self.now))
                case Report():
                    self.reports.append(effect)
                case LoadLogged(doc):
                    self.logged.append(doc)
                case PresenceOut(_, payload):
                    self.presence.append(payload)
                case Verify(_, captured):
                    self.do(self.edge.verified(captured, refusal_of(captured)))
                case Look() | TakeOn() | FindPlaces():
                    self.waiting.append(effect)
                    if not self.by_turns:
                        self.turn()
                case SetAside():
                    self.aside.append(effect)
                case Follow() | Unfollow():
                    pass
        if step.commit is not None:
            self.commits.append(step.commit)

    def turn(self) -> None:
        """A thread has looked at what it was given, or the loop has turned once."""
        match self.waiting.pop(0):
            case Look(doc, number, update, into):
                self.do(self.edge.looked(doc, number, look_at(update, into), self.now))
            case TakeOn(doc, number):
                self.do(self.edge.take_on(doc, number, self.now))
            case FindPlaces(_, replica, state):
                self.do(self.edge.places_found(replica, places_of(state), self.now))

    def open(self, conn: int, doc: DocId = PLAN) -> None:
        self.do(self.edge.opened(ConnId(conn), doc, self.now))
        self.send(conn, wire.encode(wire.SyncStep1(b"\x00")))

    def send(self, conn: int, data: bytes) -> None:
        self.do(self.edge.received(ConnId(conn), data, self.now))

    def flush(self) -> None:
        if self.edge.wants_flush:
            self.do(self.edge.flush(self.now, 1_000_000 + self.now))

    def commit(self) -> None:
        """Flush, and everything on its way reaches the disk."""
        while self.edge.wants_flush or self.commits:
            self.flush()
            commits, self.commits = self.commits, []
            for commit in commits:
                self.store.commit(commit.writes)
                self.do(self.edge.committed(commit.ticket, self.now))

    def fail_commit(self) -> None:
        self.flush()
        self.do(self.edge.commit_failed(self.commits.pop(0).ticket, self.now, "disk full"))

    def link(self, epoch: int = EPOCH, intact: bool = True) -> None:
        self.do(self.edge.link_up(epoch, intact, self.now))

    def unlink(self) -> None:
        self.do(self.edge.link_down(self.now))

    def tick(self, ms: int) -> None:
        for _ in range(0, ms, 100):
            self.now += 100
            self.do(self.edge.tick(self.now))
            self.commit()

    def crash(self, origin: int) -> None:
        """The process dies; what was committed is there at the next start, under a new origin."""
        self.origin = origin
        self.__post_init__()

    def updates(self, conn: int) -> list[bytes]:
        """The updates that a client was sent, in order."""
        return [m.update for m in self.sent.get(conn, []) if isinstance(m, wire.Update)]

    def text(self, doc: DocId = PLAN) -> str:
        """What is on this edge's disk."""
        stored = self.store.load(doc)
        assert stored is not None
        crdt: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc()
        for update in ([stored.state] if stored.state else []) + list(stored.updates):
            crdt.apply_update(update)
        return str(crdt.get("text", type=pycrdt.Text))

    @property
    def outbox(self) -> int:
        return self.store.outbox_totals().count


class Log:
    """JetStream as the story needs it: places ascend; a consumer that counts its deliveries."""

    def __init__(self, epoch: int = EPOCH) -> None:
        self.epoch = epoch
        self.entries: list[LogEntry] = []
        self.snapshots: dict[DocId, Snapshot] = {}
        self.delivered = 0

    def append(self, change: Change) -> Version:
        version = Version(self.epoch, len(self.entries) + 1)
        self.entries.append(Logged(change, version))
        return version


class Chair:
    """A leader over a log, and what it says."""

    def __init__(self, log: Log, origin: int = 99) -> None:
        self.log = log
        self.now = 0
        self.leader = Leader(LeaderSettings("leader", Origin(origin)))
        self.said: list[Merged] = []
        self.answers: list[SyncAnswer] = []
        self.acked: list[int] = []
        self.emitted: list[Emit] = []
        self.rejected: list[Reject] = []
        self.repairs: list[AskRepair] = []
        self.beacons: list[SendBeacon] = []
        self.published: list[Change] = []
        self.reports: list[Report] = []
        self.missed: list[LookAtLog] = []
        self.works: list[Work] = []
        self.busy = False
        """What takes time is done when the story says so (`work`), else at once."""
        self.do(self.leader.gained(0, log.epoch, 0))

    def do(self, step: LeaderStep) -> None:
        for effect in step.now:
            match effect:
                case LoadLogged(doc, before):
                    entries = [
                        e for e in self.log.entries if doc_of(e) == doc and (before is None or e.version.seq < before)
                    ]
                    snapshot = self.log.snapshots.get(doc)
                    if snapshot is not None and snapshot.version.epoch == self.log.epoch:
                        entries = [e for e in entries if e.version.seq > snapshot.version.seq]
                    self.do(self.leader.logged(doc, snapshot, entries, self.now))
                case Elsewhere(work):
                    self.works.append(work)
                    if not self.busy:
                        self.work()
                case Broadcast(merged):
                    self.said.append(merged)
                case AnswerSync(_, answer):
                    self.answers.append(answer)
                case Ack(_, seqs):
                    self.acked += seqs
                case Emit():
                    self.emitted.append(effect)
                case Reject():
                    self.rejected.append(effect)
                case AskRepair():
                    self.repairs.append(effect)
                case SendBeacon():
                    self.beacons.append(effect)
                case StoreSnapshot(snapshot):
                    self.log.snapshots[snapshot.doc] = snapshot
                case Publish(change):
                    self.published.append(change)
                case LookAtLog():
                    self.missed.append(effect)
                case Report():
                    self.reports.append(effect)

    def work(self) -> None:
        """Whoever has a thread has done the first of what was handed out."""
        work = self.works.pop(0)
        self.do(self.leader.worked(work, work.run(), self.now))

    def deliver(self, *seqs: int, redelivered: bool = False) -> None:
        """These places of the log reach this leader, in this order."""
        deliveries = []
        for seq in seqs:
            self.log.delivered += 1
            deliveries.append(Delivery(self.log.entries[seq - 1], self.log.delivered, redelivered))
        self.do(self.leader.delivered(0, deliveries, self.now))
        self.do(self.leader.settle(self.now))

    def answer(self, ask: SyncAsk) -> SyncAnswer:
        self.do(self.leader.sync_asked(ask, 0, "reply", self.now))
        return self.answers.pop()

    def tick(self, ms: int) -> None:
        for _ in range(0, ms, 100):
            self.now += 100
            self.do(self.leader.tick(self.now))


def doc_of(entry: LogEntry) -> DocId:
    return entry.change.doc if isinstance(entry, Logged) else entry.doc


class Sea:
    """Islands, a log and a leader, with shortcuts for when everything just works."""

    def __init__(self, *islands: Island) -> None:
        self.log = Log()
        self.chair = Chair(self.log)
        self.islands = islands
        self.looks = False
        """Answers are looked at beforehand, as the shell does with large ones."""
        for island in islands:
            island.link()

    def settle(self, *linked: Island) -> None:
        """Everything that is on its way arrives, in order, until nothing moves."""
        reached = linked or self.islands
        moved = True
        while moved:
            moved = False
            for island in reached:
                island.commit()
                published, island.published = island.published, []
                for change in published:
                    version = self.log.append(change)
                    island.do(island.edge.published(change.doc, change.dot, version, island.now))
                    self.chair.deliver(version.seq)
                    moved = True
                asks, island.asks = island.asks, []
                for ask in asks:
                    answer = self.chair.answer(ask)
                    looked = look(answer, ask.state_vector == b"\0", island.edge.into(ask.doc)) if self.looks else None
                    island.do(island.edge.sync_answered(answer, island.now, looked))
                    moved = True
            said, self.chair.said = self.chair.said, []
            for merged in said:
                for island in reached:
                    island.do(island.edge.merged(merged, island.now))
                    moved = True
