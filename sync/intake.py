"""What clients bring, from the gate to the next flush.

Room: a part of the lower half of an edge. It refuses by raising and sends nothing; what a message is, and what its
client is told, is `sync.hearing`'s; what the flush makes of what is pending is `sync.writing`'s.

Invariants:
1. What the gate lets in is pending in the name of who sent it, also where another client's update has released it.
2. Whose updates are pending is among the `writers`, whom the flush tells after its commit (law 2). Where one client may
   have brought what another made, that is everybody (`relayed`).
"""

from __future__ import annotations

from .change import Context
from .errors import LimitReached
from .hosted import Hosted, Pending
from .ids import ConnId, DocId, Dot
from .limits import PENDING_BYTES_MAX
from .pressure import Pressure
from .replica import Taken, Verdict
from .validate import Shape, check_update

__all__ = ["Intake"]


class Intake:
    __slots__ = ("_context", "dirty", "pressure")

    def __init__(self, name: str) -> None:
        self.pressure = Pressure()
        self.dirty: dict[DocId, None] = {}
        """Documents of which something is pending."""
        self._context = Context(name)

    def bring(
        self,
        host: Hosted,
        conn: ConnId,
        update: bytes,
        now_ms: int,
        dot: Dot | None = None,
        context: Context | None = None,
    ) -> Verdict:
        """An update of this client: judged, and pending where it is new. What cannot be is raised."""
        assert host.replica is not None
        size = host.pending_bytes + len(update)
        if size > PENDING_BYTES_MAX:
            raise LimitReached("pending_bytes", size, PENDING_BYTES_MAX, "send less at once")
        shape = check_update(update)
        if self.pressure.wants_look(host, size):
            self.pressure.room_for_update(host, size, shape)
        taken = host.replica.take(update, shape, now_ms, conn)
        if taken.refused:
            host.note_refused(taken)
        if taken.verdict is Verdict.EARLY and dot is not None:
            host.tracking.set_aside(update, dot, context or self._context)
        if not taken.released:
            if taken.updates:
                self.pend(host, conn, update, dot, context, shape)
        else:
            self.took(host, conn, taken, update, dot, context)
        return taken.verdict

    def took(
        self,
        host: Hosted,
        conn: ConnId,
        taken: Taken,
        update: bytes,
        dot: Dot | None = None,
        context: Context | None = None,
    ) -> None:
        """What a client's update brought, and what it let in: each in the name of who sent it."""
        senders = {early.update: early.conn for early in taken.released}
        for part in taken.updates:
            sender = senders.get(part)
            if part is update:
                self.pend(host, conn, part, dot, context)
            else:
                self.pend(host, conn if sender is None else sender, part)
        host.relayed = host.relayed or bool(taken.released)
        for early in taken.released:
            if early.conn is not None:
                host.writers[early.conn] = None  # also where it was SEEN: it reads its own update only after the commit

    def pend(
        self,
        host: Hosted,
        conn: ConnId,
        update: bytes,
        dot: Dot | None = None,
        context: Context | None = None,
        shape: Shape | None = None,
    ) -> None:
        named = host.tracking.let_in(update) if dot is None else None
        if named is not None:
            dot, context = named
        host.pending.append(Pending(update, conn, context or self._context, dot, shape))
        host.pending_bytes += len(update)
        host.writers[conn] = None
        if host.early_asked:
            host.early_asked.pop(update, None)
        host.answered = None
        self.dirty[host.doc] = None

    def drop(self, host: Hosted) -> list[Pending]:
        """Nothing of this document is pending any more. Returns what was."""
        pending, host.pending, host.pending_bytes = host.pending, [], 0
        host.writers.clear()
        self.dirty.pop(host.doc, None)
        return pending
