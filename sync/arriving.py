"""What has come of a document and is too large for one turn of the loop, with what came behind it: a line.

Room: a part of the edge machine: records, and the looking that a thread does. `sync.following` decides.

A megabyte of tiny structs takes Python 0.1 to 0.25 s to check, of tiny JSON values 0.6, and 150,000 deleted ranges
take pycrdt 1.1 s in one call. So a large update is checked and cut in a thread (`look_at`), and its pieces are taken
one in each turn of the loop.

1. The broadcasts of a document are taken in the order in which they came: what comes behind a large one waits in line.
2. The version, dots, confirmations and contexts of a broadcast, or of a folded log, move behind its last piece.
3. An arrival is good for the replica that it was looked at for, and for its link. Else it counts as lost, as one does
   of which a piece depends on what is not here: the version stays, and the leader is asked.
4. While something stands in line, content is ahead of the version: nothing is compared with the leader's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .change import Merged
from .errors import InvalidUpdate
from .ids import DotSet, Version
from .replica import Replica
from .slices import Piece, pieces_of
from .splits import Into, at_once_bytes
from .validate import check_update

__all__ = ["Arrival", "Difference", "Folded", "Found", "Line", "difference_of", "look_at"]

Found = tuple[Piece, ...] | str
"""The pieces of an update, or why it cannot be."""


@dataclass(frozen=True, slots=True)
class Folded:
    """Snapshot and log, read and folded by this edge itself: what of them it lacked, up to this version."""

    version: Version
    dots: DotSet


@dataclass(slots=True)
class Arrival:
    what: Merged | Folded
    replica: Replica | None = None
    """Invariant 3. None: nobody has looked at it."""
    pieces: deque[Piece] | None = None
    """What is left of it to take; None where it is taken whole."""
    lacks: bool = False
    """Invariant 3."""

    @property
    def bytes(self) -> int:
        return len(self.what.update) if isinstance(self.what, Merged) else 0


@dataclass(slots=True)
class Line:
    number: int = 0
    """Of what the shell was asked for last: an answer to anything else says nothing any more."""
    arrivals: deque[Arrival] = field(default_factory=deque)
    """The first is being looked at, or taken."""
    bytes: int = 0
    compare: bool = False
    """Invariant 4: when the line is empty."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What a replica lacks of a fold, where that is large."""

    replica: Replica
    folded: Folded
    pieces: tuple[Piece, ...]


def look_at(update: bytes, into: Into) -> Found:
    """For a thread. Pure."""
    try:
        check_update(update)
        return pieces_of(update, into)
    except InvalidUpdate as error:
        return str(error)


def difference_of(fold: Replica, replica: Replica, state_vector: bytes, into: Into) -> Difference | None:
    """For a thread: `fold` is its own, of `replica` nothing is read. None where it is small, or cannot be.

    Raises DocumentBroken.
    """
    if fold.version is None:
        return None
    update = fold.diff(state_vector)
    found = look_at(update, into) if len(update) > at_once_bytes(into.bytes) else ""
    if isinstance(found, str):
        return None
    return Difference(replica, Folded(fold.version, fold.dots), found)
