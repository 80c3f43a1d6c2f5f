"""Readers that are slower than their documents: brought up to date from state instead of from a queue (law 8).

Room: between the edge machine and its shell. Every step of the machine passes through here while somebody is slow, and
only then; nothing is done for a reader that keeps up. It knows connections and frames, and no socket: the shell says
`slow(conn)` when too much lies unsent, and `drained(conn)` when little does.

Invariants:
1. What a slow reader was sent for sure is remembered as clocks, never as bytes; what it is sent when it has drained is
   one difference to these, deletions whole (a state vector proves nothing about them).
2. Nothing of its own comes back to a writer before it is on the disk: a difference is made when nothing of the document
   is on its way there, or by a flush, and then it is sent when that commit has ended.
3. What is no content and cannot be made again (how safe an edit is, an answer, a refusal) is kept, in order, and sent
   behind the difference. There is a limit to that, and who reaches it is closed.

What is not kept: presence (everybody's state is sent in its place), and who wrote what in between (`Changed`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from . import extension, limits, wire
from .closing import CLOSE_LIMIT
from .digest import encode_clocks
from .edge import Edge, EdgeStep
from .errors import DocumentBroken, InvalidInput
from .hosted import Hosted
from .ids import ConnId, Version
from .replica import Replica
from .step import Close, EdgeEffect, Send, Step
from .validate import check_state_vector, check_update

__all__ = ["Readers"]

_STEP1, _STEP2, _UPDATE = b"\x00\x00", b"\x00\x01", b"\x00\x02"
_AWARENESS = wire.encode(wire.AwarenessUpdate(b""))[:1]
_AT = extension.encode(extension.At(Version(0, 0)))[:1]
_CHANGED = extension.encode(extension.Changed(()))[:1]
_FRAME_BYTES = 48  # of Python, for each that is kept
_TOO_SLOW = f"reads too slowly; retry after {limits.FLOOD_RETRY_S} s"


@dataclass(slots=True)
class _Behind:
    """One reader, from `slow` on."""

    host: Hosted
    replica: Replica | None
    clocks: dict[int, int]
    """Invariant 1: content below these was sent, or is its own and was echoed."""
    drained: bool = False
    loose: bool = True
    """The clocks say too much: what the gate had let in by `slow` may not have gone out before it. What of that is
    still to come shows here, and lowers them, until the first commit of a flush after `slow` has ended."""
    exact_after: int | None = None
    """That commit's ticket."""
    missed: bool = False
    """There is content that it was not sent."""
    asked: dict[int, int] | None = None
    """What it says itself that it has: it waits for a step 2."""
    greeting: bytes = b""
    at: bool = False
    presence: bool = False
    kept: list[bytes] = field(default_factory=list)
    kept_bytes: int = 0
    ticket: int | None = None
    """The difference is made, and waits for this commit; what comes meanwhile is kept behind it."""
    difference: list[bytes] = field(default_factory=list)
    again: bool = False
    """Slow again before the difference was sent."""

    @property
    def lacks(self) -> bool:
        return self.missed or self.asked is not None


