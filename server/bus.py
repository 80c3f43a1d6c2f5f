"""One process's link to NATS. It lives for ever: being unreachable is a state of it and never an exception.

Room: when the link is up, which epoch of the log it shows, and what is sent and heard through it. One connection is
`server.nats_link`, appending `server.log_writer`, reading `server.log_reader`, the streams themselves `server.streams`.

1. `link_up` and `link_down` alternate, and every subscription is sent before whatever is sent after `link_up`: a
   broadcast that follows from it is heard.
2. `intact` is true only where the log is the one this process knew, and the newest entry it knew of is still there.
3. What is received is decoded here; what cannot be is counted, logged and dropped, and reaches no machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from nats.aio.msg import Msg

from sync.change import Beacon, Change, LogEntry, Logged, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk, Unreadable
from sync.errors import BusError, BusRefused, BusUnreachable, InvalidInput, StreamDiffers
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
from sync.ids import DocId, Dot, Version, from_subject_token, shard_of
from sync.limits import MESSAGE_HEADROOM_BYTES, RETRY_MS_MIN

from . import log_reader, sync_parts
from .log_reader import Delivered, LogConsumer
from .log_writer import Done, LogWriter
from .nats_link import Handler, LinkOptions, NatsLink
from .session import OBJECT_HEADER, Session
from .streams import Layout, LogState, ensure_streams, message_headers, raise_epoch, read_log_state

__all__ = ["Bus", "BusConfig", "BusListener", "BusState", "Delivered", "LogConsumer", "Witness"]

log = logging.getLogger("skerry.bus")

RETRY_S_MAX = 3.0  # the link has to work within 15 s after the server is back: an attempt takes up to 5 s
ENTER_S_MAX = 10.0  # streams verified, witness looked up
LOOK_S = 5.0  # how soon a log that was replaced under a living connection is noticed, at the latest
SERVER_VERSION_MIN = (2, 11)  # batched direct get
FROM_HEADER = "Skerry-From"
REASON_BYTES_MAX = 1024  # of a rejection, in a header
ASK_QUIETS_MAX = 4  # a question to everybody ends after so many times its wait, even if answers go on

JsonObject = dict[str, object]
Witness = tuple[Version, DocId, Dot]


@dataclass(frozen=True, slots=True)
class BusConfig:
    servers: tuple[str, ...]
    namespace: str = "skerry"
    name: str = ""
    credentials: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    shards: int | None = None
    """None: as the log says; SHARDS_DEFAULT where it has to be made."""
    replicas: int = 1
    development: bool = False


@dataclass(frozen=True, slots=True)
class BusState:
    state: Literal["up", "down", "cut"]
    reason: str
    since_ms: int
    """Unix milliseconds."""


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
        assert config.servers, "no servers"
        self.config = config
        self.layout = Layout(config.namespace)
        self.state = BusState("down", "not started", _now_ms())
        self.dropped_count = 0
        """Messages that were no messages of ours, or were not sent because the link was full."""
        self._listener = listener
        self._options = LinkOptions(config.name, config.credentials, config.tls_ca, config.tls_cert, config.tls_key)
        self._id = secrets.token_hex(8)
        self._writer = LogWriter(self._appended, self._suspicious)
        self._session: Session | None = None
        self._link: NatsLink | None = None
        self._witness: Witness | None = None
        self._epoch_known: int | None = None
        self._wanted: dict[str, Handler] = {}
        self._followed: set[DocId] = set()
        self._follows_all = False
        self._sync_subjects: set[str] = set()
        self._cut_until = 0.0
        self._was_up = False
        self._stopping = False
        self._look_now = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._life: asyncio.Task[None] | None = None
        self.fatal: asyncio.Future[None] | None = None

    # --- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Returns at once; `link_up` tells when there is a link."""
        assert self._life is None, "start() twice"
        loop = asyncio.get_running_loop()
        self.fatal = loop.create_future()
        self._life = loop.create_task(self._live())

    async def stop(self, deadline_s: float = 5.0) -> None:
        """Wait for what is under way, at most so long, and end the link. The listener hears nothing more."""
        self._stopping = True
        ends = time.monotonic() + deadline_s
        if self._session is not None:
            while self._busy() and time.monotonic() < ends:  # noqa: ASYNC110 - bounded, once in a process's life
                await asyncio.sleep(0.01)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.1, ends - time.monotonic())):
                    if self._link is not None:
                        await self._link.sent()
                        with contextlib.suppress(BusError):  # the server has read everything before this
                            await self._link.request("$JS.API.INFO", timeout_s=1.0)
        life, self._life = self._life, None
        for task in [*self._tasks, *([life] if life is not None else [])]:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._writer.detach("stopped")
        if self._link is not None:
            self._link.abort("stopped")
        self._session = None
        if self.fatal is not None and not self.fatal.done():
            self.fatal.cancel()
        self.state = BusState("down", "stopped", _now_ms())

    def _busy(self) -> bool:
        return self._session is not None and bool(self._writer.under_way_count or self._tasks)

    def cut(self, seconds: float) -> None:
        """For demonstrations and tests: as if the cable were pulled for so long."""
        self._cut_until = time.monotonic() + seconds
        if self._link is not None:
            self._link.abort(f"cut for {seconds:g} s")
        else:
            self._set_state("cut", f"cut for {seconds:g} s")
        self._wake.set()

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
        return self._witness

    def set_witness(self, version: Version, doc: DocId, dot: Dot) -> None:
        have = self._witness
        if have is None or have[0].epoch != version.epoch or have[0].seq < version.seq:
            self._witness = (version, doc, dot)

    def session(self) -> Session:
        """Raises BusUnreachable while the link is down."""
        if self._session is None:
            raise BusUnreachable(f"no link to NATS: {self.state.reason}")
        return self._session

    async def new_epoch(self) -> int:
        """Tell everybody that the log's old count no longer holds. Raises BusError."""
        epoch = await raise_epoch(self.session().link, self.layout)
        self._look_now.set()
        return epoch

    async def _live(self) -> None:
        attempt = 0
        while True:
            await self._while_cut()
            url = self.config.servers[attempt % len(self.config.servers)]
            attempt += 1
            link: NatsLink | None = None
            try:
                self._link = link = await NatsLink.open(url, self._options)
                if time.monotonic() < self._cut_until:
                    link.abort("cut")
                    continue
                async with asyncio.timeout(ENTER_S_MAX):
                    state, intact = await self._enter(link)
                attempt = 0
                self._up(link, state, intact)
                reason = await self._stay(link)
                self._down(reason)
            except (BusError, TimeoutError) as error:
                if isinstance(error, StreamDiffers) or (isinstance(error, BusRefused) and not self._was_up):
                    self._fail(error)
                self._set_state("down", str(error) or "the server does not answer in time")
            except asyncio.CancelledError:
                raise
            except Exception as error:  # our own fault, but the link lives for ever
                log.exception("bus_failed")
                self._down(f"failed: {error}")
                self._set_state("down", f"failed: {error}")
            finally:
                self._link = None
                if link is not None:
                    link.abort("given up")
            with contextlib.suppress(TimeoutError):
                self._wake.clear()
                pause = min(RETRY_S_MAX, RETRY_MS_MIN / 1000 * 2 ** min(attempt, 6))
                await asyncio.wait_for(self._wake.wait(), pause * random.uniform(0.5, 1))

    async def _while_cut(self) -> None:
        while (left := self._cut_until - time.monotonic()) > 0:
            self._set_state("cut", self.state.reason if self.state.state == "cut" else f"cut for {left:.0f} s")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)

    async def _enter(self, link: NatsLink) -> tuple[LogState, bool]:
        """Streams as they have to be; the log's state; is it the one we knew (Invariant 2)?"""
        if link.server_version < SERVER_VERSION_MIN:
            have, want = (".".join(map(str, version)) for version in (link.server_version, SERVER_VERSION_MIN))
            raise BusRefused(f"nats-server {have} is too old; run {want} or newer")
        config = self.config
        state = await ensure_streams(
            link, self.layout, shards=config.shards, replicas=config.replicas, development=config.development
        )
        return await self._judge(link, state)

    async def _judge(self, link: NatsLink, state: LogState) -> tuple[LogState, bool]:
        intact = self._epoch_known in (None, state.epoch)
        if self._witness is not None:
            version, doc, dot = self._witness
            if version.epoch != state.epoch:
                intact = False
            elif not await self._still_there(link, state, version, doc, dot):
                log.error("log_rolled_back epoch=%x seq=%d doc=%r", version.epoch, version.seq, doc)
                epoch = await raise_epoch(link, self.layout)
                state = LogState(epoch, state.shards, state.first_seq, state.last_seq, state.replicas)
                intact = False
        if not intact:
            self._witness = None
        return state, intact

    async def _still_there(self, link: NatsLink, state: LogState, version: Version, doc: DocId, dot: Dot) -> bool:
        if version.seq > state.last_seq:
            return False
        found = await message_headers(link, self.layout.changes, version.seq)
        if found is None:
            return False
        subject, headers = found
        wanted = self.layout.change(shard_of(doc, state.shards), doc)
        return subject == wanted and headers.get("Skerry-Dot") == str(dot)

    def _up(self, link: NatsLink, state: LogState, intact: bool) -> None:
        session = Session(link, self.layout, state.epoch, state.shards, state.replicas)
        for subject, handler in self._wanted.items():
            link.subscribe(subject, handler)
        self._session = session
        self._epoch_known = state.epoch
        self._was_up = True
        self._writer.attach(session)
        self._set_state("up", "")
        _tell(lambda: self._listener.link_up(state.epoch, intact))

    def _down(self, reason: str) -> None:
        if self._session is None:
            return
        self._session = None
        self._writer.detach(reason)
        self._set_state("cut" if time.monotonic() < self._cut_until else "down", reason)
        _tell(lambda: self._listener.link_down(reason))

    async def _stay(self, link: NatsLink) -> str:
        """Until the link ends: look every few seconds, or when something looks wrong, whether the log is the same."""
        while True:
            self._look_now.clear()
            look = asyncio.ensure_future(self._look_now.wait())
            try:
                waits: list[asyncio.Future[object]] = [look, link.closed]  # type: ignore[list-item]
                await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                look.cancel()
            if link.closed.done():
                return link.closed.result()
            try:
                if await self._replaced(link):
                    async with asyncio.timeout(ENTER_S_MAX):
                        state, intact = await self._enter(link)
                    self._down("the log was made anew")
                    self._up(link, state, intact)
            except (BusUnreachable, TimeoutError) as error:  # the heartbeat decides whether the link is dead
                log.info("bus_look detail=%r", str(error))
                await asyncio.sleep(0.2)

    async def _replaced(self, link: NatsLink) -> bool:
        state = await read_log_state(link, self.layout)
        known = self._session
        if state is None or known is None or state.epoch != known.epoch:
            return True
        return self._witness is not None and self._witness[0].seq > state.last_seq

    def _appended(self, change: Change, version: Version) -> None:
        self.set_witness(version, change.doc, change.dot)

    def _suspicious(self) -> None:
        self._look_now.set()

    def _fail(self, error: BaseException) -> None:
        if self.fatal is not None and not self.fatal.done():
            self.fatal.set_exception(error)

    def _set_state(self, state: Literal["up", "down", "cut"], reason: str) -> None:
        if (self.state.state, self.state.reason) != (state, reason):
            if self.state.state != state or state == "down":
                log.info("link state=%s reason=%r", state, reason)
            since = self.state.since_ms if self.state.state == state else _now_ms()
            self.state = BusState(state, reason, since)

    # --- the log -----------------------------------------------------------------------------------------------------
    def publish(self, change: Change, done: Done) -> None:
        """Append to the log, pipelined. `done` is called once, later, with the version or why not."""
        self._writer.publish(change, done)

    async def read_log(self, doc: DocId, after: int, before: int | None) -> list[LogEntry]:
        """All entries of the document with after < seq (< before), in order. Raises BusError."""
        return await log_reader.read_log(self.session(), doc, after, before)

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
            thin = Merged(merged.doc, merged.prev, merged.version, b"", merged.dots, merged.rejected, fetch=True)
            headers, payload = encode_merged(thin)
        self._send(self.layout.of("merged", merged.doc), payload, headers)

    def send_presence(self, doc: DocId, payload: bytes) -> None:
        self._send(self.layout.of("presence", doc), payload, {FROM_HEADER: self._id})

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
            log.error("reject_not_kept doc=%r version=%s detail=%r", doc, version, str(error))

    # --- following ---------------------------------------------------------------------------------------------------
    def follow(self, doc: DocId) -> None:
        """Hear broadcasts and presence of one document, over this link and the next ones."""
        if doc not in self._followed:
            self._followed.add(doc)
            if not self._follows_all:
                self._want(self.layout.of("merged", doc), self._on_merged)
                self._want(self.layout.of("presence", doc), self._on_presence)

    def unfollow(self, doc: DocId) -> None:
        if doc in self._followed:
            self._followed.discard(doc)
            self._unwant([self.layout.of("merged", doc), self.layout.of("presence", doc)])

    def follow_all(self) -> None:
        """Hear every document; `follow` adds nothing to it."""
        if not self._follows_all:
            self._follows_all = True
            for doc in sorted(self._followed):
                self._unwant([self.layout.of("merged", doc), self.layout.of("presence", doc)])
            self._want(self.layout.every("merged"), self._on_merged)
            self._want(self.layout.every("presence"), self._on_presence)

    def follow_beacons(self) -> None:
        """Hear the leaders' beacons, and their questions for what they lack."""
        self._want(self.layout.every("beacon"), self._on_beacon)
        self._want(self.layout.every("repair"), self._on_repair)

    def _on_merged(self, message: Msg) -> None:
        if (doc := self._doc(message)) is not None:
            with self._dropping(message):
                merged = decode_merged(doc, message.headers or {}, message.data)
                _tell(lambda: self._listener.merged(merged))

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

    def answer(self, reply: str, answer: SyncAnswer) -> None:
        session = self._session
        if session is not None:
            self._spawn(self._send_answer(session, reply, answer))

    async def _send_answer(self, session: Session, reply: str, answer: SyncAnswer) -> None:
        try:
            await sync_parts.send_answer(session, reply, answer)
        except BusError as error:
            log.info("sync_answer_lost doc=%r detail=%r", answer.doc, str(error))

    async def ask_all(self, question: Mapping[str, object], wait_s: float) -> list[JsonObject]:
        """What every node answers to an operator's question, until nobody answered for `wait_s`. Raises BusError."""
        session = self.session()
        answers: list[JsonObject] = []
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        reply = session.link.inbox(arrived.put_nowait)
        try:
            if not session.link.send(f"{self.layout.namespace}.ask", json.dumps(question).encode(), reply=reply):
                raise BusUnreachable("the question was not sent: the link is down or full")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s * ASK_QUIETS_MAX):
                    while True:
                        message = await asyncio.wait_for(arrived.get(), wait_s)
                        if (message.headers or {}).get("Status") == "503":
                            break
                        answer = _json_object(message.data)
                        if answer is not None:
                            answers.append(answer)
            return answers
        finally:
            session.link.forget(reply)

    def serve_ask(self, handler: Callable[[JsonObject], Awaitable[JsonObject | None]]) -> None:
        """Answer operators' questions; None: this one is for somebody else."""

        def asked(message: Msg) -> None:
            question, link = _json_object(message.data), self._link
            if question is not None and link is not None and message.reply:
                self._spawn(answer(link, question, message.reply))

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
        """Invariant 3."""
        try:
            yield
        except InvalidInput as error:
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
