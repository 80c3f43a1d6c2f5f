"""The processes of a campaign and what is done to them: nats-server, leaders, edges behind relays, authors.

Room: breaking and mending. When, is the schedule's; whether anything was lost is the judge's, who is told here which
promises a loss voids: what was in the outbox of a store that is gone, and in nothing else that outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from sync.errors import SkerryError
from sync.wire import SyncStep1, encode

from ..nats_server import NatsServer
from .child import Child
from .faults import Fault, targets_of
from .ground import DISK_BYTES, Ground, fill, keep_disk, mount_disk
from .judge import Judge, find_marks
from .launch import set_clock
from .relay import Relay

__all__ = ["Fleet", "Shape"]

FLOOD_DOC = "flood/0"
PAGE_BYTES = 4096
LINK_FAULTS = frozenset({"cut", "black-hole", "cut-up", "cut-down", "delay", "drop", "duplicate", "reorder", "repeat"})
STATES = "SELECT state FROM states"


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is."""

    edges: int = 3
    leaders: int = 2
    clients: int = 2
    """Offline-first authors, and as many that speak as stock Yjs does."""
    node: int = 1
    """Stock Yjs authors under Node.js."""
    docs: int = 3
    every_s: float = 0.25
    """Between two edits of an author, on the average."""
    edge_program: tuple[str, ...] = ("server.cli",)
    """The module that an edge runs: a test puts a broken one here."""
    namespace: str = "torture"
    config: Path | None = None
    """A configuration of the user's own, for every edge and leader."""
    yjs: Path | None = None
    """A directory with `node_modules` that has yjs, y-websocket and ws."""

    def targets(self) -> dict[str, tuple[str, ...]]:
        return targets_of(self.edges, self.leaders, self.clients, self.node)

    @property
    def documents(self) -> list[str]:
        return [f"notes/{number}" for number in range(1, self.docs + 1)]


