"""A leader as a process: the machine (`sync.leader`) with its lease, its consumer and its link; it keeps no disk.

Room: what `server.leader` does, in simulated time. A leader whose link falls or whose log is another one is thrown away
and made anew. What must be true of every leader's life:

1. No dot is emitted twice: an effect on programs that know no CRDT happens once.
2. What it broadcasts of a document never goes back.
3. Nothing of honest editors is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sync.change import LogEntry, SyncAsk
from sync.elsewhere import Work
from sync.headers import encode_snapshot
from sync.ids import DocId, Dot, Origin, Version, shard_of
from sync.leader import Delivery, Leader, LeaderSettings
from sync.limits import LOAD_MS_MAX
from sync.step import (
    Ack,
    AnswerSync,
    AskRepair,
    Broadcast,
    Elsewhere,
    Emit,
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

from .disk import Violation
from .log import Message
from .schedule import Action
from .uplink import Owner, Uplink, Witness

if TYPE_CHECKING:
    from .world import World

__all__ = ["LeaderNode"]

COUNT_MS = 2_000
ALARMS = ("document_rebuilt", "document_unreadable", "snapshot_refused")


class LeaderNode:
    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.leases: set[int] = set()
        """Shards that this process believes to lead."""
        self.leader: Leader | None = None
        self.up = False
        self.lease_numbers: dict[int, int] = {}
        self.emitted: set[tuple[DocId, Dot]] = set()
        self.sent: dict[DocId, Version] = {}
        self._run = 0
        self._waking = False
        self._count_ms = 0
        self._free_ms = 0
        self._witness_known: Witness | None = None
        self.uplink = Uplink(
            world,
            name,
            Owner(self._linked, self._unlinked, self._witness, self._published, self._publish_failed),
        )

    # --- the process -------------------------------------------------------------------------------------------------
    def start(self) -> None:
        self.up = True
        self._run += 1
        self._witness_known = None
        self.uplink.epoch = 0
        self.uplink.boot()
        self._tick(self._run)

    def kill(self) -> None:
        if self.up:
            self.world.note(self.name, "killed")
            self.up = False
            self._run += 1
            self.leader = None
            self.uplink.halt()

    def _tick(self, run: int) -> None:
        if run != self._run:
            return
        self.tick()
        self.world.after(100, lambda: self._tick(run))

    def tick(self) -> None:
        if self.leader is not None:
            self._do(self.leader.tick(self.world.now_ms))
            self._pull()
            if self.world.now_ms >= self._count_ms:
                self._count_ms = self.world.now_ms + COUNT_MS
                for shard in sorted(self.leases):
                    self._count(shard)

    # --- the lease ---------------------------------------------------------------------------------------------------
    def leads(self, shard: int) -> bool:
        return self.leader is not None and self.uplink.linked and shard in self.leases

    def lease(self, shard: int, held: bool) -> None:
        """This process learns that it leads the shard, or no more."""
        if held and shard not in self.leases:
            self.leases.add(shard)
            if self.leader is not None:
                self._do(self.leader.gained(shard, self.uplink.epoch, self.world.now_ms))
        elif not held and shard in self.leases:
            self.leases.discard(shard)
            self._forget(shard)
            if self.leader is not None:
                self._do(self.leader.lost(shard, self.world.now_ms))

    def _forget(self, shard: int) -> None:
        """A shard that is led again is another life."""
        count = self.world.shard_count
        self.emitted = {(doc, dot) for doc, dot in self.emitted if shard_of(doc, count) != shard}
        self.sent = {doc: version for doc, version in self.sent.items() if shard_of(doc, count) != shard}

    def _linked(self, epoch: int, intact: bool) -> None:
        self.leader = Leader(LeaderSettings(self.name, Origin(self.world.rng.getrandbits(53))))
        self.emitted.clear()
        self.sent.clear()
        if not intact:
            self._witness_known = None
        for shard in sorted(self.leases):
            self._do(self.leader.gained(shard, epoch, self.world.now_ms))

    def _unlinked(self) -> None:
        if self.leader is not None and self.leader.witness is not None:
            self._witness_known = self.leader.witness
        self.leader = None

    def _witness(self) -> Witness | None:
        if self.leader is not None and self.leader.witness is not None:
            return self.leader.witness
        return self._witness_known

    # --- the consumer ------------------------------------------------------------------------------------------------
    def wake(self) -> None:
        """The log has something new: a standing pull is answered."""
        if self.leader is not None and self.leases and not self._waking:
            self._waking = True
            self.world.after(self.world.rng.randint(1, 10), self._awake)

    def _awake(self) -> None:
        self._waking = False
        self._pull()

    def _pull(self) -> None:
        if self.leader is None or self.uplink.link.out_cut:
            return
        for shard in sorted(self.leases):
            taken = self.world.log.take(shard, self.world.rng.choice((1, 5, 50)), self.world.now_ms)
            if taken:
                self._hand_over(shard, taken)

    def _count(self, shard: int) -> None:
        """Was the consumer's quiet shard given to somebody else? Its own count says so."""

        def read() -> Action | None:
            consumer = self.world.log.consumers[shard]
            if consumer.pending or consumer.next_seq <= self.world.log.last_seq:
                return None
            delivered = consumer.delivered

            def told() -> None:
                if self.leader is not None:
                    self._do(self.leader.counted(shard, delivered, self.world.now_ms))

            return told

        self.uplink.request(read)

    def _hand_over(self, shard: int, taken: list[tuple[Message, int, bool]]) -> None:
        epoch = self.uplink.epoch

        def told() -> None:
            if self.leader is None:
                return
            deliveries = [Delivery(self._entry(message, epoch), number, again) for message, number, again in taken]
            self.world.note(self.name, f"gets {[(message.seq, number) for message, number, _ in taken]}")
            self._do(self.leader.delivered(shard, deliveries, self.world.now_ms))

        self.world.network.deliver(self.uplink.link, self.uplink.in_session(told))

    def _entry(self, message: Message, epoch: int) -> LogEntry:
        return self.world.entry(message, epoch)

    # --- effects -----------------------------------------------------------------------------------------------------
    def _do(self, step: Step[LeaderEffect]) -> None:
        for effect in step.now:
            self._effect(effect)

    def _effect(self, effect: LeaderEffect) -> None:
        world = self.world
        match effect:
            case LoadLogged(doc, before):
                self._load(doc, before)
            case Elsewhere(work):
                self._work(work)
            case Broadcast(merged):
                world.note(
                    self.name, f"broadcasts {merged.doc} {merged.prev} -> {merged.version}, {merged.dots.to_text()}"
                )
                before_ = self.sent.get(merged.doc)
                stale = self.uplink.epoch != world.log.epoch  # the log was replaced and nobody has looked yet
                if before_ is not None and merged.version < before_ and not stale:
                    raise Violation(f"{self.name}: {merged.doc}: broadcasts {merged.version} after {before_}")
                self.sent[merged.doc] = merged.version
                world.bus.broadcast(self, merged)
            case Ack(shard, seqs):
                if world.rng.random() >= world.ack_loss:
                    world.network.send(self.uplink.link, lambda: world.log.acknowledge(shard, seqs))
            case AnswerSync(reply, answer):
                world.note(self.name, f"answers for {answer.doc} at {answer.version}")
                world.bus.answer(self, reply, answer)
            case LookAtLog(doc, version):
                world.note(self.name, f"misses {doc} at {version}")
                self.uplink.look_for(version, doc)
            case AskRepair(ask):
                world.note(self.name, f"asks for repair of {ask.doc}: {ask.missing}")
                world.reports["repair_asked"] += 1
                world.bus.repair(self, ask)
            case StoreSnapshot(snapshot):
                world.note(self.name, f"snapshot of {snapshot.doc} at {snapshot.version}")
                headers, payload = encode_snapshot(snapshot)
                doc, version = snapshot.doc, snapshot.version
                world.network.send(self.uplink.link, lambda: world.store_snapshot(doc, version, headers, payload))
            case Reject(entry, reason):
                world.alarm(f"{self.name} refused {entry.version}: {reason}")
            case SendBeacon(beacon):
                world.bus.beacon(self, beacon)
            case Emit(doc, version, contexts):
                for dot, _ in contexts:
                    if (doc, dot) in self.emitted and not world.forgets_dots:
                        raise Violation(f"{self.name}: {doc}: {dot} is emitted twice, now at {version}")
                    self.emitted.add((doc, dot))
            case Publish(change):
                world.note(self.name, f"publishes {change.doc} {change.dot}, {len(change.update)} bytes")
                world.truth.shipped(change)
                self.uplink.publish(change)
            case Report(event, about, detail):
                world.note(self.name, f"reports {event} {about}: {detail}")
                world.reports[event] += 1
                if event in ALARMS:
                    world.alarm(f"{self.name} reported {event} {about}: {detail}")

    def _load(self, doc: DocId, before: int | None) -> None:
        epoch = self.uplink.epoch

        def read() -> Action | None:
            if self.world.rng.random() < self.world.ack_loss:
                return lambda: self._load_failed(doc)
            snapshot, entries = self.world.read_log(doc, epoch, before)

            def told() -> None:
                assert self.leader is not None
                self._do(self.leader.logged(doc, snapshot, entries, self.world.now_ms))

            return told

        self.uplink.request(read, lambda: self._load_failed(doc), LOAD_MS_MAX)

    def _work(self, work: Work) -> None:
        """One after the other, each as long as it pleases; what happens meanwhile is told to the machine."""
        leader, run = self.leader, self._run
        self._free_ms = max(self._free_ms, self.world.now_ms) + self.world.rng.choice((0, 1, 20, 300))
        self.world.note(self.name, f"works on {type(work).__name__} until {self._free_ms}")

        def told() -> None:
            if run == self._run and leader is not None and leader is self.leader:
                self._do(leader.worked(work, work.run(), self.world.now_ms))

        self.world.after(self._free_ms - self.world.now_ms, told)

    def _load_failed(self, doc: DocId) -> None:
        assert self.leader is not None
        self._do(self.leader.log_failed(doc, self.world.now_ms))

    def asked(self, ask: SyncAsk, shard: int, reply: str) -> None:
        if self.leader is not None:
            self._do(self.leader.sync_asked(ask, shard, reply, self.world.now_ms))

    def _published(self, doc: DocId, dot: Dot, version: Version) -> None:
        assert self.leader is not None
        self._do(self.leader.published(doc, dot, version, self.world.now_ms))

    def _publish_failed(self, doc: DocId, dot: Dot) -> None:
        assert self.leader is not None
        self._do(self.leader.publish_failed(doc, dot, self.world.now_ms))
