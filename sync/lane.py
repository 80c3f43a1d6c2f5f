"""One document's lane: its changes in log order, as a leader holds them, and how to fold around what breaks pycrdt.

Room: the leader machine's record, and folding. `sync.leader` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from .change import Context, LogEntry, Logged, Snapshot, SyncAsk
from .errors import DocumentBroken
from .folding import fold_entries, fold_log
from .ids import DocId, Dot, DotSet, Version
from .limits import DOT_RANGES_MAX
from .replica import Replica

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
