"""What the log holds, as values: entries of one document, the newest snapshot, and the durable consumer of a shard.

Room: stored messages <-> LogEntry and Snapshot. Whether the link is up is asked for at each call (`Current`).

A message on the log's subjects that cannot be of this namespace's documents (a token that is no document id, another
spelling of one, another shard than its id's) is not an entry of any document: it is reported, acknowledged and passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.msg import Msg

from sync.change import LogEntry, Logged, Snapshot, Unreadable
from sync.errors import BusError, BusUnreachable, InvalidDocumentId, InvalidInput, StreamDiffers
from sync.folding import BREAKS
from sync.headers import decode_change, decode_snapshot, encode_snapshot, parse_version
from sync.ids import DocId, Dot, Version, from_subject_token, shard_of
from sync.limits import MESSAGE_HEADROOM_BYTES
from sync.text import parse_dot

from .log import named, scrubbed
from .record import KILLS
from .session import OBJECT_HEADER, ObjectMissing, Session, StoredMessage
from .streams import ApiError, api, place_of, subjects_of, total_of

__all__ = ["Delivered", "LogConsumer", "list_documents", "load_snapshot", "read_log", "read_unsafe", "store_snapshot"]

log = logging.getLogger("skerry.bus")

Current = Callable[[], Session]
"""The session of now. Raises BusUnreachable while the link is down."""

ACK_WAIT_S = 30
ACK_PENDING_MAX = 20_000  # reached, the server delivers nothing more until something is acknowledged (facts 2.3)
PULL_S = 5  # one pull stays open so long; the next one follows
PULL_GRACE_S = 2.0  # the server's word that a pull has ended was lost: ask anew
MADE_DIFFERENTLY = (10013, 10012, 10148, 10149)  # JetStream's ways to say that a consumer exists in another shape
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message of the log as a consumer got it. Acknowledge `seq`. `redelivered`: not for the first time."""

    entry: LogEntry
    seq: int
    consumer_seq: int
    redelivered: bool


def doc_of(session: Session, subject: str) -> DocId | None:
    """The document of a subject of the log; None for what is not one of ours."""
    parts = subject.split(".")
    try:
        doc = from_subject_token(parts[-1])
    except InvalidDocumentId:
        return None
    return doc if subject == session.layout.change(shard_of(doc, session.shards), doc) else None


async def entry_of(session: Session, doc: DocId, message: StoredMessage) -> LogEntry:
    """Raises BusError where a large change's object could not be read now."""
    version = Version(session.epoch, message.seq)
    try:
        payload = await session.payload(message.headers, message.data)
        return Logged(decode_change(doc, message.headers, payload), version)
    except (InvalidInput, ObjectMissing) as error:
        return Unreadable(doc, version, str(error), message.headers, message.data)


async def read_log(session: Session, doc: DocId, after: int, before: int | None) -> list[LogEntry]:
    """All entries of the document with after < seq (< before), in order. Raises BusError."""
    subject = session.layout.change(shard_of(doc, session.shards), doc)
    entries: list[LogEntry] = []
    async for message in session.stored(session.layout.changes, subject, after, before):
        entries.append(await entry_of(session, doc, message))
    return entries


async def read_unsafe(session: Session, doc: DocId) -> set[Dot]:
    """Changes of the document that leaders have refused for what pycrdt does over them. Raises BusError.

    Whatever else is refused, whoever folds the log refuses too.
    """
    found: set[Dot] = set()
    async for message in session.stored(session.layout.rejected, session.layout.of("rejected", doc), 0):
        if message.headers.get("Skerry-Reason", "").startswith((KILLS, BREAKS)):
            with contextlib.suppress(InvalidInput):
                found.add(parse_dot(message.headers.get("Skerry-Dot", "")))
    return found


async def list_documents(session: Session) -> dict[DocId, int]:
    """Every document of the log and how many changes it has there. Raises BusError."""
    found: dict[DocId, int] = {}
    offset = 0
    while True:
        body = {"subjects_filter": f"{session.layout.namespace}.changes.>", "offset": offset}
        info = await api(session.link, f"STREAM.INFO.{session.layout.changes}", body)
        subjects = subjects_of(info)
        for subject, count in subjects.items():
            doc = doc_of(session, subject)
            if doc is not None:
                found[doc] = count
        offset += len(subjects)
        if not subjects or offset >= total_of(info):
            return dict(sorted(found.items()))


