"""What takes a leader its time, as values: whoever has a thread runs them, and nobody's lease or typing waits.

Room: a part of the leader machine, which hands these out (`step.Elsewhere`) and is given back what `run` has found. A
megabyte of tiny structs takes Python 0.2 s to check, and a snapshot of ten megabytes a second and more to load.

1. A replica that is lent belongs to the work until it comes back: the lane has none meanwhile, and what comes for it
   waits as behind a load. So the log is folded in its order, and no two threads meet in one document.
2. What was found is what the machine itself would have found: the same fold, the same refusals. A work whose lane is
   another one by then (lost, distrusted, broken) counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from . import limits
from .brink import Doing, present
from .change import LogEntry, Logged, Snapshot, size_of
from .content import Captured
from .digest import digest_of_snapshot
from .document import merge
from .errors import DocumentBroken, InvalidUpdate
from .folding import BREAKS, first_breaker, fold_around, fold_entry
from .ids import DocId, DotSet, Version
from .nesting import named_at_most
from .replica import Replica, Taken, Verdict
from .slices import wants_cutting
from .splits import at_once_bytes
from .validate import Shape, check_update

__all__ = ["Folding", "Loaded", "Loading", "Loan", "Saving", "Work", "light_shapes"]


def light_shapes(entries: Sequence[LogEntry], replica: Replica) -> list[Shape | None] | None:
    """What was found of changes that may be folded at once, and are more than people type; None: lend them.

    A range that is deleted may cut a long list: some hundreds hold everybody as long as a megabyte of text. Where types
    nest deeply, a change that names one may be judged on where everything stands.
    """
    shapes: list[Shape | None] = []
    document_bytes, names_max, names = replica.held_bytes, 0 if replica.nests else limits.NESTING_MAX // 2, 0
    for entry in entries:
        shape = None
        if isinstance(entry, Logged):
            update = entry.change.update
            if size_of(entry) > at_once_bytes(document_bytes):
                try:
                    shape = check_update(update)
                except InvalidUpdate:
                    shape = None  # the fold meets it too, and says so
                if shape is not None and wants_cutting(update, shape, document_bytes):
                    return None
            names += shape.names if shape is not None else named_at_most(update)
            if names > names_max:
                return None
        shapes.append(shape)
    return shapes


@dataclass(frozen=True, slots=True, eq=False)
class Loading:
    """A document out of its snapshot and the changes after it."""

    doc: DocId
    snapshot: Snapshot | None
    entries: Sequence[LogEntry]
    poison: frozenset[int]
    epoch: int
    now_ms: int

    def is_light(self) -> bool:
        state = len(self.snapshot.state) if self.snapshot is not None else 0
        return state + sum(map(size_of, self.entries)) <= limits.FOLDED_BYTES

    def run(self) -> Loaded:
        """Fold in one piece; where pycrdt breaks, one by one, and the ones that break it are refused."""
        found = Loaded(set(self.poison))
        while found.replica is None:
            good = [entry for entry in self.entries if entry.version.seq not in found.poison]
            found.refused.clear()
            try:
                found.replica = fold_around(
                    self.doc, self.snapshot, self.entries, found.poison, self.epoch, self.now_ms, found.refused
                )
            except DocumentBroken as error:
                breaker = first_breaker(self.doc, self.snapshot, good, self.epoch, self.now_ms)
                if breaker is None:
                    found.unreadable = str(error)
                    return found
                found.poison.add(breaker.version.seq)
                found.breakers.append((breaker, f"{BREAKS}: {error}"))
        self._look_at_old(found, found.replica)
        with suppress(DocumentBroken):  # who asks meets it too
            if not (self.is_light() or found.replica.gap):
                found.digest = found.replica.digest()
            found.replica.prepare()
        return found

    def _look_at_old(self, found: Loaded, replica: Replica) -> None:
        """A snapshot of a log that was lost: does this log lack anything of it?"""
        if self.snapshot is None or self.snapshot.version.epoch == self.epoch:
            return
        try:
            found.lacking = replica.judge(check_update(self.snapshot.state)).verdict is not Verdict.SEEN
        except (InvalidUpdate, DocumentBroken) as error:
            found.old_refused = str(error)


@dataclass(slots=True)
class Loaded:
    poison: set[int]
    replica: Replica | None = None
    unreadable: str = ""
    """Why there is no replica: the snapshot itself breaks pycrdt."""
    refused: list[tuple[LogEntry, str]] = field(default_factory=list)
    breakers: list[tuple[LogEntry, str]] = field(default_factory=list)
    lacking: bool = False
    """The snapshot is of another log, and this one has not all of it."""
    old_refused: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Folding:
    """Changes of one lane, in log order, into the replica that was lent for them; none: it is to be read.

    Invariant 1.
    """

    doc: DocId
    replica: Replica
    entries: Sequence[LogEntry]
    poison: frozenset[int]
    now_ms: int

    def run(self) -> Loan:
        loan = Loan()
        try:
            for entry in self.entries:
                if entry.version.seq <= self.replica.read:
                    loan.folded.append((entry, None, ""))
                    continue
                if entry.version.seq in self.poison:
                    taken, reason = self.replica.pass_over(entry.version), BREAKS
                else:
                    taken, reason = fold_entry(self.replica, entry, self.now_ms)
                loan.folded.append((entry, taken, reason))
            self.replica.materialise()
            fresh = [update for _, taken, reason in loan.folded if taken and not reason for update in taken.updates]
            loan.fresh = [self.replica.watched(fresh, lambda: merge(fresh))] if len(fresh) > 1 else fresh
            if not self.entries:
                loan.digest = "" if self.replica.gap else self.replica.digest()
                self.replica.prepare()
        except DocumentBroken as error:
            loan.broken = str(error)
        return loan


@dataclass(slots=True)
class Loan:
    folded: list[tuple[LogEntry, Taken | None, str]] = field(default_factory=list)
    """What became of each; None: the replica had passed it."""
    fresh: list[bytes] = field(default_factory=list)
    """All that was taken, in one."""
    broken: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Saving:
    """A snapshot, before it may replace anything."""

    captured: Captured
    version: Version
    dots: DotSet

    def is_light(self) -> bool:
        return len(self.captured.state) + len(self.captured.snapshot) <= limits.FOLDED_BYTES

    def run(self) -> Snapshot | str:
        """Or why it may not be."""
        brink = present()
        brink.enter(self.captured.doc, Doing.READ)
        try:
            self.captured.verify()
        except (DocumentBroken, InvalidUpdate) as error:
            return str(error)
        finally:
            brink.leave()
        digest = digest_of_snapshot(self.captured.snapshot)
        return Snapshot(self.captured.doc, self.version, self.captured.state, self.dots, digest)


Work = Loading | Folding | Saving
