"""One document as an edge hosts it: its clients, what is pending, how far it is safe.

Room: the edge machine's record; state only. `sync.edge` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .arriving import Line
from .change import Change, Context, RepairAsk
from .content import Captured
from .errors import LimitReached
from .ids import ConnId, DocId, Dot, DotSet, Version
from .limits import COMPACT_BYTES, COMPACT_ROWS, LOADING_BYTES_MAX, LOADING_FRAMES_HELD, LOADING_FRAMES_MAX, LOOK_MS
from .loading import document_of
from .nesting import named_at_most, nesting_of
from .ports import StoredDocument
from .presence import Presence
from .replica import Replica, Taken
from .tracking import Tracking
from .validate import AwarenessEntry, Shape
from .wire import SyncStep2, encode

__all__ = ["Compaction", "Flushed", "Held", "Hosted", "News", "Pending", "built", "replica_of", "whole_answer"]


class Pending(NamedTuple):
    """An update of a client that the gate let in and no flush has taken yet."""

    update: bytes
    conn: ConnId
    context: Context
    dot: Dot | None = None
    """The edit's own name, where its client speaks the extension."""
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class Flushed:
    """One document's part of a commit that is on its way to the disk."""

    doc: DocId
    changes: tuple[Change, ...]
    writers: tuple[ConnId, ...]
    frame: bytes
    """The echo for the writers: empty where there is none."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The newest answer to a client that asked what it lacks: whoever asks the same meanwhile gets the same bytes."""

    replica: Replica
    state_vector: bytes
    frame: bytes


def whole_answer(replica: Replica, state: bytes) -> Answered:
    """`state` is all of this document: who has nothing is answered with it; it need not be encoded anew."""
    return Answered(replica, b"\x00", encode(SyncStep2(state)))


@dataclass(slots=True)
class News:
    """Presence that has not gone out yet, by client."""

    by: ConnId | None
    """The one connection that brought all of it; None where several did, or another edge."""
    entries: dict[int, AwarenessEntry] = field(default_factory=dict)
    outward: dict[int, None] = field(default_factory=dict)
    """Whom the other edges are to hear of."""


class Held(NamedTuple):
    """A frame that waits for a commit."""

    frame: bytes
    claim: bool = False
    """It says something of what was sent before it: for clients of the extension."""
    besides: Sequence[ConnId] = ()


