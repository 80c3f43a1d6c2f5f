"""The protocols that a store fulfils, and the values it hands out. Three implementations, one contract suite
(`tests/contract_store.py`): SQLite (`server.store`), the simulated disk, and the plain one in memory.

Room: shapes only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .change import Change
from .document import Document
from .ids import DocId, Dot, DotSet, Version
from .nesting import Nesting
from .step import Write

__all__ = ["OutboxRow", "OutboxTotals", "Store", "StoredDocument"]


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One change that the leader has not merged. `row` ascends in the order of commits."""

    row: int
    change: Change
    shipped: Version | None
    heals: bool = False
    """As in AppendUpdate."""


@dataclass(frozen=True, slots=True)
class OutboxTotals:
    """`oldest_ms`: Unix milliseconds (the change's own time) of the oldest row; None where the outbox is empty."""

    count: int
    bytes: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is on disk: `state` (compacted) and the update rows after it, oldest first."""

    state: bytes | None
    updates: tuple[bytes, ...]
    version: Version | None
    dots: DotSet
    outbox: tuple[tuple[Dot, Version | None], ...]
    """Dots still in the outbox and where the log acknowledged them, in commit order."""
    document: Document | None = field(default=None, compare=False)
    """What was made of state and updates already, in a thread (`sync.loading`); used once."""
    nesting: Nesting | None = field(default=None, compare=False)
    """Of that document; used once too."""


class Store(Protocol):
    """An edge's disk. Synchronous: the daemon calls it from a thread, the simulator directly.

    Raises StoreError. `commit` is atomic and durable (fsync) when it returns; either all its writes are there after a
    crash or none.
    """

    def commit(self, writes: Sequence[Write]) -> None: ...

    def load(self, doc: DocId) -> StoredDocument | None:
        """None for a document that was never written."""
        ...

    def outbox(self, after: int, count_max: int, bytes_max: int) -> list[OutboxRow]:
        """Rows with `row > after`, ascending, at most so many; at least one where there is any."""
        ...

    def outbox_totals(self) -> OutboxTotals: ...

    def documents(self) -> Iterable[DocId]:
        """Every document, sorted."""
        ...

    def get_meta(self, key: str) -> str | None: ...

    def set_meta(self, key: str, value: str) -> None:
        """Durable when it returns."""
        ...

    def close(self) -> None: ...
