"""The leader machine: changes in log order in, merged out, repair, snapshots, rejections.

Room: every decision of a leader and none of its I/O. It keeps no disk: what it holds is the fold of the log, and two
leaders at once hold the same fold. A document is a lane (`sync.lane`): what concerns one alone is there; here are the
shards that this node leads, the consumer that delivers to them, and time.

Invariants:
1. A change is acknowledged to the consumer only after what became of it was broadcast, or refused, and its event was
   emitted. Broadcasts go at once; events and acknowledgements are gathered for SETTLE_MS.
2. A jump in the consumer's own count says that somebody else was given a message: every lane of that shard is read
   from the log again before it is folded on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import limits
from .change import Beacon, LogEntry, Snapshot, SyncAsk, entry_doc
from .common import Common, Out
from .elsewhere import Folding, Loaded, Loading, Loan, Saving, Work
from .errors import InvalidUpdate
from .ids import DocId, Dot, Origin, Version
from .lane import Lane
from .reshipping import Reshipping
from .snapshots import outcome
from .step import LeaderEffect, Publish, SendBeacon, Step
from .validate import check_state_vector

__all__ = ["Delivery", "Leader", "LeaderSettings", "LeaderStep"]

LeaderStep = Step[LeaderEffect]


@dataclass(frozen=True, slots=True)
class LeaderSettings:
    name: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of the consumer. `consumer_seq` counts deliveries, repeats too, over all who pull from it."""

    entry: LogEntry
    consumer_seq: int
    redelivered: bool = False


