"""What is true: everything that anybody wrote, what was promised, and what a token says.

Room: judgements over plain sets (`Contents`). Nothing here asks a machine what it thinks of itself without holding it
against what was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sync.change import Change
from sync.ids import DocId, Dot, DotSet, Version
from sync.replica import Replica
from sync.step import AppendUpdate, Write
from sync.validate import Shape

from .contents import Contents, fold_of, shape_of, view
from .disk import Violation

if TYPE_CHECKING:
    from .editors import Written

__all__ = ["Truth", "WrongRead", "covers"]


class WrongRead(Violation):
    """A replica says that it covers a write, and does not hold it."""


def covers(version: Version | None, dots: DotSet, token: Version | Dot) -> bool:
    """Does a replica at this version, with these dots, cover what the token stands for (Read your writes)?"""
    if isinstance(token, Dot):
        return token in dots
    return version is not None and version.covers(token)


class Truth:
    def __init__(self, docs: Sequence[DocId]) -> None:
        self.docs = docs
        self.written: dict[DocId, list[Written]] = {doc: [] for doc in docs}
        self.dots: dict[DocId, dict[Dot, Shape]] = {doc: {} for doc in docs}
        """Each change that was ever committed or shipped: a token of its dot stands for this."""
        self.places: dict[DocId, dict[Version, Shape]] = {doc: {} for doc in docs}
        """Each place of the log that a change was given: a token of its version stands for this and all before."""
        self.judged_count = 0
        """How often a replica that says it covers a token was held against what the token stands for."""
        self.judged_deletions_count = 0
        """Of those, where what it stands for deletes."""

    # --- what happens ------------------------------------------------------------------------------------------------
    def wrote(self, written: Written) -> None:
        self.written[written.doc].append(written)

    def committed(self, writes: Iterable[Write]) -> None:
        for write in writes:
            if isinstance(write, AppendUpdate) and write.dot is not None:
                self._name(write.doc, write.dot, write.update)

    def shipped(self, change: Change) -> None:
        self._name(change.doc, change.dot, change.update)

    def _name(self, doc: DocId, dot: Dot, update: bytes) -> None:
        shape = shape_of(update)
        before = self.dots[doc].setdefault(dot, shape)
        if before != shape:
            raise Violation(f"{doc}: the dot {dot} names two changes")

    def logged(self, doc: DocId, version: Version, update: bytes) -> None:
        self.places[doc][version] = shape_of(update)

    def log_replaced(self) -> None:
        """Which place names what has changed. A token of a lost place is not judged: its epoch has no reader."""
        for places in self.places.values():
            places.clear()

    # --- read your writes --------------------------------------------------------------------------------------------
    def judge(self, who: str, doc: DocId, held: Contents, version: Version | None, dots: DotSet) -> None:
        """Whatever this replica's version and dots cover, it really holds, deletions too."""
        for dot, shape in self.dots[doc].items():
            if covers(version, dots, dot):
                self._count(shape)
                if not held.holds(shape):
                    raise WrongRead(f"{who}: {doc}: claims to hold {dot} and does not: {_lacking(held, shape)}")
        for place, shape in self.places[doc].items():
            if covers(version, dots, place):
                self._count(shape)
                if not held.holds(shape):
                    raise WrongRead(
                        f"{who}: {doc}: is at {version}, lacks the change at {place}: {_lacking(held, shape)}"
                    )

    def _count(self, shape: Shape) -> None:
        self.judged_count += 1
        self.judged_deletions_count += bool(shape.deletes)

    def judge_replica(self, who: str, replica: Replica) -> None:
        held = Contents.of(replica.materialise().crdt)
        if held.clocks != {client: clock for client, clock in replica.clocks.items() if clock}:
            raise Violation(f"{who}: {replica.doc}: took {replica.clocks}, pycrdt holds {held.clocks}")
        self.judge(who, replica.doc, held, replica.version, replica.dots)

    # --- what may be forgotten ---------------------------------------------------------------------------------------
    def excuse(self, places: dict[DocId, list[bytes]]) -> None:
        """After a disk, a log or an editor was lost: what no surviving place holds, nobody can bring back.

        `places`: per document, the updates of all disks, of the log, of all living editors. What they hold together,
        folded, has to survive; also what is in two halves in two places.
        """
        for doc in self.docs:
            open_ = [written for written in self.written[doc] if not written.excused]
            if not open_:
                continue
            held = Contents.of(fold_of(places[doc]))
            for written in open_:
                written.excused = not held.holds(written.shape)

    # --- the end -----------------------------------------------------------------------------------------------------
    def judge_end(self, doc: DocId, state: bytes) -> None:
        """`state` is what all replicas agree on: is it what was written?"""
        final = fold_of([state])
        held = Contents.of(final)
        for written in self.written[doc]:
            if written.acked and not written.excused and not held.holds(written.shape):
                raise Violation(
                    f"{doc}: {written.words()} was acknowledged and is lost: {_lacking(held, written.shape)}"
                )
            if written.shape.brings and held.brings_held(written.shape) and not held.holds(written.shape):
                raise Violation(f"{doc}: {written.words()} is there without its deletions")
        reference = fold_of(written.update for written in self.written[doc] if held.holds(written.shape))
        whole = Contents.of(reference)
        invented = whole.lacks(held)
        if invented:
            raise Violation(f"{doc}: holds what nobody wrote: {invented}")
        if view(reference) != view(final):
            raise Violation(f"{doc}: reads as {view(final)}, written was {view(reference)}")


def _lacking(held: Contents, shape: Shape) -> str:
    wanted = Contents()
    wanted.add(shape)
    return held.lacks(wanted)
