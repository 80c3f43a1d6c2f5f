"""One process's link to NATS. It lives for ever: being unreachable is a state of it and never an exception.

Room: what is sent and heard. Whether there is a link is `server.link_keeper`, one connection `server.nats_link`,
appending `server.log_writer`, reading `server.log_reader`, the streams themselves `server.streams`.

1. `link_up` and `link_down` alternate, and every subscription is sent before whatever is sent after `link_up`: a
   broadcast that follows from it is heard.
2. What is received is decoded here; what cannot be is counted, logged and dropped, and reaches no machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from nats.aio.msg import Msg

from sync.change import Beacon, Change, LogEntry, Logged, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk, Unreadable
from sync.errors import BusError, BusUnreachable, InvalidInput
from sync.headers import (
    decode_beacon,
    decode_merged,
    decode_repair,
    decode_sync_ask,
    encode_beacon,
    encode_change,
    encode_merged,
    encode_repair,
)
from sync.ids import DocId, Dot, Version, from_subject_token
from sync.limits import MESSAGE_HEADROOM_BYTES

from . import log_reader, stamp, sync_parts
from .link_keeper import BusConfig, BusState, LinkKeeper, Witness
from .log import named, scrubbed
from .log_reader import Delivered, LogConsumer
from .log_writer import Done, LogWriter
from .nats_link import Handler, NatsLink
from .session import OBJECT_HEADER, Session
from .streams import Layout, raise_epoch, read_log_state

__all__ = ["Bus", "BusConfig", "BusListener", "BusState", "Delivered", "LogConsumer", "Witness"]

log = logging.getLogger("skerry.bus")

FROM_HEADER = "Skerry-From"
REASON_BYTES_MAX = 1024  # of a rejection, in a header
ASK_QUIETS_MAX = 4  # a question to everybody ends after so many times its wait, even if answers go on

JsonObject = dict[str, object]


class BusListener(Protocol):
    """What a bus tells, on the event loop. Nothing may block; what is raised is logged and swallowed."""

    def link_up(self, epoch: int, intact: bool) -> None: ...
    def link_down(self, reason: str) -> None: ...
    def merged(self, merged: Merged) -> None: ...
    def presence(self, doc: DocId, payload: bytes) -> None: ...
    def beacon(self, beacon: Beacon) -> None: ...
    def repair_asked(self, ask: RepairAsk) -> None: ...


class Bus:
    """`start()`, then wait for `fatal` beside everything else: its exception is what no retry can mend."""

    def __init__(self, config: BusConfig, listener: BusListener) -> None:
        self.config = config
        self.layout = Layout(config.namespace)
        self.dropped_count = 0
        """Messages that were no messages of ours, or were not sent because the link was full."""
        self._listener = listener
        self._id = secrets.token_hex(8)
        self._keeper = LinkKeeper(config, self.layout, self._up, self._down)
        self._writer = LogWriter(self._keeper.appended, self._keeper.look_now)
        self._wanted: dict[str, Handler] = {}
        self._followed: set[DocId] = set()
        self._follows_all = False
        self._sync_subjects: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Returns at once; `link_up` tells when there is a link."""
        self._keeper.start()

    async def stop(self, deadline_s: float = 5.0) -> None:
        """Wait for what is under way, at most so long, and end the link. The listener hears nothing more."""
        ends = time.monotonic() + deadline_s
        while self._busy() and time.monotonic() < ends:  # noqa: ASYNC110 - bounded, once in a process's life
            await asyncio.sleep(0.01)
        session = self._session
        if session is not None:
            with contextlib.suppress(TimeoutError, BusError):
                async with asyncio.timeout(max(0.1, ends - time.monotonic())):
                    await session.link.sent()
                    await session.link.request("$JS.API.INFO")  # answered: the server has read all before it
        await self._keeper.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.detach("stopped")

    def _busy(self) -> bool:
        return self._session is not None and bool(self._writer.under_way_count or self._tasks)

    def cut(self, seconds: float) -> None:
        """For demonstrations and tests: as if the cable were pulled for so long."""
        self._keeper.cut(seconds)

    @property
    def state(self) -> BusState:
        return self._keeper.state

    @property
    def differs(self) -> tuple[str, ...]:
        """How the streams differ from what this node wants: while it waits for that, or goes on all the same."""
        return self._keeper.differs

    @property
    def fatal(self) -> asyncio.Future[None] | None:
        """From `start` on: its exception is StreamDiffers or BusRefused. Cancelled by `stop`."""
        return self._keeper.fatal

    @property
    def epoch(self) -> int | None:
        """Of the log behind the link; None while it is down."""
        return None if self._session is None else self._session.epoch

    @property
    def shards(self) -> int | None:
        return None if self._session is None else self._session.shards

    @property
    def max_payload(self) -> int | None:
        return None if self._session is None else self._session.link.max_payload

    @property
    def witness(self) -> Witness | None:
        """The newest entry this process knows to be in the log: to be kept on disk and given to the next process."""
        return self._keeper.witness

    def set_witness(self, version: Version, doc: DocId, dot: Dot) -> None:
        self._keeper.set_witness(version, doc, dot)

    def look_for(self, version: Version, doc: DocId) -> None:
        """Is this place of the document in the log? Looked at now; where it is not, the log is marked."""
        self._keeper.look_for(version, doc)

    def session(self) -> Session:
        """Raises BusUnreachable while the link is down."""
        return self._keeper.session()

    async def new_epoch(self) -> int:
        """Tell everybody that the log's old count no longer holds. Raises BusError."""
        epoch = await raise_epoch(self.session().link, self.layout)
        self._keeper.look_now()
        return epoch

    @property
    def _session(self) -> Session | None:
        return self._keeper.current

    def _up(self, session: Session, intact: bool) -> None:
        for subject, handler in self._wanted.items():
            session.link.subscribe(subject, handler)
        self._writer.attach(session)
        _tell(lambda: self._listener.link_up(session.epoch, intact))

    def _down(self, reason: str) -> None:
        self._writer.detach(reason)
        _tell(lambda: self._listener.link_down(reason))

    # --- the log -----------------------------------------------------------------------------------------------------
    def publish(self, change: Change, done: Done) -> None:
        """Append to the log, pipelined. `done` is called once, later, with the version or why not."""
        self._writer.publish(change, done)

    async def read_log(self, doc: DocId, after: int, before: int | None) -> list[LogEntry]:
        """All entries of the document with after < seq (< before), in order. Raises BusError."""
        return await log_reader.read_log(self.session(), doc, after, before)

    async def read_unsafe(self, doc: DocId) -> set[Dot]:
        """Changes of it that leaders have refused, since pycrdt breaks over them or dies. Raises BusError."""
        return await log_reader.read_unsafe(self.session(), doc)

    async def last_seq(self) -> int:
        """The newest sequence of the whole log. Raises BusError."""
        state = await read_log_state(self.session().link, self.layout)
        if state is None:
            raise BusUnreachable(f"{self.layout.changes} is gone; it is being made anew")
        return state.last_seq

    async def documents(self) -> dict[DocId, int]:
        """Every document of the log and the number of its changes there. Raises BusError."""
        return await log_reader.list_documents(self.session())

    async def load_snapshot(self, doc: DocId) -> Snapshot | None:
        return await log_reader.load_snapshot(self.session(), doc)

    async def store_snapshot(self, snapshot: Snapshot) -> bool:
        """False where the stored one is as new, or another leader was faster. Raises BusError."""
        return await log_reader.store_snapshot(self.session(), snapshot)

    def consumer(self, shard: int) -> LogConsumer:
        return LogConsumer(self.session, shard)

    # --- broadcasts --------------------------------------------------------------------------------------------------
    def broadcast(self, merged: Merged) -> None:
        headers, payload = encode_merged(merged)
        if self._session is not None and len(payload) > self._session.link.max_payload - MESSAGE_HEADROOM_BYTES:
            thin = replace(merged, update=b"", fetch=True, contexts=())
            headers, payload = encode_merged(thin)
        self._send(self.layout.of("merged", merged.doc), payload, headers)

    def send_presence(self, doc: DocId, payload: bytes) -> None:
        self._send(self.layout.presence(self.config.name or "-", doc), payload, {FROM_HEADER: self._id})

    def send_beacon(self, shard: int, beacon: Beacon) -> None:
        headers, payload = encode_beacon(beacon)
        self._send(self.layout.of_shard("beacon", shard), payload, headers)

    def ask_repair(self, ask: RepairAsk) -> None:
        headers, payload = encode_repair(ask)
        self._send(self.layout.of("repair", ask.doc), payload, headers)

    def emit(self, doc: DocId, event: Mapping[str, object]) -> None:
        """One JSON event into the events' stream; nobody waits for it."""
        self._send(self.layout.of("events", doc), json.dumps(event, ensure_ascii=False).encode(), {})

    def reject(self, entry: LogEntry, reason: str) -> None:
        """Keep a refused entry with the reason. Tried until the link goes down; the log has the entry in any case."""
        session = self._session
        if session is not None:
            self._spawn(self._reject(session, entry, reason))

    async def _reject(self, session: Session, entry: LogEntry, reason: str) -> None:
        match entry:
            case Logged(change, version):
                doc, (headers, payload) = change.doc, encode_change(change, version.epoch)
            case Unreadable(doc, version, _, headers, payload):
                headers = {name: value for name, value in headers.items() if not name.startswith("Nats-")}
        reason = " ".join(reason.encode("ascii", "backslashreplace").decode().split())[:REASON_BYTES_MAX]
        headers = {
            **headers,
            "Nats-Msg-Id": f"rejected:{version}",
            "Skerry-Reason": reason,
            "Skerry-Version": str(version),
        }
        try:
            if len(payload) > session.link.max_payload - MESSAGE_HEADROOM_BYTES:
                name = f"rejected-{version}"
                await session.put_object(name, payload)
                headers, payload = {**headers, OBJECT_HEADER: name}, b""
            for attempt in range(3):
                try:
                    await session.publish(self.layout.of("rejected", doc), payload, headers)
                    return
                except BusUnreachable:
                    if attempt == 2 or session is not self._session:
                        raise
        except BusError as error:
            log.error("reject_not_kept doc=%s version=%s detail=%r", named(doc), version, scrubbed(str(error), doc))

    # --- following ---------------------------------------------------------------------------------------------------
    def follow(self, doc: DocId) -> None:
        """Hear broadcasts and presence of one document, over this link and the next ones."""
        if doc not in self._followed:
            self._followed.add(doc)
            if not self._follows_all:
                self._want(self.layout.of("merged", doc), self._on_merged)
                self._want(self.layout.presence("*", doc), self._on_presence)

    def unfollow(self, doc: DocId) -> None:
        if doc in self._followed:
            self._followed.discard(doc)
            self._unwant([self.layout.of("merged", doc), self.layout.presence("*", doc)])

    def follow_all(self) -> None:
        """Hear every document; `follow` adds nothing to it."""
        if not self._follows_all:
            self._follows_all = True
            for doc in sorted(self._followed):
                self._unwant([self.layout.of("merged", doc), self.layout.presence("*", doc)])
            self._want(self.layout.every("merged"), self._on_merged)
            self._want(self.layout.every_presence("*"), self._on_presence)

    def follow_beacons(self) -> None:
        """Hear the leaders' beacons, and their questions for what they lack."""
        self._want(self.layout.every("beacon"), self._on_beacon)
        self._want(self.layout.every("repair"), self._on_repair)

    def _on_merged(self, message: Msg) -> None:
        try:
            doc = from_subject_token(message.subject.rpartition(".")[2])
            merged = decode_merged(doc, message.headers or {}, message.data)
        except InvalidInput as error:
            self._drop(message, error)
            return
        try:
            self._listener.merged(merged)
        except Exception:
            log.exception("bus_listener")

    def _on_presence(self, message: Msg) -> None:
        if (message.headers or {}).get(FROM_HEADER) == self._id:
            return
        if (doc := self._doc(message)) is not None:
            _tell(lambda: self._listener.presence(doc, message.data))

    def _on_beacon(self, message: Msg) -> None:
        with self._dropping(message):
            beacon = decode_beacon(message.headers or {}, message.data)
            _tell(lambda: self._listener.beacon(beacon))

    def _on_repair(self, message: Msg) -> None:
        if (doc := self._doc(message)) is not None:
            with self._dropping(message):
                ask = decode_repair(doc, message.headers or {}, message.data)
                _tell(lambda: self._listener.repair_asked(ask))

    # --- questions ---------------------------------------------------------------------------------------------------
    async def ask_sync(self, ask: SyncAsk, shard: int) -> SyncAnswer:
        """Raises BusError: nobody leads the shard, or no answer in time."""
        return await sync_parts.ask_sync(self.session(), ask, shard)

    def serve_sync(self, shards: Iterable[int], handler: Callable[[SyncAsk, str], None]) -> None:
        """From now on answer for exactly these shards: `handler(ask, reply)`, answered by `answer(reply, …)`."""

        def asked(message: Msg) -> None:
            with self._dropping(message):
                ask = decode_sync_ask(message.headers or {}, message.data)
                _tell(lambda: handler(ask, message.reply))

        subjects = {self.layout.of_shard("sync", shard) for shard in shards}
        self._unwant(sorted(self._sync_subjects - subjects))
        for subject in sorted(subjects - self._sync_subjects):
            self._want(subject, asked)
        self._sync_subjects = subjects

    def serve_stamp(self) -> None:
        """Mark a log that was rolled back, for those that may not."""
        self._keeper.stores_in_all = True
        handle = stamp.serve_stamp(
            lambda: self.session().link, self.layout, self._keeper.holds, lambda: self._keeper.look_now()
        )
        self._want(f"{self.layout.namespace}.stamp", lambda message: self._spawn(handle(message)))

    def answer(self, reply: str, answer: SyncAnswer) -> None:
        session = self._session
        if session is not None:
            self._spawn(self._send_answer(session, reply, answer))

    async def _send_answer(self, session: Session, reply: str, answer: SyncAnswer) -> None:
        try:
            await sync_parts.send_answer(session, reply, answer)
        except BusError as error:
            log.info("sync_answer_lost doc=%s detail=%r", named(answer.doc), scrubbed(str(error), answer.doc))

    async def ask_all(self, question: Mapping[str, object], wait_s: float) -> list[JsonObject]:
        """What every node answers to an operator's question, until nobody answered for `wait_s`. Raises BusError."""
        session = self.session()
        answers: list[JsonObject] = []
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        # Not an inbox: a node in an account of its own may publish under this, and under nobody's inbox.
        reply = f"{self.layout.namespace}.answer.{secrets.token_hex(10)}"
        session.link.subscribe(reply, arrived.put_nowait)
        try:
            if not session.link.send(f"{self.layout.namespace}.ask", json.dumps(question).encode(), reply=reply):
                raise BusUnreachable("the question was not sent: the link is down or full")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s * ASK_QUIETS_MAX):
                    while True:
                        async with asyncio.timeout(wait_s):
                            message = await arrived.get()
                        if (message.headers or {}).get("Status") == "503":
                            break
                        answer = _json_object(message.data)
                        if answer is not None:
                            answers.append(answer)
            return answers
        finally:
            session.link.unsubscribe(reply)

    def serve_ask(self, handler: Callable[[JsonObject], Awaitable[JsonObject | None]]) -> None:
        """Answer operators' questions; None: this one is for somebody else."""

        def asked(message: Msg) -> None:
            question, session = _json_object(message.data), self._session
            if question is not None and session is not None and message.reply:
                self._spawn(answer(session.link, question, message.reply))

        async def answer(link: NatsLink, question: JsonObject, reply: str) -> None:
            try:
                found = await handler(question)
            except Exception as error:
                log.exception("ask_failed")
                found = {"error": str(error)}
            if found is None:
                return
            data = json.dumps(found).encode()
            if len(data) > link.max_payload - MESSAGE_HEADROOM_BYTES:
                data = json.dumps({"error": f"an answer of {len(data)} bytes: ask for less at once"}).encode()
            link.send(reply, data)

        self._want(f"{self.layout.namespace}.ask", asked)

    # --- inside ------------------------------------------------------------------------------------------------------
    def _want(self, subject: str, handler: Handler) -> None:
        self._wanted[subject] = handler
        if self._session is not None:
            self._session.link.subscribe(subject, handler)

    def _unwant(self, subjects: list[str]) -> None:
        for subject in subjects:
            if self._wanted.pop(subject, None) is not None and self._session is not None:
                self._session.link.unsubscribe(subject)

    def _send(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        """At most once: what cannot be sent now is not sent."""
        if self._session is not None and not self._session.link.send(subject, data, headers or None):
            self.dropped_count += 1

    def _doc(self, message: Msg) -> DocId | None:
        with self._dropping(message):
            return from_subject_token(message.subject.rpartition(".")[2])
        return None

    @contextlib.contextmanager
    def _dropping(self, message: Msg) -> Iterator[None]:
        """Invariant 2."""
        try:
            yield
        except InvalidInput as error:
            self._drop(message, error)

    def _drop(self, message: Msg, error: InvalidInput) -> None:
        self.dropped_count += 1
        log.warning("bus_dropped subject=%r detail=%r", message.subject, str(error))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tell(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("bus_listener")


def _json_object(data: bytes) -> JsonObject | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
