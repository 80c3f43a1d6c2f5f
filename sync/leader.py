"""The leader machine: changes in log order in, merged out, repair, snapshots, rejections.

Room: every decision of a leader and none of its I/O. It keeps no disk: what it holds is the fold of the log, and two
leaders at once hold the same fold. A document is a lane: its changes in log order, one after the other.

Invariants:
1. A lane is folded in the order of the log. While its document is being loaded, its changes wait in `queue`.
2. A change is acknowledged to the consumer only after what became of it was broadcast, or refused, and its event was
   emitted. Broadcasts go at once; events and acknowledgements are gathered for SETTLE_MS.
3. A jump in the consumer's own count says that somebody else was given a message: every lane of that shard is read
   from the log again before it is folded on.
4. While an early change holds a version back, what is merged beyond it is broadcast at that version and kept; the
   broadcast that closes the gap brings all of it, with its dots.
5. A snapshot is gap-free and was loaded by a fresh document to the same digest before it replaces anything.
6. Another change at a place that was folded says that the log may have been lost and begun anew: it is looked at now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import limits
from .change import Beacon, LogEntry, Logged, Merged, Snapshot, SyncAnswer, SyncAsk, entry_doc, size_of
from .document import merge
from .elsewhere import Folding, Loaded, Loading, Loan, Saving, Work, light_shapes
from .errors import DocumentBroken, InvalidUpdate
from .folding import fold_entry
from .ids import DocId, Dot, DotSet, Origin, Version
from .lane import BREAKS, Lane
from .replica import Replica, Taken
from .reshipping import Reshipping
from .settling import Settling
from .splits import at_once_bytes
from .step import (
    AnswerSync,
    AskRepair,
    Broadcast,
    Elsewhere,
    LeaderEffect,
    LoadLogged,
    LookAtLog,
    Publish,
    Reject,
    Report,
    SendBeacon,
    Step,
    StoreSnapshot,
)
from .validate import Shape, check_state_vector

__all__ = ["Delivery", "Leader", "LeaderSettings", "LeaderStep"]

_REJECTED_RANGES_MAX = 40  # in an answer they are a header: a reader that knows none of them would misread a part

LeaderStep = Step[LeaderEffect]
Out = list[LeaderEffect]


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
        self.epoch = 0
        self.witness: tuple[Version, DocId, Dot] | None = None
        """The newest change that was delivered or read: shows a log that was rolled back."""
        self.merged_count = 0
        self.rejected_count = 0
        self.lanes: dict[DocId, Lane] = {}
        self._shards: dict[int, int | None] = {}  # shard -> newest consumer_seq
        self._touched: dict[DocId, None] = {}
        self._reshipping = Reshipping(settings.name, settings.origin)
        self._beacon_ms = 0
        self._settling = Settling()

    # --- the role ----------------------------------------------------------------------------------------------------
    @property
    def shards(self) -> list[int]:
        return sorted(self._shards)

    def gained(self, shard: int, epoch: int, now_ms: int) -> LeaderStep:
        """This node leads the shard from now on. The consumer gives it what was not acknowledged."""
        assert self.epoch in (0, epoch), "a new log needs a new Leader"
        self.epoch = epoch
        self._shards[shard] = None
        return Step()

    def lost(self, shard: int, now_ms: int) -> LeaderStep:
        """Another node leads it: forget its documents; nothing is lost by that."""
        settled = self.settle(now_ms)
        self._shards.pop(shard, None)
        self._settling.lost(shard)
        for doc, lane in list(self.lanes.items()):
            if lane.shard == shard:
                del self.lanes[doc]
        return settled

    # --- the log -----------------------------------------------------------------------------------------------------
    def delivered(self, shard: int, deliveries: Sequence[Delivery], now_ms: int) -> LeaderStep:
        """Messages of the shard's consumer, as they came."""
        out: Out = []
        if shard not in self._shards:
            return Step()
        for delivery in deliveries:
            if self._jumped(shard, delivery):
                self._broadcast_all(now_ms, out)
                self._distrust(shard)
            entry = delivery.entry
            lane = self._lane(entry_doc(entry), shard, now_ms)
            lane.used_ms = now_ms
            if lane.replica is not None and delivery.redelivered and entry.version.seq > lane.replica.read:
                self._broadcast_all(now_ms, out)  # what came between may have gone to somebody else
                lane.forget()
            if lane.replica is None:
                self._enqueue(lane, delivery, out)
            elif size_of(entry) <= at_once_bytes(lane.replica.held_bytes) and not lane.replica.nests:
                self._fold(lane, entry, now_ms, out)
            else:
                lane.queue.append(entry)
                self._drain(lane, now_ms, out)
        self._broadcast_all(now_ms, out)
        return Step(tuple(out))

    def _jumped(self, shard: int, delivery: Delivery) -> bool:
        """Invariant 3. The first delivery proves nothing about what was loaded for questions before it."""
        newest = self._shards[shard]
        self._shards[shard] = max(delivery.consumer_seq, newest or 0)
        return newest is None or delivery.consumer_seq > newest + 1

    def counted(self, shard: int, consumer_seq: int, now_ms: int) -> LeaderStep:
        """The quiet consumer has delivered so many: more than was given here went to somebody else."""
        out: Out = []
        if shard in self._shards and (self._shards[shard] or 0) < consumer_seq:
            self._shards[shard] = consumer_seq
            self._distrust(shard)
            for lane in self.lanes.values():
                if lane.shard == shard:
                    lane.changed_ms = now_ms  # whoever was given it may be gone with its broadcast: the beacon tells
                    self._load(lane, out)
        return Step(tuple(out))

    def _distrust(self, shard: int) -> None:
        for lane in self.lanes.values():
            if lane.shard == shard and not lane.batch:
                lane.whole = lane.whole or lane.loading or lane.lent is not None or bool(lane.queue)
                lane.stale = lane.stale or lane.loading
                if lane.lent is None:  # else when it comes back: it is broadcast first
                    lane.forget()

    def _lane(self, doc: DocId, shard: int, now_ms: int) -> Lane:
        lane = self.lanes.get(doc)
        if lane is None:
            lane = self.lanes[doc] = Lane(doc, shard, used_ms=now_ms)
        return lane

    def _enqueue(self, lane: Lane, delivery: Delivery, out: Out) -> None:
        """Invariant 1. A repeat says nothing of what was acknowledged behind it: read to the log's end."""
        entry = delivery.entry
        if delivery.redelivered:
            lane.whole = True
            lane.stale = lane.stale or lane.loading
        if any(waiting.version == entry.version for waiting in lane.queue):
            return  # delivered again meanwhile
        if len(lane.queue) >= limits.LANE_COUNT_MAX:
            return  # not acknowledged: it comes again
        lane.queue.append(entry)
        self._load(lane, out)

    def _load(self, lane: Lane, out: Out) -> None:
        if not lane.loading and lane.lent is None:
            lane.loading = True
            before = None if lane.whole else min((entry.version.seq for entry in lane.queue), default=None)
            lane.stale = False
            out.append(LoadLogged(lane.doc, before))

    def log_failed(self, doc: DocId, now_ms: int) -> LeaderStep:
        """Snapshot and log could not be read: again later (`tick`)."""
        lane = self.lanes.get(doc)
        if lane is not None and lane.loading and lane.work is None:
            lane.loading = False
            lane.failures += 1
            pause = min(limits.RETRY_MS_MAX, limits.RETRY_MS_MIN << min(lane.failures, 10))
            lane.load_after_ms = now_ms + pause
        return Step()

    def logged(self, doc: DocId, snapshot: Snapshot | None, entries: Sequence[LogEntry], now_ms: int) -> LeaderStep:
        """The newest snapshot and the changes after it, as LoadLogged asked."""
        lane = self.lanes.get(doc)
        if lane is None or not lane.loading or lane.work is not None:
            return Step()
        out: Out = []
        work = Loading(doc, snapshot, entries, frozenset(lane.poison), self.epoch, now_ms)
        if lane.stale or work.is_light():
            self._loaded(lane, work, None if lane.stale else work.run(), now_ms, out)
        else:
            lane.work = work
            out.append(Elsewhere(work))
        return Step(tuple(out))

    def worked(self, work: Work, found: Loaded | Loan | Snapshot | str, now_ms: int) -> LeaderStep:
        """`work.run()` has found this."""
        out: Out = []
        match work, found:
            case Loading(), Loaded():
                lane = self.lanes.get(work.doc)
                if lane is not None and lane.work is work:
                    lane.work = None
                    self._loaded(lane, work, found, now_ms, out)
            case Folding(), Loan():
                lane = self.lanes.get(work.doc)
                if lane is not None and lane.lent is work:
                    lane.lent = None
                    self._returned(lane, work, found, now_ms, out)
            case Saving(), Snapshot() | str():
                self._saved(work, found, out)
        return Step(tuple(out))

    def _loaded(self, lane: Lane, work: Loading, found: Loaded | None, now_ms: int, out: Out) -> None:
        lane.loading = False
        lane.failures = 0
        if found is None or lane.stale:
            self._load(lane, out)
            return
        lane.poison |= found.poison
        for breaker, reason in found.breakers:
            self._reject(breaker, reason, out)
        replica, snapshot = found.replica, work.snapshot
        if replica is None:
            lane.asks.clear()  # the askers ask again
            out.append(Report("document_unreadable", lane.doc, found.unreadable))
            lane.load_after_ms = now_ms + limits.RETRY_MS_MAX
            return
        for entry, reason in found.refused:
            lane.reject(entry, reason)
        lane.replica = replica
        self._witness_of(work.entries)
        lane.whole = False
        lane.sent = replica.version
        if found.digest and replica.version is not None:
            lane.digest = (replica.version, found.digest)
        lane.snapshot = snapshot.version if snapshot is not None and snapshot.version.epoch == self.epoch else None
        lane.changes = len(work.entries)
        lane.change_bytes = sum(map(size_of, work.entries))
        lane.state_bytes = len(snapshot.state) if snapshot is not None else 0
        if replica.gap:
            lane.gap_since_ms = now_ms
            lane.remember_gap(replica, work.entries)
        if found.old_refused:
            out.append(Report("snapshot_refused", lane.doc, found.old_refused))
        elif snapshot is not None and found.lacking:
            out.append(Publish(self._reshipping.ship(snapshot, now_ms)))
            out.append(Report("document_healed", lane.doc, "a snapshot of the lost log was shipped into the new one"))
        lane.queue.sort(key=lambda waiting: waiting.version.seq)
        self._drain(lane, now_ms, out)
        self._go_on(lane, now_ms, out)

    def _drain(self, lane: Lane, now_ms: int, out: Out) -> None:
        """What waits, at once where it is light; else its beginning is lent with the replica, and the rest waits on."""
        lane.queue = [entry for entry in lane.queue if entry.version.epoch == self.epoch]
        while lane.queue and (replica := lane.replica) is not None:
            count = 1 if lane.careful else lane.loan_count()
            entries = lane.queue[:count]
            size = sum(map(size_of, entries))
            shapes = light_shapes(entries, replica) if size <= limits.FOLDED_BYTES else None
            if shapes is None:
                self._broadcast(lane, now_ms, out)  # what it holds already is a step of its own
                if lane.replica is replica:  # else broken over that: folded again after the load
                    del lane.queue[:count]
                    self._lend(lane, replica, entries, now_ms, out)
                return
            del lane.queue[:count]
            for entry, shape in zip(entries, shapes, strict=True):
                self._fold(lane, entry, now_ms, out, shape)
            if lane.careful:
                self._broadcast(lane, now_ms, out)

    def _lend(self, lane: Lane, replica: Replica, entries: Sequence[LogEntry], now_ms: int, out: Out) -> None:
        work = Folding(lane.doc, replica, entries, frozenset(lane.poison), now_ms)
        lane.lent, lane.replica = work, None
        out.append(Elsewhere(work))

    def _go_on(self, lane: Lane, now_ms: int, out: Out) -> None:
        self._broadcast_all(now_ms, out)
        if lane.replica is not None:
            lane.careful = False
            self._answer_all(lane, now_ms, out)

    def _answer_all(self, lane: Lane, now_ms: int, out: Out) -> None:
        if lane.asks and lane.replica is not None and not self._lend_to_digest(lane, lane.replica, now_ms, out):
            asks, lane.asks = lane.asks, []
            while asks and lane.replica is not None:
                self._answer(lane, *asks.pop(0), out)
            lane.asks += asks  # broken over one of them: after the load

    def _returned(self, lane: Lane, work: Folding, loan: Loan, now_ms: int, out: Out) -> None:
        """A replica comes back from where it was lent to, with what became of each entry."""
        if loan.broken:
            lane.batch = list(work.entries)
            self._broken(lane, loan.broken, out)
            return
        lane.replica = work.replica
        for entry, taken, reason in loan.folded:
            self._touched[lane.doc] = None
            self._settling.handled(lane.shard, entry.version.seq)
            if taken is None:
                self._passed(lane, work.replica, entry, out)
            else:
                self._folded(lane, entry, taken, reason, out)
        lane.fresh = loan.fresh
        if loan.digest and work.replica.version is not None:
            lane.digest = (work.replica.version, loan.digest)
            self._answer_all(lane, now_ms, out)  # before anything else changes it
        self._broadcast_all(now_ms, out)
        read = Version(self.epoch, work.replica.read)
        further = any(ask.version is not None and ask.version > read for ask, _ in lane.asks)  # as in `sync_asked`
        if (lane.whole or further) and lane.replica is not None:  # what follows may have gone to somebody else
            lane.forget()
            lane.changed_ms = now_ms
            self._load(lane, out)
        self._drain(lane, now_ms, out)
        self._go_on(lane, now_ms, out)

    def _witness_of(self, entries: Sequence[LogEntry]) -> None:
        """What was read is answered, and edges come that far: the log must have it as long as they do."""
        newest = next((entry for entry in reversed(entries) if isinstance(entry, Logged)), None)
        if newest is None or newest.version.epoch != self.epoch:
            return
        if self.witness is None or newest.version > self.witness[0]:
            self.witness = (newest.version, newest.change.doc, newest.change.dot)

    def _fold(self, lane: Lane, entry: LogEntry, now_ms: int, out: Out, shape: Shape | None = None) -> None:
        replica = lane.replica
        assert replica is not None
        version = entry.version
        if version.epoch != self.epoch:
            return
        self._touched[lane.doc] = None
        self._settling.handled(lane.shard, version.seq)
        if version.seq <= replica.read:
            lane.changed_ms = now_ms
            self._passed(lane, replica, entry, out)
            return
        if version.seq in lane.poison:
            taken, reason = replica.pass_over(version), BREAKS
        else:
            taken, reason = fold_entry(replica, entry, now_ms, shape)
        self._folded(lane, entry, taken, reason, out)

    def _passed(self, lane: Lane, replica: Replica, entry: LogEntry, out: Out) -> None:
        """Merged already, by a load or before a repeat: the beacon tells the edges. Invariant 6."""
        self._beacon_ms = 0
        if not isinstance(entry, Logged):
            return
        dot = entry.change.dot
        if dot in lane.rejected:
            self._reject(entry, lane.reason, out)  # refused by that load, for somebody's question: nobody kept it
        if dot in replica.dots:
            self._settling.emit(lane.doc, replica.version or entry.version, [(dot, entry.change.context)])
        elif dot not in lane.rejected and entry.version.seq not in lane.held:
            out.append(LookAtLog(lane.doc, entry.version))

    def _folded(self, lane: Lane, entry: LogEntry, taken: Taken, reason: str, out: Out) -> None:
        lane.batch.append(entry)
        lane.changes += 1
        lane.change_bytes += size_of(entry)
        if isinstance(entry, Logged):
            self.witness = (entry.version, lane.doc, entry.change.dot)
        if reason:
            self._reject(entry, reason, out)
            lane.reject(entry, reason)
            if isinstance(entry, Logged):
                lane.fresh_rejected.add(entry.change.dot)
            return
        assert isinstance(entry, Logged)
        if taken.clash:
            out.append(Report("client_id_clash", lane.doc, taken.clash))
            lane.reject(entry, taken.clash)
            self._reject(entry, taken.clash, out)  # a copy: nobody but who wrote it has the part that was not taken
            lane.fresh_rejected.add(entry.change.dot)  # its edge has that part, under clocks that are others' here
        for early, why in taken.refused:
            held = lane.held.pop(early.seq, None) if early.seq is not None else None
            if held is not None:
                self._reject(held, why, out)
                lane.reject(held, why)
                lane.fresh_rejected.add(held.change.dot)
        lane.note(entry, taken)

    def _reject(self, entry: LogEntry, reason: str, out: Out) -> None:
        self.rejected_count += 1
        out.append(Reject(entry, reason))

    # --- broadcast ---------------------------------------------------------------------------------------------------
    def _broadcast_all(self, now_ms: int, out: Out) -> None:
        for doc in list(self._touched):
            lane = self.lanes.get(doc)
            if lane is not None and lane.replica is not None:
                self._broadcast(lane, now_ms, out)
        self._touched.clear()
        if self._settling.due(now_ms):
            out.extend(self._settling.settle(now_ms))  # Invariant 2.

    def settle(self, now_ms: int) -> LeaderStep:
        """What was broadcast is emitted and acknowledged now: this leader ends, or gives a shard away."""
        return Step(tuple(self._settling.settle(now_ms)))

    def _broadcast(self, lane: Lane, now_ms: int, out: Out) -> None:
        """One message for everything folded into this document since the last one."""
        replica = lane.replica
        assert replica is not None
        if not lane.batch:
            return
        try:
            replica.materialise()
            fresh = replica.watched(lane.fresh, lambda: merge(lane.fresh)) if lane.fresh else b""
        except DocumentBroken as error:
            self._broken(lane, str(error), out)
            return
        version = replica.version
        prev = lane.sent
        assert version is not None
        assert prev is not None
        self.merged_count += len(lane.batch)
        dots = lane.fresh_dots
        fetch = False
        if lane.beyond and version != prev:
            fetch = lane.beyond_bytes > limits.LOAN_BYTES  # to merge it would hold the loop
            fresh = b"" if fetch else merge([*lane.beyond, *lane.fresh])
            dots.update(lane.beyond_dots)
        if replica.gap:
            lane.add_beyond(lane.fresh, lane.fresh_dots.dots())
            if lane.gap_since_ms is None:
                lane.gap_since_ms = now_ms
        else:
            lane.beyond.clear()
            lane.beyond_bytes = 0
            lane.beyond_dots = DotSet()
            lane.gap_since_ms = None
        for named in (dots, lane.fresh_rejected):
            named.trim(limits.DOT_RANGES_MAX)  # what is forgotten here is confirmed by its place in the log
        if version != prev or fresh or len(dots):
            said = tuple(
                (dot, context)
                for dot, context in lane.fresh_contexts
                if context.actor or context.causation or context.correlation
            )
            rejected, reason = lane.fresh_rejected, lane.reason if len(lane.fresh_rejected) else ""
            out.append(Broadcast(Merged(lane.doc, prev, version, fresh, dots, rejected, fetch, said, reason)))
        if lane.fresh_contexts:
            self._settling.emit(lane.doc, version, lane.fresh_contexts)
        lane.sent = version
        lane.changed_ms = now_ms
        lane.digest = None
        lane.batch = []
        lane.freshen()
        self._snapshot_if_due(lane, out)
        if replica.wants_places and not lane.prepared:
            lane.prepared = True
            self._lend(lane, replica, (), now_ms, out)

    def _broken(self, lane: Lane, reason: str, out: Out) -> None:
        """After a panic the document is undefined: fold this batch again, one by one, on what the log gives."""
        out.append(Report("document_rebuilt", lane.doc, reason))
        batch, lane.batch = lane.batch, []
        if lane.careful and len(batch) == 1:
            lane.poison.add(batch[0].version.seq)
        self._settling.not_handled(lane.shard, (entry.version.seq for entry in batch))
        lane.freshen()
        lane.forget()
        lane.careful = True
        lane.queue = [*batch, *lane.queue]
        self._load(lane, out)

    # --- snapshots ---------------------------------------------------------------------------------------------------
    def _snapshot_if_due(self, lane: Lane, out: Out) -> None:
        if lane.changes >= limits.SNAPSHOT_CHANGES or lane.change_bytes >= limits.SNAPSHOT_BYTES + lane.state_bytes:
            self._snapshot(lane, out)

    def _snapshot(self, lane: Lane, out: Out) -> None:
        """Invariant 5."""
        replica = lane.replica
        assert replica is not None
        if replica.gap or replica.version is None or replica.version == lane.snapshot:
            return
        lane.changes = 0
        lane.change_bytes = 0
        try:
            saving = Saving(replica.capture(), replica.version, replica.dots.copy())
        except DocumentBroken as error:
            out.append(Report("snapshot_refused", lane.doc, str(error)))
            return
        lane.state_bytes = len(saving.captured.state)
        lane.snapshot = replica.version
        if saving.is_light():
            self._saved(saving, saving.run(), out)
        else:
            out.append(Elsewhere(saving))

    def _saved(self, saving: Saving, found: Snapshot | str, out: Out) -> None:
        if isinstance(found, str):
            out.append(Report("snapshot_refused", saving.captured.doc, found))
        else:
            out.append(StoreSnapshot(found))

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
        out: Out = []
        if shard not in self._shards:
            return Step()
        try:
            check_state_vector(ask.state_vector)
        except InvalidUpdate:
            return Step()
        lane = self._lane(ask.doc, shard, now_ms)
        lane.used_ms = now_ms
        have = lane.replica.read if lane.replica is not None and not lane.batch else None
        if have is not None and ask.version is not None and ask.version > Version(self.epoch, have):
            lane.forget()  # somebody merged what this leader was not given
        lane.asks.append((ask, reply))
        if lane.replica is None:
            self._load(lane, out)
        else:
            self._answer_all(lane, now_ms, out)
        return Step(tuple(out))

    def _answer(self, lane: Lane, ask: SyncAsk, reply: str, out: Out) -> None:
        replica = lane.replica
        assert replica is not None
        known = (replica.read, ask.state_vector)
        try:
            if lane.answered is None or lane.answered[0] != known:
                lane.answered = (known, replica.diff(ask.state_vector))
            update = lane.answered[1]
            mine = replica.state_vector()
            digest = "" if replica.gap else lane.digest_of(replica)
        except DocumentBroken as error:
            self._broken(lane, str(error), out)
            return
        if ask.version is not None and ask.version.epoch == self.epoch and ask.version.seq > replica.read:
            out.append(LookAtLog(lane.doc, ask.version))  # its log was read anew (`sync_asked`), or is being read
        version = replica.version or Version(self.epoch, 0)
        dots, rejected = replica.dots.copy(), lane.rejected.copy()
        rejected.trim(_REJECTED_RANGES_MAX)
        answer = SyncAnswer(lane.doc, ask.ask, update, mine, version, dots, digest, rejected, lane.reason)
        out.append(AnswerSync(reply, answer))

    def _lend_to_digest(self, lane: Lane, replica: Replica, now_ms: int, out: Out) -> bool:
        """A document with many deleted ranges is read elsewhere; False: its digest is known, or soon made."""
        far = lane.state_bytes + lane.change_bytes > limits.DIGESTED_BYTES and not replica.gap and not lane.batch
        if not far or (lane.digest is not None and lane.digest[0] == replica.version):
            return False
        self._lend(lane, replica, (), now_ms, out)
        return True

    # --- time --------------------------------------------------------------------------------------------------------
    def tick(self, now_ms: int) -> LeaderStep:
        """Call every 100 ms or so: events, beacons, repair, repeats, what leaves memory."""
        out: Out = []
        if self._settling:
            out.extend(self._settling.settle(now_ms))
        out.extend(map(Publish, self._reshipping.due(now_ms)))
        for lane in list(self.lanes.values()):
            lane.answered = None
            if lane.replica is None:
                if (lane.queue or lane.asks) and now_ms >= lane.load_after_ms:
                    self._load(lane, out)
            elif lane.replica.gap:
                ask = lane.repair_ask(lane.replica, now_ms)
                if ask is not None:
                    out.append(AskRepair(ask))
            elif now_ms - lane.used_ms >= limits.LEADER_IDLE_MS and not lane.queue:
                if lane.changes >= limits.SNAPSHOT_IDLE_CHANGES:
                    self._snapshot(lane, out)
                del self.lanes[lane.doc]
        if now_ms >= self._beacon_ms:
            self._beacon_ms = now_ms + limits.BEACON_MS
            self._send_beacons(now_ms, out)
        return Step(tuple(out))

    def _send_beacons(self, now_ms: int, out: Out) -> None:
        """Documents that changed in the last BEACON_SPAN_MS, several times: beacons may be lost as well."""
        docs: list[tuple[DocId, Version, str]] = []
        for lane in self.lanes.values():
            replica = lane.replica
            if replica is None or replica.version is None or now_ms - lane.changed_ms > limits.BEACON_SPAN_MS:
                continue
            version = replica.version
            try:  # where it is read elsewhere, a later beacon has it
                digest = (
                    "" if replica.gap or self._lend_to_digest(lane, replica, now_ms, out) else lane.digest_of(replica)
                )
            except DocumentBroken as error:
                self._broken(lane, str(error), out)
                continue
            docs.append((lane.doc, version, digest))
        for at in range(0, len(docs), limits.BEACON_DOCS_MAX):
            out.append(SendBeacon(Beacon(tuple(docs[at : at + limits.BEACON_DOCS_MAX]))))
