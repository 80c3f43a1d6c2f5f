"""The commands that stay: nats, leader, edge, serve. Start in order, wait for a signal, stop in the other order.

Room: processes' lives. Each prints one line `ready key=value …` to standard output when it serves.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sync.brink import Brink, witness
from sync.errors import BusError, ConfigError, SkerryError, StoreDamaged, StreamDiffers

from . import status
from .admission import Admission
from .bus import Bus
from .config import Config, is_loopback
from .edge import ASIDE, STORE, EdgeDaemon, log
from .gateway import Gateway
from .leader import LeaderDaemon
from .nats_server import NatsServer
from .record import Record, open_record, place_for
from .salvage import mark_damaged

__all__ = ["run_edge", "run_leader", "run_nats", "run_serve"]

DAMAGES_MAX = 3  # of one store in one process' life: then the disk itself is the matter


def _ready(**facts: object) -> None:
    print("ready", *(f"{key}={value}" for key, value in facts.items()), flush=True)


async def _until_signal(*fatal: asyncio.Future[None] | None) -> None:
    """Returns on SIGTERM or SIGINT. Raises what a bus finds that no retry can mend."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await _first(stop, fatal)


async def _first(
    event: asyncio.Event, fatal: Iterable[asyncio.Future[None] | None], wait_s: float | None = None
) -> None:
    """Until the event is set, or time is up. Raises what a bus finds that no retry can mend."""
    waiting = asyncio.ensure_future(event.wait())
    futures: set[asyncio.Future[Any]] = {waiting, *(future for future in fatal if future is not None)}
    try:
        done, _ = await asyncio.wait(futures, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        for future in done - {waiting}:
            future.result()
    finally:
        waiting.cancel()


@asynccontextmanager
async def _nats(config: Config) -> AsyncIterator[NatsServer]:
    host, port = config.nats_address
    accounts = "" if config.accounts is None else config.accounts.read_text("utf-8")
    if not accounts and not is_loopback(host) and not config.insecure:
        raise ConfigError(
            f"listen: {host}:{port} can be reached from elsewhere, and nats-server asks nobody who they are; give"
            " --accounts FILE (`skerry nats-accounts` makes one), or --insecure where that is meant"
        )
    directory = config.data / "nats"
    server = NatsServer(directory, host=host, port=port, sync_always=config.sync_always, accounts=accounts)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextmanager
def _recorded(path: Path, kept: Path) -> Iterator[Record | None]:
    """What is about to be done with bytes from outside is on record while this process lives (`server.record`)."""
    record = open_record(path, kept)
    if record is None:
        yield None
        return
    witness(record)
    try:
        yield record
    finally:
        witness(Brink())
        record.close()


@asynccontextmanager
async def _leader(config: Config, record: Record | None) -> AsyncIterator[LeaderDaemon]:
    daemon = LeaderDaemon(config, record)
    daemon.bus.serve_ask(lambda question: status.answer_as_leader(daemon, question))
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


@asynccontextmanager
async def _edge(config: Config, record: Record | None) -> AsyncIterator[tuple[EdgeDaemon, str]]:
    admission = Admission(config)
    daemon = EdgeDaemon(config)
    if record is not None and record.whole is not None:
        daemon.set_stored_aside(record, record.whole)
    daemon.bus.serve_ask(lambda question: status.answer_as_edge(daemon, question))
    gateway = Gateway(daemon, config.listen_address, admission)
    try:
        host, port = await gateway.start()
        if admission.required or admission.tls is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, admission.reload)
        if not is_loopback(config.listen_address[0]) and not admission.required:
            log.warning("listens_openly address=%r detail='anybody who reaches it reads and writes'", config.listen)
        await daemon.start()
        yield daemon, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        await gateway.stop()
        await daemon.stop()


async def run_nats(config: Config) -> None:
    config = config.model_copy(update={"nats_listen": config.listen})
    async with _nats(config) as server:
        _ready(role="nats", listen=f"{server.host}:{server.port}", url=server.url)
        signalled = asyncio.get_running_loop().create_task(_until_signal())
        while not signalled.done():
            await asyncio.wait({signalled}, timeout=0.2)
            if not server.running:
                signalled.cancel()
                raise BusError(f"nats-server ended by itself; its log is {server.log_path}")


async def run_leader(config: Config) -> None:
    async with AsyncExitStack() as stack:
        if "data" in config.model_fields_set:
            path = config.data / "leader"
        else:
            path = place_for(config.namespace, config.name, config.nats)
        record = stack.enter_context(_recorded(path, path.with_name(f"{path.name}-aside")))
        daemon = await stack.enter_async_context(_leader(config, record))
        _ready(role="leader", name=config.name)
        await _until_signal(daemon.bus.fatal, daemon.tasks.died)


async def _over_damage(config: Config, life: Callable[[Config], Coroutine[Any, Any, None]]) -> None:
    """Where an edge's store turns out to be damaged, begin again: the opening sets it aside (`server.salvage`)."""
    damages = 0
    while True:
        try:
            await life(config)
        except StoreDamaged as error:
            damages += 1
            if damages == DAMAGES_MAX:
                raise
            mark_damaged(config.data / STORE, str(error))
        else:
            return


async def run_edge(config: Config) -> None:
    await _over_damage(config, _run_edge)


async def _run_edge(config: Config) -> None:
    async with AsyncExitStack() as stack:
        record = stack.enter_context(_recorded(config.data / "edge", config.data / ASIDE))
        daemon, listen = await stack.enter_async_context(_edge(config, record))
        _ready(role="edge", name=config.name, listen=listen)
        await _until_signal(daemon.bus.fatal, daemon.tasks.died)


async def run_serve(config: Config) -> None:
    """Everything on one machine."""
    await _over_damage(config, _run_serve)


async def _run_serve(config: Config) -> None:
    async with AsyncExitStack() as stack:
        record = stack.enter_context(_recorded(config.data / "edge", config.data / ASIDE))
        server = await stack.enter_async_context(_nats(config))
        config = config.model_copy(update={"nats": (server.url,)})
        leading = config.model_copy(update={"name": f"{config.name}-leader"})
        leader = await stack.enter_async_context(_leader(leading, record))
        edge, listen = await stack.enter_async_context(_edge(config, record))
        _ready(role="serve", name=config.name, listen=listen, nats=server.url)
        await _until_signal(leader.bus.fatal, edge.bus.fatal, leader.tasks.died, edge.tasks.died)


@asynccontextmanager
async def operator_bus(config: Config, wait_s: float = 5.0, *, looks_only: bool = False) -> AsyncIterator[Bus]:
    """A link for one question. Raises SkerryError where there is none in time.

    `looks_only`: also beside streams of another shape, for which nodes that start now would wait.
    """
    up = asyncio.Event()

    class _Quiet:
        def link_up(self, epoch: int, intact: bool) -> None:
            up.set()

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: None

    bus = Bus(replace(config.bus("operator"), looks_only=looks_only), _Quiet())
    await bus.start()
    try:
        await _first(up, (bus.fatal,), wait_s)
        if bus.differs and not up.is_set():
            raise StreamDiffers(bus.state.reason)
        if not up.is_set():
            servers = ", ".join(config.nats)
            raise SkerryError(f"NATS at {servers}: {bus.state.reason}; is it running? name it with --nats")
        yield bus
    finally:
        await bus.stop(1.0)
