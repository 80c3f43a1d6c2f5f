"""What a client's messages mean, and what it is answered.

Room: a part of the lower half of an edge: one frame at a time, of a document that is here. It sends to that client
alone. Bad bytes and what is too much are raised; who closes connections, and loads documents, is `sync.hosting`'s.

Invariant: what a connection sends that may only read changes nothing, whatever message carries it. Presence passes.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import extension, limits, wire
from .change import Context
from .company import Company, Out
from .errors import InvalidFrame, LimitReached
from .hosted import Answered, Hosted
from .ids import ConnId
from .intake import Intake
from .replica import Verdict
from .step import Pause, Send
from .telling import Telling
from .token import decode_token
from .tracking import Waiter
from .validate import check_state_vector, check_update

__all__ = ["Hearing", "answer", "greet"]

_READ_ONLY = wire.encode(wire.PermissionDenied("read-only: this token may not change this document"))


class Hearing:
    __slots__ = ("_company", "_intake", "_name", "_namespace", "_read_only", "_telling")

    def __init__(self, name: str, namespace: str, company: Company, telling: Telling, intake: Intake) -> None:
        self._name = name
        self._namespace = namespace
        """Tokens of others are refused."""
        self._company = company
        self._telling = telling
        self._intake = intake
        self._read_only: set[ConnId] = set()

    def joined(self, host: Hosted, conn: ConnId, extended: bool, read_only: bool, out: Out) -> None:
        if read_only:
            self._read_only.add(conn)
        if extended:
            host.tracking.joined(conn)
            if read_only:
                out.append(Send((conn,), _READ_ONLY))  # before it edits: a stock client is told when it does

    def left(self, host: Hosted, conn: ConnId) -> None:
        self._read_only.discard(conn)
        host.tracking.left(conn)

    def hear(self, host: Hosted, conn: ConnId, frame: bytes, now_ms: int, out: Out) -> None:
        """Raises InvalidInput, LimitReached, DocumentBroken, PlacesWanted."""
        update = wire.short_update(frame)
        waits = host.replica is None or host.seeking
        if update is None or waits or conn in self._read_only or conn in host.tracking.conns:
            self._message(host, conn, frame, now_ms, out)
        else:  # a keystroke
            if self._intake.bring(host, conn, update, now_ms) is Verdict.SEEN:
                self._echo(host, conn, update, out)

    def _message(self, host: Hosted, conn: ConnId, frame: bytes, now_ms: int, out: Out) -> None:
        match extension.decode(frame) if conn in host.tracking.conns else wire.decode_frame(frame):
            case wire.AwarenessUpdate(payload):
                self._company.heard(host, conn, payload, now_ms, out)
            case wire.QueryAwareness():
                self._company.send_states(host, conn, out)
            case wire.PermissionDenied() | wire.Authenticate():
                pass  # a client has nothing to deny, and who it is was settled before; harmless
            case _ if host.replica is None or host.seeking:
                if host.queue(conn, frame):
                    out.append(Pause(conn))
            case wire.SyncStep1(state_vector):
                check_state_vector(state_vector)
                if host.ready:
                    answer(host, conn, state_vector, out)
                else:
                    host.asked[conn] = state_vector
            case (wire.Update() | wire.SyncStep2() | extension.Edit()) as writing if conn in self._read_only:
                self._refuse_writing(host, conn, writing, out)
            case wire.SyncStep2(update):
                if self._intake.bring(host, conn, update, now_ms) is Verdict.NEW:
                    host.relayed = True  # a step 2 holds whatever its client has, of others as well
            case wire.Update(update):
                if self._intake.bring(host, conn, update, now_ms) is Verdict.SEEN and conn not in host.tracking.conns:
                    self._echo(host, conn, update, out)
            case extension.Edit() as edit:
                self._edit(host, conn, edit, now_ms, out)
            case extension.Await() as wish:
                self._await(host, conn, wish, now_ms)
            case _:
                raise InvalidFrame("frame: only an edge says this; send edits, questions and awareness")

    def _echo(self, host: Hosted, conn: ConnId, update: bytes, out: Out) -> None:
        """A repeat: its stock client is told as of what is new, once it is safe."""
        host.echo.append((conn, wire.encode(wire.Update(update))))
        self._telling.echo_when_safe(host, out)

    def _refuse_writing(
        self, host: Hosted, conn: ConnId, message: wire.Update | wire.SyncStep2 | extension.Edit, out: Out
    ) -> None:
        """The connection stays: a stock client answers each step 1, with nothing new too, and reads on."""
        assert host.replica is not None
        seen = host.replica.judge(check_update(message.update)).verdict is Verdict.SEEN
        if not isinstance(message, extension.Edit):
            if not seen:
                out.append(Send((conn,), _READ_ONLY))
        elif message.dot in host.replica.dots:  # made while it was allowed, and sent again: told how safe it is
            host.tracking.repeated(conn, message.dot)
            self._telling.echo_when_safe(host, out)
            self._telling.tell_when_merged(host, out)
        else:
            out.append(Send((conn,), _READ_ONLY))  # also where all of it is here: its name would be a change

    def _edit(self, host: Hosted, conn: ConnId, edit: extension.Edit, now_ms: int, out: Out) -> None:
        """An update with a name. A repeat takes effect once, and is told how safe it is."""
        assert host.replica is not None
        if (reason := self._telling.rejection_of(host.doc, edit.dot)) is not None:
            self._telling.tell_rejected(host, {conn: [edit.dot]}, reason, out)
            return
        verdict = Verdict.SEEN
        if edit.dot not in host.replica.dots:
            context = Context(self._name, edit.actor, edit.causation, edit.correlation)
            verdict = self._intake.bring(host, conn, edit.update, now_ms, edit.dot, context)
        if verdict is Verdict.SEEN:
            host.replica.dots.add(edit.dot)
            host.tracking.repeated(conn, edit.dot)
            self._telling.echo_when_safe(host, out)
            self._telling.tell_when_merged(host, out)

    def _await(self, host: Hosted, conn: ConnId, wish: extension.Await, now_ms: int) -> None:
        """Kept with the document; the upper half tells when it has come so far."""
        token = decode_token(wish.token, self._namespace, host.doc)
        if len(host.tracking.waiters) >= limits.WAITERS_MAX:
            raise LimitReached("waiters", limits.WAITERS_MAX + 1, limits.WAITERS_MAX, "wait for fewer at once")
        until_ms = now_ms + min(wish.wait_ms, limits.WAIT_MS_MAX)
        host.tracking.waiters.append(Waiter(conn, wish.number, token, until_ms))


def greet(host: Hosted, conns: Iterable[ConnId], out: Out) -> None:
    """Ask these clients for what this edge lacks."""
    assert host.replica is not None
    clocks = host.replica.clocks
    shared = {client: clocks[client] for client in sorted(host.clashed) if client in clocks}
    vector = host.replica.probe(shared) if shared else host.replica.state_vector()
    out.append(Send(tuple(conns), wire.encode(wire.SyncStep1(vector))))


def answer(host: Hosted, conn: ConnId, state_vector: bytes, out: Out) -> None:
    assert host.replica is not None
    answered = host.answered
    if answered is None or answered.replica is not host.replica or answered.state_vector != state_vector:
        frame = wire.encode(wire.SyncStep2(host.replica.diff(state_vector)))
        answered = host.answered = Answered(host.replica, state_vector, frame)
    out.append(Send((conn,), answered.frame))
    if host.tracking.answered(conn) and host.replica.version is not None:
        out.append(Send((conn,), extension.encode(extension.At(host.replica.version))))
