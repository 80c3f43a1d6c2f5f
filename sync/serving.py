"""Documents served to clients from an edge's own disk: what works with no link at all.

Room: the lower half of the edge machine. Clients, loading, the gate for their updates, fan-out, flush and commit,
presence. It does not know that there is a log; `sync.edge`, above it, does.

Invariants:
1. An update is committed before its writer sees it echoed (law 2). Only the fan-out to the other clients runs ahead
   of the disk: they are replicas too.
2. A document is ready before a client is told what it holds: the store was read, and a document that was never here
   was asked for while there was a link, bounded by FIRST_OPEN_MS_MAX.
3. A document is read from the store only when nothing of it is on its way there.
4. Bad bytes close the connection that sent them and touch nothing else. After a panic the document is thrown away and
   taken from the store again; who sent the update that broke it is found by trying them one by one (law 9).
5. What a connection sends that may only read changes nothing, whatever message carries it. Presence passes.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import compacting, extension, limits, wire
from .change import Change, Context
from .closing import CLOSE_BAD_FRAME, CLOSE_BAD_UPDATE, CLOSE_CANNOT_STORE, CLOSE_CLIENT_ID, CLOSE_GAP, CLOSE_LIMIT
from .company import Out
from .content import Captured
from .document import merge
from .errors import (
    ClientIdClash,
    DocumentBroken,
    InvalidFrame,
    InvalidInput,
    InvalidUpdate,
    LimitReached,
    SkerryError,
)
from .hosted import Answered, Flushed, Held, Hosted, Pending, replica_of, whole_answer
from .ids import ConnId, DocId, Dot, Origin
from .nesting import PlacesWanted
from .ports import StoredDocument
from .pressure import Pressure
from .replica import Replica, Taken, Verdict
from .seeking import seek
from .step import Close, Commit, Follow, Load, Pause, PresenceOut, Report, Resume, Send, Unfollow
from .telling import Telling
from .token import decode_token
from .tracking import Waiter
from .validate import Shape, check_awareness, check_state_vector, check_update
from .writing import Writing

__all__ = ["Serving"]

_READ_ONLY = wire.encode(wire.PermissionDenied("read-only: this token may not change this document"))


class Serving(Telling):
    def __init__(self, name: str, origin: Origin, namespace: str) -> None:
        super().__init__(Writing(name, origin))
        self.name = name
        self.namespace = namespace
        self.origin = origin
        self._context = Context(name)
        self._conns: dict[ConnId, DocId] = {}
        self._read_only: set[ConnId] = set()
        self.pressure = Pressure()
        self._dirty: dict[DocId, None] = {}
        self._tickets: dict[int, tuple[Flushed, ...]] = {}

    # --- clients -----------------------------------------------------------------------------------------------------
    def opened(self, conn: ConnId, doc: DocId, extended: bool, now_ms: int, out: Out, read_only: bool = False) -> None:
        try:
            self.pressure.room_for_client(self.hosted.get(doc))
        except LimitReached as error:
            out.append(Close(conn, CLOSE_LIMIT, str(error)[:120]))
            return
        host = self.host(doc, now_ms, out)
        self._conns[conn] = doc
        if read_only:
            self._read_only.add(conn)
        host.conns[conn] = None
        host.relayed = host.relayed or bool(host.pending)  # it may be back already, and what waits its own
        if extended:
            host.tracking.joined(conn)
            if read_only:
                out.append(Send((conn,), _READ_ONLY))  # before it edits: a stock client is told when it does
        self.load(host, out)
        if host.ready:
            self._greet(host, (conn,), out)
        self._send_states(host, conn, out)
        if len(host.conns) == 1 and self.linked:
            out.append(PresenceOut(doc, b""))

    def received(self, conn: ConnId, frame: bytes, now_ms: int, out: Out) -> Hosted | None:
        """Invariant 4. Returns the document's record; None of a connection that is not open."""
        doc = self._conns.get(conn)
        if doc is None:
            return None
        host = self.hosted[doc]
        try:
            update = wire.short_update(frame)
            waits = host.replica is None or host.seeking
            if update is None or waits or conn in self._read_only or conn in host.tracking.conns:
                self._message(host, conn, frame, now_ms, out)
            else:  # a keystroke
                self._update(host, conn, update, now_ms, out)
        except (InvalidInput, LimitReached, DocumentBroken) as error:
            self.refused(conn, error, now_ms, out)
        except PlacesWanted:
            seek(host, self.rebuild, out)
            self.received(conn, frame, now_ms, out)  # it waits
        return host

    def refused(self, conn: ConnId, error: SkerryError, now_ms: int, out: Out) -> None:
        """A frame of this connection was not taken, here or before it came here. Invariant 4."""
        host = self.host_of(conn)
        if host is None:
            return
        match error:
            case ClientIdClash():
                out.append(Report("client_id_clash", host.doc, str(error)))
                host.clashed.add(error.client)
                self._drop_conn(conn, CLOSE_CLIENT_ID, str(error), now_ms, out)
            case InvalidUpdate():
                self._drop_conn(conn, CLOSE_BAD_UPDATE, f"these bytes are no update: {error}", now_ms, out)
            case InvalidInput():
                self._drop_conn(conn, CLOSE_BAD_FRAME, str(error), now_ms, out)
            case DocumentBroken():
                self.rebuild(host, str(error), out)
            case _:
                if conn not in host.tracking.conns:  # stock clients show a closing's reason to nobody, and this they do
                    out.append(Send((conn,), wire.encode(wire.PermissionDenied(str(error)))))
                self._drop_conn(conn, CLOSE_LIMIT, str(error), now_ms, out)

    def closed(self, conn: ConnId, now_ms: int, out: Out) -> None:
        doc = self._conns.pop(conn, None)
        if doc is None:
            return
        self._read_only.discard(conn)
        host = self.hosted[doc]
        host.conns.pop(conn, None)
        host.tracking.left(conn)
        host.idle_since_ms = now_ms
        self._gather(host, host.presence.leave(conn), None, outward=True)

    def host_of(self, conn: ConnId) -> Hosted | None:
        doc = self._conns.get(conn)
        return self.hosted[doc] if doc is not None else None

    def _message(self, host: Hosted, conn: ConnId, frame: bytes, now_ms: int, out: Out) -> None:
        match extension.decode(frame) if conn in host.tracking.conns else wire.decode_frame(frame):
            case wire.AwarenessUpdate(payload):
                entries = check_awareness(payload)
                self._gather(host, host.presence.merge(entries, conn, now_ms), conn, outward=True)
                self._send_presence(host.presence.corrections(entries), (conn,), out)
            case wire.QueryAwareness():
                self._send_states(host, conn, out)
            case wire.PermissionDenied() | wire.Authenticate():
                pass  # a client has nothing to deny, and who it is was settled before; harmless
            case _ if host.replica is None or host.seeking:
                if host.queue(conn, frame):
                    out.append(Pause(conn))
            case wire.SyncStep1(state_vector):
                check_state_vector(state_vector)
                if host.ready:
                    self._answer(host, conn, state_vector, out)
                else:
                    host.asked[conn] = state_vector
            case (wire.Update() | wire.SyncStep2() | extension.Edit()) as writing if conn in self._read_only:
                self._refuse_writing(host, conn, writing, out)
            case wire.SyncStep2(update):
                if self._client_update(host, conn, update, now_ms) is Verdict.NEW:
                    host.relayed = True  # a step 2 holds whatever its client has, of others as well
            case wire.Update(update):
                self._update(host, conn, update, now_ms, out)
            case extension.Edit() as edit:
                self._edit(host, conn, edit, now_ms, out)
            case extension.Await() as wish:
                self._await(host, conn, wish, now_ms)
            case _:
                raise InvalidFrame("frame: only an edge says this; send edits, questions and awareness")

    def _update(self, host: Hosted, conn: ConnId, update: bytes, now_ms: int, out: Out) -> None:
        if self._client_update(host, conn, update, now_ms) is Verdict.SEEN and conn not in host.tracking.conns:
            host.echo.append((conn, wire.encode(wire.Update(update))))
            self._echo_when_safe(host, out)

    def _refuse_writing(
        self, host: Hosted, conn: ConnId, message: wire.Update | wire.SyncStep2 | extension.Edit, out: Out
    ) -> None:
        """Invariant 5. The connection stays: a stock client answers each step 1, with nothing new too, and reads on."""
        assert host.replica is not None
        seen = host.replica.judge(check_update(message.update)).verdict is Verdict.SEEN
        if not isinstance(message, extension.Edit):
            if not seen:
                out.append(Send((conn,), _READ_ONLY))
        elif message.dot in host.replica.dots:  # made while it was allowed, and sent again: told how safe it is
            host.tracking.repeated(conn, message.dot)
            self._echo_when_safe(host, out)
            self.tell_when_merged(host, out)
        else:
            out.append(Send((conn,), _READ_ONLY))  # also where all of it is here: its name would be a change

    def _edit(self, host: Hosted, conn: ConnId, edit: extension.Edit, now_ms: int, out: Out) -> None:
        """An update with a name. A repeat takes effect once, and is told how safe it is."""
        assert host.replica is not None
        if (reason := self._rejections.of(host.doc, edit.dot)) is not None:
            self.tell_rejected(host, {conn: [edit.dot]}, reason, out)
            return
        verdict = Verdict.SEEN
        if edit.dot not in host.replica.dots:
            context = Context(self.name, edit.actor, edit.causation, edit.correlation)
            verdict = self._client_update(host, conn, edit.update, now_ms, edit.dot, context)
        if verdict is Verdict.SEEN:
            host.replica.dots.add(edit.dot)
            host.tracking.repeated(conn, edit.dot)
            self._echo_when_safe(host, out)
            self.tell_when_merged(host, out)

    def _await(self, host: Hosted, conn: ConnId, wish: extension.Await, now_ms: int) -> None:
        """Kept with the document; the upper half tells when it has come so far."""
        token = decode_token(wish.token, self.namespace, host.doc)
        if len(host.tracking.waiters) >= limits.WAITERS_MAX:
            raise LimitReached("waiters", limits.WAITERS_MAX + 1, limits.WAITERS_MAX, "wait for fewer at once")
        until_ms = now_ms + min(wish.wait_ms, limits.WAIT_MS_MAX)
        host.tracking.waiters.append(Waiter(conn, wish.number, token, until_ms))

    def _client_update(
        self,
        host: Hosted,
        conn: ConnId,
        update: bytes,
        now_ms: int,
        dot: Dot | None = None,
        context: Context | None = None,
    ) -> Verdict:
        assert host.replica is not None
        size = host.pending_bytes + len(update)
        if size > limits.PENDING_BYTES_MAX:
            raise LimitReached("pending_bytes", size, limits.PENDING_BYTES_MAX, "send less at once")
        shape = check_update(update)
        if self.pressure.wants_look(host, size):
            self.pressure.room_for_update(host, size, shape)
        taken = host.replica.take(update, shape, now_ms, conn)
        if taken.refused:
            host.note_refused(taken)
        if taken.verdict is Verdict.EARLY and dot is not None:
            host.tracking.set_aside(update, dot, context or Context(self.name))
        if not taken.released:
            if taken.updates:
                self._pend(host, conn, update, dot, context, shape)
        else:
            self._pend_taken(host, conn, taken, update, dot, context)
        return taken.verdict

    def _pend_taken(
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
                self._pend(host, conn, part, dot, context)
            else:
                self._pend(host, conn if sender is None else sender, part)
        host.relayed = host.relayed or bool(taken.released)
        for early in taken.released:
            if early.conn is not None:
                host.writers[early.conn] = None  # also where it was SEEN: it reads its own update only after the commit

    def _pend(
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
        self._dirty[host.doc] = None

    def _greet(self, host: Hosted, conns: Iterable[ConnId], out: Out) -> None:
        """Ask these clients for what this edge lacks."""
        assert host.replica is not None
        clocks = host.replica.clocks
        shared = {client: clocks[client] for client in sorted(host.clashed) if client in clocks}
        vector = host.replica.probe(shared) if shared else host.replica.state_vector()
        out.append(Send(tuple(conns), wire.encode(wire.SyncStep1(vector))))

    def _answer(self, host: Hosted, conn: ConnId, state_vector: bytes, out: Out) -> None:
        assert host.replica is not None
        answered = host.answered
        if answered is None or answered.replica is not host.replica or answered.state_vector != state_vector:
            frame = wire.encode(wire.SyncStep2(host.replica.diff(state_vector)))
            answered = host.answered = Answered(host.replica, state_vector, frame)
        out.append(Send((conn,), answered.frame))
        if host.tracking.answered(conn) and host.replica.version is not None:
            out.append(Send((conn,), extension.encode(extension.At(host.replica.version))))

    def _drop_conn(self, conn: ConnId, code: int, reason: str, now_ms: int, out: Out) -> None:
        out.append(Close(conn, code, reason[:120]))
        self.closed(conn, now_ms, out)

    def drop_clients(self, host: Hosted, code: int, reason: str, now_ms: int, out: Out) -> None:
        """With what of them no flush has taken yet: they bring it back."""
        host.pending, host.pending_bytes, host.relayed = [], 0, False
        host.writers.clear()
        host.echo.clear()
        self._dirty.pop(host.doc, None)
        for conn in tuple(host.conns):
            self._drop_conn(conn, code, reason, now_ms, out)

    # --- documents come and go ---------------------------------------------------------------------------------------
    def host(self, doc: DocId, now_ms: int, out: Out) -> Hosted:
        host = self.hosted.get(doc)
        if host is None:
            host = self.hosted[doc] = Hosted(doc, idle_since_ms=now_ms)
            out.append(Follow(doc))
        return host

    def load(self, host: Hosted, out: Out) -> None:
        """Invariant 3."""
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
        if stored is None and self.linked and not host.ready:
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
        """Invariant 2."""
        if host.ready or host.replica is None:
            return
        host.ready = True
        host.ready_by_ms = None
        if host.conns:
            self._greet(host, host.conns, out)
        asked, host.asked = host.asked, {}
        for conn, state_vector in asked.items():
            if conn in host.conns:
                self._answer(host, conn, state_vector, out)

    def rebuild(self, host: Hosted, reason: str, out: Out) -> None:
        """pycrdt broke: what is in memory is undefined."""
        out.append(Report("document_rebuilt", host.doc, reason))
        host.suspects += host.pending
        host.pending = []
        host.pending_bytes = 0
        host.writers.clear()
        self._dirty.pop(host.doc, None)
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
            self._drop_conn(suspect.conn, CLOSE_BAD_UPDATE, "this update cannot be applied", now_ms, out)
            host.replica = replica_of(host.doc, stored, anew=True)
            for good in host.pending:
                host.replica.take(good.update, check_update(good.update), now_ms, good.conn)
            return
        self._pend_taken(host, suspect.conn, taken, suspect.update, suspect.dot, suspect.context)

    # --- flush and commit --------------------------------------------------------------------------------------------
    @property
    def wants_flush(self) -> bool:
        return bool(self._dirty or self.writing)

    @property
    def wants_flush_now(self) -> bool:
        """Somebody waits for it: what only the log has brought may wait a little (`sync.writing`, 2)."""
        return bool(self._dirty or self.writing.urgent)

    def take_in(self, host: Hosted, taken: Taken, out: Out) -> None:
        """What the gate let in from the log: to the clients at once, to the disk with the next flush.

        An early update of a client that it released is that client's: it becomes a change of this edge.
        """
        if taken.refused:
            host.note_refused(taken)
        clients = {early.update: early.conn for early in taken.released if early.conn is not None}
        for update, conn in clients.items():
            if update in taken.updates:
                self._pend(host, conn, update)
            else:
                host.early_asked.pop(update, None)
        updates = [update for update in taken.updates if update not in clients]
        if updates:
            host.answered = None
            update = merge(updates)
            self.writing.add_from_log(host.doc, update)
            self.tell_content(host, update, out)

    def tell_content(self, host: Hosted, update: bytes, out: Out) -> None:
        """What came from the log goes to who has been told what the document holds; the others will be. Invariant 2."""
        if host.held is not None:
            host.held.append(Held(wire.encode(wire.Update(update))))
        elif host.conns and host.ready:
            self._fan_out(host, wire.encode(wire.Update(update)), (), out)

    def flush(self, wall_ms: int, out: Out) -> Commit | None:
        """Everything pending becomes one change per document and context, and all of it one commit."""
        flushed: dict[DocId, Flushed] = {}
        for doc in list(self._dirty):
            host = self.hosted.get(doc)
            if host is None or host.replica is None or not host.pending:
                continue
            try:
                flushed[doc] = self._flush_document(host, wall_ms, out)
            except DocumentBroken as error:
                self.rebuild(host, str(error), out)
        self._dirty.clear()
        self.writing.changes_again(self.hosted, wall_ms, flushed)
        for doc in self.writing.gather(self.hosted):
            host = self.hosted.get(doc)
            flushed.setdefault(doc, Flushed(doc, (), (), b""))
            if host is not None:
                host.commits += 1
                if host.replica is not None and host.wants_compaction():
                    try:
                        compacting.begin(host, out)
                    except DocumentBroken as error:
                        self.rebuild(host, str(error), out)
        commit = self.writing.commit()
        if commit is not None:
            self._tickets[commit.ticket] = tuple(flushed.values())
        return commit

    def _flush_document(self, host: Hosted, wall_ms: int, out: Out) -> Flushed:
        assert host.replica is not None
        updates = [pending.update for pending in host.pending]
        groups, whole = host.replica.watched(updates, lambda: self.writing.merged(host))
        host.replica.joined(updates, whole)
        host.replica.materialise()  # before anything is stored: poison that gets past the validator ends here
        changes = self.writing.changes_of(host, groups, wall_ms)
        frame = wire.encode(wire.Update(whole))
        writers = tuple(host.writers)
        host.pending = []
        host.pending_bytes = 0
        host.writers.clear()
        if host.relayed or host.held is not None:
            host.relayed, host.held = False, host.held or []
            later = tuple(host.conns)
        else:
            later = writers
        self._fan_out(host, frame, later, out)
        if host.claims:
            self.claim_now(host, out)
        self.tell_contexts(host, [(change.dot, change.context) for change in changes], writers, out)
        return Flushed(host.doc, changes, later, frame)

    def verified(self, captured: Captured, refusal: str, out: Out) -> None:
        """The shell has looked at what `Verify` gave it."""
        host = self.hosted.get(captured.doc)
        if not compacting.end(host, captured, refusal, self.writing, out) and host is not None:
            self.rebuild(host, refusal, out)

    def committed(self, ticket: int, now_ms: int, out: Out) -> list[Change]:
        """The commit is on disk: its writers are told (invariant 1). Returns what may be published now."""
        changes: list[Change] = []
        for part in self._tickets.pop(ticket):
            changes.extend(part.changes)
            host = self.hosted.get(part.doc)
            if host is None:
                continue
            host.commits -= 1
            writers = tuple(conn for conn in part.writers if conn in host.conns)
            if writers:
                out.append(Send(writers, part.frame))
            if host.held is not None and not host.commits:
                self.release_held(host, out)
            edits = host.tracking.edits_of(change.dot for change in part.changes)
            self.tell_safe(host, extension.Stage.EDGE, edits, None, out)
            self._echo_when_safe(host, out)
            if host.tracking.waiters:
                self.look_at_waiters(host, now_ms, out)
            if host.reload and not host.commits:
                host.reload = False
                self.load(host, out)
        return changes

    def commit_failed(self, ticket: int, now_ms: int, reason: str, out: Out) -> list[DocId]:
        """The disk refused: what was in these documents was acknowledged to nobody, and their clients bring it back."""
        out.append(Report("commit_failed", None, reason))
        parts = self._tickets.pop(ticket)
        for part in parts:
            host = self.hosted.get(part.doc)
            gone = [*(change.dot for change in part.changes), *self.writing.drop(part.doc)]
            if host is None:
                continue
            host.commits -= 1
            for dot in gone:
                host.unmerged.discard(dot)
            host.replica = None
            host.ready = False
            host.held = None
            self.drop_clients(host, CLOSE_CANNOT_STORE, f"this edge cannot store: {reason}", now_ms, out)
        return [part.doc for part in parts]

    # --- time --------------------------------------------------------------------------------------------------------
    def tick(self, host: Hosted, now_ms: int, out: Out) -> bool:
        """One document's time limits. True: a gap that no client can close; compare with the leader."""
        host.answered = None
        if host.claims and not host.pending:  # what was pending is gone with a document that broke
            self.claim_now(host, out)
        if host.ready_by_ms is not None and now_ms >= host.ready_by_ms:
            self.become_ready(host, out)
        self._gather(host, host.presence.expire(now_ms), None, outward=False)
        for conn, why in host.told_refused():
            self._drop_conn(conn, CLOSE_BAD_UPDATE, why, now_ms, out)
        if host.replica is not None and host.replica.early:
            return self._chase_early(host, host.replica, now_ms, out)
        host.early_asked.clear()
        return False

    def _chase_early(self, host: Hosted, replica: Replica, now_ms: int, out: Out) -> bool:
        """A gap that does not close within a time is repaired by exchanging state with whoever sent it (law 3)."""
        compare = False
        for early in list(replica.early):
            times, at_ms = host.early_asked.get(early.update, (0, early.since_ms + limits.EARLY_MS_MAX))
            if now_ms < at_ms:
                continue
            sender = early.conn if early.conn in host.conns else None
            if times >= limits.EARLY_REPAIRS_MAX or (early.conn is not None and sender is None):
                replica.drop_early(early)
                host.early_asked.pop(early.update, None)
                if sender is not None:
                    client, clock = early.missing[0]
                    reason = f"an update needs client {client} up to clock {clock}, which nobody sent"
                    self._drop_conn(sender, CLOSE_GAP, reason, now_ms, out)
                continue
            host.early_asked[early.update] = (times + 1, now_ms + limits.EARLY_MS_MAX)
            if sender is not None:
                self._greet(host, (sender,), out)
            else:
                compare = True
        if not replica.early:
            host.early_asked.clear()
        return compare

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
