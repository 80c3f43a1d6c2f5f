"""The edge machine: clients' updates in, changes out, merged in, fan-out, outbox.

Room: every decision of an edge and none of its I/O. A method takes an event and `now_ms` (monotonic milliseconds) and
returns a Step, which the shell (`server.edge`, the simulator) performs. What works without a link is in `sync.serving`,
the outbox and the link in `sync.outbox`, what the leader adds to them in `sync.following` and `sync.taking`; here the
events of clients, disk and link meet, and time passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from . import limits
from .company import Out
from .content import Captured
from .errors import DocumentBroken, SkerryError
from .following import EdgeSettings, EdgeStep
from .hosted import Hosted
from .ids import ConnId, DocId, Dot, Version
from .nesting import Places
from .ports import OutboxRow, StoredDocument
from .pressure import Pressure
from .replica import Replica
from .step import FindPlaces, ListDocuments, Step
from .taking import Taking

__all__ = ["Edge", "EdgeSettings", "EdgeStep"]

_NOTHING: EdgeStep = Step()


class Edge(Taking):
    def __init__(self, settings: EdgeSettings) -> None:
        super().__init__(settings)
        self._relieved_ms = -limits.LOOK_MS

    @property
    def pressure(self) -> Pressure:
        return self._serving.pressure

    @property
    def hosted(self) -> Mapping[DocId, Hosted]:
        """The documents in memory, for status and tests: to be read only."""
        return self._serving.hosted

    @property
    def sweeping(self) -> bool:
        """True while documents have yet to be compared with a new log: the witness must not be stored."""
        return self._catchup.sweeping

    def host_of(self, conn: ConnId) -> Hosted | None:
        return self._serving.host_of(conn)

    # --- clients, store, presence: the lower half --------------------------------------------------------------------
    def opened(
        self, conn: ConnId, doc: DocId, now_ms: int, extended: bool = False, read_only: bool = False
    ) -> EdgeStep:
        """A client opened a document; `extended`: on a channel of the extension. Its frames follow."""
        out: Out = []
        self._serving.opened(conn, doc, extended, now_ms, out, read_only)
        return Step(tuple(out))

    def received(self, conn: ConnId, frame: bytes, now_ms: int) -> EdgeStep:
        """One binary frame of a client. Bad bytes close that connection and touch nothing else."""
        out: Out = []
        host = self._serving.received(conn, frame, now_ms, out)
        if host is not None and host.tracking.waiters:
            self._heard(host, now_ms, out)
        return Step(tuple(out)) if out else _NOTHING

    def received_all(self, conn: ConnId, frames: Sequence[bytes], now_ms: int) -> EdgeStep:
        """Frames of one client, in order. Behind one that closes the connection, nothing counts."""
        out: Out = []
        for frame in frames:
            host = self._serving.received(conn, frame, now_ms, out)
            if host is not None and host.tracking.waiters:
                self._heard(host, now_ms, out)
        return Step(tuple(out)) if out else _NOTHING

    def _heard(self, host: Hosted, now_ms: int, out: Out) -> None:
        """Somebody waits for a token at this document, perhaps since this moment."""
        self._serving.telling.look_at_waiters(host, now_ms, out)
        if host.tracking.waiters and self.shipping.up:
            self._catchup.want(host.doc, now_ms)
            self._pump(now_ms, out)

    def reads_itself(self, conn: ConnId) -> None:
        """This connection looks at the replica when its token is reached: nothing has to be sent to it before."""
        host = self._serving.host_of(conn)
        if host is not None:
            host.tracking.answered(conn)

    def refused(self, conn: ConnId, error: SkerryError, now_ms: int) -> EdgeStep:
        """The shell has looked at a frame of a client before this machine, and it cannot be."""
        out: Out = []
        self._serving.refused(conn, error, now_ms, out)
        return Step(tuple(out))

    def pending_bytes(self, conn: ConnId) -> int | None:
        """Of this connection's document, not flushed yet; None while it is being loaded, or seeking."""
        host = self._serving.host_of(conn)
        there = host is not None and host.replica is not None and not host.seeking
        return host.pending_bytes if host is not None and there else None

    def replica_of(self, conn: ConnId) -> Replica | None:
        """Of this connection's document; None while it is being loaded."""
        host = self._serving.host_of(conn)
        return host.replica if host is not None else None

    def pieces_come(self, conn: ConnId) -> None:
        """The next frames of this connection are one update in pieces."""
        host = self._serving.host_of(conn)
        if host is not None and host.replica is not None:
            with contextlib.suppress(DocumentBroken):  # met again by the first of them
                host.replica.know_deletions()

    def closed(self, conn: ConnId, now_ms: int) -> EdgeStep:
        """The connection is gone."""
        out: Out = []
        self._serving.closed(conn, now_ms, out)
        return Step(tuple(out))

    def touched(self, doc: DocId, now_ms: int) -> EdgeStep:
        """Somebody reads it without a connection: it is in use, and compared with the leader as for a client."""
        out: Out = []
        host = self._serving.host(doc, now_ms, out)
        host.idle_since_ms = now_ms
        self._serving.load(host, out)
        return Step(tuple(out))

    def presence(self, doc: DocId, payload: bytes, now_ms: int) -> EdgeStep:
        """Awareness of another edge's clients; empty: that edge asks for ours."""
        out: Out = []
        self._serving.company.presence(doc, payload, now_ms, out)
        return Step(tuple(out))

    def loaded(self, doc: DocId, stored: StoredDocument | None, now_ms: int) -> EdgeStep:
        """What the store has; None for a document that was never here."""
        out: Out = []
        host = self._serving.loaded(doc, stored, now_ms, out)
        if host is not None:
            self._learn_outbox(host, stored.outbox if stored is not None else ())
            wanted = stored is not None or host.conns or len(host.unmerged) or self.pinned(doc)
            if self.shipping.up and wanted:  # not where another's question alone made us look for it
                self._catchup.want(doc, now_ms)
            repairs, host.repairs = host.repairs, []
            for ask in repairs:
                self._repair(host, ask, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def broken(self, host: Hosted, reason: str) -> EdgeStep:
        """pycrdt broke under somebody who reads this document: it is taken from the store again."""
        out: Out = []
        self._serving.rebuild(host, reason, out)
        return Step(tuple(out))

    @property
    def wants_spread(self) -> bool:
        """There is news of who is here."""
        return self._serving.company.wants_spread

    def spread(self) -> EdgeStep:
        """News of who is here goes to everybody: at once, or a little later and then several as one."""
        out: Out = []
        self._serving.company.spread(out)
        return Step(tuple(out))

    @property
    def wants_flush(self) -> bool:
        return self._serving.wants_flush or bool(self._shipped or self._marking)

    @property
    def wants_flush_now(self) -> bool:
        """Somebody waits for the flush. Else it may come a little later, and hold more (COMMIT_LAZY_MS)."""
        return self._serving.wants_flush_now

    def flush(self, now_ms: int, wall_ms: int) -> EdgeStep:
        """Everything pending becomes one change per document (and context), and one commit. `wall_ms`: Unix time."""
        out: Out = []
        self._mark_shipped()
        commit = self._serving.flush(wall_ms, out)
        self._flushed(commit)
        for doc in sorted({write.doc for write in commit.writes} if commit is not None else ()):
            host = self._serving.hosted.get(doc)
            if host is not None and host.tracking.waiters:
                self._serving.telling.look_at_waiters(host, now_ms, out)
        return Step(tuple(out), commit)

    def committed(self, ticket: int, now_ms: int) -> EdgeStep:
        """The commit is on disk: now its changes are published and its writers told."""
        out: Out = []
        self._committed(ticket, now_ms, out)
        return Step(tuple(out))

    def verified(self, captured: Captured, refusal: str) -> EdgeStep:
        """What became of a `Verify`: empty, or why the state cannot replace its rows."""
        out: Out = []
        self._serving.verified(captured, refusal, out)
        return Step(tuple(out))

    def places_found(self, replica: Replica, places: Places | None, now_ms: int) -> EdgeStep:
        """What a `FindPlaces` has found: what has waited for it goes on."""
        out: Out = []
        replica.end_places(places)
        host = self._serving.hosted.get(replica.doc)
        if host is not None and host.seeking:
            host.seeking = False
            self._serving.take_queued(host, now_ms, out)
            if host.line is not None:
                self._begin(host, host.line, out)
            self._pump(now_ms, out)
        return Step(tuple(out))

    def seeks(self, doc: DocId) -> bool:
        """What comes for this document waits until it is found where everything stands."""
        host = self._serving.hosted.get(doc)
        return host is not None and host.seeking

    def commit_failed(self, ticket: int, now_ms: int, reason: str) -> EdgeStep:
        """The disk refused the commit: nobody was told that it is safe."""
        out: Out = []
        self._commit_failed(ticket, now_ms, reason, out)
        return Step(tuple(out))

    # --- the link and the outbox -------------------------------------------------------------------------------------
    def link_up(self, epoch: int, intact: bool, now_ms: int) -> EdgeStep:
        """The log is reachable. `intact` False: it is not the log that this edge knew, or it lost its tail."""
        out: Out = []
        self._link_up(epoch, intact, now_ms, out)
        if self.settings.pins:
            out.append(ListDocuments(in_log=True))
        self._pump(now_ms, out)
        return Step(tuple(out))

    def link_down(self, now_ms: int) -> EdgeStep:
        """Clients notice nothing."""
        out: Out = []
        self._link_down(out)
        return Step(tuple(out))

    def outbox_read(self, read: int, rows: Sequence[OutboxRow], now_ms: int) -> EdgeStep:
        """Rows of the outbox, as ReadOutbox asked for them."""
        out: Out = []
        self._outbox_read(read, rows, now_ms, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def published(self, doc: DocId, dot: Dot, version: Version, now_ms: int) -> EdgeStep:
        """The log acknowledged a change at this place. Nothing, where it is of another epoch (`sync.following`)."""
        if version.epoch != self.epoch:
            return Step()
        out: Out = []
        self._published(doc, dot, version, now_ms, out)
        return Step(tuple(out))

    def publish_failed(self, doc: DocId, dot: Dot, now_ms: int) -> EdgeStep:
        """No acknowledgement in time, or an error: it goes out again."""
        self.shipping.failed(doc, dot, now_ms)
        return Step()

    # --- time --------------------------------------------------------------------------------------------------------
    def tick(self, now_ms: int) -> EdgeStep:
        """Call every 100 ms or so: time limits, retries, what leaves memory."""
        out: Out = list(self.shipping.tick(now_ms))
        if self._late:
            self._forget_gone()
        for number, doc in self._catchup.overdue(now_ms):
            self._sync_failed(doc, number, now_ms, out)
        for host in list(self._serving.hosted.values()):
            if now_ms - host.looked_ms < limits.LOOK_MS and not host.restless:
                continue  # ten thousand quiet documents cost a comparison each
            host.looked_ms = now_ms
            if host.tracking.waiters:
                self._serving.telling.look_at_waiters(host, now_ms, out)
            if self._serving.tick(host, now_ms, out) or self._unchecked(host, now_ms):
                self._want_again(host, now_ms)
            if host.replica is not None and (state := host.replica.begin_places()) is not None:
                out.append(FindPlaces(host.doc, host.replica, state))
            if self._may_leave(host):
                self._serving.leave_memory(host, now_ms, out)
        if now_ms - self._relieved_ms >= limits.LOOK_MS:
            self._relieved_ms = now_ms
            self._relieve(now_ms, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _may_leave(self, host: Hosted) -> bool:
        return host.line is None and host.doc not in self._shipped and not self._catchup.wants(host.doc)

    def _relieve(self, now_ms: int, out: Out) -> None:
        """Over the limit of memory, documents that nobody uses leave at once, the longest unused first."""
        hosts = [host for host in self._serving.hosted.values() if host.replica is not None]
        pressure = self.pressure
        pressure.documents_bytes = sum(host.state_bytes + host.row_bytes for host in hosts)
        if pressure.documents_bytes <= pressure.documents_bytes_max:
            return
        for host in sorted(hosts, key=lambda host: host.idle_since_ms):
            if self._may_leave(host):
                self._serving.leave_memory(host, now_ms, out, 0)
                if host.replica is None or host.doc not in self._serving.hosted:
                    pressure.documents_bytes -= host.state_bytes + host.row_bytes
                    if pressure.documents_bytes <= pressure.documents_bytes_max:
                        return

    def _unchecked(self, host: Hosted, now_ms: int) -> bool:
        """Nobody said anything for long: a leader may have died with its broadcast, or acknowledged for another log."""
        quiet_ms = now_ms - host.checked_ms
        if len(host.unmerged):
            return quiet_ms >= limits.RECHECK_OUTBOX_MS
        return quiet_ms >= limits.RECHECK_MS and (bool(host.conns) or self.pinned(host.doc))

    def _want_again(self, host: Hosted, now_ms: int) -> None:
        if self.shipping.up and not self._catchup.wants(host.doc):
            host.checked_ms = now_ms
            self._catchup.want(host.doc, now_ms)