@dataclass(slots=True)
class Compaction:
    """A state that is being verified, and what was stored since it was taken."""

    replica: Replica
    captured: Captured
    rows: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Hosted:
    doc: DocId
    replica: Replica | None = None
    loading: bool = False
    ready: bool = False
    """Clients are answered: the store has been read, and where nothing was stored the leader has been asked."""
    ready_by_ms: int | None = None
    conns: dict[ConnId, None] = field(default_factory=dict)
    queued: list[tuple[ConnId, bytes]] = field(default_factory=list)
    """Frames that wait for the replica."""
    queued_bytes: int = 0
    paused: set[ConnId] = field(default_factory=set)
    """Who is not read until the replica is there."""
    seeking: bool = False
    """Frames wait as well until it is found where everything stands (`sync.seeking`)."""
    answered: Answered | None = None
    """Until the document changes, or is looked at (LOOK_MS)."""
    asked: dict[ConnId, bytes] = field(default_factory=dict)
    """The state vectors of step 1s that wait for `ready`: of each connection the newest."""
    pending: list[Pending] = field(default_factory=list)
    pending_bytes: int = 0
    writers: dict[ConnId, None] = field(default_factory=dict)
    """Whose updates the next flush holds: they are told after its commit, the others before."""
    relayed: bool = False
    """The next flush may hold what one client made and another one brought: nobody is told before its commit, or the
    first would take it for the echo that says "on disk"."""
    held: list[Held] | None = None
    """Such a flush is on its way to the disk: what comes from the log meanwhile, for after it (it may depend on it),
    and what is said of what was sent."""
    claims: list[Held] = field(default_factory=list)
    """What is said of what was sent, for after what is pending: the log may bring what a client is just bringing."""
    presence: Presence = field(default_factory=Presence)
    news: News | None = None
    tracking: Tracking = field(default_factory=Tracking)
    unmerged: DotSet = field(default_factory=DotSet)
    """The outbox: dots that the leader has not merged."""
    acked: dict[Dot, Version] = field(default_factory=dict)
    """Where the log acknowledged them, for those of this link."""
    commits: int = 0
    """Commits on their way that hold rows of this document."""
    reload: bool = False
    suspects: list[Pending] = field(default_factory=list)
    """Pending when pycrdt broke: tried one by one on the rebuilt document."""
    echo: list[tuple[ConnId, bytes]] = field(default_factory=list)
    """Frames whose content was SEEN: echoed when every commit on its way is on disk."""
    repairs: list[RepairAsk] = field(default_factory=list)
    early_asked: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    """Early update -> (times its sender was asked for state, when next)."""
    refused: list[tuple[ConnId, str]] = field(default_factory=list)
    """Whose early updates cannot be, and why: closed with the next tick."""
    rows: int = 0
    row_bytes: int = 0
    state_bytes: int = 0
    compaction_pause: int = 1
    """Doubles with each compaction that was refused: a state that does not verify hardly will with the next row."""
    compaction: Compaction | None = None
    heals: int = 0
    heal_after_ms: int = 0
    compare: bool = False
    """Compare with the leader once the outbox is empty."""
    compare_ms: int = -1
    """When that is asked for, where no beacon says before that all is equal."""
    checked_ms: int = 0
    """When the leader last said something of this document that fitted."""
    told: Version | None = None
    """Newest version that a broadcast of this link named: an older answer says nothing about what the leader lacks."""
    line: Line | None = None
    """What the leader has said and is not taken yet, since something of it is too large for one turn of the loop."""
    asker: Replica | None = None
    """Whose state vector the open question names: the answer says nothing to a replica that was read anew."""
    replace: str = ""
    """Why what is here gives way to what the leader has, once it has said what that is; empty where it does not."""
    probe: dict[int, int] | None = None
    """How far the leader is, which differs: the next question asks for the last of what both have, to compare it."""
    suspect: bool = False
    """Changes were made here while nobody saw them: compare the last of what both have, once (`sync.clash`)."""
    clashed: set[int] = field(default_factory=set)
    """Client ids that two writers used: whoever comes is asked for the last of what they wrote."""
    failures: int = 0
    idle_since_ms: int = 0
    looked_ms: int = -LOOK_MS
    """When its time limits were last looked at."""

    @property
    def told_all(self) -> bool:
        """Whoever was answered has been sent everything that is here."""
        return self.ready and self.replica is not None and self.held is None and not self.pending

    @property
    def restless(self) -> bool:
        """A time limit of less than a second may run out."""
        return bool(
            self.ready_by_ms is not None
            or self.tracking.waiters
            or (self.replica is not None and (self.replica.early or self.early_asked))
        )

    def queue(self, conn: ConnId, frame: bytes) -> bool:
        """The frame waits for the replica. True: its connection is to be paused. Raises LimitReached."""
        count, size = len(self.queued) + 1, self.queued_bytes + len(frame)
        for name, got, limit in (
            ("loading_frames", count, LOADING_FRAMES_MAX),
            ("loading_bytes", size, LOADING_BYTES_MAX),
        ):
            if got > limit:
                raise LimitReached(name, got, limit, "connect again later")
        self.queued.append((conn, frame))
        self.queued_bytes = size
        if count < LOADING_FRAMES_HELD or conn in self.paused:
            return False
        self.paused.add(conn)
        return True

    def unqueued(self) -> list[tuple[ConnId, bytes]]:
        """What has waited for the replica."""
        queued, self.queued, self.queued_bytes = self.queued, [], 0
        self.paused.clear()
        return queued

    def note_refused(self, taken: Taken) -> None:
        """Early updates whose turn came and that cannot be: who sent them is told with the next tick."""
        for early, why in taken.refused:
            self.early_asked.pop(early.update, None)
            if early.conn is not None:
                self.refused.append((early.conn, why))

    def told_refused(self) -> list[tuple[ConnId, str]]:
        """Who is here still."""
        refused, self.refused = self.refused, []
        return [(conn, why) for conn, why in refused if conn in self.conns]

    def wants_compaction(self) -> bool:
        """Geometric in the state's size: the cost per update does not grow with the history."""
        if self.compaction is not None:
            return False
        rows_max = (COMPACT_ROWS + self.state_bytes // 256) * self.compaction_pause
        bytes_max = (COMPACT_BYTES + self.state_bytes) * self.compaction_pause
        return self.rows >= rows_max or self.row_bytes >= bytes_max


def built(stored: StoredDocument) -> StoredDocument:
    """With the document, and what is known of its depth: for a thread. Raises DocumentBroken."""
    document = document_of(stored.state, stored.updates)
    named = sum(map(named_at_most, (stored.state or b"", *stored.updates)))
    return replace(stored, document=document, nesting=nesting_of(named, document.state))


def replica_of(doc: DocId, stored: StoredDocument | None, anew: bool = False) -> Replica:
    """`anew`: the document that came with what is stored has been used up."""
    if stored is None:
        return Replica(doc, guarded=True)
    dots = stored.dots.copy()
    for dot, _ in stored.outbox:
        dots.add(dot)
    built, nesting = (None, None) if anew else (stored.document, stored.nesting)
    return Replica(doc, stored.state, stored.updates, stored.version, dots, True, built, nesting)
