"""Changes into the log, pipelined: many under way at once, each acknowledged by its own message on our inbox.

Room: what a PubAck means and what it does not. The link is handed in and taken away; changes wait in nobody's memory
here but while they are under way: the outbox on disk is the queue.

1. Every change is answered exactly once, by a version or an error, and never from within `publish`.
2. An acknowledged version was seen in the log under the current epoch: a duplicate is looked up (facts 2.2), and
   sequences that do not ascend mean that the log was replaced under a living connection.
3. Changes of one document leave in the order in which they came, large ones included.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from nats.aio.msg import Msg

from sync.change import Change
from sync.errors import BusError, BusUnreachable, LimitReached
from sync.headers import encode_change
from sync.ids import DocId, Version, shard_of
from sync.limits import MESSAGE_HEADROOM_BYTES, PUBLISH_MS_MAX

from .session import OBJECT_HEADER, Session, read_ack
from .streams import message_headers

__all__ = ["Done", "LogWriter"]

log = logging.getLogger("skerry.bus")

Done = Callable[[Version | BusError], None]

SWEEP_S = 0.25
DUPLICATES_MAX = 3  # publishing under a fresh id cannot be a duplicate twice; three is a fault of the server


@dataclass(slots=True)
class _UnderWay:
    change: Change
    done: Done
    subject: str
    headers: dict[str, str]
    payload: bytes
    due: float
    number: int = 0
    """Counts what was sent: acknowledgements come in this order."""
    attempts: int = 0


class LogWriter:
    """`appended(change, version)` is called for each change in the log; `suspicious` where the log looks replaced."""

    def __init__(self, appended: Callable[[Change, Version], None], suspicious: Callable[[], None]) -> None:
        self._appended = appended
        self._suspicious = suspicious
        self._session: Session | None = None
        self._under_way: dict[str, _UnderWay] = {}
        self._lanes: dict[DocId, deque[tuple[Change, Done]]] = {}
        self._acked_seq = 0
        self._sent_number = 0
        self._acked_number = 0
        self._acked_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def under_way_count(self) -> int:
        return len(self._under_way) + sum(1 + len(lane) for lane in self._lanes.values())

    def attach(self, session: Session) -> None:
        assert self._session is None
        self._session = session
        self._acked_seq = 0
        self._spawn(self._sweep(session))

    def detach(self, reason: str) -> None:
        """All that is under way fails; what the log has of it will be seen as a duplicate later."""
        session, self._session = self._session, None
        for task in self._tasks:
            task.cancel()
        error = BusUnreachable(f"the link to the log went down: {reason}")
        failed = [(item.change, item.done) for item in self._under_way.values()]
        for reply in self._under_way:
            if session is not None:
                session.link.forget(reply)
        self._under_way.clear()
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            failed += lane
        for _, done in failed:
            _answer(done, error)

    def publish(self, change: Change, done: Done) -> None:
        session = self._session
        if session is None:
            asyncio.get_running_loop().call_soon(_answer, done, BusUnreachable("the link to the log is down"))
        elif (lane := self._lanes.get(change.doc)) is not None:
            lane.append((change, done))  # Invariant 3: a large one before it is still under way to the object store
        else:
            self._ship(session, change, done)

    def _ship(self, session: Session, change: Change, done: Done) -> None:
        try:
            headers, payload = encode_change(change, session.epoch)
        except LimitReached as error:
            asyncio.get_running_loop().call_soon(_answer, done, BusError(str(error)))
            return
        subject = session.layout.change(shard_of(change.doc, session.shards), change.doc)
        item = _UnderWay(change, done, subject, headers, payload, 0.0)
        if len(payload) + _header_bytes(headers) > session.link.max_payload - MESSAGE_HEADROOM_BYTES:
            self._lanes[change.doc] = deque([(change, done)])  # the first is the large one itself
            self._spawn(self._ship_large(session, item))
        else:
            self._send(session, item)

    async def _ship_large(self, session: Session, item: _UnderWay) -> None:
        name = hashlib.sha256(item.headers["Nats-Msg-Id"].encode()).hexdigest()
        failed: BusError | None = None
        try:
            await session.put_object(name, item.payload)
        except BusError as error:
            failed = error
        lane = self._lanes.pop(item.change.doc)
        lane.popleft()
        if failed is not None:
            _answer(item.done, failed)
        else:
            item.headers, item.payload = {**item.headers, OBJECT_HEADER: name}, b""
            self._send(session, item)
        for change, done in lane:
            self.publish(change, done)

    def _send(self, session: Session, item: _UnderWay) -> None:
        def acked(message: Msg) -> None:
            self._acked(session, reply, message)

        item.due = asyncio.get_running_loop().time() + PUBLISH_MS_MAX / 1000
        self._sent_number += 1
        item.number = self._sent_number
        reply = session.link.inbox(acked)
        self._under_way[reply] = item
        if not session.link.send(item.subject, item.payload, item.headers, reply):
            self._finish(session, reply, BusUnreachable("the link to the log is full or down; retry"), soon=True)

    def _acked(self, session: Session, reply: str, message: Msg) -> None:
        item = self._under_way.get(reply)
        if item is None:
            return
        self._acked_number = max(self._acked_number, item.number)
        self._acked_at = asyncio.get_running_loop().time()
        try:
            seq, duplicate = read_ack(message.headers or {}, message.data)
        except BusError as error:
            if isinstance(error, BusUnreachable):
                self._suspicious()
            self._finish(session, reply, error)
            return
        if duplicate:
            item.due += PUBLISH_MS_MAX / 1000
            self._spawn(self._verify(session, reply, item, seq))
        elif seq <= self._acked_seq:  # Invariant 2
            self._suspicious()
            self._finish(session, reply, BusError(f"the log went back to {seq} from {self._acked_seq}; looking again"))
        else:
            self._acked_seq = seq
            self._finish(session, reply, Version(session.epoch, seq))

    async def _verify(self, session: Session, reply: str, item: _UnderWay, seq: int) -> None:
        """The server has seen this id: is the message there? After a purge or a roll-back it need not be."""
        try:
            found = await message_headers(session.link, session.layout.changes, seq)
        except BusError as error:
            self._finish(session, reply, error)
            return
        if self._under_way.get(reply) is not item:
            return
        if found is not None and found[0] == item.subject and found[1].get("Skerry-Dot") == item.headers["Skerry-Dot"]:
            self._finish(session, reply, Version(session.epoch, seq))
            return
        item.attempts += 1
        if item.attempts >= DUPLICATES_MAX:
            self._finish(
                session, reply, BusError(f"{item.subject}: acknowledged as duplicate of {seq}, which it is not")
            )
            return
        log.warning("bus_false_duplicate subject=%s seq=%d", item.subject, seq)
        session.link.forget(reply)
        del self._under_way[reply]
        message_id = item.headers["Nats-Msg-Id"]
        item.headers = {**item.headers, "Nats-Msg-Id": f"{message_id}:{secrets.token_hex(4)}"}
        self._send(session, item)

    def _finish(self, session: Session, reply: str, outcome: Version | BusError, *, soon: bool = False) -> None:
        session.link.forget(reply)
        item = self._under_way.pop(reply, None)
        if item is None:
            return
        if isinstance(outcome, Version):
            self._appended(item.change, outcome)
        if soon:  # Invariant 1
            asyncio.get_running_loop().call_soon(_answer, item.done, outcome)
        else:
            _answer(item.done, outcome)

    async def _sweep(self, session: Session) -> None:
        while self._session is session:
            await asyncio.sleep(SWEEP_S)
            now = asyncio.get_running_loop().time()
            # On a slow line the queue alone takes longer than the limit; to publish again would only lengthen it. While
            # acknowledgements come, in order, what has not had its turn is not late.
            moving = self._acked_at + PUBLISH_MS_MAX / 1000 > now
            late = [
                reply
                for reply, item in self._under_way.items()
                if item.due < now and not (moving and item.number > self._acked_number)
            ]
            for reply in late:
                error = BusUnreachable(f"the log did not acknowledge within {PUBLISH_MS_MAX} ms; publish again")
                self._finish(session, reply, error)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _header_bytes(headers: dict[str, str]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers.items())


def _answer(done: Done, outcome: Version | BusError) -> None:
    try:
        done(outcome)
    except Exception:
        log.exception("bus_done")