# --- snapshots --------------------------------------------------------------------------------------------------------
async def load_snapshot(session: Session, doc: DocId) -> Snapshot | None:
    """None where there is none, or none that can be read: a snapshot only saves work. Raises BusError."""
    message = await session.last(session.layout.snapshots, session.layout.of("snapshots", doc))
    if message is None:
        return None
    try:
        return decode_snapshot(doc, message.headers, await session.payload(message.headers, message.data))
    except (InvalidInput, ObjectMissing) as error:
        log.warning("bus_snapshot_unreadable doc=%s detail=%r", named(doc), scrubbed(str(error), doc))
        return None


async def store_snapshot(session: Session, snapshot: Snapshot) -> bool:
    """Replace an older one; False where the stored one is as new, or somebody else was faster. Raises BusError."""
    subject = session.layout.of("snapshots", snapshot.doc)
    old = await session.last(session.layout.snapshots, subject)
    if old is not None:
        try:
            # Only the version is asked for: where the payload is an object, there is no need to read it.
            have = parse_version(old.headers.get("Skerry-Version", ""))
            if have.epoch > snapshot.version.epoch or have.covers(snapshot.version):
                return False
        except InvalidInput:
            pass  # what cannot be read may be replaced
    headers, payload = encode_snapshot(snapshot)
    headers = {**headers, "Nats-Expected-Last-Subject-Sequence": str(old.seq if old is not None else 0)}
    if len(payload) > session.link.max_payload - MESSAGE_HEADROOM_BYTES:
        text = f"snapshot\n{snapshot.doc}\n{snapshot.version}\n{hashlib.sha256(payload).hexdigest()}"
        name = hashlib.sha256(text.encode()).hexdigest()
        await session.put_object(name, payload)
        headers, payload = {**headers, OBJECT_HEADER: name}, b""
    try:
        await session.publish(subject, payload, headers)
    except BusUnreachable:
        raise
    except BusError as error:
        log.info("bus_snapshot_race doc=%s detail=%r", named(snapshot.doc), scrubbed(str(error), snapshot.doc))
        return False
    if old is not None and (gone := old.headers.get(OBJECT_HEADER)) and gone != headers.get(OBJECT_HEADER):
        await session.delete_object(gone)
    return True


