"""One document's lane: its changes in log order, as a leader holds them, and how to fold around what breaks pycrdt.

Room: the leader machine's record, and folding. `sync.leader` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from .change import Context, LogEntry, Logged, RepairAsk, Snapshot, SyncAsk, size_of
from .errors import DocumentBroken
from .folding import fold_entries, fold_log
from .ids import DocId, Dot, DotSet, Version
from .limits import DOT_RANGES_MAX, EARLY_MS_MAX, LOAN_BYTES, LOAN_COUNT, REPAIR_MS
from .replica import Replica, Taken, Verdict

__all__ = ["BREAKS", "Lane", "first_breaker", "fold_around"]

BREAKS = "pycrdt breaks over this update"


@dataclass(slots=True)
class Lane:
    doc: DocId
    shard: int
    replica: Replica | None = None
    loading: bool = False
    whole: bool = False
    """Load to the log's end, not only to what waits in `queue`: messages between those may have gone to somebody else.
    Stays until such a load has come."""
    stale: bool = False
    """`whole` was not known yet when the load that is on its way was asked for."""
    queue: list[LogEntry] = field(default_factory=list)
    asks: list[tuple[SyncAsk, str]] = field(default_factory=list)
    sent: Version | None = None
    """Where the last broadcast left the edges."""
    fresh: list[bytes] = field(default_factory=list)
    """Merged since the last broadcast."""
    fresh_dots: DotSet = field(default_factory=DotSet)
    fresh_rejected: DotSet = field(default_factory=DotSet)
    rejected: DotSet = field(default_factory=DotSet)
    """All that is known to be refused, and why the newest was."""
    reason: str = ""
    fresh_contexts: list[tuple[Dot, Context]] = field(default_factory=list)
    batch: list[LogEntry] = field(default_factory=list)
    """Folded since the last broadcast: folded again, one by one, if pycrdt breaks over them."""
    beyond: list[bytes] = field(default_factory=list)
    """Broadcast while a gap held the version back. Invariant 4."""
    beyond_dots: DotSet = field(default_factory=DotSet)
    beyond_bytes: int = 0
    held: dict[int, Logged] = field(default_factory=dict)
    """Set aside by the gate, by place in the log."""
    poison: set[int] = field(default_factory=set)
    """Places of the log whose update pycrdt breaks over."""
    careful: bool = False
    changes: int = 0
    """Since the newest snapshot."""
    change_bytes: int = 0
    state_bytes: int = 0
    snapshot: Version | None = None
    changed_ms: int = 0
    used_ms: int = 0
    digest: tuple[Version, str] | None = None
    gap_since_ms: int | None = None
    repair_ms: int = 0
    failures: int = 0
    load_after_ms: int = 0
    work: object = None
    """Makes the replica elsewhere, while `loading` (`sync.elsewhere`)."""
    lent: object = None
    """Has the replica, and folds what was the beginning of `queue` into it."""

    answered: tuple[tuple[int, bytes], bytes] | None = None
    """(place in the log, state vector) and what such an asker lacks: many ask the same at once. Until the next tick."""

    prepared: bool = False
    """It was lent to learn where everything stands (`sync.nesting`)."""

    def digest_of(self, replica: Replica) -> str:
        """Of this lane's, without a gap. Raises DocumentBroken."""
        version = replica.version
        assert version is not None
        if self.digest is None or self.digest[0] != version:
            self.digest = (version, replica.digest())
        return self.digest[1]

    def freshen(self) -> None:
        """It was broadcast, or will be folded again."""
        self.fresh = []
        self.fresh_dots = DotSet()
        self.fresh_rejected = DotSet()
        self.fresh_contexts = []

    def forget(self) -> None:
        """Read it from the log again when it is next needed. What is lent comes back and is forgotten then."""
        self.replica = None
        self.digest = None
        self.answered = None
        self.prepared = False
        self.beyond.clear()
        self.beyond_bytes = 0
        self.beyond_dots = DotSet()
        self.held.clear()
        self.gap_since_ms = None

    def loan_count(self) -> int:
        """So many of the first that wait make a work of its own: at least one."""
        size = count = 0
        for entry in self.queue[:LOAN_COUNT]:
            size += size_of(entry)
            if count and size > LOAN_BYTES:
                break
            count += 1
        return count

    def note(self, entry: Logged, taken: Taken) -> None:
        """What the next broadcast says of it."""
        if taken.verdict is Verdict.EARLY:
            self.held[entry.version.seq] = entry
            return
        self.fresh.extend(taken.updates)
        released = [self.held.pop(early.seq) for early in taken.released if early.seq in self.held]
        for logged in [entry, *released]:
            self.fresh_dots.add(logged.change.dot)
            self.fresh_dots.update(logged.change.covers)
        let_in = [entry] if taken.verdict is Verdict.NEW else []
        let_in += [logged for logged in released if logged.change.update in taken.updates]
        self.fresh_contexts.extend((logged.change.dot, logged.change.context) for logged in let_in)

    def remember_gap(self, replica: Replica, entries: Sequence[LogEntry]) -> None:
        """What is set aside, and what was broadcast at the held version before this load (the leader's invariant 4)."""
        held = replica.version.seq if replica.version else 0
        for entry in entries:
            if entry.version.seq <= held or not isinstance(entry, Logged):
                continue
            if entry.change.dot in replica.dots:
                self.add_beyond([entry.change.update], [entry.change.dot])
            else:
                self.held[entry.version.seq] = entry

    def repair_ask(self, replica: Replica, now_ms: int) -> RepairAsk | None:
        """What an early change waits for, where it has waited too long and nobody was asked just now."""
        since = self.gap_since_ms if self.gap_since_ms is not None else now_ms
        if now_ms - since < EARLY_MS_MAX or now_ms < self.repair_ms:
            return None
        self.repair_ms = now_ms + REPAIR_MS
        missing: dict[int, int] = {}
        for early in replica.early:
            for client, clock in early.missing:
                if clock > replica.clocks.get(client, 0):
                    missing[client] = max(clock, missing.get(client, 0))
        return RepairAsk(self.doc, replica.state_vector(), tuple(sorted(missing.items())))

    def add_beyond(self, updates: Sequence[bytes], dots: Sequence[Dot]) -> None:
        self.beyond.extend(updates)
        self.beyond_bytes += sum(map(len, updates))
        for dot in dots:
            self.beyond_dots.add(dot)

    def reject(self, entry: LogEntry, reason: str) -> None:
        """The next broadcast says so, and every answer from now on."""
        self.reason = reason
        if isinstance(entry, Logged):
            self.rejected.add(entry.change.dot)
            self.rejected.trim(DOT_RANGES_MAX)


