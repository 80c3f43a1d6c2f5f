"""What an edge does with what the leader and the log say: merged in, questions, answers, tokens, heal and repair.

Room: the middle of the edge machine, on the outbox and the link (`sync.outbox`). Clients' events and time are
`sync.edge`'s, which is built on this; what is too large for one turn of the loop is `sync.taking`'s, in between.

Invariants:
1. What the leader is found to lack, while nothing of the document is on its way to it, is shipped again (law 5).
2. A message of another epoch than the link's says nothing about this log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

from . import limits
from .answered import Looked, adopts, conclude, take_made, take_piece
from .arriving import Arrival, Difference, Folded, Line
from .change import Beacon, LogEntry, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk
from .company import Out
from .document import EMPTY_UPDATE
from .errors import ClientIdClash, DocumentBroken, InvalidUpdate, LimitReached, SkerryError
from .folding import fold_log
from .giving_way import REFUSED, clashed, give_way, question_of, replaced
from .hosted import Hosted
from .ids import DocId, Dot, DotSet, Origin, Version
from .nesting import PlacesWanted
from .outbox import Outbox
from .replica import Replica, Verdict, covers
from .seeking import seek
from .slices import Piece, wants_cutting
from .splits import Into, at_once_bytes
from .step import AskSync, EdgeEffect, LoadLogged, Look, Report, Step, TakeOn
from .token import Token
from .validate import check_state_vector, check_update

__all__ = ["EdgeSettings", "EdgeStep", "Following"]

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


class Following(Outbox):
    def __init__(self, settings: EdgeSettings) -> None:
        super().__init__(settings.name, settings.origin, settings.namespace)
        self.settings = settings
        self._number = 0

    def pinned(self, doc: DocId) -> bool:
        return any(fnmatchcase(doc, pin) for pin in self.settings.pins)

    # --- what the leader says ----------------------------------------------------------------------------------------
    def merged(self, message: Merged, now_ms: int) -> EdgeStep:
        """A broadcast of the leader."""
        if message.version.epoch != self.epoch:
            return Step()  # Invariant 2.
        out: Out = []
        host = self._serving.hosted.get(message.doc)
        if host is not None and host.line is not None:
            self._line_up(host, message, now_ms, out)
        elif host is not None and host.replica is not None:
            self._take_broadcast(host, message, now_ms, out)
        elif host is not None or self.pinned(message.doc):
            self._missed(message, host, now_ms, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _take_broadcast(
        self, host: Hosted, message: Merged, now_ms: int, out: Out, brought: Verdict | None = None
    ) -> bool:
        """False: it has to wait, in line."""
        if host.replica is None:
            self._missed(message, host, now_ms, out)
            return True
        try:
            self._take_merged(host, host.replica, message, now_ms, out, brought)
        except PlacesWanted:
            seek(host, self._serving.rebuild, out)
            if host.line is None:
                self._line_up(host, message, now_ms, out)
            return False
        except (InvalidUpdate, LimitReached, DocumentBroken) as error:
            self._not_taken(host, error, "merged_refused", now_ms, out)
        return True

    def _missed(self, message: Merged, host: Hosted | None, now_ms: int, out: Out) -> None:
        """The document is not in memory: its content is asked for."""
        if host is not None:
            self._refused(host, message.rejected, message.dots, message.reason, now_ms, out)
            self._confirm(host, message.dots, message.version, now_ms, out, answered=False)
        self._catchup.want(message.doc, now_ms)

    def _not_taken(self, host: Hosted, error: SkerryError, event: str, now_ms: int, out: Out) -> None:
        match error:
            case ClientIdClash():
                clashed(host, self._catchup, error, now_ms, out)
            case DocumentBroken():
                self._serving.rebuild(host, str(error), out)
            case _:
                out.append(Report(event, host.doc, str(error)))
                self._catchup.want(host.doc, now_ms)

    def _is_own(self, replica: Replica, ranges: Sequence[tuple[Origin, int, int]]) -> bool:
        """One's own comes back: nothing to read again."""
        origin = self.settings.origin
        return bool(ranges) and all(of == origin and replica.dots.holds(of, first, last) for of, first, last in ranges)

    def _take_merged(
        self, host: Hosted, replica: Replica, message: Merged, now_ms: int, out: Out, brought: Verdict | None
    ) -> None:
        """`brought`: what became of its pieces, where it was taken so."""
        ranges = message.dots.ranges()
        own = self._is_own(replica, ranges)
        update = EMPTY_UPDATE if own or brought else message.update or EMPTY_UPDATE
        before = replica.version
        host.idle_since_ms = now_ms
        if host.told is None or message.version > host.told:
            host.told = message.version
        if len(update) > limits.SLICE_BYTES:
            self._line_up(host, message, now_ms, out)
            return
        shape = check_update(update)
        held = replica.held_bytes
        if len(update) > at_once_bytes(held) and wants_cutting(update, shape, held):
            self._line_up(host, message, now_ms, out)
            return
        lacks = brought is Verdict.EARLY or (message.fetch and not own)
        taken, gap = replica.take_merged(message.prev, message.version, update, shape, now_ms, lacks)
        self._serving.take_in(host, taken, out)
        if replica.unapplied_bytes >= limits.SLICE_BYTES:
            replica.materialise()
        moves = message.prev != message.version  # else it is held, and a broadcast lost before this shows nowhere
        if taken.verdict is not Verdict.EARLY and moves and not gap and not lacks:
            replica.hold_dots(message.dots)  # across a gap: what the leader had before carries no bytes
        if replica.version != before or taken.updates:
            self._serving.writing.add_version(host)
        self._refused(host, message.rejected, message.dots, message.reason, now_ms, out)
        self._confirm(host, message.dots, message.version, now_ms, out, answered=False)
        self._serving.telling.tell_contexts(host, message.contexts, (), out)
        self._tell_version(host, before, now_ms, out)
        if gap or message.fetch:
            self._catchup.want(host.doc, now_ms)
        else:
            host.checked_ms = now_ms
        single = len(ranges) == 1 and ranges[0][1] == ranges[0][2] and not len(message.rejected)
        if single and message.prev != message.version:
            self._witnessed(message.version, host.doc, Dot(ranges[0][0], ranges[0][1]))

    # --- what is too large for one turn of the loop (`sync.arriving`) ------------------------------------------------
    def _line_up(
        self, host: Hosted, what: Merged | Folded, now_ms: int, out: Out, found: Difference | None = None
    ) -> None:
        line = host.line = host.line or Line()
        arrival = Arrival(what)
        if found is not None:
            arrival.replica, arrival.pieces = found.replica, deque(found.pieces)
        host.idle_since_ms = now_ms
        if isinstance(what, Merged) and (host.told is None or what.version > host.told):
            host.told = what.version
        if len(line.arrivals) >= limits.LINE_COUNT_MAX or line.bytes + arrival.bytes > limits.LINE_BYTES_MAX:
            self._catchup.want(host.doc, now_ms)  # as if it had been lost
            return
        line.arrivals.append(arrival)
        line.bytes += arrival.bytes
        if len(line.arrivals) == 1:
            self._begin(host, line, out)

    def _begin(self, host: Hosted, line: Line, out: Out) -> None:
        """With the first in line."""
        self._number += 1
        line.number = self._number
        first = line.arrivals[0]
        if host.seeking:
            return  # on with it when they are found
        if self._wants_look(host, first) and isinstance(first.what, Merged):
            first.replica = host.replica
            out.append(Look(host.doc, line.number, first.what.update, self.into(host.doc)))
        else:
            out.append(TakeOn(host.doc, line.number))

    def _wants_look(self, host: Hosted, arrival: Arrival) -> bool:
        """It was not looked at, and is large and not this edge's own."""
        what, replica = arrival.what, host.replica
        if arrival.pieces is not None or replica is None or not isinstance(what, Merged):
            return False
        return len(what.update) > at_once_bytes(replica.held_bytes) and not self._is_own(replica, what.dots.ranges())

    def _refused(self, host: Hosted, rejected: DotSet, merged: DotSet, reason: str, now_ms: int, out: Out) -> None:
        """What of the outbox will never be merged: out of it, and who made it is told."""
        if not len(rejected):
            return
        waiting = [*host.unmerged.intersection(rejected), *self._refused_runs(host, rejected, merged, out)]
        refused = [*waiting, *(dot for dot in sorted(host.tracking.placed) if dot in rejected)]
        if refused:
            out.append(Report("change_rejected", host.doc, f"the leader refused {len(refused)} changes of this edge"))
            self._serving.telling.tell_rejected(
                host, host.tracking.refused(refused), reason or "the leader refused it", out
            )
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
            return host.line is None or host.told is None or not host.told.covers(version)  # else it is in line
        if host.line is not None or mine != version or not digest or not self._serving.telling.settled(host):
            return False
        try:
            if host.replica.digest() != digest:
                return True
            self._catchup.spare(doc, host.compare_ms)
            return False
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

    def sync_piece(self, answer: SyncAnswer, piece: Piece, now_ms: int) -> EdgeStep | None:
        """A part of an answer that is still open. None: what remains of it has to be taken as a whole."""
        out: Out = []
        taken = take_piece(self._serving, self._catchup, self.epoch, answer, piece, now_ms, out)
        return Step(tuple(out)) if taken or out else None

    def sync_answered(self, answer: SyncAnswer, now_ms: int, looked: Looked | None = None) -> EdgeStep:
        """What this edge lacked, and how far the leader is. `looked`: what was found out about it elsewhere."""
        if not self._catchup.closed(answer.ask, answer.doc):
            return Step()
        out: Out = []
        host = self._serving.hosted.get(answer.doc)
        replica, asker = (host.replica, host.asker) if host is not None else (None, None)
        if host is not None and replica is not None and replica is asker and answer.version.epoch == self.epoch:
            try:
                if host.replace:
                    made = partial(adopts, looked=looked, update=answer.update)
                    if replaced(self._serving, self._catchup, host, answer, made, now_ms, out):
                        self._confirm(host, answer.dots, answer.version, now_ms, out, answered=True)
                else:
                    self._take_answer(host, replica, answer, looked, now_ms, out)
            except ClientIdClash as error:
                clashed(host, self._catchup, error, now_ms, out)
            except (InvalidUpdate, LimitReached) as error:
                if host.probe:
                    host.probe = {}  # asked again without the last of what both have
                else:
                    out.append(Report("answer_refused", answer.doc, str(error)))
                self._catchup.want(answer.doc, now_ms + (limits.RETRY_MS_MAX if host.probe is None else 0))
            except DocumentBroken as error:
                self._serving.rebuild(host, str(error), out)
            except PlacesWanted:
                self._seek_and_ask(host, now_ms, out)
        elif host is not None:
            self._catchup.want(answer.doc, now_ms + limits.RETRY_MS_MIN)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def _seek_and_ask(self, host: Hosted, now_ms: int, out: Out) -> None:
        """A small answer: it need not be kept."""
        seek(host, self._serving.rebuild, out)
        self._catchup.want(host.doc, now_ms + limits.RETRY_MS_MIN)

    def _take_answer(
        self, host: Hosted, replica: Replica, answer: SyncAnswer, looked: Looked | None, now_ms: int, out: Out
    ) -> None:
        theirs = check_state_vector(answer.state_vector)
        looked = looked or Looked(check_update(answer.update))
        host.failures = 0
        host.checked_ms = now_ms
        self._refused(host, answer.rejected, answer.dots, answer.reason, now_ms, out)
        update = answer.update if not looked.taken else EMPTY_UPDATE
        self._take_state(host, replica, update, looked, answer.version, answer.dots, now_ms, out, of_leader=True)
        self._serving.become_ready(host, out)
        if conclude(self._serving, self._catchup, host, replica, answer, theirs, now_ms, out):
            self._tell_merged(host, sorted(host.tracking.placed), out)

    def _take_state(
        self,
        host: Hosted,
        replica: Replica,
        update: bytes,
        looked: Looked,
        version: Version,
        dots: DotSet,
        now_ms: int,
        out: Out,
        *,
        of_leader: bool,
    ) -> None:
        """Take a difference that ends at `version`. What an edge folds itself is not merged by the leader."""
        if looked.taken:
            replica.look_at_deletions_again()
        elif not take_made(self._serving, host, replica, looked, update, out):
            taken = replica.take(update, looked.shape, now_ms)
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
        version = host.replica.version
        if version is not None and version != before:
            self._serving.telling.tell_version(host, version, out)
        self._serving.telling.look_at_waiters(host, now_ms, out)

    def covers(self, doc: DocId, token: Token) -> bool:
        """Whether what this edge holds in memory has seen what the token stands for."""
        host = self._serving.hosted.get(doc)
        return host is not None and host.replica is not None and covers(host.replica, token)

    def logged(
        self,
        doc: DocId,
        snapshot: Snapshot | None,
        entries: Sequence[LogEntry],
        now_ms: int,
        fold: Replica | None = None,
        found: Difference | None = None,
    ) -> EdgeStep:
        """Snapshot and log, read by this edge itself: there is no leader.

        `fold`: made of them already, in a thread; `found`: what this edge lacks of it, where that is large.
        """
        out: Out = []
        host = self._serving.hosted.get(doc)
        if host is None or host.replica is None:
            return Step()
        if fold is not None and fold.version is not None and fold.version.epoch != self.epoch:
            return Step()  # Invariant 2.
        if found is not None:
            self._line_up(host, found.folded, now_ms, out, found)
            return Step(tuple(out))
        try:
            if fold is None:
                fold = fold_log(doc, snapshot, entries, self.epoch, now_ms)
            if fold.version is not None:
                update = fold.diff(host.replica.state_vector())
                looked = Looked(check_update(update))
                self._take_state(
                    host, host.replica, update, looked, fold.version, fold.dots, now_ms, out, of_leader=False
                )
        except (InvalidUpdate, LimitReached, DocumentBroken) as error:
            out.append(Report("log_unreadable", doc, str(error)))
        except PlacesWanted:
            self._seek_and_ask(host, now_ms, out)
        self._serving.become_ready(host, out)
        self._pump(now_ms, out)
        return Step(tuple(out))

    def into(self, doc: DocId) -> Into:
        """The document as this edge has it, for whoever looks at what comes for it."""
        host = self._serving.hosted.get(doc)
        return host.replica.into() if host is not None and host.replica is not None else Into()

    def asks_log(self, doc: DocId) -> tuple[Replica, bytes, Into] | None:
        """Who wants to know what of the log it lacks, and what it has: for `difference_of`."""
        host = self._serving.hosted.get(doc)
        if host is None or host.replica is None:
            return None
        try:
            return host.replica, host.replica.state_vector(), host.replica.into()
        except DocumentBroken:
            return None  # met again by `logged`

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
