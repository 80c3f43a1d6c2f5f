"""Real Yjs updates of people who type: one character each, appended by a document of their own, made before the clock.

Room: updates. A writer's updates are the same bytes for every server and every repeat, so all are given the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sync.document import Document

__all__ = ["ROOT", "Writer", "Writers"]

ROOT = "text"
_LETTERS = "the quick brown fox jumps over the lazy dog "


@dataclass
class Writer:
    client_id: int
    updates: list[bytes] = field(default_factory=list)
    """Update k brings the character of clock k."""
    document: Document = field(default_factory=Document)

    def type(self, count: int) -> Sequence[bytes]:
        """The first `count` updates of this writer."""
        missing = count - len(self.updates)
        if missing > 0:
            text = self.document.crdt[ROOT]
            with self.document.told(lambda event: self.updates.append(event.update)):
                for at in range(len(self.updates), count):
                    text.insert(at, _LETTERS[at % len(_LETTERS)])
        return self.updates


class Writers:
    """As many as a run asks for; each keeps what it has typed."""

    def __init__(self) -> None:
        self._writers: list[Writer] = []

    def first(self, count: int) -> list[Writer]:
        while len(self._writers) < count:
            document = Document()
            self._writers.append(Writer(document.crdt.client_id, document=document))
        return self._writers[:count]
