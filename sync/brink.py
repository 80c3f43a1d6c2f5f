"""What is about to be done with bytes that might end the process, said before it is done.

Room: one interface, and the one that records nothing. A machine cannot return this as an effect: it may not come back.
So it is the one call out of this package (law 7 knows time and bytes as arguments, and this as a witness): what is said
decides nothing, and what is answered (`suspects`, `refuse`) was fixed when the process started. `server.record` sets
the one that writes into a mapped file; tests and simulations have none.

Of one process, since that is what dies: an edge and a leader within one have one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

from .ids import DocId
from .validate import Shape

__all__ = ["Brink", "Doing", "loading", "present", "witness"]


class Doing(Enum):
    LOAD = "load"
    """A whole document out of what was stored: an edge's store, a leader's snapshot."""
    APPLY = "apply"
    """These updates, to this document."""
    READ = "read"
    """The whole document is encoded or compared."""


class Brink:
    """Nothing is recorded, nothing is suspected."""

    def enter(self, doc: DocId, doing: Doing, updates: Sequence[bytes] = ()) -> None:
        """It begins. Costs about a microsecond, and copying the updates."""

    def leave(self) -> None:
        """It is done, and the process lives."""

    def suspects(self, doc: DocId) -> bool:
        """This document was on record when the process died: take its updates one by one, and ask `refuse` first."""
        return False

    def refuse(self, doc: DocId, update: bytes, shape: Shape) -> None:
        """Raises InvalidUpdate where this is what has ended the process twice."""


_present = Brink()


def present() -> Brink:
    return _present


@contextmanager
def loading(doc: DocId) -> Iterator[None]:
    """A document is made of what is stored, by whoever has it."""
    brink = _present
    brink.enter(doc, Doing.LOAD)
    try:
        yield
    finally:
        brink.leave()


def witness(brink: Brink) -> None:
    """From now on, what is opened is told to this one."""
    global _present
    _present = brink