class Fleet:
    def __init__(
        self,
        directory: Path,
        shape: Shape,
        seed: int,
        judge: Judge,
        wrong: Callable[[str], None] = lambda _: None,
        ground: Ground | None = None,
    ) -> None:
        """`wrong` is told what the fleet sees by itself: a disk that lacks what its edge has acknowledged."""
        self.directory = directory
        self.shape = shape
        self.judge = judge
        self.chance = random.Random(f"fleet {seed}")
        self.namespace = shape.namespace
        self.nats = NatsServer(directory / "nats")
        self.nats_busy = asyncio.Lock()
        self.nats_wanted = False
        self.children: dict[str, Child] = {}
        self.relays: dict[str, Relay] = {}
        self.ground = ground or Ground.plain()
        self._links: dict[str, int] = {}
        """Node -> number of its link, where links are of packets."""
        self._disks: dict[str, Path] = {}
        """Edge -> its small file system, where there are such."""
        self._wrong = wrong
        self._seed = seed
        self._disk_since_ms: dict[str, int] = {}
        """Edge -> when its disk was taken away or changed: what was told before that need not be on it."""
        self._clone_count = 0

    # --- beginning and ending ----------------------------------------------------------------------------------------
    async def start(self) -> None:
        await self.nats.start()
        self.nats_wanted = True
        targets = self.shape.targets()
        for name in (*targets["leader"], *targets["edge"]):
            relay = self.relays[name] = Relay(self.namespace, f"{self._seed} {name}")
            network = self.ground.network
            if network is not None:
                self._links[name] = len(self._links)
            await relay.start(self.nats.port, network.listen(self._links[name]) if network is not None else None)
        for name in targets["edge"] if self.ground.small_disks else ():
            self._disks[name] = self.directory / f"{name}-disk"
            mount_disk(self._disks[name], DISK_BYTES)
        for name in targets["leader"]:
            self.children[name] = Child("leader", name, self.directory, self._node_command("leader", name))
        for name in targets["edge"]:
            self.children[name] = self._edge(name, name)
        await asyncio.gather(*(child.start() for child in self.children.values()))
        authors = [self._author(number, name) for number, name in enumerate(targets["author"])]
        self.children.update((author.name, author) for author in authors)
        await asyncio.gather(*(author.start() for author in authors))

    async def end(self) -> None:
        for role in ("author", "edge", "leader"):
            children = [child for child in self.children.values() if child.role == role]
            await asyncio.gather(*(child.stop(5.0) for child in children))
        for relay in self.relays.values():
            await relay.stop()
        self.nats_wanted = False
        await self.nats.stop()
        while self._disks:
            keep_disk(self._disks.popitem()[1])
        self.ground.close()

    def _node_command(self, role: str, name: str) -> list[str]:
        return [
            *(self.shape.edge_program if role == "edge" else ("server.cli",)),
            *(role, "--name", name, "--namespace", self.namespace),
            *("--nats", f"nats://{self.relays[name].host}:{self.relays[name].port}"),
            *(("--config", str(self.shape.config.resolve())) if self.shape.config is not None else ()),
        ]

    def _edge(self, name: str, relayed: str) -> Child:
        command = self._node_command("edge", relayed)
        command[command.index("--name") + 1] = name
        data = ("--data", str(self.data(name)))
        return Child("edge", name, self.directory, [*command, *data, "--listen", "{listen}", "--pin", "*"])

    def _author(self, number: int, name: str) -> Child:
        shape = self.shape
        edges = self.addresses(number % shape.edges)
        journal = self.journal(name)
        if number >= 2 * shape.clients:
            assert shape.yjs is not None
            script = Path(__file__).resolve().parents[2] / "client" / "torture" / "author.mjs"
            options = {
                "name": name,
                "journal": str(journal),
                "address": edges[0],
                "docs": shape.documents,
                "every": shape.every_s,
            }
            command = ["node", str(script), str(shape.yjs.resolve()), json.dumps(options)]
            return Child("author", name, self.directory, command, launched=False)
        kind = "offline" if number < shape.clients else "stock"
        command = ["client.torture.author", kind, "--name", name, "--namespace", self.namespace]
        command += ["--journal", str(journal), "--seed", str(self._seed), "--every", str(shape.every_s)]
        command += ["--store", str(self.directory / f"{name}.db")] if kind == "offline" else []
        for doc in shape.documents:
            command += ["--doc", doc]
        return Child("author", name, self.directory, [*command, *edges])

    def addresses(self, first: int) -> list[str]:
        """Of all edges, beginning with this one."""
        edges = [self.children[name] for name in self.shape.targets()["edge"]]
        return [f"ws://{edge.listen}" for edge in (*edges[first:], *edges[:first])]

    def journal(self, name: str) -> Path:
        return self.directory / f"{name}.journal"

    def data(self, name: str) -> Path:
        return self._disks[name] / "data" if name in self._disks else self.directory / f"{name}-data"

    def of_role(self, *roles: str) -> list[Child]:
        return [child for child in self.children.values() if child.role in roles]

    # --- faults ------------------------------------------------------------------------------------------------------
    async def inject(self, fault: Fault) -> None:
        """Break it, wait, mend it."""
        if fault.target == "nats":
            async with self.nats_busy:
                await self._break_nats(fault)
        elif fault.target in self.relays and fault.kind in LINK_FAULTS:
            await self._break_link(self.relays[fault.target], fault)
        elif fault.kind == "deaf-client":
            await self._deaf(self.children[fault.target], fault.seconds)
        elif fault.kind == "flood":
            await self._flood(self.children[fault.target], fault.seconds)
        else:
            child = self.children[fault.target]
            async with child.busy:
                await self._break_child(child, fault)

    async def _break_link(self, relay: Relay, fault: Fault) -> None:
        match fault.kind:
            case "cut":
                relay.refusing = True
                relay.cut()
            case "black-hole":
                await self._black_hole(relay, fault)
            case "cut-up" | "cut-down":
                relay.swallow(fault.kind.removeprefix("cut-"))
            case "delay":
                relay.delay_s = fault.value
            case mischief:
                relay.mischief.add(mischief)
        await asyncio.sleep(fault.seconds if fault.kind != "black-hole" else 0)
        relay.heal()

    async def _black_hole(self, relay: Relay, fault: Fault) -> None:
        """Nothing arrives, either way, and no connection ends by it."""
        network, number = self.ground.network, self._links.get(fault.target)
        if network is None or number is None:
            relay.swallow("up", "down")
            await asyncio.sleep(fault.seconds)
            return
        await asyncio.to_thread(network.cut, number)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await asyncio.to_thread(network.heal, number)

    async def _break_nats(self, fault: Fault) -> None:
        jetstream = self.nats.data_dir / "jetstream"
        match fault.kind:
            case "freeze":
                self.nats.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                self.nats.signal(signal.SIGCONT)
            case "log-rolled-back":
                older = self.directory / "older-jetstream"
                shutil.rmtree(older, ignore_errors=True)
                async with self._nats_dead(0.0):
                    shutil.copytree(jetstream, older)
                await asyncio.sleep(fault.seconds)
                async with self._nats_dead(0.0):
                    shutil.rmtree(jetstream)
                    shutil.copytree(older, jetstream)
            case "log-lost":
                async with self._nats_dead(fault.seconds):
                    shutil.rmtree(jetstream)
            case _:
                async with self._nats_dead(fault.seconds):
                    pass

    @contextlib.asynccontextmanager
    async def _nats_dead(self, seconds: float) -> AsyncIterator[None]:
        self.nats_wanted = False
        self.nats.kill()
        await asyncio.sleep(seconds)
        yield
        await self.nats.start(30.0)
        self.nats_wanted = True

    async def _break_child(self, child: Child, fault: Fault) -> None:
        match fault.kind:
            case "freeze" | "two-leaders":  # a leader frozen for longer than its lease wakes up beside its successor
                child.signal(signal.SIGSTOP)
                await asyncio.sleep(fault.seconds)
                child.signal(signal.SIGCONT)
            case "clock":
                set_clock(child.clock, fault.value)
                await asyncio.sleep(fault.seconds)
                set_clock(child.clock, 0.0)
            case "disk-full" if child.name in self._disks:
                ballast = await asyncio.to_thread(fill, self._disks[child.name])
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    ballast.unlink()
            case "disk-full":
                child.quota(True)
                await asyncio.sleep(fault.seconds)
                child.quota(False)
            case "roam":
                first = int(fault.value * self.shape.edges)
                await child.order(" ".join(["at", *self.addresses(first)]))
            case "author-lost":
                await child.kill()
                for path in self.directory.glob(f"{child.name}.db*"):
                    path.unlink()
                self.judge.read(child.name, self.journal(child.name))
                self.judge.void_own(child.name)
                await child.start()
            case "store-lost":
                await self._kill_edge(child)
                self._void_outbox(child, frozenset())
                shutil.rmtree(self.data(child.name))
                await asyncio.sleep(fault.seconds)
                await self._start_on_another_disk(child)
            case "store-rolled-back":
                older = self.directory / f"{child.name}-older"
                shutil.rmtree(older, ignore_errors=True)
                older.mkdir()
                await asyncio.to_thread(_copy_store, self.data(child.name) / "edge.db", older / "edge.db")
                await asyncio.sleep(fault.seconds)
                await self._kill_edge(child)
                self._void_outbox(child, frozenset(outbox_marks(older / "edge.db")))
                shutil.rmtree(self.data(child.name))
                shutil.move(older, self.data(child.name))
                await self._start_on_another_disk(child)
            case "store-copied":
                await self._clone(child, fault.seconds)
            case "store-damaged":
                await self._kill_edge(child)
                self._damage(child, fault)
                await self._start_on_another_disk(child)  # which sets it aside, and saves what reads
            case _:
                await (self._kill_edge(child) if child.role == "edge" else child.kill())
                await asyncio.sleep(fault.seconds)
                await child.start()

    async def _start_on_another_disk(self, edge: Child) -> None:
        await edge.start()
        self._disk_since_ms[edge.name] = time.monotonic_ns() // 1_000_000

    async def _kill_edge(self, child: Child) -> None:
        """And look at its disk: what it has acknowledged is there (law 2), whoever else may have it."""
        await child.kill()
        self._read_journals()
        told = self.judge.on_disk((child.name, f"ws://{child.listen}"), self._disk_since_ms.get(child.name, 0))
        missing = sorted(told - set(disk_marks(self.data(child.name) / "edge.db", "SELECT bytes FROM changes", STATES)))
        if missing:
            kept = self.directory / f"{child.name}-disk-{time.monotonic_ns()}"
            shutil.copytree(self.data(child.name), kept)
            shown = f"{len(missing)}, as {', '.join(missing[:5])}; the disk as it was: {kept}"
            self._wrong(f"{child}: acknowledged, and not on its disk when it was killed: {shown}")

    def _read_journals(self) -> None:
        for author in self.of_role("author"):
            self.judge.read(author.name, self.journal(author.name))

    def _void_outbox(self, child: Child, kept: frozenset[str]) -> None:
        self._read_journals()
        lost = set(outbox_marks(self.data(child.name) / "edge.db")) - kept
        self.judge.void(lost, "edge")

    def _damage(self, child: Child, fault: Fault) -> None:
        """Some pages behind the first are overwritten; what is written there and nowhere else is void."""
        path = self.data(child.name) / "edge.db"
        self._void_outbox(child, frozenset())
        with contextlib.suppress(sqlite3.Error):  # what is in the write-ahead log would hide the damage
            store = sqlite3.connect(path)
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            store.close()
        chance = random.Random(fault.value)
        pages = path.stat().st_size // PAGE_BYTES
        with path.open("r+b") as file:
            for page in sorted({chance.randrange(1, pages) for _ in range(max(1, pages // 5))}):
                file.seek(page * PAGE_BYTES)
                file.write(chance.randbytes(PAGE_BYTES))
        path.with_name(path.name + "-wal").write_bytes(b"\0")  # as a crash leaves it: the store is read through

    async def _clone(self, child: Child, seconds: float) -> None:
        """A second edge on a copy of the first one's disk; it stays until the calm, in which it ships what it has."""
        self._clone_count += 1
        name = f"clone{self._clone_count}"
        await self._kill_edge(child)
        shutil.copytree(self.data(child.name), self.data(name))
        await child.start()
        clone = self._edge(name, child.name)
        await clone.start()
        self.children[name] = clone
        authors = [author for author in self.of_role("author") if not author.busy.locked()]
        if authors:
            author = self.chance.choice(authors)
            async with author.busy:
                with contextlib.suppress(SkerryError):
                    await author.order(f"at ws://{clone.listen} {' '.join(self.addresses(0))}")
        await asyncio.sleep(seconds)

    async def retire_clones(self) -> None:
        """After a calm: the clones have nothing left that others lack."""
        first = True
        for name in [name for name in self.children if name.startswith("clone")]:
            if first:
                first = False
                for number, author in enumerate(self.of_role("author")):
                    await author.order(" ".join(["at", *self.addresses(number % self.shape.edges)]))
            await self.children.pop(name).stop()
            shutil.rmtree(self.data(name), ignore_errors=True)

    # --- rude clients ------------------------------------------------------------------------------------------------
    async def _deaf(self, edge: Child, seconds: float) -> None:
        """Asks for documents and never reads the answers."""
        sockets = []
        with contextlib.suppress(OSError, WebSocketException, TimeoutError):
            for doc in (*self.shape.documents, FLOOD_DOC):
                socket = await connect(f"ws://{edge.listen}/{doc}", max_queue=1, ping_interval=None, compression=None)
                sockets.append(socket)
                socket.transport.pause_reading()
                await socket.send(encode(SyncStep1(b"\0")))
            await asyncio.sleep(seconds)
        for socket in sockets:
            socket.transport.abort()

    async def _flood(self, edge: Child, seconds: float) -> None:
        """Writes as fast as it can, in a process of its own."""
        script = Path(__file__).with_name("flood.py")
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"server.torture.{script.stem}", f"ws://{edge.listen}/{FLOOD_DOC}", str(seconds)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=script.parents[2],
        )
        try:
            async with asyncio.timeout(seconds + 15):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()


def outbox_marks(path: Path) -> list[str]:
    """Marks in the changes that this store has and no leader has merged."""
    return disk_marks(path, "SELECT c.bytes FROM outbox AS o JOIN changes AS c ON c.row = o.row")


def disk_marks(path: Path, *queries: str) -> list[str]:
    """Marks in what a store holds; its process is dead."""
    if not path.exists():
        return []
    copy = path.with_name("judged")
    copy.mkdir(exist_ok=True)
    try:
        for part in path.parent.glob("edge.db*"):
            if not part.name.endswith((".lock", "-shm")):
                shutil.copy(part, copy / part.name)
        store = sqlite3.connect(copy / path.name)
        try:
            rows = [row for query in queries for row in store.execute(query).fetchall()]
        finally:
            store.close()
    except sqlite3.OperationalError:  # it died before it had made its tables
        return []
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return [mark for (update,) in rows for mark in find_marks(update)]


def _copy_store(source: Path, target: Path) -> None:
    """A consistent copy of a store that is in use."""
    if not source.exists():
        return
    reading, writing = sqlite3.connect(source), sqlite3.connect(target)
    try:
        reading.backup(writing)
    finally:
        writing.close()
        reading.close()
