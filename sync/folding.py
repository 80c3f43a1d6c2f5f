"""The fold over the log: whoever folds the same messages gets the same document at the same version.

Room: edges without a leader, leaders' lanes and tests fold here, also around what breaks pycrdt; what becomes of one
message is the replica's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

from .change import LogEntry, Logged, Snapshot
from .errors import DocumentBroken, InvalidUpdate, LimitReached
from .ids import DocId, Version
from .replica import Replica, Taken
from .validate import Shape, check_update

__all__ = ["BREAKS", "first_breaker", "fold_around", "fold_entries", "fold_entry", "fold_log"]

BREAKS = "pycrdt breaks over this update"

_NONE_PASSED: Mapping[int, str] = MappingProxyType({})


def fold_log(
    doc: DocId,
    snapshot: Snapshot | None,
    entries: Sequence[LogEntry],
    epoch: int,
    now_ms: int,
    refused: list[tuple[LogEntry, str]] | None = None,
) -> Replica:
    """The document as the log has it: its snapshot, where it is of this epoch, and the changes after it in order.

    Whoever folds the same log gets the same replica at the same version. A change that cannot be is passed, and goes
    into `refused` with the reason. Raises DocumentBroken.
    """
    if snapshot is not None and snapshot.version.epoch == epoch:
        replica = Replica(doc, snapshot.state, (), snapshot.version, snapshot.dots.copy(), guarded=True)
    else:
        replica = Replica(doc, version=Version(epoch, 0), guarded=True)
    fold_entries(replica, entries, now_ms, refused if refused is not None else [])
    replica.materialise()
    return replica


def fold_entries(
    replica: Replica,
    entries: Sequence[LogEntry],
    now_ms: int,
    refused: list[tuple[LogEntry, str]],
    passed: Mapping[int, str] = _NONE_PASSED,
) -> None:
    """Fold what is behind the replica's place, in order; `passed`: places of the log that are refused, and why."""
    by_seq: dict[int, LogEntry] = {}
    for entry in entries:
        seq = entry.version.seq
        if seq <= replica.read:
            continue
        by_seq[seq] = entry
        if seq in passed:
            taken, reason = replica.pass_over(entry.version), passed[seq]
        else:
            taken, reason = fold_entry(replica, entry, now_ms)
        if reason:
            refused.append((entry, reason))
        refused += [(by_seq[early.seq], why) for early, why in taken.refused if early.seq in by_seq]


def fold_entry(replica: Replica, entry: LogEntry, now_ms: int, shape: Shape | None = None) -> tuple[Taken, str]:
    """Fold one message of the log; the second value is why it was refused, or empty. `shape`: it was checked."""
    if isinstance(entry, Logged):
        change = entry.change
        try:
            shape = check_update(change.update) if shape is None else shape
            if change.dot in replica.dots and all(replica.dots.holds(*span) for span in change.covers.ranges()):
                return replica.pass_over(entry.version), ""
            return replica.take_logged(entry.version, (change.dot,), change.covers, change.update, shape, now_ms), ""
        except (InvalidUpdate, LimitReached) as error:
            reason = str(error)
    else:
        reason = entry.reason
    return replica.pass_over(entry.version), reason


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
