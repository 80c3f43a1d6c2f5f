"""A document's replica, and the rows of the store that it is made of.

Room: what is here, in memory and on the disk. Nothing of who waits for it, of how safe an edit is, of edges.

Invariants:
1. What is in the replica is in the rows, or in `arrived`: it can be made again from these at any time (`rebuild`).
2. What comes from others passes `sync.validate` and the gate (`sync.replica`).
3. A state takes the place of the rows that it was made of, when a fresh document has loaded it and is equal: looked at
   in a thread, for it takes its time (`Session`). Rows that come meanwhile stay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sync.content import Captured
from sync.digest import encode_clocks
from sync.document import Document, merge
from sync.errors import DocumentBroken, LimitReached
from sync.ids import DocId, Version
from sync.limits import COMPACT_BYTES, COMPACT_ROWS, PENDING_BYTES_MAX
from sync.replica import Replica, Verdict
from sync.validate import Shape, check_update

from .events import Observer
from .store import Store, StoredDocument

__all__ = ["Compaction", "StoredReplica"]


class Compaction(NamedTuple):
    """What may take the place of the rows, once it was seen to load (`Captured.verify`, in any thread)."""

    captured: Captured
    after: int
    """It was made of the rows behind this one,"""
    through: int
    """up to this one"""
    replica: Replica
    """and of this."""


class StoredReplica:
    def __init__(self, doc: DocId, store: Store, stored: StoredDocument | None) -> None:
        """Raises StoreError, DocumentBroken."""
        self.doc = doc
        self.arrived: list[bytes] = []
        """From others, and not stored yet."""
        self._arrived_bytes = 0
        self._arriving = False
        """Not all pieces of an update are in."""
        self._moved = False
        """The version is another one than the store's."""
        self._store = store
        self._rows, self._row_bytes = store.update_rows(doc)
        self.replica = Replica(doc)
        self._make(stored)

    @property
    def document(self) -> Document:
        """The CRDT, with all in it that was taken. Another one after `rebuild`."""
        return self._document

    def rebuild(self) -> None:
        """From what is stored and what is about to be: a fresh CRDT, with a fresh client id. Invariant 1.

        Raises StoreError, DocumentBroken.
        """
        self._make(self._store.load(self.doc))

    def _make(self, stored: StoredDocument | None) -> None:
        version = self.replica.version if self._moved else stored.version if stored else None
        state, updates = (stored.state, stored.updates) if stored else (None, ())
        early = self.replica.early
        self.replica = Replica(self.doc, state, (*updates, *self.arrived), version)
        self._document = self.replica.materialise()
        for held in early:  # the edge has sent them, and would not again
            self.replica.take(held.update, held.shape, held.since_ms)

    def replaced(self, document: Document) -> None:
        """The store has this one in the place of all rows: nothing of the old one stays, nor what waits in it."""
        self.stored()
        self.replica = Replica(self.doc, document=document)
        self._document = self.replica.materialise()
        self._rows = self._row_bytes = 0

    # --- what comes --------------------------------------------------------------------------------------------------
    def take(self, update: bytes, observers: Iterable[Observer], now_ms: int) -> tuple[bytes, ...]:
        """What of it, and of what had waited for it, is new. Invariant 2.

        Raises InvalidInput, LimitReached, DocumentBroken; then nothing of it is kept.
        """
        if self._arrived_bytes > PENDING_BYTES_MAX:  # and one more of any size: a whole state has to pass
            size = self._arrived_bytes + len(update)
            raise LimitReached("PENDING_BYTES_MAX", size, PENDING_BYTES_MAX, "make room on the disk of the store")
        shape = check_update(update)
        own = self.document.crdt.client_id
        if any(client == own and end > self.replica.clocks.get(own, 0) for client, _, end in shape.brings):
            self.rebuild()  # somebody writes under our client id: take another one (facts 1.6)
        taken = self.replica.take(update, shape, now_ms)
        if not taken.updates:
            return ()
        try:
            with contextlib.ExitStack() as stack:
                for observer in observers:
                    stack.enter_context(self._document.told(observer))
                self.replica.materialise()
        except DocumentBroken:
            self.rebuild()
            raise
        self.arrived.extend(taken.updates)
        for each in taken.updates:
            self._arrived_bytes += len(each)
            self._count_row(each)
        return taken.updates

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """What is taken within it are the pieces of one update."""
        self.replica.know_deletions()  # before: the first pieces delete unsaid what the last ones name
        self._arriving = True
        try:
            yield
        finally:
            self._arriving = False

    def at(self, version: Version) -> bool:
        """Everything up to there is here. False: not all that was sent is in, so nothing is known."""
        if self.replica.early:
            return False  # what is missing is asked for, and the answer ends with a version
        self.replica.version = version
        self._moved = True
        return True

    # --- own edits ---------------------------------------------------------------------------------------------------
    def one_update(self, made: Sequence[bytes]) -> tuple[bytes, Shape]:
        """Of what the CRDT here has said of an edit. Raises InvalidUpdate, DocumentBroken."""
        update = merge(made)
        shape = check_update(update)
        if self.replica.judge(shape).verdict is Verdict.EARLY:  # changed outside `edit()`: it goes with this one
            update = self.replica.diff(encode_clocks(self.replica.clocks))
            shape = check_update(update)
        return update, shape

    def edited(self, update: bytes, shape: Shape, now_ms: int) -> None:
        """It is in the CRDT and in the store."""
        self.replica.take(update, shape, now_ms)
        self._count_row(update)

    # --- the rows ----------------------------------------------------------------------------------------------------
    @property
    def moved_to(self) -> Version | None:
        """A version that is not stored yet."""
        return self.replica.version if self._moved else None

    def stored(self) -> None:
        self.arrived = []
        self._arrived_bytes = 0
        self._moved = False

    def _count_row(self, update: bytes) -> None:
        self._rows += 1
        self._row_bytes += len(update)

    @property
    def is_long(self) -> bool:
        """It is time to replace the rows by a state."""
        return self._rows >= COMPACT_ROWS or self._row_bytes >= COMPACT_BYTES

    def compaction(self) -> Compaction | None:
        """Where it is time for it and all rows are stored. Raises StoreError, DocumentBroken. Invariant 3."""
        if not self.is_long or self.arrived or self._arriving:
            return None
        self._rows = self._row_bytes = 0  # one that is refused is tried again after as many
        try:
            captured = self.replica.capture()
        except DocumentBroken:
            self.rebuild()  # what was lost in memory is in the rows
            return None
        return Compaction(captured, *self._store.behind(self.doc), self.replica)

    def refused(self, compaction: Compaction) -> None:
        """It does not load to what is here, of which the rows have all. Raises StoreError, DocumentBroken."""
        if self.replica is compaction.replica and not self._arriving:
            self.rebuild()
