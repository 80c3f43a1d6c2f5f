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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import limits
from .change import Beacon, Change, Context, LogEntry, Logged, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk
from .document import merge
from .errors import DocumentBroken, InvalidUpdate
from .folding import fold_entry
from .ids import DocId, Dot, DotSet, Origin, Version
from .lane import BREAKS, Lane, first_breaker, fold_around
from .replica import Replica, Taken, Verdict
from .settling import Settling
from .step import (
    AnswerSync,
    AskRepair,
    Broadcast,
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
from .validate import check_state_vector, check_update

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
        self._again: dict[DocId, int] = {}  # next dot of this origin
        self._shipping: dict[tuple[DocId, Dot], tuple[Change, int]] = {}
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
                self._forget(lane)
            if lane.replica is None:
                self._enqueue(lane, delivery, out)
            else:
                self._fold(lane, entry, now_ms, out)
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
                lane.whole = lane.whole or lane.loading or bool(lane.queue)
                lane.stale = lane.stale or lane.loading
                self._forget(lane)

    def _forget(self, lane: Lane) -> None:
        """Read it from the log again when it is next needed."""
        lane.replica = None
        lane.digest = None
        lane.beyond.clear()
        lane.beyond_bytes = 0
        lane.beyond_dots = DotSet()
        lane.held.clear()
        lane.gap_since_ms = None

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
        if not lane.loading:
            lane.loading = True
            before = None if lane.whole else min((entry.version.seq for entry in lane.queue), default=None)
            lane.stale = False
            out.append(LoadLogged(lane.doc, before))

    def log_failed(self, doc: DocId, now_ms: int) -> LeaderStep:
        """Snapshot and log could not be read: again later (`tick`)."""
        lane = self.lanes.get(doc)
        if lane is not None and lane.loading:
            lane.loading = False
            lane.failures += 1
            pause = min(limits.RETRY_MS_MAX, limits.RETRY_MS_MIN << min(lane.failures, 10))
            lane.load_after_ms = now_ms + pause
        return Step()

    def logged(self, doc: DocId, snapshot: Snapshot | None, entries: Sequence[LogEntry], now_ms: int) -> LeaderStep:
        """The newest snapshot and the changes after it, as LoadLogged asked."""
        lane = self.lanes.get(doc)
        if lane is None or not lane.loading:
            return Step()
        out: Out = []
        lane.loading = False
        lane.failures = 0
        if lane.stale:
            self._load(lane, out)
            return Step(tuple(out))
        try:
            lane.replica = self._fold_loaded(lane, snapshot, entries, now_ms, out)
        except DocumentBroken as error:
            lane.asks.clear()  # the askers ask again
            out.append(Report("document_unreadable", doc, str(error)))
            lane.load_after_ms = now_ms + limits.RETRY_MS_MAX
            return Step(tuple(out))
        replica = lane.replica
        self._witness_of(entries)
        lane.whole = False
        lane.sent = replica.version
        lane.snapshot = snapshot.version if snapshot is not None and snapshot.version.epoch == self.epoch else None
        lane.changes = len(entries)
        lane.change_bytes = sum(_size(entry) for entry in entries)
        lane.state_bytes = len(snapshot.state) if snapshot is not None else 0
        if replica.gap:
            lane.gap_since_ms = now_ms
            self._remember_gap(lane, replica, entries)
        if snapshot is not None and snapshot.version.epoch != self.epoch:
            self._ship_old_snapshot(lane, snapshot, now_ms, out)
        queue, lane.queue = lane.queue, []
        for entry in sorted(queue, key=lambda waiting: waiting.version.seq):
            if lane.replica is None:
                lane.queue.append(entry)  # broken over one of them: folded again after the load
            else:
                self._fold(lane, entry, now_ms, out)
                if lane.careful:
                    self._broadcast(lane, now_ms, out)
        self._broadcast_all(now_ms, out)
        if lane.replica is not None:
            lane.careful = False
            asks, lane.asks = lane.asks, []
            for ask, reply in asks:
                self._answer(lane, ask, reply, out)
        return Step(tuple(out))

    def _witness_of(self, entries: Sequence[LogEntry]) -> None:
        """What was read is answered, and edges come that far: the log must have it as long as they do."""
        newest = next((entry for entry in reversed(entries) if isinstance(entry, Logged)), None)
        if newest is None or newest.version.epoch != self.epoch:
            return
        if self.witness is None or newest.version > self.witness[0]:
            self.witness = (newest.version, newest.change.doc, newest.change.dot)

    def _fold_loaded(
        self, lane: Lane, snapshot: Snapshot | None, entries: Sequence[LogEntry], now_ms: int, out: Out
    ) -> Replica:
        """Fold in one piece; where pycrdt breaks, one by one, and the ones that break it are refused."""
        while True:
            good = [entry for entry in entries if entry.version.seq not in lane.poison]
            refused: list[tuple[LogEntry, str]] = []
            try:
                replica = fold_around(lane.doc, snapshot, entries, lane.poison, self.epoch, now_ms, refused)
                for entry, reason in refused:
                    lane.reject(entry, reason)
                return replica
            except DocumentBroken as error:
                breaker = first_breaker(lane.doc, snapshot, good, self.epoch, now_ms)
                if breaker is None:
                    raise
                lane.poison.add(breaker.version.seq)
                self._reject(breaker, f"{BREAKS}: {error}", out)

    def _remember_gap(self, lane: Lane, replica: Replica, entries: Sequence[LogEntry]) -> None:
        """What is set aside, and what was broadcast at the held version before this load. Invariant 4."""
        held = replica.version.seq if replica.version else 0
        for entry in entries:
            if entry.version.seq <= held or not isinstance(entry, Logged):
                continue
            if entry.change.dot in replica.dots:
                self._add_beyond(lane, [entry.change.update], [entry.change.dot])
            else:
                lane.held[entry.version.seq] = entry

    def _add_beyond(self, lane: Lane, updates: Sequence[bytes], dots: Sequence[Dot]) -> None:
        lane.beyond.extend(updates)
        lane.beyond_bytes += sum(map(len, updates))
        for dot in dots:
            lane.beyond_dots.add(dot)

    def _fold(self, lane: Lane, entry: LogEntry, now_ms: int, out: Out) -> None:
        replica = lane.replica
        assert replica is not None
        version = entry.version
        if version.epoch != self.epoch:
            return
        self._touched[lane.doc] = None
        self._settling.handled(lane.shard, version.seq)
        if version.seq <= replica.read:
            lane.changed_ms = now_ms  # merged already, by a load or before a repeat: the beacon tells the edges
            if isinstance(entry, Logged) and entry.change.dot in lane.rejected:
                self._reject(entry, lane.reason, out)  # refused by that load, for somebody's question: nobody kept it
            self._beacon_ms = 0
            if isinstance(entry, Logged) and entry.change.dot in replica.dots:
                self._settling.emit(lane.doc, replica.version or version, [(entry.change.dot, entry.change.context)])
            return
        if version.seq in lane.poison:
            taken, reason = replica.pass_over(version), BREAKS
        else:
            taken, reason = fold_entry(replica, entry, now_ms)
        lane.batch.append(entry)
        lane.changes += 1
        lane.change_bytes += _size(entry)
        if isinstance(entry, Logged):
            self.witness = (version, lane.doc, entry.change.dot)
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
        self._note(lane, entry, taken)

    def _note(self, lane: Lane, entry: Logged, taken: Taken) -> None:
        """What the next broadcast says of it."""
        if taken.verdict is Verdict.EARLY:
            lane.held[entry.version.seq] = entry
            return
        lane.fresh.extend(taken.updates)
        released = [lane.held.pop(early.seq) for early in taken.released if early.seq in lane.held]
        for logged in [entry, *released]:
            lane.fresh_dots.add(logged.change.dot)
            lane.fresh_dots.update(logged.change.covers)
        let_in = [entry] if taken.verdict is Verdict.NEW else []
        let_in += [logged for logged in released if logged.change.update in taken.updates]
        lane.fresh_contexts.extend((logged.change.dot, logged.change.context) for logged in let_in)

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
            fetch = lane.beyond_bytes > limits.EARLY_BYTES_MAX
            fresh = b"" if fetch else merge([*lane.beyond, *lane.fresh])
            dots.update(lane.beyond_dots)
        if replica.gap:
            self._add_beyond(lane, lane.fresh, lane.fresh_dots.dots())
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
            lane.fresh_contexts = []
        lane.sent = version
        lane.changed_ms = now_ms
        lane.digest = None
        lane.fresh = []
        lane.fresh_dots = DotSet()
        lane.fresh_rejected = DotSet()
        lane.batch = []
        self._snapshot_if_due(lane, out)

    def _broken(self, lane: Lane, reason: str, out: Out) -> None:
        """After a panic the document is undefined: fold this batch again, one by one, on what the log gives."""
        out.append(Report("document_rebuilt", lane.doc, reason))
        batch, lane.batch = lane.batch, []
        if lane.careful and len(batch) == 1:
            lane.poison.add(batch[0].version.seq)
        self._settling.not_handled(lane.shard, (entry.version.seq for entry in batch))
        lane.fresh = []
        lane.fresh_dots = DotSet()
        lane.fresh_rejected = DotSet()
        lane.fresh_contexts = []
        self._forget(lane)
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
            state = replica.verified_state()
            digest = replica.digest()
        except (DocumentBroken, InvalidUpdate) as error:
            out.append(Report("snapshot_refused", lane.doc, str(error)))
            return
        lane.state_bytes = len(state)
        lane.snapshot = replica.version
        out.append(StoreSnapshot(Snapshot(lane.doc, replica.version, state, replica.dots.copy(), digest)))

    def _ship_old_snapshot(self, lane: Lane, snapshot: Snapshot, now_ms: int, out: Out) -> None:
        """A snapshot of a log that was lost: what this log lacks of it goes into this log."""
        replica = lane.replica
        assert replica is not None
        try:
            shape = check_update(snapshot.state)
        except InvalidUpdate as error:
            out.append(Report("snapshot_refused", lane.doc, str(error)))
            return
        if replica.judge(shape).verdict is Verdict.SEEN:
            return
        self._again[lane.doc] = self._again.get(lane.doc, 0) + 1
        dot = Dot(self.settings.origin, self._again[lane.doc])
        change = Change(lane.doc, dot, snapshot.state, Context(edge=self.settings.name), snapshot.dots)
        self._shipping[(lane.doc, dot)] = (change, now_ms + limits.RETRY_MS_MAX)
        out.append(Publish(change))
        out.append(Report("document_healed", lane.doc, "a snapshot of the lost log was shipped into the new one"))

    def published(self, doc: DocId, dot: Dot, version: Version, now_ms: int) -> LeaderStep:
        """The log has a change that this leader shipped; it comes back through the consumer."""
        self._shipping.pop((doc, dot), None)
        return Step()

    def publish_failed(self, doc: DocId, dot: Dot, now_ms: int) -> LeaderStep:
        """It goes out again with the next ticks."""
        key = (doc, dot)
        if key in self._shipping:
            self._shipping[key] = (self._shipping[key][0], now_ms + limits.RETRY_MS_MIN)
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
            self._forget(lane)  # somebody merged what this leader was not given
        if lane.replica is None:
            lane.asks.append((ask, reply))
            self._load(lane, out)
        else:
            self._answer(lane, ask, reply, out)
        return Step(tuple(out))

    def _answer(self, lane: Lane, ask: SyncAsk, reply: str, out: Out) -> None:
        replica = lane.replica
        assert replica is not None
        try:
            update = replica.diff(ask.state_vector)
            mine = replica.state_vector()
            digest = "" if replica.gap else self._digest(lane)
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

    def _digest(self, lane: Lane) -> str:
        replica = lane.replica
        assert replica is not None
        version = replica.version
        assert version is not None
        if lane.digest is None or lane.digest[0] != version:
            lane.digest = (version, replica.digest())
        return lane.digest[1]

    # --- time --------------------------------------------------------------------------------------------------------
    def tick(self, now_ms: int) -> LeaderStep:
        """Call every 100 ms or so: events, beacons, repair, repeats, what leaves memory."""
        out: Out = []
        if self._settling:
            out.extend(self._settling.settle(now_ms))
        for key, (change, due_ms) in list(self._shipping.items()):
            if now_ms >= due_ms:
                self._shipping[key] = (change, now_ms + limits.RETRY_MS_MAX)
                out.append(Publish(change))
        for lane in list(self.lanes.values()):
            if lane.replica is None:
                if (lane.queue or lane.asks) and now_ms >= lane.load_after_ms:
                    self._load(lane, out)
            elif lane.replica.gap:
                self._ask_repair(lane, lane.replica, now_ms, out)
            elif now_ms - lane.used_ms >= limits.LEADER_IDLE_MS and not lane.queue:
                if lane.changes >= limits.SNAPSHOT_IDLE_CHANGES:
                    self._snapshot(lane, out)
                del self.lanes[lane.doc]
        if now_ms >= self._beacon_ms:
            self._beacon_ms = now_ms + limits.BEACON_MS
            self._send_beacons(now_ms, out)
        return Step(tuple(out))

    def _ask_repair(self, lane: Lane, replica: Replica, now_ms: int, out: Out) -> None:
        since = lane.gap_since_ms if lane.gap_since_ms is not None else now_ms
        if now_ms - since < limits.EARLY_MS_MAX or now_ms < lane.repair_ms:
            return
        lane.repair_ms = now_ms + limits.REPAIR_MS
        missing: dict[int, int] = {}
        for early in replica.early:
            for client, clock in early.missing:
                if clock > replica.clocks.get(client, 0):
                    missing[client] = max(clock, missing.get(client, 0))
        out.append(AskRepair(RepairAsk(lane.doc, replica.state_vector(), tuple(sorted(missing.items())))))

    def _send_beacons(self, now_ms: int, out: Out) -> None:
        """Documents that changed in the last BEACON_SPAN_MS, several times: beacons may be lost as well."""
        docs: list[tuple[DocId, Version, str]] = []
        for lane in self.lanes.values():
            replica = lane.replica
            if replica is None or replica.version is None or now_ms - lane.changed_ms > limits.BEACON_SPAN_MS:
                continue
            try:
                digest = "" if replica.gap else self._digest(lane)
            except DocumentBroken as error:
                self._broken(lane, str(error), out)
                continue
            docs.append((lane.doc, replica.version, digest))
        for at in range(0, len(docs), limits.BEACON_DOCS_MAX):
            out.append(SendBeacon(Beacon(tuple(docs[at : at + limits.BEACON_DOCS_MAX]))))


def entry_doc(entry: LogEntry) -> DocId:
    return entry.change.doc if isinstance(entry, Logged) else entry.doc


def _size(entry: LogEntry) -> int:
    return len(entry.change.update) if isinstance(entry, Logged) else 0