class Readers:
    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._behind: dict[ConnId, _Behind] = {}
        self.caught_up_count = 0
        """Differences that were sent in place of a queue."""

    def __len__(self) -> int:
        """How many are slow."""
        return len(self._behind)

    # --- what the transport says -------------------------------------------------------------------------------------
    def slow(self, conn: ConnId) -> None:
        """So much lies unsent for this connection that nothing more is to be put behind it."""
        behind = self._behind.get(conn)
        if behind is not None:
            behind.drained = False
            behind.again = behind.ticket is not None
            return
        host = self._edge.host_of(conn)
        if host is not None:
            clocks = dict(host.replica.clocks) if host.replica is not None else {}
            self._behind[conn] = _Behind(host, host.replica, clocks)

    def drained(self, conn: ConnId, now_ms: int) -> EdgeStep:
        """It reads again. What is returned is not to be sifted."""
        behind = self._behind.get(conn)
        if behind is None:
            return Step()
        behind.drained = True
        behind.again = False
        return Step(tuple(self._catch_up(now_ms)))

    def closed(self, conn: ConnId) -> None:
        self._behind.pop(conn, None)

    def heard(self, conn: ConnId, frame: bytes) -> bool:
        """A frame that the machine is about to be given. True: a slow reader's question, answered when it has drained
        and of no interest to the machine: who asks and never reads costs no answer at all."""
        behind = self._behind.get(conn)
        if behind is None or frame[:2] != _STEP1:
            return False
        try:
            message = wire.decode_frame(frame)
            has = check_state_vector(message.state_vector) if isinstance(message, wire.SyncStep1) else {}
        except InvalidInput:
            return False  # the machine closes it
        behind.asked = _least(has, behind.asked) if behind.asked is not None else dict(has)
        behind.host.tracking.answered(conn)  # whatever is said to it from here on stands behind the answer
        return True

    # --- what the machine says ---------------------------------------------------------------------------------------
    def sift(self, step: EdgeStep, now_ms: int) -> EdgeStep:
        """The same step without what slow readers are not sent now, and with what drained ones are owed."""
        out = self._without(step, now_ms)
        out.extend(self._catch_up(now_ms))
        return Step(tuple(out), step.commit)

    def flushed(self, step: EdgeStep, now_ms: int) -> EdgeStep:
        """`sift` for a flush. Invariant 2."""
        out = self._without(step, now_ms)
        if step.commit is not None:
            for conn, behind in list(self._behind.items()):
                if behind.exact_after is None:
                    behind.exact_after = step.commit.ticket
                waits = behind.drained and behind.ticket is None and behind.lacks and not behind.host.pending
                if waits and self._make_difference(conn, behind, now_ms, out):
                    behind.ticket = step.commit.ticket
        out.extend(self._catch_up(now_ms))
        return Step(tuple(out), step.commit)

    def committed(self, ticket: int, step: EdgeStep, now_ms: int) -> EdgeStep:
        """`sift` for the end of a commit, also of one that failed: then whoever wrote into it is closed."""
        out = self._without(step, now_ms)
        for conn, behind in list(self._behind.items()):
            if behind.exact_after == ticket:
                behind.loose = False
            if behind.ticket == ticket:
                out.extend(self._send(conn, behind))
        out.extend(self._catch_up(now_ms))
        return Step(tuple(out), step.commit)

    def _without(self, step: EdgeStep, now_ms: int) -> list[EdgeEffect]:
        out: list[EdgeEffect] = []
        for effect in step.now:
            if isinstance(effect, Send) and not self._behind.keys().isdisjoint(effect.conns):
                quick = tuple(conn for conn in effect.conns if conn not in self._behind)
                if quick:
                    out.append(Send(quick, effect.frame))
                for conn in effect.conns:
                    if conn in self._behind:
                        self._pass_by(conn, effect.frame, len(effect.conns) == 1, now_ms, out)
                continue
            if isinstance(effect, Close):
                self._behind.pop(effect.conn, None)
            out.append(effect)
        return out

    def _pass_by(self, conn: ConnId, frame: bytes, alone: bool, now_ms: int, out: list[EdgeEffect]) -> None:
        """A frame that this slow reader is not sent. `alone`: it goes to nobody else."""
        behind = self._behind[conn]
        head = frame[:2]
        if behind.ticket is not None:
            self._keep(conn, behind, frame, now_ms, out)
        elif head == _UPDATE:
            behind.missed = True
            if behind.loose or alone:  # alone: perhaps an echo of what is here long since, which is owed all the same
                _lower(behind, frame)
        elif head == _STEP2:
            if behind.asked is None:  # asked for before it was slow
                behind.asked = {}
        elif head == _STEP1:
            behind.greeting = frame
        elif head[:1] == _AWARENESS:
            behind.presence = True
        elif head[:1] == _AT:
            behind.at = True
        elif head[:1] != _CHANGED:
            self._keep(conn, behind, frame, now_ms, out)

    def _keep(self, conn: ConnId, behind: _Behind, frame: bytes, now_ms: int, out: list[EdgeEffect]) -> None:
        """Invariant 3. What is kept already may be up to the limit, so that one large frame passes."""
        if behind.kept_bytes > limits.READER_KEPT_BYTES_MAX:
            del self._behind[conn]
            out.append(Close(conn, CLOSE_LIMIT, _TOO_SLOW))
            out.extend(self._without(self._edge.closed(conn, now_ms), now_ms))
            return
        behind.kept.append(frame)
        behind.kept_bytes += len(frame) + _FRAME_BYTES

    # --- catching up -------------------------------------------------------------------------------------------------
    def _catch_up(self, now_ms: int) -> list[EdgeEffect]:
        """Whoever has drained, where nothing of the document is on its way to the disk. Invariant 2."""
        out: list[EdgeEffect] = []
        for conn, behind in list(self._behind.items()):
            quiet = not (behind.host.commits or behind.host.pending or (behind.lacks and self._edge.wants_flush))
            if behind.drained and behind.ticket is None and quiet and self._make_difference(conn, behind, now_ms, out):
                out.extend(self._send(conn, behind))
        return out

    def _make_difference(self, conn: ConnId, behind: _Behind, now_ms: int, out: list[EdgeEffect]) -> bool:
        """False where the document is being read (anew), or a question about it cannot be answered yet: then later."""
        host, replica = behind.host, behind.host.replica
        if replica is None or (behind.asked is not None and not host.ready):
            return not behind.lacks
        behind.difference = [behind.greeting] if behind.greeting else []
        if behind.lacks:
            clocks = behind.clocks if replica is behind.replica else {}
            if behind.asked is not None:
                clocks = _least(behind.asked, clocks)
            try:
                update = replica.diff(encode_clocks(clocks))
            except DocumentBroken as error:
                out.extend(self._without(self._edge.broken(host, str(error)), now_ms))
                return False
            message = wire.Update(update) if behind.asked is None else wire.SyncStep2(update)
            behind.difference.append(wire.encode(message))
        if (behind.at or behind.asked is not None) and replica.version is not None and conn in host.tracking.conns:
            behind.difference.append(extension.encode(extension.At(replica.version)))
        return True

    def _send(self, conn: ConnId, behind: _Behind) -> list[EdgeEffect]:
        del self._behind[conn]
        self.caught_up_count += behind.lacks
        frames = [*behind.difference, *behind.kept]
        if behind.presence:
            frames.append(wire.encode(wire.AwarenessUpdate(behind.host.presence.all_told())))
        if behind.again:
            self.slow(conn)
        return [Send((conn,), frame) for frame in frames]


def _least(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    """Clocks that both have reached."""
    return {client: min(clock, other[client]) for client, clock in one.items() if client in other}


def _lower(behind: _Behind, frame: bytes) -> None:
    """It was not sent what this frame brings."""
    if len(frame) > limits.READER_LOOK_BYTES_MAX:
        behind.clocks = {}
        return
    message = wire.decode_frame(frame)
    assert isinstance(message, wire.Update)
    for client, first, _ in check_update(message.update).brings:
        if behind.clocks.get(client, 0) > first:
            behind.clocks[client] = first
