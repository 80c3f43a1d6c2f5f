"""Keeps one link to NATS for ever: connects, verifies, judges whether the log is the one it was, and starts again.

Room: when there is a session, and whether its log is intact. What travels over it is `server.bus`.

1. `up` and `down` are told in turn, `up` with the session that holds until the next `down`.
2. `intact` is true only where the log is the one this process knew, and the newest entry it knew of is still there.
3. Being unreachable is a state, and so is a stream that its owner has to edit first. Only what no retry can mend, at
   the very first connection (streams that no edit brings into shape, credentials that are refused), becomes the
   exception of `fatal`; it goes on trying all the same. A node that was linked once serves its clients whatever comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sync.change import Change
from sync.errors import BusError, BusRefused, BusUnreachable, StreamDiffers
from sync.ids import DocId, Dot, Version, shard_of
from sync.limits import RETRY_MS_MIN

from .log import named
from .nats_link import LinkOptions, NatsLink
from .session import Session
from .stamp import ask_stamp
from .streams import Layout, LogState, ensure_streams, message_headers, raise_epoch, read_log_state

__all__ = ["BusConfig", "BusState", "LinkKeeper", "Witness"]

log = logging.getLogger("skerry.bus")

RETRY_S_MAX = 3.0  # the link has to work within 15 s after the server is back: an attempt takes up to 5 s
ENTER_S_MAX = 10.0  # streams verified, witness looked up
LOOK_S = 5.0  # how soon a log that was replaced under a living connection is noticed, at the latest
SHAPE_LOOKS = 3  # every so many of these: has somebody edited a stream
SERVER_VERSION_MIN = (2, 11)  # batched direct get

Witness = tuple[Version, DocId, Dot]
"""An entry of the log that this process knows of."""


@dataclass(frozen=True, slots=True)
class BusConfig:
    servers: tuple[str, ...]
    namespace: str = "skerry"
    name: str = ""
    credentials: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    nkey: Path | None = None
    shards: int | None = None
    """None: as the log says; SHARDS_DEFAULT where it has to be made."""
    replicas: int = 1
    development: bool = False
    looks_only: bool = False
    """For who asks the others how it goes: streams of another shape are named in `differs`, and nothing more."""


@dataclass(frozen=True, slots=True)
class BusState:
    state: Literal["up", "down", "cut"]
    reason: str
    since_ms: int
    """Unix milliseconds."""


class LinkKeeper:
    """`up(session, intact)` and `down(reason)` are called on the event loop and do not raise."""

    def __init__(
        self,
        config: BusConfig,
        layout: Layout,
        up: Callable[[Session, bool], None],
        down: Callable[[str], None],
    ) -> None:
        assert config.servers, "no servers"
        self.state = BusState("down", "not started", _now_ms())
        self.differs: tuple[str, ...] = ()
        """How the streams differ from what this node wants, as its owner should know: one line each."""
        self.fatal: asyncio.Future[None] | None = None
        self._config = config
        self._layout = layout
        self._tell_up = up
        self._tell_down = down
        tls = config.tls_ca, config.tls_cert, config.tls_key
        self._options = LinkOptions(config.name, config.credentials, *tls, config.nkey)
        self._link: NatsLink | None = None
        self._session: Session | None = None
        self._witness: Witness | None = None
        self._doubted: tuple[Version, DocId] | None = None
        self._epoch_known: int | None = None
        self._was_up = False
        self.stores_in_all = False
        """A leader makes each stream anew that is gone when the link comes back; an edge asks for the log alone."""
        self._cut_until = 0.0
        self._look_now = asyncio.Event()
        self._wake = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    def start(self) -> None:
        assert self._life is None, "start() twice"
        loop = asyncio.get_running_loop()
        self.fatal = loop.create_future()
        self._life = loop.create_task(self._live())

    async def stop(self) -> None:
        """At once. Nothing is told any more."""
        life, self._life = self._life, None
        while life is not None and not life.done():
            life.cancel()  # again and again: wait_for of Python 3.11 swallows a cancellation that meets its result
            await asyncio.wait({life}, timeout=0.05)
        if self._link is not None:
            self._link.abort("stopped")
        self._link = self._session = None
        if self.fatal is not None and not self.fatal.done():
            self.fatal.cancel()
        self.state = BusState("down", "stopped", _now_ms())

    def cut(self, seconds: float) -> None:
        self._cut_until = time.monotonic() + seconds
        if self._link is not None:
            self._link.abort(f"cut for {seconds:g} s")
        if self.state.state != "up":  # else the end of the link says so
            self._set_state("cut", f"cut for {seconds:g} s")
        self._wake.set()

    def look_now(self) -> None:
        """Something looks as if the log had been replaced."""
        self._look_now.set()

    def look_for(self, version: Version, doc: DocId) -> None:
        """Somebody stands at this place of the document, and it was not read: a witness that knows no dot."""
        have = self._doubted
        if have is None or have[0].epoch != version.epoch or have[0].seq < version.seq:
            self._doubted = (version, doc)
        self._look_now.set()

    @property
    def current(self) -> Session | None:
        return self._session

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

    def appended(self, change: Change, version: Version) -> None:
        self.set_witness(version, change.doc, change.dot)

    async def _live(self) -> None:
        attempt = 0
        while self._life is not None:
            await self._while_cut()
            url = self._config.servers[attempt % len(self._config.servers)]
            attempt += 1
            link: NatsLink | None = None
            try:
                self._link = link = await NatsLink.open(url, self._options)
                if self._life is None or time.monotonic() < self._cut_until:
                    continue
                async with asyncio.timeout(ENTER_S_MAX):
                    state, intact = await self._enter(link)
                attempt = 0
                self._up(link, state, intact)
                reason = await self._stay(link)
                self._down(reason)
            except (BusError, TimeoutError) as error:
                if isinstance(error, StreamDiffers):
                    self._say_differs((str(error),))
                for_good = isinstance(error, BusRefused) or (isinstance(error, StreamDiffers) and not error.waits)
                if for_good and not self._was_up:
                    self._fail(error)
                why = str(error) or "the server does not answer in time"
                self._down(why)
                self._set_state(self._without_link(), why)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # our own fault, but the link lives for ever
                log.exception("bus_failed")
                self._down(f"failed: {error}")
                self._set_state(self._without_link(), f"failed: {error}")
            finally:
                self._link = None
                if link is not None:
                    link.abort("given up")
            with contextlib.suppress(TimeoutError):
                self._wake.clear()
                pause = min(RETRY_S_MAX, RETRY_MS_MIN / 1000 * 2 ** min(attempt, 6))
                async with asyncio.timeout(pause * random.uniform(0.5, 1)):  # not `wait_for`: decision 224
                    await self._wake.wait()

    async def _while_cut(self) -> None:
        while (left := self._cut_until - time.monotonic()) > 0:
            self._set_state("cut", self.state.reason if self.state.state == "cut" else f"cut for {left:.0f} s")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()

    async def _enter(self, link: NatsLink) -> tuple[LogState, bool]:
        """Streams as they have to be; the log's state; is it the one we knew (Invariant 2)?"""
        if link.server_version < SERVER_VERSION_MIN:
            have, want = (".".join(map(str, version)) for version in (link.server_version, SERVER_VERSION_MIN))
            raise BusRefused(f"nats-server {have} is too old; run {want} or newer")
        witness = (
            self._witness
        )  # before the state is read: it moves on while edits are shipped, and would be ahead of it
        quick = self._was_up and not self.stores_in_all and not self.differs
        state = await read_log_state(link, self._layout) if quick else None
        if state is None or state.epoch != self._epoch_known:  # else it is the log whose streams this process has seen
            state = await self._ensure(link)
        return await self._judge(link, state, witness)

    async def _ensure(self, link: NatsLink) -> LogState:
        config = self._config
        state = await ensure_streams(
            link,
            self._layout,
            shards=config.shards,
            replicas=config.replicas,
            development=config.development,
            looks_only=config.looks_only,
        )
        self._say_differs(state.differs)
        return state

    def _say_differs(self, differs: tuple[str, ...]) -> None:
        """Once for each state of the matter: a node that waits tries every few seconds."""
        if differs == self.differs:
            return
        self.differs = differs
        if differs and not self._config.looks_only:
            log.warning("streams_differ detail=%r", "; ".join(differs))

    async def _judge(self, link: NatsLink, state: LogState, witness: Witness | None) -> tuple[LogState, bool]:
        intact = self._epoch_known in (None, state.epoch)
        doubted, self._doubted = self._doubted, None
        if witness is not None and witness[0].epoch != state.epoch:
            intact = False
        places = (witness, None if doubted is None else (*doubted, None))
        for version, doc, dot in filter(None, places):
            if version.epoch != state.epoch or await self._still_there(link, state, version, doc, dot):
                continue
            log.error("log_rolled_back epoch=%x seq=%d doc=%s", version.epoch, version.seq, named(doc))
            try:
                epoch = await raise_epoch(link, self._layout)
            except BusRefused:
                if dot is None:
                    raise BusUnreachable("the log was rolled back, and this node may not mark it") from None
                epoch = await ask_stamp(link, self._layout, (version, doc, dot))
            state = replace(state, epoch=epoch)
            intact = False
        if not intact:
            self._witness = None
        return state, intact

    async def holds(self, link: NatsLink, witness: Witness) -> bool:
        """Is this entry in the log? Asked of the server, whoever claims that it is not."""
        state = await read_log_state(link, self._layout)
        return state is not None and await self._still_there(link, state, *witness)

    async def _still_there(
        self, link: NatsLink, state: LogState, version: Version, doc: DocId, dot: Dot | None
    ) -> bool:
        """`dot` None: a change of this document, whichever."""
        if version.seq > state.last_seq:
            return False
        found = await message_headers(link, self._layout.changes, version.seq)
        if found is None:
            return False
        subject, headers = found
        wanted = self._layout.change(shard_of(doc, state.shards), doc)
        return subject == wanted and (dot is None or headers.get("Skerry-Dot") == str(dot))

    def _up(self, link: NatsLink, state: LogState, intact: bool) -> None:
        self._session = session = Session(link, self._layout, state.epoch, state.shards, state.replicas)
        self._epoch_known = state.epoch
        self._was_up = True
        self._set_state("up", "")
        self._tell_up(session, intact)

    def _down(self, reason: str) -> None:
        if self._session is None:
            return
        self._session = None
        self._set_state(self._without_link(), reason)
        self._tell_down(reason)

    async def _stay(self, link: NatsLink) -> str:
        """Until the link ends: look every few seconds, or when something looks wrong, whether the log is the same.

        Raises StreamDiffers where somebody has edited a stream so that this node must not go on.
        """
        looks = 0
        while True:
            looks += 1
            self._look_now.clear()
            look = asyncio.ensure_future(self._look_now.wait())
            try:
                waits: list[asyncio.Future[Any]] = [look, link.closed]
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
                elif self.differs or looks % SHAPE_LOOKS == 0:
                    with contextlib.suppress(BusRefused):  # an edge may not make each stream that is gone
                        async with asyncio.timeout(ENTER_S_MAX):
                            await self._ensure(link)
            except (BusUnreachable, TimeoutError) as error:  # the heartbeat decides whether the link is dead
                log.info("bus_look detail=%r", str(error))
                await asyncio.sleep(0.2)

    async def _replaced(self, link: NatsLink) -> bool:
        witness = self._witness  # before the state is read, as in _enter
        state = await read_log_state(link, self._layout)
        known = self._session
        if state is None or known is None or state.epoch != known.epoch:
            return True
        if self._doubted is not None:
            version, doc = self._doubted
            if version.epoch == state.epoch and not await self._still_there(link, state, version, doc, None):
                return True
            if self._doubted == (version, doc):
                self._doubted = None
        return witness is not None and witness[0].epoch == state.epoch and witness[0].seq > state.last_seq

    def _fail(self, error: BaseException) -> None:
        if self.fatal is not None and not self.fatal.done():
            self.fatal.set_exception(error)

    def _without_link(self) -> Literal["down", "cut"]:
        return "cut" if time.monotonic() < self._cut_until else "down"

    def _set_state(self, state: Literal["up", "down", "cut"], reason: str) -> None:
        if (self.state.state, self.state.reason) != (state, reason):
            if self.state.state != state or state == "down":
                log.info("link state=%s reason=%r", state, reason)
            since = self.state.since_ms if self.state.state == state else _now_ms()
            self.state = BusState(state, reason, since)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