# --- the consumer of a shard ------------------------------------------------------------------------------------------
class LogConsumer:
    """The durable consumer `leader-<shard>`. It outlives links: what was delivered can be acknowledged over the next
    one, as long as the epoch is the same.

    1. In one process and epoch, entries come in log order and without a gap, from the acknowledged place on. What the
       server has delivered to somebody who never acknowledged it (a dead leader, a dead link) it would deliver again
       after ACK_WAIT_S only, behind newer ones: such a gap shows in the consumer's own count and is read from the log.
    2. What arrived is handed out before it is forgotten; what cannot be read now is not overtaken.
    3. One pull is open at a time; what has arrived and waits is at most what it asked for.
    4. Who leads no more says so (`close`): its open pull ends, and what it was given and has not acknowledged goes to
       whoever leads now, at once instead of after ACK_WAIT_S.
    """

    def __init__(self, current: Current, shard: int) -> None:
        self._current = current
        self._shard = shard
        self._session: Session | None = None
        self._epoch = 0
        self._arrived: deque[Msg] = deque()
        self._something = asyncio.Event()
        self._replies: dict[int, str] = {}
        self._from_log: set[int] = set()
        """Handed out from the log, not acknowledged, no delivery seen."""
        self._acked_early: set[int] = set()
        """Handed out from the log, and done: acknowledged when the server delivers them after all."""
        self._unsent: list[int] = []
        self._last_seq = 0
        """Of the newest entry handed out."""
        self._last_consumer_seq = 0
        self._gap_before: int | None = None
        """Entries between the newest handed out and this sequence are to be read from the log."""
        self._credit = 0
        self._pull_ends = 0.0
        self._pull_base = ""
        self._pull_number = 0
        self._pull_reply = ""
        self._pull_failed = ""

    @property
    def name(self) -> str:
        return f"leader-{self._shard}"

    async def fetch(self, count_max: int, wait_s: float = 5.0) -> list[Delivered]:
        """The next entries, at least one, or none after `wait_s`. Raises BusError; nothing is lost by that."""
        ends = asyncio.get_running_loop().time() + wait_s
        while True:
            session = await self._bound()
            taken = await self._fill_gap(session, count_max)
            if not taken:
                await self._wait(session, count_max, ends)
                taken = await self._take_arrived(session, count_max)
            if taken or asyncio.get_running_loop().time() >= ends:
                return taken

    async def _take_arrived(self, session: Session, count_max: int) -> list[Delivered]:
        taken: list[Delivered] = []
        while self._arrived and len(taken) < count_max:
            try:
                one = await self._read(session, self._arrived[0])
            except BusError:
                if taken:  # Invariant 2
                    break
                raise
            if self._gap_before is not None:
                break
            self._arrived.popleft()
            if one is not None:
                taken.append(one)
        return taken

    async def _wait(self, session: Session, count_max: int, ends: float) -> None:
        loop = asyncio.get_running_loop()
        while not self._arrived and loop.time() < ends:
            self._pull(session, count_max)
            self._something.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(ends, self._pull_ends)):
                    await self._something.wait()
            if self._pull_failed:
                self._session = None  # deleted with its stream, or without a leader: bind again
                raise BusUnreachable(f"{self.name}: {self._pull_failed}; fetch again")
            if self._current() is not session:
                raise BusUnreachable(f"{self.name}: the link was replaced; fetch again")

    async def _fill_gap(self, session: Session, count_max: int) -> list[Delivered]:
        """Invariant 1."""
        before, taken = self._gap_before, list[Delivered]()
        if before is None:
            return taken
        subject = f"{session.layout.namespace}.changes.{self._shard}.*"
        async for message in session.stored(session.layout.changes, subject, self._last_seq, before):
            doc = doc_of(session, message.subject)
            if doc is not None:
                taken.append(Delivered(await entry_of(session, doc, message), message.seq, 0, True))
                if message.seq not in self._replies:
                    self._from_log.add(message.seq)
            else:
                self._acked_early.add(message.seq)
            if len(taken) >= count_max:
                self._last_seq = message.seq
                return taken
        self._last_seq = max(self._last_seq, before - 1)
        self._gap_before = None
        return taken

    def ack(self, seqs: tuple[int, ...]) -> None:
        """In the order of what is sent."""
        try:
            session = self._current()
        except BusUnreachable:
            session = None
        for seq in seqs:
            reply = self._replies.get(seq)
            if reply is None:
                if seq in self._from_log:
                    self._from_log.discard(seq)
                    self._acked_early.add(seq)
            elif session is not None and session.epoch == self._epoch and session.link.send(reply, b"+ACK"):
                del self._replies[seq]
            else:
                self._unsent.append(seq)

    def close(self) -> None:
        """Invariant 4. In the order of what is sent, as `ack`: what was acknowledged before stays so."""
        session, self._session = self._session, None
        if session is None:
            return

        def refuse(reply: str) -> None:
            if reply.startswith("$JS.ACK.") and session.epoch == self._epoch:
                session.link.send(reply, b"-NAK")

        session.link.unsubscribe(f"{self._pull_base}.*", late=lambda message: refuse(message.reply))
        for reply in (*self._replies.values(), *(message.reply for message in self._arrived)):
            refuse(reply)
        self._replies.clear()
        self._arrived.clear()

    async def _bound(self) -> Session:
        """The consumer exists on the server, and what was not acknowledged for want of a link is."""
        session = self._current()
        if session is self._session:
            return session
        config = {
            "durable_name": self.name,
            "name": self.name,
            "filter_subject": f"{session.layout.namespace}.changes.{self._shard}.*",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT_S * SECOND_NS,
            "max_ack_pending": ACK_PENDING_MAX,
            "max_deliver": -1,  # a limit makes a message leave silently (facts 2.3)
            "replay_policy": "instant",
            "num_replicas": 0,
        }
        stream = session.layout.changes
        try:
            info = await api(
                session.link, f"CONSUMER.CREATE.{stream}.{self.name}", {"stream_name": stream, "config": config}
            )
        except ApiError as error:
            if error.err_code in MADE_DIFFERENTLY:
                raise StreamDiffers(f"{stream}: consumer {self.name} differs; delete it, it is made anew") from error
            raise
        if session.epoch != self._epoch:
            self._arrived.clear()
            self._replies.clear()
            self._acked_early.clear()
            self._from_log.clear()
            self._unsent.clear()
            self._last_seq = place_of(info, "ack_floor")[0]
            self._gap_before = None
        self._session, self._epoch = session, session.epoch
        floor, (delivered, self._last_consumer_seq) = place_of(info, "ack_floor")[0], place_of(info, "delivered")
        self._acked_early = {seq for seq in self._acked_early if seq > floor}
        if delivered > self._last_seq:
            # What waits in `_arrived` is among it, and comes from the log instead.
            self._arrived.clear()
            self._gap_before = delivered + 1
        if self._pull_base:
            session.link.unsubscribe(f"{self._pull_base}.*")  # of an earlier binding over the same link
        self._pull_base = session.link.own_subject()
        session.link.subscribe(f"{self._pull_base}.*", self._take)
        self._credit = 0
        self._pull_failed = ""
        unsent, self._unsent = self._unsent, []
        self.ack(tuple(unsent))
        return session

    def _pull(self, session: Session, count: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._credit > 0 and now < self._pull_ends:
            return
        self._pull_number += 1
        self._pull_reply = f"{self._pull_base}.{self._pull_number}"
        self._credit = count
        self._pull_ends = now + PULL_S + PULL_GRACE_S
        body = json.dumps({"batch": count, "expires": PULL_S * SECOND_NS}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{session.layout.changes}.{self.name}"
        if not session.link.send(subject, body, reply=self._pull_reply):
            self._credit = 0
            raise BusUnreachable(f"{self.name}: the link is down or full; fetch again")

    def _take(self, message: Msg) -> None:
        """A delivery comes under the subject it was published on, the end of a pull under the pull's own."""
        status = (message.headers or {}).get("Status")
        if message.reply.startswith("$JS.ACK."):  # whatever headers it has: somebody may have stored a Status
            self._arrived.append(message)
            self._credit -= 1
        elif message.subject == self._pull_reply and status != "100":
            self._credit = 0
            if status not in ("404", "408"):  # the ordinary ends of a pull: nothing there, time is over
                self._pull_failed = f"{status} {(message.headers or {}).get('Description', '')}".strip()
        self._something.set()

    async def _read(self, session: Session, message: Msg) -> Delivered | None:
        place = _place(message.reply)
        if place is None:
            log.warning("bus_foreign_delivery consumer=%s reply=%r", self.name, message.reply)
            return None
        delivered_count, seq, consumer_seq = place
        self._replies[seq] = message.reply
        self._from_log.discard(seq)
        if seq in self._acked_early:
            self._acked_early.discard(seq)
            self.ack((seq,))
            self._last_consumer_seq = consumer_seq
            return None
        if seq > self._last_seq + 1 and consumer_seq > self._last_consumer_seq + 1:
            self._gap_before = seq
            self._last_consumer_seq = consumer_seq - 1
            return None
        doc = doc_of(session, message.subject)
        if doc is None:
            log.warning("bus_foreign_message subject=%r seq=%d", message.subject, seq)
            self.ack((seq,))
            one = None
        else:
            stored = StoredMessage(message.subject, seq, dict(message.headers or {}), message.data)
            one = Delivered(await entry_of(session, doc, stored), seq, consumer_seq, delivered_count > 1)
        self._last_seq = max(self._last_seq, seq)
        self._last_consumer_seq = consumer_seq
        return one


def _place(reply: str) -> tuple[int, int, int] | None:
    """(delivered, stream sequence, consumer sequence) of `$JS.ACK.…`: nine tokens, or eleven and more with a domain."""
    tokens = reply.split(".")
    if tokens[:2] != ["$JS", "ACK"]:
        return None
    fields = tokens[4:] if len(tokens) == 9 else tokens[6:]
    try:
        return int(fields[0]), int(fields[1]), int(fields[2])
    except (ValueError, IndexError):
        return None
