"""What stands in line is taken, a piece in each turn of the loop (`sync.arriving`).

Room: a part of the edge machine, on what it does with what the leader says (`sync.following`): the shell's answers to
`Look` and `TakeOn`. Clients' events and time are `sync.edge`'s, which is built on this. The invariants are
`sync.arriving`'s.
"""

from __future__ import annotations

from collections import deque

from . import limits
from .answered import Looked
from .arriving import Arrival, Folded, Found, Line
from .change import Merged
from .company import Out
from .document import EMPTY_UPDATE
from .errors import DocumentBroken, InvalidUpdate, LimitReached
from .following import EdgeStep, Following
from .hosted import Hosted
from .ids import DocId
from .nesting import PlacesWanted
from .replica import Verdict
from .seeking import seek
from .step import Step
from .validate import check_update

__all__ = ["Taking"]


class Taking(Following):
    def _line_of(self, doc: DocId, number: int) -> tuple[Hosted | None, Line | None]:
        host = self._serving.hosted.get(doc)
        line = host.line if host is not None else None
        return (host, line) if line is not None and line.number == number else (None, None)

    def looked(self, doc: DocId, number: int, found: Found, now_ms: int) -> EdgeStep:
        """What a `Look` has found."""
        out: Out = []
        host, line = self._line_of(doc, number)
        if host is not None and line is not None:
            if isinstance(found, str):
                self._not_taken(host, InvalidUpdate(found), "merged_refused", now_ms, out)
                self._leave_line(host, line, now_ms)
            else:
                line.arrivals[0].pieces = deque(found)
            if host.line is not None:
                self._begin(host, line, out)
            self._pump(now_ms, out)
        return Step(tuple(out))

    def take_on(self, doc: DocId, number: int, now_ms: int) -> EdgeStep:
        """A turn of the loop: a piece of what is first in line, or some of what is small."""
        out: Out = []
        host, line = self._line_of(doc, number)
        if host is not None and line is not None:
            first = line.arrivals[0]
            if first.pieces is not None:
                taken = not first.pieces or self._take_piece(host, first, now_ms, out)
                if taken and not first.pieces:
                    self._end(host, first, now_ms, out)
                if not taken or not first.pieces:
                    self._leave_line(host, line, now_ms)
            elif not self._wants_look(host, first):  # as it does where the document has become large meanwhile
                for _ in range(limits.LINE_TURN_COUNT):
                    if not self._end(host, line.arrivals[0], now_ms, out):
                        break
                    self._leave_line(host, line, now_ms)
                    if (
                        host.line is None
                        or line.arrivals[0].pieces is not None
                        or self._wants_look(host, line.arrivals[0])
                    ):
                        break
            if host.line is not None:
                self._begin(host, line, out)
            self._pump(now_ms, out)
        return Step(tuple(out))

    def _take_piece(self, host: Hosted, arrival: Arrival, now_ms: int, out: Out) -> bool:
        """False: it cannot be, and nothing of the arrival counts any more."""
        replica, pieces = host.replica, arrival.pieces
        assert pieces is not None
        if replica is None or replica is not arrival.replica:
            arrival.lacks = True  # Invariant 3.
            pieces.clear()
            return True
        update, shape = pieces.popleft()
        try:
            if replica.judge(shape).verdict is Verdict.EARLY:
                arrival.lacks = True
                pieces.clear()
                return True
            if (pieces[-1][1] if pieces else shape).deletes:  # those come last; 50 ms where it holds 150,000
                replica.know_deletions()
            taken = replica.take(update, shape, now_ms)
            replica.materialise()
        except PlacesWanted:
            pieces.appendleft((update, shape))
            seek(host, self._serving.rebuild, out)
            return True
        except (InvalidUpdate, LimitReached, DocumentBroken) as error:
            event = "merged_refused" if isinstance(arrival.what, Merged) else "log_unreadable"
            self._not_taken(host, error, event, now_ms, out)
            return False
        self._serving.take_in(host, taken, out)
        return True

    def _end(self, host: Hosted, arrival: Arrival, now_ms: int, out: Out) -> bool:
        """All of its pieces are taken; or it has none. Invariant 2. False: it has to wait."""
        brought = None
        if arrival.pieces is not None:
            brought = Verdict.EARLY if arrival.lacks else Verdict.NEW
            if host.replica is not None:
                host.replica.look_at_deletions_again()
        match arrival.what:
            case Merged() as message:
                return self._take_broadcast(host, message, now_ms, out, brought)
            case Folded(version, dots):
                if brought is Verdict.NEW and host.replica is not None:
                    looked = Looked(check_update(EMPTY_UPDATE), taken=True)
                    replica = host.replica
                    self._take_state(host, replica, EMPTY_UPDATE, looked, version, dots, now_ms, out, of_leader=False)
                else:
                    self._catchup.want(host.doc, now_ms + limits.RETRY_MS_MIN)
                self._serving.become_ready(host, out)
        return True

    def _leave_line(self, host: Hosted, line: Line, now_ms: int) -> None:
        line.bytes -= line.arrivals.popleft().bytes
        if not line.arrivals:
            host.line = None
            if line.compare:
                self._catchup.want(host.doc, now_ms)
