"""Documents served to clients from an edge's own disk: what works with no link at all.

Room: the lower half of the edge machine, on clients and documents that come and go (`sync.hosting`): what the log has
brought, flush and commit, and time. It does not know that there is a log; `sync.edge`, above it, does.

Invariant: an update is committed before its writer sees it echoed (law 2). Only the fan-out to the other clients runs
ahead of the disk: they are replicas too.
"""

from __future__ import annotations

from . import compacting, extension, limits, wire
from .change import Change
from .closing import CLOSE_BAD_UPDATE, CLOSE_CANNOT_STORE, CLOSE_GAP
from .company import Out, fan_out
from .content import Captured
from .document import merge
from .errors import DocumentBroken
from .hearing import greet
from .hosted import Flushed, Held, Hosted
from .hosting import Hosting
from .ids import DocId, Origin
from .replica import Replica, Taken
from .step import Commit, Report, Send

__all__ = ["Serving"]


class Serving(Hosting):
    def __init__(self, name: str, origin: Origin, namespace: str) -> None:
        super().__init__(name, origin, namespace)
        self._tickets: dict[int, tuple[Flushed, ...]] = {}

    # --- what the log has brought ------------------------------------------------------------------------------------
    def take_in(self, host: Hosted, taken: Taken, out: Out) -> None:
        """What the gate let in from the log: to the clients at once, to the disk with the next flush.

        An early update of a client that it released is that client's: it becomes a change of this edge.
        """
        if taken.refused:
            host.note_refused(taken)
        clients = {early.update: early.conn for early in taken.released if early.conn is not None}
        for update, conn in clients.items():
            if update in taken.updates:
                self._intake.pend(host, conn, update)
            else:
                host.early_asked.pop(update, None)
        updates = [update for update in taken.updates if update not in clients]
        if updates:
            host.answered = None
            update = merge(updates)
            self.writing.add_from_log(host.doc, update)
            self.tell_content(host, update, out)

    def tell_content(self, host: Hosted, update: bytes, out: Out) -> None:
        """What came from the log goes to who has been told what the document holds; the others will be."""
        if host.held is not None:
            host.held.append(Held(wire.encode(wire.Update(update))))
        elif host.conns and host.ready:
            fan_out(host, wire.encode(wire.Update(update)), (), out)

    # --- flush and commit --------------------------------------------------------------------------------------------
    @property
    def wants_flush(self) -> bool:
        return bool(self._intake.dirty or self.writing)

    @property
    def wants_flush_now(self) -> bool:
        """Somebody waits for it: what only the log has brought may wait a little (`sync.writing`, 2)."""
        return bool(self._intake.dirty or self.writing.urgent)

    def flush(self, wall_ms: int, out: Out) -> Commit | None:
        """Everything pending becomes one change per document and context, and all of it one commit."""
        flushed: dict[DocId, Flushed] = {}
        for doc in list(self._intake.dirty):
            host = self.hosted.get(doc)
            if host is None or host.replica is None or not host.pending:
                continue
            try:
                flushed[doc] = self._flush_document(host, wall_ms, out)
            except DocumentBroken as error:
                self.rebuild(host, str(error), out)
        self._intake.dirty.clear()
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
        fan_out(host, frame, later, out)
        if host.claims:
            self.telling.claim_now(host, out)
        self.telling.tell_contexts(host, [(change.dot, change.context) for change in changes], writers, out)
        return Flushed(host.doc, changes, later, frame)

    def verified(self, captured: Captured, refusal: str, out: Out) -> None:
        """The shell has looked at what `Verify` gave it."""
        host = self.hosted.get(captured.doc)
        if not compacting.end(host, captured, refusal, self.writing, out) and host is not None:
            self.rebuild(host, refusal, out)

    def committed(self, ticket: int, now_ms: int, out: Out) -> list[Change]:
        """The commit is on disk: its writers are told (the invariant). Returns what may be published now."""
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
                self.telling.release_held(host, out)
            edits = host.tracking.edits_of(change.dot for change in part.changes)
            self.telling.tell_safe(host, extension.Stage.EDGE, edits, None, out)
            self.telling.echo_when_safe(host, out)
            if host.tracking.waiters:
                self.telling.look_at_waiters(host, now_ms, out)
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
            self.telling.claim_now(host, out)
        if host.ready_by_ms is not None and now_ms >= host.ready_by_ms:
            self.become_ready(host, out)
        self.company.expire(host, now_ms)
        for conn, why in host.told_refused():
            self.drop(conn, CLOSE_BAD_UPDATE, why, now_ms, out)
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
                    self.drop(sender, CLOSE_GAP, reason, now_ms, out)
                continue
            host.early_asked[early.update] = (times + 1, now_ms + limits.EARLY_MS_MAX)
            if sender is not None:
                greet(host, (sender,), out)
            else:
                compare = True
        if not replica.early:
            host.early_asked.clear()
        return compare
