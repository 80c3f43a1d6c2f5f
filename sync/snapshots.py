"""When one document's snapshot is due, and of what it is taken.

Room: a part of the leader machine, one document's. Whether the snapshot is good is found by `sync.elsewhere`.

Invariant: a snapshot is gap-free and was loaded by a fresh document to the same digest before it replaces anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from .change import LogEntry, Snapshot, size_of
from .elsewhere import Saving
from .ids import Version
from .limits import SNAPSHOT_BYTES, SNAPSHOT_CHANGES, SNAPSHOT_IDLE_CHANGES
from .replica import Replica
from .step import Report, StoreSnapshot

__all__ = ["Snapshots", "outcome"]


class Snapshots:
    __slots__ = ("_bytes", "_newest", "_state_bytes", "changes")

    def __init__(self) -> None:
        self.changes = 0
        """Since the newest snapshot."""
        self._bytes = 0
        self._state_bytes = 0
        self._newest: Version | None = None

    def begin(self, snapshot: Snapshot | None, entries: Sequence[LogEntry], epoch: int) -> None:
        """The document was loaded from these."""
        self._newest = snapshot.version if snapshot is not None and snapshot.version.epoch == epoch else None
        self._state_bytes = len(snapshot.state) if snapshot is not None else 0
        self.changes = self._bytes = 0
        self.count(entries)

    def count(self, entries: Sequence[LogEntry]) -> None:
        """These came after it."""
        self.changes += len(entries)
        self._bytes += sum(map(size_of, entries))

    @property
    def document_bytes(self) -> int:
        """About what the document holds: its newest snapshot, and what came after it."""
        return self._state_bytes + self._bytes

    @property
    def due(self) -> bool:
        return self.changes >= SNAPSHOT_CHANGES or self._bytes >= SNAPSHOT_BYTES + self._state_bytes

    @property
    def due_at_rest(self) -> bool:
        """Before the document leaves memory."""
        return self.changes >= SNAPSHOT_IDLE_CHANGES

    def take(self, replica: Replica) -> Saving | None:
        """The invariant. None: there can be none now, or it would be the newest again. Raises DocumentBroken."""
        if replica.gap or replica.version is None or replica.version == self._newest:
            return None
        self.changes = self._bytes = 0
        saving = Saving(replica.capture(), replica.version, replica.dots.copy())
        self._state_bytes = len(saving.captured.state)
        self._newest = replica.version
        return saving


def outcome(saving: Saving, found: Snapshot | str) -> StoreSnapshot | Report:
    """What is done with what `saving.run()` has found."""
    if isinstance(found, str):
        return Report("snapshot_refused", saving.captured.doc, found)
    return StoreSnapshot(found)
