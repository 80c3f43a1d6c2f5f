"""Clients and documents come and go: the ground floor of an edge.

Room: who is connected, which documents are in memory, and what happens to either when something is wrong with the
other. What a client says is `sync.hearing`'s, who is here `sync.company`'s; commits and time are `sync.serving`'s,
which is built on this.

Invariants:
1. A document is ready before a client is told what it holds: the store was read, and a document that was never here
   was asked for while there was a link, bounded by FIRST_OPEN_MS_MAX.
2. A document is read from the store only when nothing of it is on its way there.
3. Bad bytes close the connection that sent them and touch nothing else. After a panic the document is thrown away and
   taken from the store again; who sent the update that broke it is found by trying them one by one (law 9).
"""

from __future__ import annotations

from . import limits, wire
from .closing import CLOSE_BAD_FRAME, CLOSE_BAD_UPDATE, CLOSE_CANNOT_STORE, CLOSE_CLIENT_ID, CLOSE_LIMIT
from .company import Company, Out
from .errors import ClientIdClash, DocumentBroken, InvalidInput, InvalidUpdate, LimitReached, SkerryError
from .hearing import Hearing, answer, greet
from .hosted import Hosted, Pending, replica_of, whole_answer
from .ids import ConnId, DocId, Origin
from .intake import Intake
from .nesting import PlacesWanted
from .ports import StoredDocument
from .pressure import Pressure
from .seeking import seek
from .step import Close, Follow, Load, PresenceOut, Report, Resume, Send, Unfollow
from .telling import Telling
from .validate import check_update
from .writing import Writing

__all__ = ["Hosting"]


