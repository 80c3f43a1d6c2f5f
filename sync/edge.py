"""The edge machine: clients' updates in, changes out, merged in, fan-out, outbox.

Room: every decision of an edge and none of its I/O. A method takes an event and `now_ms` (monotonic milliseconds) and
returns a Step, which the shell (`server.edge`, the simulator) performs. What works without a link is in `sync.serving`,
the outbox and the link in `sync.outbox`; here is what the leader adds to them.

Invariants:
1. What the leader is found to lack, while nothing of the document is on its way to it, is shipped again (law 5).
2. A message of another epoch than the link's says nothing about this log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from . import extension, limits
from .change import Beacon, LogEntry, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk
from .company import Out
from .document import EMPTY_UPDATE
from .errors import ClientIdClash, DocumentBroken, InvalidUpdate, LimitReached, SkerryError
from .giving_way import REFUSED, clashed, compare, cut_wrongly, give_way, question_of, replaced
from .hosted import Hosted
from .ids import ConnId, DocId, Dot, DotSet, Origin, Version
from .outbox import Outbox
from .ports import OutboxRow, StoredDocument
from .pressure import Pressure
from .replica import Captured, Replica, Verdict, covers, fold_log
from .step import (
    AskSync,
    EdgeEffect,
    ListDocuments,
    LoadLogged,
    Report,
    Send,
    Step,
)
from .token import Token
from .tracking import Waiter
from .validate import check_state_vector, check_update

__all__ = ["Edge", "EdgeSettings", "EdgeStep"]

_LOG_AFTER_FAILURES = 2  # unanswered questions before an edge reads snapshot and log itself

EdgeStep = Step[EdgeEffect]


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    name: str
    origin: Origin
    pins: tuple[str, ...] = ()
    """Shell patterns of document ids that are kept replicated without a client."""
    namespace: str = "skerry"
    """Tokens are made for it and refused from others."""


_NOTHING: EdgeStep = Step()


class Edge(Outbox):
    def __init__(self, settings: EdgeSettings) -> None:
        super().__init__(settings.name, settings.origin, settings.namespace)
        self.settings = settings
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

    def pinned(self, doc: DocId) -> bool:
        return any(fnmatchcase(doc, pin) for pin in self.settings.pins)

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
        self._look_at_waiters(host, now_ms, out)
        if host.tracking.waiters and self.shipping.up:
            self._catchup.want(host.doc, now_ms)
            self._pump(now_ms, out)

    def refused(self, conn: ConnId, error: SkerryError, now_ms: int) -> EdgeStep:
        """The shell has looked at a frame of a client before this machine, and it cannot be."""
        out: Out = []
        self._serving.refused(conn, error, now_ms, out)
        return Step(tuple(out))

    def pending_bytes(self, conn: ConnId) -> int | None:
        """Of this connection's document, not flushed yet; None while it is being loaded."""
        host = self._serving.host_of(conn)
        return host.pending_bytes if host is not None and host.replica is not None else None

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
        self._serving.presence(doc, payload, now_ms, out)
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
        return self._serving.wants_spread

    def spread(self) -> EdgeStep:
        """News of who is here goes to everybody: at once, or a little later and then several as one."""
        out: Out = []
        self._serving.spread(out)
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
                self._look_at_waiters(host, now_ms, out)
        return Step(tuple(out), commit)

    def committed(self, ticket: int, now_ms: int) -> EdgeStep:
        """The commit is on disk: now its changes are published and its writers told."""
        out: Out = []
        self._committed(ticket, out)
        return Step(tuple(out))

    def verified(self, captured: Captured, refusal: str) -> EdgeStep:
        """What became of a `Verify`: empty, or why the state cannot replace its rows."""
        out: Out = []
        self._serving.verified(captured, refusal, out)
        return Step(tuple(out))

    def commit_failed(self, ticket: int, now_ms: int, reason: str) -> EdgeStep:
        """The disk refused the commit: nobody was told that it is safe."""
        out: Out = []
        self._commit_failed(ticket)
        for doc in self._serving.commit_failed(ticket, now_ms, reason, out):
            self._catchup.want(doc, now_ms + limits.HEAL_PAUSE_MS)  # from the log, or to heal it: not there
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
        """The log acknowledged a change at this place. Invariant 2."""
        if version.epoch != self.epoch:
            return Step()
        out: Out = []
        self._published(doc, dot, version, now_ms, out)
        return Step(tuple(out))

    def publish_failed(self, doc: DocId, dot: Dot, now_ms: int) -> EdgeStep:
        """No acknowledgement in time, or an error: it goes out again."""
        self.shipping.failed(doc, dot, now_ms)
        return Step()

    # --- what the leader says ----------------------------------------------------------------------------------------
    def merged(self, message: Merged, now_ms: int) -> EdgeStep:
        """A broadcast of the leader."""
        if message.version.epoch != self.epoch:
            return Step()  # Invariant 2.
        out: Out = []
        host = self._serving.hosted.get(message.doc)
        if host is not None and host.replica is not None:
            try:
                self._take_merged(host, host.replica, message, now_ms, out)
            except ClientIdClash as error:
                clashed(host, self._catchup, error, now_ms, out)
            except (InvalidUpdate, LimitReached) as error:
                out.append(Report("merged_refused", message.doc, str(error)))
                self._catchup.want(message.doc, now_ms)
            except DocumentBroken as error:
                self._serving.rebuild(host, str(error), out)
        elif host is not None or self.pinned(message.doc):
            if host is not None:
                self._refused(host, message.rejected, message.dots, message.reason, now_ms, out)
                self._confirm(host, message.dots, message.version, now_ms, out, answered=False)
            self._catchup.want(message.doc, now_ms)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _take_merged(self, host: Hosted, replica: Replica, message: Merged, now_ms: int, out: Out) -> None:
        ranges = message.dots.ranges()
        own = bool(ranges) and all(
            origin == self.settings.origin and replica.dots.holds(origin, first, last) for origin, first, last in ranges
        )
        update = EMPTY_UPDATE if own else message.update or EMPTY_UPDATE  # one's own comes back: nothing to read again
        before = replica.version
        host.idle_since_ms = now_ms
        if host.told is None or message.version > host.told:
            host.told = message.version
        taken, gap = replica.take_merged(message.prev, message.version, update, check_update(update), now_ms)
        self._serving.take_in(host, taken, out)
        if replica.unapplied_bytes >= limits.SLICE_BYTES:
            replica.materialise()
        moves = message.prev != message.version  # else it is held, and a broadcast lost before this shows nowhere
        if taken.verdict is not Verdict.EARLY and moves and not gap and not message.fetch:
            replica.hold_dots(message.dots)  # across a gap: what the leader had before carries no bytes
        if replica.version != before or taken.updates:
            self._serving.writing.add_version(host)
        self._refused(host, message.rejected, message.dots, message.reason, now_ms, out)
        self._confirm(host, message.dots, message.version, now_ms, out, answered=False)
        self._serving.tell_contexts(host, message.contexts, (), out)
        self._tell_version(host, before, now_ms, out)
        if gap or message.fetch:
            self._catchup.want(host.doc, now_ms)
        else:
            host.checked_ms = now_ms
        single = len(ranges) == 1 and ranges[0][1] == ranges[0][2] and not len(message.rejected)
        if single and message.prev != message.version:
            self._witnessed(message.version, host.doc, Dot(ranges[0][0], ranges[0][1]))

    def _refused(self, host: Hosted, rejected: DotSet, merged: DotSet, reason: str, now_ms: int, out: Out) -> None:
        """What of the outbox will never be merged: out of it, and who made it is told."""
        if not len(rejected):
            return
        waiting = [*host.unmerged.intersection(rejected), *self._refused_runs(host, rejected, merged, out)]
        refused = [*waiting, *(dot for dot in sorted(host.tracking.placed) if dot in rejected)]
        if refused:
            out.append(Report("change_rejected", host.doc, f"the leader refused {len(refused)} changes of this edge"))
            self._serving.tell_rejected(host, host.tracking.refused(refused), reason or "the leader refused it", out)
            self._drop(host, waiting, (), now_ms, out)
            give_way(host, self._catchup, REFUSED, now_ms, out)

    def beacon(self, beacon: Beacon, now_ms: int) -> EdgeStep:
        """Where documents are, by the leader: shows a lost last broadcast and what no clock shows."""
        out: Out = []
        for doc, version, digest in beacon.docs:
            if version.epoch == self.epoch and self._differs(doc, version, digest, out):
                self._catchup.want(doc, now_ms)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _differs(self, doc: DocId, version: Version, digest: str, out: Out) -> bool:
        host = self._serving.hosted.get(doc)
        if host is None or host.replica is None:
            return host is not None or self.pinned(doc)
        mine = host.replica.version
        if mine is None or not mine.covers(version):
            return True
        if mine != version or not digest or not self._serving.settled(host):
            return False
        try:
            return host.replica.digest() != digest
        except DocumentBroken as error:
            self._serving.rebuild(host, str(error), out)
            return False

    # --- sync with the leader ----------------------------------------------------------------------------------------
    def _pump(self, now_ms: int, out: Out) -> None:
        """Ask the leader about as many documents as may be asked about at once."""
        if not self.shipping.up:
            return
        for doc in self._catchup.due(now_ms):
            host = self._serving.host(doc, now_ms, out)
            if host.replica is None:
                self._serving.load(host, out)  # `loaded` wants the sync again
                self._catchup.postpone(doc)
                continue
            try:
                state_vector = question_of(host, host.replica)
            except DocumentBroken as error:
                self._catchup.postpone(doc)
                self._serving.rebuild(host, str(error), out)
                continue
            number = self._catchup.asked(doc, now_ms)
            host.asker = host.replica
            out.append(AskSync(SyncAsk(doc, number, state_vector, host.replica.version)))

    def sync_failed(self, doc: DocId, ask: int, now_ms: int) -> EdgeStep:
        """No leader answered: later again; where that goes on, read snapshot and log without it."""
        out: Out = []
        self._sync_failed(doc, ask, now_ms, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _sync_failed(self, doc: DocId, ask: int, now_ms: int, out: Out) -> None:
        host = self._serving.hosted.get(doc)
        if not self._catchup.closed(ask, doc) or host is None:
            return
        host.failures += 1
        pause = min(limits.RETRY_MS_MAX, limits.RETRY_MS_MIN << min(host.failures, 10))
        self._catchup.want(doc, now_ms + pause)
        if host.failures >= _LOG_AFTER_FAILURES:
            out.append(LoadLogged(doc, None))

    def sync_answered(self, answer: SyncAnswer, now_ms: int) -> EdgeStep:
        """What this edge lacked, and how far the leader is."""
        if not self._catchup.closed(answer.ask, answer.doc):
            return Step()
        out: Out = []
        host = self._serving.hosted.get(answer.doc)
        replica, asker = (host.replica, host.asker) if host is not None else (None, None)
        if host is not None and replica is not None and replica is asker and answer.version.epoch == self.epoch:
            try:
                if host.replace:
                    if replaced(self._serving, self._catchup, host, answer, now_ms, out):
                        self._confirm(host, answer.dots, answer.version, now_ms, out, answered=True)
                else:
                    self._take_answer(host, replica, answer, now_ms, out)
            except ClientIdClash as error:
                clashed(host, self._catchup, error, now_ms, out)
            except (InvalidUpdate, LimitReached) as error:
                if host.probe:
                    host.probe = {}  # Yrs cannot cut where it was asked to: asked again without
                else:
                    out.append(Report("answer_refused", answer.doc, str(error)))
                self._catchup.want(answer.doc, now_ms + (limits.RETRY_MS_MAX if host.probe is None else 0))
            except DocumentBroken as error:
                self._serving.rebuild(host, str(error), out)
        elif host is not None:
            self._catchup.want(answer.doc, now_ms + limits.RETRY_MS_MIN)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _take_answer(self, host: Hosted, replica: Replica, answer: SyncAnswer, now_ms: int, out: Out) -> None:
        theirs = check_state_vector(answer.state_vector)
        if cut_wrongly(host, check_update(answer.update), theirs):
            raise InvalidUpdate("cut within a character; asked again otherwise")
        host.failures = 0
        host.checked_ms = now_ms
        self._refused(host, answer.rejected, answer.dots, answer.reason, now_ms, out)
        self._take_state(host, replica, answer.update, answer.version, answer.dots, now_ms, out, of_leader=True)
        self._serving.become_ready(host, out)
        if host.suspect:
            host.suspect, host.probe = False, theirs
            self._catchup.want(host.doc, now_ms)
            return
        if not self._serving.settled(host):
            host.compare = bool(len(host.unmerged))
            if not host.compare:
                self._catchup.want(host.doc, now_ms + limits.RETRY_MS_MIN)
            return
        if host.told is not None and host.told.epoch == self.epoch and host.told.seq > answer.version.seq:
            self._catchup.want(host.doc, now_ms)  # a broadcast has overtaken the answer
            return
        if replica.version != answer.version:
            if self._catchup.sweeps(host.doc):
                self._catchup.want(host.doc, now_ms + limits.HEAL_PAUSE_MS)
            return
        if compare(self._serving, self._catchup, host, replica, answer, theirs, now_ms, out):
            self._tell_merged(host, sorted(host.tracking.placed), out)

    def _take_state(
        self,
        host: Hosted,
        replica: Replica,
        update: bytes,
        version: Version,
        dots: DotSet,
        now_ms: int,
        out: Out,
        *,
        of_leader: bool,
    ) -> None:
        """Take a difference that ends at `version`. What an edge folds itself is not merged by the leader."""
        taken = replica.take(update, check_update(update), now_ms)
        self._serving.take_in(host, taken, out)
        if taken.verdict is Verdict.EARLY:
            self._catchup.want(host.doc, now_ms + limits.RETRY_MS_MIN)
            return
        mine = replica.version
        if mine is None or mine.epoch != version.epoch or mine.seq < version.seq:
            replica.version = version
        replica.hold_dots(dots)
        self._serving.writing.add_version(host)
        if of_leader:
            self._confirm(host, dots, version, now_ms, out, answered=True)
        self._tell_version(host, mine, now_ms, out)

    def _tell_version(self, host: Hosted, before: Version | None, now_ms: int, out: Out) -> None:
        """To clients of the extension: everything up to here was sent; and to those who waited for it."""
        assert host.replica is not None
        conns = tuple(host.tracking.conns)
        version = host.replica.version
        if conns and version is not None and version != before:
            out.append(Send(conns, extension.encode(extension.At(version))))
        self._look_at_waiters(host, now_ms, out)

    def covers(self, doc: DocId, token: Token) -> bool:
        """Whether what this edge holds in memory has seen what the token stands for."""
        host = self._serving.hosted.get(doc)
        return host is not None and host.replica is not None and covers(host.replica, token)

    def _look_at_waiters(self, host: Hosted, now_ms: int, out: Out) -> None:
        """Who has waited long enough, one way or the other."""
        waiting: list[Waiter] = []
        for waiter in host.tracking.waiters:
            reached = host.ready and host.replica is not None and covers(host.replica, waiter.token)
            if not reached and now_ms < waiter.until_ms:
                waiting.append(waiter)
                continue
            version = host.replica.version if host.replica is not None else None
            answer = extension.Reached(waiter.number, reached, str(version) if version is not None else "nothing")
            out.append(Send((waiter.conn,), extension.encode(answer)))
        host.tracking.waiters = waiting

    def logged(
        self,
        doc: DocId,
        snapshot: Snapshot | None,
        entries: Sequence[LogEntry],
        now_ms: int,
        fold: Replica | None = None,
    ) -> EdgeStep:
        """Snapshot and log, read by this edge itself: there is no leader. `fold`: made of them already, in a thread."""
        out: Out = []
        host = self._serving.hosted.get(doc)
        if host is None or host.replica is None:
            return Step()
        try:
            if fold is None:
                fold = fold_log(doc, snapshot, entries, self.epoch, now_ms)
            if fold.version is not None:
                update = fold.diff(host.replica.state_vector())
                self._take_state(host, host.replica, update, fold.version, fold.dots, now_ms, out, of_leader=False)
        except (InvalidUpdate, LimitReached, DocumentBroken) as error:
            out.append(Report("log_unreadable", doc, str(error)))
        self._serving.become_ready(host, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def log_failed(self, doc: DocId, now_ms: int) -> EdgeStep:
        """Snapshot and log could not be read; the question to the leader is repeated anyway."""
        return Step()

    def listed(self, docs: Iterable[DocId], in_log: bool, now_ms: int) -> EdgeStep:
        """The documents of the store (a sweep after the log was lost) or of the log (for the pins)."""
        out: Out = []
        if in_log:
            for doc in docs:
                if self.pinned(doc):
                    self._catchup.want(doc, now_ms)
        else:
            self._catchup.sweep(docs, now_ms)
        self._pump(now_ms, out)
        return Step(tuple(out))

    # --- heal and repair ---------------------------------------------------------------------------------------------
    def repair_asked(self, ask: RepairAsk, now_ms: int) -> EdgeStep:
        """The leader lacks operations. Whoever has them ships them again."""
        out: Out = []
        try:
            check_state_vector(ask.state_vector)
        except InvalidUpdate:
            return Step()
        host = self._serving.host(ask.doc, now_ms, out)
        if host.replica is not None:
            self._repair(host, ask, out)
        elif len(host.repairs) < limits.REPAIRS_WAITING_MAX:
            host.repairs.append(ask)
            self._serving.load(host, out)
        return Step(tuple(out))

    def _repair(self, host: Hosted, ask: RepairAsk, out: Out) -> None:
        assert host.replica is not None
        clocks = host.replica.clocks
        if any(clocks.get(client, 0) >= following for client, following in ask.missing):
            self._serving.writing.ship_again(host, host.replica.diff(ask.state_vector))
            out.append(Report("document_healed", host.doc, "the leader asked for what the log lacks; shipped again"))

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
                self._look_at_waiters(host, now_ms, out)
            if self._serving.tick(host, now_ms, out) or self._unchecked(host, now_ms):
                self._want_again(host, now_ms)
            if self._may_leave(host):
                self._serving.leave_memory(host, now_ms, out)
        if now_ms - self._relieved_ms >= limits.LOOK_MS:
            self._relieved_ms = now_ms
            self._relieve(now_ms, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _may_leave(self, host: Hosted) -> bool:
        return host.doc not in self._shipped and not self._catchup.wants(host.doc)

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
