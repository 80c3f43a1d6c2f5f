"""What the lanes of one leader have in common: the log that they fold, and what is to be told of it.

Room: a part of the leader machine; state alone. Lanes write here what `sync.leader` tells; no lane knows another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .change import LogEntry, Logged
from .ids import DocId, Dot, Version
from .reshipping import Reshipping
from .settling import Settling
from .step import LeaderEffect

__all__ = ["Common", "Out"]

Out = list[LeaderEffect]


@dataclass(slots=True)
class Common:
    reshipping: Reshipping
    settling: Settling = field(default_factory=Settling)
    epoch: int = 0
    witness: tuple[Version, DocId, Dot] | None = None
    """The newest change that was delivered or read: shows a log that was rolled back."""
    merged_count: int = 0
    rejected_count: int = 0
    beacon_soon: bool = False
    """Somebody may have missed a broadcast."""

    def saw(self, entries: Sequence[LogEntry]) -> None:
        """What was read is answered, and edges come that far: the log must have it as long as they do."""
        newest = next((entry for entry in reversed(entries) if isinstance(entry, Logged)), None)
        if newest is None or newest.version.epoch != self.epoch:
            return
        if self.witness is None or newest.version > self.witness[0]:
            self.witness = (newest.version, newest.change.doc, newest.change.dot)