class Hosting:
    def __init__(self, name: str, origin: Origin, namespace: str) -> None:
        self.hosted: dict[DocId, Hosted] = {}
        self.writing = Writing(name, origin)
        self.company = Company(self.hosted)
        self.telling = Telling(self.writing)
        self._intake = Intake(name)
        self._hearing = Hearing(name, namespace, self.company, self.telling, self._intake)
        self._conns: dict[ConnId, DocId] = {}
        self._linked = False

    @property
    def pressure(self) -> Pressure:
        return self._intake.pressure

    def link(self, up: bool) -> None:
        """By the upper half: whether presence leaves the edge, and whether a first open waits."""
        self._linked = self.company.linked = up

    # --- clients -----------------------------------------------------------------------------------------------------
    def opened(self, conn: ConnId, doc: DocId, extended: bool, now_ms: int, out: Out, read_only: bool = False) -> None:
        try:
            self._intake.pressure.room_for_client(self.hosted.get(doc))
        except LimitReached as error:
            out.append(Close(conn, CLOSE_LIMIT, str(error)[:120]))
            return
        host = self.host(doc, now_ms, out)
        self._conns[conn] = doc
        host.conns[conn] = None
        host.relayed = host.relayed or bool(host.pending)  # it may be back already, and what waits its own
        self._hearing.joined(host, conn, extended, read_only, out)
        self.load(host, out)
        if host.ready:
            greet(host, (conn,), out)
        self.company.send_states(host, conn, out)
        if len(host.conns) == 1 and self._linked:
            out.append(PresenceOut(doc, b""))

    def received(self, conn: ConnId, frame: bytes, now_ms: int, out: Out) -> Hosted | None:
        """Invariant 3. Returns the document's record; None of a connection that is not open."""
        doc = self._conns.get(conn)
        if doc is None:
            return None
        host = self.hosted[doc]
        try:
            self._hearing.hear(host, conn, frame, now_ms, out)
        except (InvalidInput, LimitReached, DocumentBroken) as error:
            self.refused(conn, error, now_ms, out)
        except PlacesWanted:
            seek(host, self.rebuild, out)
            self.received(conn, frame, now_ms, out)  # it waits
        return host

    def refused(self, conn: ConnId, error: SkerryError, now_ms: int, out: Out) -> None:
        """A frame of this connection was not taken, here or before it came here. Invariant 3."""
        host = self.host_of(conn)
        if host is None:
            return
        match error:
            case ClientIdClash():
                out.append(Report("client_id_clash", host.doc, str(error)))
                host.clashed.add(error.client)
                self.drop(conn, CLOSE_CLIENT_ID, str(error), now_ms, out)
            case InvalidUpdate():
                self.drop(conn, CLOSE_BAD_UPDATE, f"these bytes are no update: {error}", now_ms, out)
            case InvalidInput():
                self.drop(conn, CLOSE_BAD_FRAME, str(error), now_ms, out)
            case DocumentBroken():
                self.rebuild(host, str(error), out)
            case _:
                if conn not in host.tracking.conns:  # stock clients show a closing's reason to nobody, and this they do
                    out.append(Send((conn,), wire.encode(wire.PermissionDenied(str(error)))))
                self.drop(conn, CLOSE_LIMIT, str(error), now_ms, out)

    def closed(self, conn: ConnId, now_ms: int, out: Out) -> None:
        doc = self._conns.pop(conn, None)
        if doc is None:
            return
        host = self.hosted[doc]
        host.conns.pop(conn, None)
        self._hearing.left(host, conn)
        host.idle_since_ms = now_ms
        self.company.left(host, conn)

    def host_of(self, conn: ConnId) -> Hosted | None:
        doc = self._conns.get(conn)
        return self.hosted[doc] if doc is not None else None

    def drop(self, conn: ConnId, code: int, reason: str, now_ms: int, out: Out) -> None:
        out.append(Close(conn, code, reason[:120]))
        self.closed(conn, now_ms, out)

    def drop_clients(self, host: Hosted, code: int, reason: str, now_ms: int, out: Out) -> None:
        """With what of them no flush has taken yet: they bring it back."""
        self._intake.drop(host)
        host.relayed = False
        host.echo.clear()
        for conn in tuple(host.conns):
            self.drop(conn, code, reason, now_ms, out)

    # --- documents come and go ---------------------------------------------------------------------------------------
    def host(self, doc: DocId, now_ms: int, out: Out) -> Hosted:
        host = self.hosted.get(doc)
        if host is None:
            host = self.hosted[doc] = Hosted(doc, idle_since_ms=now_ms)
            out.append(Follow(doc))
        return host

    def load(self, host: Hosted, out: Out) -> None:
        """Invariant 2."""
        if host.replica is not None or host.loading:
            return
        if host.commits or self.writing.holds(host.doc):
            host.reload = True
            self.writing.urgent = self.writing.urgent or self.writing.holds(host.doc)
            return
        host.loading = True
        out.append(Load(host.doc))

    def loaded(self, doc: DocId, stored: StoredDocument | None, now_ms: int, out: Out) -> Hosted | None:
        """What the store has; None for a document that was never here. Returns the host that has its replica now."""
        host = self.hosted.get(doc)
        if host is None or not host.loading:
            return None
        host.loading = host.seeking = False
        suspects, host.suspects = host.suspects, []
        try:
            host.replica = replica_of(doc, stored)
            for suspect in suspects:
                self._try_suspect(host, suspect, stored, now_ms, out)
            host.replica.hurried = True
        except DocumentBroken as error:
            host.replica = None
            host.unqueued()
            out.append(Report("document_unreadable", doc, str(error)))
            reason = "the stored document cannot be read; see the edge's log"
            self.drop_clients(host, CLOSE_CANNOT_STORE, reason, now_ms, out)
            return None
        if stored is not None:
            host.rows = len(stored.updates)
            host.row_bytes = sum(map(len, stored.updates))
            host.state_bytes = len(stored.state or b"")
            if stored.state and not (stored.updates or suspects) and host.conns:
                host.answered = whole_answer(host.replica, stored.state)
        if stored is None and self._linked and not host.ready:
            host.ready_by_ms = now_ms + limits.FIRST_OPEN_MS_MAX
        else:
            self.become_ready(host, out)
        self.take_queued(host, now_ms, out)
        return host if host.replica is not None else None

    def take_queued(self, host: Hosted, now_ms: int, out: Out) -> None:
        """What has waited for the replica."""
        if host.paused:
            out.append(Resume(tuple(host.paused)))
        for conn, frame in host.unqueued():
            if conn in host.conns:
                self.received(conn, frame, now_ms, out)

    def become_ready(self, host: Hosted, out: Out) -> None:
        """Invariant 1."""
        if host.ready or host.replica is None:
            return
        host.ready = True
        host.ready_by_ms = None
        if host.conns:
            greet(host, host.conns, out)
        asked, host.asked = host.asked, {}
        for conn, state_vector in asked.items():
            if conn in host.conns:
                answer(host, conn, state_vector, out)

    def rebuild(self, host: Hosted, reason: str, out: Out) -> None:
        """pycrdt broke: what is in memory is undefined."""
        out.append(Report("document_rebuilt", host.doc, reason))
        host.suspects += self._intake.drop(host)
        host.replica = None
        self.load(host, out)

    def _try_suspect(
        self, host: Hosted, suspect: Pending, stored: StoredDocument | None, now_ms: int, out: Out
    ) -> None:
        replica = host.replica
        assert replica is not None
        try:
            taken = replica.take(suspect.update, check_update(suspect.update), now_ms, suspect.conn)
            replica.materialise().state()
        except (DocumentBroken, InvalidUpdate):
            out.append(Report("update_refused", host.doc, "an update broke the document and was thrown away"))
            self.drop(suspect.conn, CLOSE_BAD_UPDATE, "this update cannot be applied", now_ms, out)
            host.replica = replica_of(host.doc, stored, anew=True)
            for good in host.pending:
                host.replica.take(good.update, check_update(good.update), now_ms, good.conn)
            return
        self._intake.took(host, suspect.conn, taken, suspect.update, suspect.dot, suspect.context)

    def leave_memory(self, host: Hosted, now_ms: int, out: Out, idle_ms: int = limits.DOCUMENT_IDLE_MS) -> None:
        """With an outbox only the document itself leaves; its record stays to hear of the merge."""
        busy = host.conns or host.news or host.commits or host.pending or host.loading or host.suspects
        if busy or self.writing.holds(host.doc) or now_ms - host.idle_since_ms < idle_ms:
            return
        if len(host.unmerged):
            host.replica = None
            host.ready = False
        else:
            del self.hosted[host.doc]
            out.append(Unfollow(host.doc))
