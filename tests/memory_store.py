"""A Store in memory: what the words of `sync.ports` mean, in the plainest code; the others are compared with it.

Room: pure and deterministic. A commit builds new documents and swaps them in at its end, so a stored document is never
changed: atomicity costs nothing, and `copy` (a disk as it was at that moment) is two shallow dicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sync.change import Change
from sync.ids import DocId, Dot, DotSet, Version
from sync.ports import OutboxRow, OutboxTotals, StoredDocument
from sync.step import AppendUpdate, Compact, DropOutbox, MarkShipped, SetVersion, Write

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Document:
    state: bytes | None = None
    updates: list[bytes] = field(default_factory=list)
    version: Version | None = None
    dots: DotSet = field(default_factory=DotSet)
    outbox: dict[Dot, OutboxRow] = field(default_factory=dict)
    """In the order of commits."""

    def copy(self) -> _Document:
        return _Document(self.state, list(self.updates), self.version, self.dots.copy(), dict(self.outbox))


class MemoryStore:
    def __init__(self) -> None:
        self._documents: dict[DocId, _Document] = {}
        self._meta: dict[str, str] = {}
        self._row = 0

    def copy(self) -> MemoryStore:
        """The same content; what is written to either from now on is not in the other."""
        other = MemoryStore()
        other._documents, other._meta, other._row = dict(self._documents), dict(self._meta), self._row
        return other

    def commit(self, writes: Sequence[Write]) -> None:
        changed: dict[DocId, _Document] = {}
        row = self._row
        for write in writes:
            if write.doc not in changed:
                changed[write.doc] = self._documents.get(write.doc, _Document()).copy()
            document = changed[write.doc]
            match write:
                case AppendUpdate(doc, update, dot, context, covers, folded, heals):
                    if not folded:
                        document.updates.append(update)
                    if dot is not None:
                        assert dot not in document.outbox, f"{doc}: the dot {dot} is in the outbox already"
                        row += 1
                        change = Change(doc, dot, update, context, covers.copy())
                        document.outbox[dot] = OutboxRow(row, change, None, heals)
                case SetVersion(_, version, dots):
                    document.version, document.dots = version, dots.copy()
                case MarkShipped(_, shipped):
                    for dot, place in shipped:
                        if dot in document.outbox:
                            document.outbox[dot] = replace(document.outbox[dot], shipped=place)
                case DropOutbox(_, dropped):
                    for dot in dropped:
                        document.outbox.pop(dot, None)
                case Compact(_, state):
                    document.state, document.updates = state, []
        self._documents.update(changed)
        self._row = row

    def load(self, doc: DocId) -> StoredDocument | None:
        document = self._documents.get(doc)
        if document is None:
            return None
        return StoredDocument(
            state=document.state,
            updates=tuple(document.updates),
            version=document.version,
            dots=document.dots.copy(),
            outbox=tuple((dot, row.shipped) for dot, row in document.outbox.items()),
        )

    def outbox(self, after: int, count_max: int, bytes_max: int) -> list[OutboxRow]:
        page: list[OutboxRow] = []
        left = bytes_max
        for row in self._rows():
            if row.row <= after:
                continue
            left -= len(row.change.update)
            if page and (left < 0 or len(page) >= count_max):
                break
            page.append(row)
        return page

    def outbox_totals(self) -> OutboxTotals:
        rows = self._rows()
        oldest_ms = rows[0].change.context.time_ms if rows else None
        return OutboxTotals(len(rows), sum(len(row.change.update) for row in rows), oldest_ms)

    def _rows(self) -> list[OutboxRow]:
        rows = [row for document in self._documents.values() for row in document.outbox.values()]
        return sorted(rows, key=lambda row: row.row)

    def documents(self) -> list[DocId]:
        return sorted(self._documents)

    def get_meta(self, key: str) -> str | None:
        return self._meta.get(key)

    def set_meta(self, key: str, value: str) -> None:
        self._meta[key] = value

    def close(self) -> None:
        """Nothing is held; `copy` opens it again."""