class Leader:
    def __init__(self, settings: LeaderSettings) -> None:
        self.settings = settings
        self.lanes: dict[DocId, Lane] = {}
        self._shards: dict[int, int | None] = {}  # shard -> newest consumer_seq
        self._common = Common(Reshipping(settings.name, settings.origin))
        self._settling = self._common.settling
        self._reshipping = self._common.reshipping
        self._beacon_ms = 0

    @property
    def epoch(self) -> int:
        return self._common.epoch

    @property
    def witness(self) -> tuple[Version, DocId, Dot] | None:
        """The newest change that was delivered or read: shows a log that was rolled back."""
        return self._common.witness

    @property
    def merged_count(self) -> int:
        return self._common.merged_count

    @property
    def rejected_count(self) -> int:
        return self._common.rejected_count

    # --- the role ----------------------------------------------------------------------------------------------------
    @property
    def shards(self) -> list[int]:
        return sorted(self._shards)

    def gained(self, shard: int, epoch: int, now_ms: int) -> LeaderStep:
        """This node leads the shard from now on. The consumer gives it what was not acknowledged."""
        assert self.epoch in (0, epoch), "a new log needs a new Leader"
        self._common.epoch = epoch
        self._shards[shard] = None
        return Step()

    def lost(self, shard: int, now_ms: int) -> LeaderStep:
        """Another node leads it: forget its documents; nothing is lost by that."""
        settled = self.settle(now_ms)
        self._shards.pop(shard, None)
        self._settling.lost(shard)
        for lane in self._lanes_of(shard):
            del self.lanes[lane.doc]
        return settled

    def settle(self, now_ms: int) -> LeaderStep:
        """What was broadcast is emitted and acknowledged now: this leader ends, or gives a shard away."""
        return Step(tuple(self._settling.settle(now_ms)))

    def _lanes_of(self, shard: int) -> list[Lane]:
        return [lane for lane in self.lanes.values() if lane.shard == shard]

    def _lane(self, doc: DocId, shard: int, now_ms: int) -> Lane:
        """It is in use."""
        lane = self.lanes.get(doc)
        if lane is None:
            lane = self.lanes[doc] = Lane(doc, shard, self._common)
        lane.used_ms = now_ms
        return lane

    # --- the consumer ------------------------------------------------------------------------------------------------
    def delivered(self, shard: int, deliveries: Sequence[Delivery], now_ms: int) -> LeaderStep:
        """Messages of the shard's consumer, as they came."""
        out: Out = []
        if shard not in self._shards:
            return Step()
        touched: dict[DocId, Lane] = {}
        for delivery in deliveries:
            if self._jumped(shard, delivery):
                self._broadcast(touched, now_ms, out)
                self._distrust(shard)
            entry = delivery.entry
            lane = self._lane(entry_doc(entry), shard, now_ms)
            if delivery.redelivered and lane.replica is not None and entry.version.seq > lane.replica.read:
                self._broadcast(touched, now_ms, out)  # what came between may have gone to somebody else
                lane.forget()
            touched[lane.doc] = lane
            lane.take(entry, delivery.redelivered, now_ms, out)
        self._broadcast(touched, now_ms, out)
        return Step(tuple(out))

    def _broadcast(self, touched: dict[DocId, Lane], now_ms: int, out: Out) -> None:
        """Invariant 1."""
        for lane in touched.values():
            lane.broadcast(now_ms, out)
        touched.clear()
        self._settling.settle_when_due(now_ms, out)

    def _jumped(self, shard: int, delivery: Delivery) -> bool:
        """Invariant 2. The first delivery proves nothing about what was loaded for questions before it."""
        newest = self._shards[shard]
        if newest is not None and delivery.consumer_seq <= newest:
            return False
        self._shards[shard] = delivery.consumer_seq
        return newest is None or delivery.consumer_seq > newest + 1

    def counted(self, shard: int, consumer_seq: int, now_ms: int) -> LeaderStep:
        """The quiet consumer has delivered so many: more than was given here went to somebody else."""
        out: Out = []
        if shard in self._shards and (self._shards[shard] or 0) < consumer_seq:
            self._shards[shard] = consumer_seq
            self._distrust(shard)
            for lane in self._lanes_of(shard):
                lane.changed_ms = now_ms  # whoever was given it may be gone with its broadcast: the beacon tells
                lane.load(out)
        return Step(tuple(out))

    def _distrust(self, shard: int) -> None:
        for lane in self._lanes_of(shard):
            lane.distrust()

    # --- what was asked for ------------------------------------------------------------------------------------------
    def logged(self, doc: DocId, snapshot: Snapshot | None, entries: Sequence[LogEntry], now_ms: int) -> LeaderStep:
        """The newest snapshot and the changes after it, as LoadLogged asked."""
        out: Out = []
        lane = self.lanes.get(doc)
        if lane is not None:
            lane.logged(snapshot, entries, now_ms, out)
        return Step(tuple(out))

    def log_failed(self, doc: DocId, now_ms: int) -> LeaderStep:
        """Snapshot and log could not be read: again later (`tick`)."""
        lane = self.lanes.get(doc)
        if lane is not None:
            lane.log_failed(now_ms)
        return Step()

    def worked(self, work: Work, found: Loaded | Loan | Snapshot | str, now_ms: int) -> LeaderStep:
        """`work.run()` has found this."""
        out: Out = []
        match work, found:
            case Loading(), Loaded():
                if (lane := self.lanes.get(work.doc)) is not None:
                    lane.loaded(work, found, now_ms, out)
            case Folding(), Loan():
                if (lane := self.lanes.get(work.doc)) is not None:
                    lane.returned(work, found, now_ms, out)
            case Saving(), Snapshot() | str():
                out.append(outcome(work, found))
        return Step(tuple(out))

    def published(self, doc: DocId, dot: Dot, version: Version, now_ms: int) -> LeaderStep:
        """The log has a change that this leader shipped; it comes back through the consumer."""
        self._reshipping.published(doc, dot)
        return Step()

    def publish_failed(self, doc: DocId, dot: Dot, now_ms: int) -> LeaderStep:
        self._reshipping.failed(doc, dot, now_ms)
        return Step()

    # --- questions ---------------------------------------------------------------------------------------------------
    def sync_asked(self, ask: SyncAsk, shard: int, reply: str, now_ms: int) -> LeaderStep:
        """An edge asks what it lacks. A question that cannot be is not answered."""
        if shard not in self._shards:
            return Step()
        try:
            check_state_vector(ask.state_vector)
        except InvalidUpdate:
            return Step()
        out: Out = []
        self._lane(ask.doc, shard, now_ms).ask(ask, reply, now_ms, out)
        return Step(tuple(out))

    # --- time --------------------------------------------------------------------------------------------------------
    def tick(self, now_ms: int) -> LeaderStep:
        """Call every 100 ms or so: events, beacons, repair, repeats, what leaves memory."""
        out: Out = []
        if self._settling:
            out.extend(self._settling.settle(now_ms))
        out.extend(map(Publish, self._reshipping.due(now_ms)))
        for lane in list(self.lanes.values()):
            if not lane.tick(now_ms, out):
                del self.lanes[lane.doc]
        if self._common.beacon_soon or now_ms >= self._beacon_ms:
            self._common.beacon_soon = False
            self._beacon_ms = now_ms + limits.BEACON_MS
            self._send_beacons(now_ms, out)
        return Step(tuple(out))

    def _send_beacons(self, now_ms: int, out: Out) -> None:
        """Documents that changed in the last BEACON_SPAN_MS, several times: beacons may be lost as well."""
        docs = [said for lane in self.lanes.values() if (said := lane.beacon(now_ms, out)) is not None]
        for at in range(0, len(docs), limits.BEACON_DOCS_MAX):
            out.append(SendBeacon(Beacon(tuple(docs[at : at + limits.BEACON_DOCS_MAX]))))
