"""How much an edge takes: documents that grow, documents that are crowded, memory, and an outbox that does not empty.

Room: numbers and their answers. What is refused is refused with a reason and changes nothing; who was refused keeps it,
and comes back. What is here already (SEEN) and what only deletes passes always: refusing it would help nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import limits
from .errors import LimitReached
from .hosted import Hosted
from .replica import Verdict
from .validate import Shape

__all__ = ["Pressure"]


@dataclass(slots=True)
class Pressure:
    """One edge's limits, and how it stands with them. The daemon sets `outbox_full`."""

    document_bytes_max: int = limits.DOCUMENT_BYTES_MAX
    document_clients_max: int = limits.DOCUMENT_CLIENTS_MAX
    documents_bytes_max: int = limits.DOCUMENTS_BYTES_MAX
    outbox_full: tuple[str, int, int] | None = None
    """Which limit of the outbox is reached, by how much, and the limit: new edits are refused."""
    documents_bytes: int = 0
    """Of all documents in memory, at the last look."""

    def room_for_client(self, host: Hosted | None) -> None:
        """Raises LimitReached. None: a document that is not in memory yet."""
        if host is None:
            if self.documents_bytes > self.documents_bytes_max:
                advice = "all of them in use; retry after 30 s, or use another edge"
                raise LimitReached("documents_bytes", self.documents_bytes, self.documents_bytes_max, advice)
        elif len(host.conns) >= self.document_clients_max:
            count = len(host.conns) + 1
            raise LimitReached("document_clients", count, self.document_clients_max, "retry after 30 s")

    def wants_look(self, host: Hosted, size: int) -> bool:
        """The question of every update; `room_for_update` answers where this is true."""
        return self.outbox_full is not None or size + host.row_bytes + host.state_bytes > self.document_bytes_max

    def room_for_update(self, host: Hosted, size: int, shape: Shape) -> None:
        """Raises LimitReached."""
        assert host.replica is not None
        if not shape.brings or host.replica.judge(shape).verdict is Verdict.SEEN:
            return
        if self.outbox_full is not None:
            name, got, limit = self.outbox_full
            raise LimitReached(name, got, limit, "not linked for too long; retry after 30 s, or use another edge")
        total = size + host.row_bytes + host.state_bytes
        raise LimitReached("document_bytes", total, self.document_bytes_max, "begin another document")