def fold_around(
    doc: DocId,
    snapshot: Snapshot | None,
    entries: Sequence[LogEntry],
    poison: AbstractSet[int],
    epoch: int,
    now_ms: int,
    refused: list[tuple[LogEntry, str]],
) -> Replica:
    """`fold_log`, passing the places of the log that are known to break pycrdt. Raises DocumentBroken over another."""
    if not poison:
        return fold_log(doc, snapshot, entries, epoch, now_ms, refused)
    replica = fold_log(doc, snapshot, (), epoch, now_ms)
    fold_entries(replica, entries, now_ms, refused, dict.fromkeys(poison, BREAKS))
    replica.materialise().state()
    return replica


def first_breaker(
    doc: DocId, snapshot: Snapshot | None, entries: Sequence[LogEntry], epoch: int, now_ms: int
) -> LogEntry | None:
    """The first message whose fold breaks pycrdt, by halving; None where the snapshot itself does."""

    def breaks(count: int) -> bool:
        try:
            fold_log(doc, snapshot, entries[:count], epoch, now_ms).materialise().state()
        except DocumentBroken:
            return True
        return False

    if breaks(0) or not entries:
        return None
    low, high = 0, len(entries)
    while high - low > 1:
        middle = (low + high) // 2
        if breaks(middle):
            high = middle
        else:
            low = middle
    return entries[high - 1]
