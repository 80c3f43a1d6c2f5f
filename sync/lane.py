"""One document of a leader: its changes in log order, one after the other, and what becomes of each.

Room: everything that concerns one document alone, and none of the leader's I/O. What waits for the replica is in
`sync.backlog`, what goes out next in `sync.unsent`, what an early change holds back in `sync.gap`, who asks in
`sync.asked`. Shards, the consumer and time are `sync.leader`'s, which holds the lanes.

Invariants:
1. A lane is folded in the order of the log. While its replica is not here (not loaded yet, or lent to a thread), what
   comes waits.
2. What was folded is broadcast, or will be folded again: a replica is forgotten, or lent, with nothing unsent.
3. Another change at a place that was folded says that the log may have been lost and begun anew: it is looked at now.
4. After a panic of pycrdt the replica is undefined: what was folded since the last broadcast is folded again, one by
   one, on what the log gives; the change that breaks it alone is passed from then on.
5. Who was answered from a replica that is distrusted afterwards is told by the beacon: the log is read for that alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import limits
from .asked import Asked
from .backlog import Backlog
from .change import LogEntry, Logged, Snapshot, SyncAsk, size_of
from .common import Common, Out
from .elsewhere import Folding, Loaded, Loading, Loan, light_shapes
from .errors import DocumentBroken
from .folding import BREAKS, fold_entry
from .gap import Gap
from .ids import DocId, DotSet, Version
from .replica import Replica, Taken, Verdict
from .snapshots import Snapshots, outcome
from .splits import at_once_bytes
from .step import (
    AnswerSync,
    AskRepair,
    Broadcast,
    Elsewhere,
    LookAtLog,
    Publish,
    Reject,
    Report,
)
from .unsent import Unsent
from .validate import Shape

__all__ = ["Lane"]


class Lane:
    __slots__ = (
        "_asked",
        "_backlog",
        "_careful",
        "_common",
        "_gap",
        "_lent",
        "_owes",
        "_poison",
        "_prepared",
        "_reason",
        "_told",
        "_unsent",
        "_work",
        "changed_ms",
        "doc",
        "rejected",
        "replica",
        "shard",
        "snapshots",
        "used_ms",
    )

    def __init__(self, doc: DocId, shard: int, common: Common) -> None:
        self.doc = doc
        self.shard = shard
        self.replica: Replica | None = None
        self.snapshots = Snapshots()
        self.rejected = DotSet()
        """All that is known to be refused."""
        self.changed_ms = 0
        self.used_ms = 0
        self._common = common
        self._backlog = Backlog()
        self._unsent = Unsent()
        self._gap = Gap()
        self._asked = Asked()
        self._reason = ""
        """Why the newest of the rejected was."""
        self._poison: set[int] = set()
        """Places of the log whose update pycrdt breaks over."""
        self._careful = False
        """What waits is folded and broadcast one by one. Invariant 4."""
        self._work: Loading | None = None
        """Makes the replica elsewhere (`sync.elsewhere`)."""
        self._lent: Folding | None = None
        """Has the replica, and folds what was the beginning of the backlog into it."""
        self._prepared = False
        """It was lent to learn where everything stands (`sync.nesting`)."""
        self._told = False
        """Somebody was answered since it was loaded."""
        self._owes = False
        """Somebody was answered from what was distrusted then. Invariant 5."""

    # --- what comes --------------------------------------------------------------------------------------------------
    def take(self, entry: LogEntry, redelivered: bool, now_ms: int, out: Out) -> None:
        """The next message of the log. Invariant 1."""
        replica = self.replica
        if replica is None:
            if self._backlog.wait(entry, redelivered):
                self.load(out)
        elif size_of(entry) <= at_once_bytes(replica.held_bytes) and not replica.nests:
            self._fold(replica, entry, now_ms, out)
        else:
            self._backlog.entries.append(entry)
            self._drain(now_ms, out)

    def ask(self, ask: SyncAsk, reply: str, now_ms: int, out: Out) -> None:
        have = self.replica.read if self.replica is not None and not self._unsent.entries else None
        if have is not None and ask.version is not None and ask.version > Version(self._common.epoch, have):
            self.forget()  # somebody merged what this leader was not given
        self._asked.waiting.append((ask, reply))
        if self.replica is None:
            self.load(out)
        else:
            self._answer_all(now_ms, out)

    def distrust(self) -> None:
        """Somebody else was given a message: the log is read again before it is folded on. Invariant 5."""
        if not self._unsent.entries:
            self._owes = self._owes or self._told
            self._backlog.distrust(self._lent is not None)
            if self._lent is None:  # else when it comes back: it is broadcast first
                self.forget()

    def tick(self, now_ms: int, out: Out) -> bool:
        """Repair, and loads that failed. False: nobody has used it for long, it leaves memory."""
        self._asked.forget_difference()
        replica, waits = self.replica, bool(self._backlog.entries or self._asked.waiting)
        idle = now_ms - self.used_ms >= limits.LEADER_IDLE_MS and not waits
        if replica is None:
            if waits or self._owes:
                if self._backlog.due(now_ms):
                    self.load(out)
                return True
            return not idle or self._backlog.loading or self._lent is not None
        if replica.gap:
            ask = self._gap.repair_ask(self.doc, replica, now_ms)
            if ask is not None:
                out.append(AskRepair(ask))
            return True
        if idle and self.snapshots.due_at_rest:
            self._snapshot(replica, out)
        return not idle

    # --- the replica comes and goes ----------------------------------------------------------------------------------
    def forget(self) -> None:
        """Read it from the log again when it is next needed. What is lent comes back and is forgotten then."""
        self.replica = None
        self._prepared = False
        self._asked.forget()
        self._gap.forget()

    def load(self, out: Out) -> None:
        if not self._backlog.loading and self._lent is None:
            out.append(self._backlog.load(self.doc))

    @property
    def _awaits_log(self) -> bool:
        return self._backlog.loading and self._work is None

    def log_failed(self, now_ms: int) -> None:
        if self._awaits_log:
            self._backlog.failed(now_ms)

    def logged(self, snapshot: Snapshot | None, entries: Sequence[LogEntry], now_ms: int, out: Out) -> None:
        """The newest snapshot and the changes after it."""
        if not self._awaits_log:
            return
        work = Loading(self.doc, snapshot, entries, frozenset(self._poison), self._common.epoch, now_ms)
        if self._backlog.stale or work.is_light():
            self._loaded(work, None if self._backlog.stale else work.run(), now_ms, out)
        else:
            self._work = work
            out.append(Elsewhere(work))

    def loaded(self, work: Loading, found: Loaded, now_ms: int, out: Out) -> None:
        if self._work is work:
            self._work = None
            self._loaded(work, found, now_ms, out)

    def _loaded(self, work: Loading, found: Loaded | None, now_ms: int, out: Out) -> None:
        if not self._backlog.came() or found is None:
            self.load(out)
            return
        self._poison |= found.poison
        for breaker, reason in found.breakers:
            self._reject(breaker, reason, out)
        replica, snapshot = found.replica, work.snapshot
        if replica is None:
            self._asked.waiting.clear()  # the askers ask again
            out.append(Report("document_unreadable", self.doc, found.unreadable))
            self._backlog.unreadable(now_ms)
            return
        for entry, reason in found.refused:
            self._refused(entry, reason)
        self.replica = replica
        if self._owes:
            self.changed_ms = now_ms
        self._told = self._owes = False
        self._common.saw(work.entries)
        self._backlog.loaded()
        self._unsent.sent = replica.version
        self._asked.learn_digest(replica, found.digest)
        self.snapshots.begin(snapshot, work.entries, self._common.epoch)
        if replica.gap:
            self._gap.found(replica, work.entries, now_ms)
        if found.old_refused:
            out.append(Report("snapshot_refused", self.doc, found.old_refused))
        elif snapshot is not None and found.lacking:
            out.append(Publish(self._common.reshipping.ship(snapshot, now_ms)))
            out.append(Report("document_healed", self.doc, "a snapshot of the lost log was shipped into the new one"))
        self._drain(now_ms, out)
        self._go_on(now_ms, out)

    def _lend(self, replica: Replica, entries: Sequence[LogEntry], now_ms: int, out: Out) -> None:
        """Invariant 2. Without entries it is to be read."""
        self._lent, self.replica = Folding(self.doc, replica, entries, frozenset(self._poison), now_ms), None
        out.append(Elsewhere(self._lent))

    def returned(self, work: Folding, loan: Loan, now_ms: int, out: Out) -> None:
        """A replica comes back from where it was lent to, with what became of each entry."""
        if self._lent is not work:
            return
        self._lent = None
        if loan.broken:
            self._unsent.entries = list(work.entries)
            self._broken(loan.broken, out)
            return
        replica = self.replica = work.replica
        for entry, taken, reason in loan.folded:
            self._common.settling.handled(self.shard, entry.version.seq)
            if taken is None:
                self._passed(replica, entry, out)
            else:
                self._folded(entry, taken, reason, out)
        self._unsent.updates = loan.fresh
        if loan.digest and replica.version is not None:
            self._asked.learn_digest(replica, loan.digest)
            self._answer_all(now_ms, out)  # before anything else changes it
        self._broadcast_and_settle(now_ms, out)
        read = Version(self._common.epoch, replica.read)
        further = any(ask.version is not None and ask.version > read for ask, _ in self._asked.waiting)  # as in `ask`
        if (self._backlog.whole or further) and self.replica is not None:  # what follows may have gone to somebody else
            self.forget()
            self.changed_ms = now_ms
            self.load(out)
        self._drain(now_ms, out)
        self._go_on(now_ms, out)

    def _drain(self, now_ms: int, out: Out) -> None:
        """What waits, at once where it is light; else its beginning is lent with the replica, and the rest waits on."""
        backlog = self._backlog
        backlog.entries = [entry for entry in backlog.entries if entry.version.epoch == self._common.epoch]
        while backlog.entries and (replica := self.replica) is not None:
            count = 1 if self._careful else backlog.loan_count()
            entries = backlog.entries[:count]
            size = sum(map(size_of, entries))
            shapes = light_shapes(entries, replica) if size <= limits.FOLDED_BYTES else None
            if shapes is None:
                self.broadcast(now_ms, out)  # what it holds already is a step of its own
                if self.replica is replica:  # else broken over that: folded again after the load
                    del backlog.entries[:count]
                    self._lend(replica, entries, now_ms, out)
                return
            del backlog.entries[:count]
            for entry, shape in zip(entries, shapes, strict=True):
                self._fold(replica, entry, now_ms, out, shape)
            if self._careful:
                self.broadcast(now_ms, out)

    def _go_on(self, now_ms: int, out: Out) -> None:
        self._broadcast_and_settle(now_ms, out)
        if self.replica is not None:
            self._careful = False
            self._answer_all(now_ms, out)

    def _broken(self, reason: str, out: Out) -> None:
        """Invariant 4."""
        out.append(Report("document_rebuilt", self.doc, reason))
        entries = self._unsent.entries
        if self._careful and len(entries) == 1:
            self._poison.add(entries[0].version.seq)
        self._common.settling.not_handled(self.shard, (entry.version.seq for entry in entries))
        self._unsent.clear()
        self.forget()
        self._careful = True
        self._backlog.again(entries)
        self.load(out)

    # --- the fold ----------------------------------------------------------------------------------------------------
    def _fold(self, replica: Replica, entry: LogEntry, now_ms: int, out: Out, shape: Shape | None = None) -> None:
        version = entry.version
        if version.epoch != self._common.epoch:
            return
        self._common.settling.handled(self.shard, version.seq)
        if version.seq <= replica.read:
            self.changed_ms = now_ms
            self._passed(replica, entry, out)
            return
        if version.seq in self._poison:
            taken, reason = replica.pass_over(version), BREAKS
        else:
            taken, reason = fold_entry(replica, entry, now_ms, shape)
        self._folded(entry, taken, reason, out)

    def _passed(self, replica: Replica, entry: LogEntry, out: Out) -> None:
        """Merged already, by a load or before a repeat: the beacon tells the edges. Invariant 3."""
        self._common.beacon_soon = True
        if not isinstance(entry, Logged):
            return
        dot = entry.change.dot
        if dot in self.rejected:
            self._reject(entry, self._reason, out)  # refused by that load, for somebody's question: nobody kept it
        if dot in replica.dots:
            self._common.settling.emit(self.doc, replica.version or entry.version, [(dot, entry.change.context)])
        elif dot not in self.rejected and not self._gap.holds(entry.version.seq):
            out.append(LookAtLog(self.doc, entry.version))

    def _folded(self, entry: LogEntry, taken: Taken, reason: str, out: Out) -> None:
        self._unsent.entries.append(entry)
        if isinstance(entry, Logged):
            self._common.witness = (entry.version, self.doc, entry.change.dot)
        if reason:
            self._refuse(entry, reason, out)
            return
        assert isinstance(entry, Logged)
        if taken.clash:
            out.append(Report("client_id_clash", self.doc, taken.clash))
            # A copy: nobody but who wrote it has the part that was not taken, and its edge has it under clocks that are
            # others' here.
            self._refuse(entry, taken.clash, out)
        if taken.refused:
            for held, why in self._gap.refused(taken):
                self._refuse(held, why, out)
        if taken.verdict is Verdict.EARLY:
            self._gap.set_aside(entry)
        else:
            self._unsent.note(entry, taken, self._gap.let_in(taken) if taken.released else ())

    def _refuse(self, entry: LogEntry, reason: str, out: Out) -> None:
        """It is kept for somebody to look at; the next broadcast says so, and every answer from now on."""
        self._reject(entry, reason, out)
        self._refused(entry, reason)
        if isinstance(entry, Logged):
            self._unsent.refuse(entry.change.dot)

    def _refused(self, entry: LogEntry, reason: str) -> None:
        self._reason = reason
        if isinstance(entry, Logged):
            self.rejected.add(entry.change.dot)
            self.rejected.trim(limits.DOT_RANGES_MAX)

    def _reject(self, entry: LogEntry, reason: str, out: Out) -> None:
        self._common.rejected_count += 1
        out.append(Reject(entry, reason))

    # --- what goes out -----------------------------------------------------------------------------------------------
    def broadcast(self, now_ms: int, out: Out) -> None:
        """One message for everything folded into this document since the last one."""
        replica, unsent = self.replica, self._unsent
        if replica is None or not unsent.entries:
            return
        try:
            replica.materialise()
            message = unsent.message(self.doc, replica, self._gap, self._reason, now_ms)
        except DocumentBroken as error:
            self._broken(str(error), out)
            return
        version = replica.version
        assert version is not None
        self._common.merged_count += len(unsent.entries)
        if message is not None:
            out.append(Broadcast(message))
        if unsent.contexts:
            self._common.settling.emit(self.doc, version, unsent.contexts)
        self.snapshots.count(unsent.entries)
        unsent.sent = version
        unsent.clear()
        self.changed_ms = now_ms
        self._asked.changed()
        if self.snapshots.due:
            self._snapshot(replica, out)
        if replica.wants_places and not self._prepared:
            self._prepared = True
            self._lend(replica, (), now_ms, out)

    def _broadcast_and_settle(self, now_ms: int, out: Out) -> None:
        self.broadcast(now_ms, out)
        self._common.settling.settle_when_due(now_ms, out)

    def beacon(self, now_ms: int, out: Out) -> tuple[DocId, Version, str] | None:
        """Where it is; None where it has not changed for long."""
        replica = self.replica
        if replica is None or replica.version is None or now_ms - self.changed_ms > limits.BEACON_SPAN_MS:
            return None
        version = replica.version
        try:
            if replica.gap or self._lend_to_digest(replica, now_ms, out):
                return self.doc, version, ""  # where it is read elsewhere, a later beacon has it
            return self.doc, version, self._asked.digest_of(replica)
        except DocumentBroken as error:
            self._broken(str(error), out)
            return None

    def _answer_all(self, now_ms: int, out: Out) -> None:
        waiting = self._asked.waiting
        if waiting and self.replica is not None and not self._lend_to_digest(self.replica, now_ms, out):
            while waiting and (replica := self.replica) is not None:  # else broken over one of them: after the load
                self._answer(replica, *waiting.pop(0), out)

    def _answer(self, replica: Replica, ask: SyncAsk, reply: str, out: Out) -> None:
        epoch = self._common.epoch
        try:
            answer = self._asked.answer(ask, replica, self.rejected, self._reason, epoch)
        except DocumentBroken as error:
            self._broken(str(error), out)
            return
        if ask.version is not None and ask.version.epoch == epoch and ask.version.seq > replica.read:
            out.append(LookAtLog(self.doc, ask.version))  # its log was read anew (`ask`), or is being read
        out.append(AnswerSync(reply, answer))
        self._told = True

    def _lend_to_digest(self, replica: Replica, now_ms: int, out: Out) -> bool:
        """A document with many deleted ranges is read elsewhere; False: its digest is known, or soon made."""
        far = self.snapshots.document_bytes > limits.DIGESTED_BYTES and not replica.gap and not self._unsent.entries
        if not far or self._asked.knows_digest(replica):
            return False
        self._lend(replica, (), now_ms, out)
        return True

    def _snapshot(self, replica: Replica, out: Out) -> None:
        try:
            saving = self.snapshots.take(replica)
        except DocumentBroken as error:
            out.append(Report("snapshot_refused", self.doc, str(error)))
            return
        if saving is None:
            return
        out.append(outcome(saving, saving.run()) if saving.is_light() else Elsewhere(saving))
