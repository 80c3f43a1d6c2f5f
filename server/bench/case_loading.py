"""Case 4: a large document is loaded cold, by one client and by thirty at once, while somebody types in another one.

Room: large documents, who loads them from where, and how long the neighbour waits.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from array import array
from functools import cache
from pathlib import Path
from typing import Final

from sync.document import Document, merge

from . import peers, skerry
from .case_typing import alone
from .dialect import Dialect, Kind
from .machine import cpu_s, memory_bytes
from .probe import Probe
from .records import Sample
from .servers import Server, Target
from .stage import Case, Plan, Run, Stage
from .typing import ROOT, Writers
from .wires import Address, BenchError, Client, Wires, masked

__all__ = ["LOADING", "large", "trace"]

DOC: Final = "bench/large"
NEIGHBOUR: Final = "bench/neighbour"
NEIGHBOUR_PER_S: Final = 100
DEADLINE_S: Final = 60.0
PIECE: Final = "and so it went on, from one island to the next, until the water fell and the paths met once again. " * 1
TRACE_CHARACTERS: Final = 100_000
SHARED: Final = "SKERRY_SHARED"
"""Where editing traces are, if not in `../shared` (they are not ours to ship)."""


class Made:
    """A document, as the updates that bring it."""

    def __init__(self, document: Document, updates: list[bytes]) -> None:
        self.updates = updates
        self.clocks = document.clocks()
        self.characters = len(document.text(ROOT))


@cache
def large(characters: int) -> Made:
    """So many characters in pieces of a hundred, each put into the middle of the one before."""
    document = Document()
    text = document.crdt[ROOT]
    updates: list[bytes] = []
    batch: list[bytes] = []
    with document.told(lambda event: batch.append(event.update)):
        done = 0
        while done < characters:
            piece = PIECE[: min(len(PIECE), characters - done)]
            text.insert(min(50, done), piece)
            done += len(piece)
            if len(batch) == 5_000:
                updates.append(merge(batch))
                batch.clear()
    if batch:
        updates.append(merge(batch))
    return Made(document, updates)


@cache
def trace() -> tuple[str, Made]:
    """What it is called, and a document with the history of a real one: typed, deleted, moved."""
    patches = _recorded()
    name = "real edits" if patches else "made-up edits"
    document = Document()
    text = document.crdt[ROOT]
    batch: list[bytes] = []
    updates: list[bytes] = []
    with document.told(lambda event: batch.append(event.update)):
        begin = 0
        while begin < TRACE_CHARACTERS:
            for position, deleted, inserted in patches or _invented():
                at = begin + position
                with document.crdt.transaction():
                    if deleted:
                        del text[at : at + deleted]
                    if inserted:
                        text.insert(at, inserted)
                if len(batch) == 5_000:
                    updates.append(merge(batch))
                    batch.clear()
            begin = len(text)
    if batch:
        updates.append(merge(batch))
    return name, Made(document, updates)


def _recorded() -> list[tuple[int, int, str]]:
    """The patches of a recorded session (sequential, ASCII), one after the other; none where there is no recording."""
    folder = Path(os.environ.get(SHARED) or Path(__file__).resolve().parents[3] / "shared") / "traces"
    try:
        found = json.loads(gzip.decompress((folder / "sveltecomponent.json.gz").read_bytes()))
    except OSError:
        return []
    return [(patch[0], patch[1], patch[2]) for one in found["txns"] for patch in one["patches"]]


def _invented() -> list[tuple[int, int, str]]:
    """Somebody types runs of letters here and there, and takes a fifth of them back."""
    dice = random.Random(1)
    length = 0
    patches: list[tuple[int, int, str]] = []
    while len(patches) < 20_000:
        at = dice.randint(0, length)
        for step in range(dice.randint(1, 40)):
            patches.append((at + step, 0, "e"))
            length += 1
        if length > 50 and dice.random() < 0.4:
            patches.append((at // 2, 8, ""))
            length -= 8
    return patches


# --- runs -------------------------------------------------------------------------------------------------------------
def _measure(stage: Stage, made: Made, clients: int, where: str, writers: Writers) -> Sample:
    """`where`: from the memory of the server that was given it, from its disk, or from the memory of another."""
    dialect = stage.target.dialect
    with Wires() as author:
        size = _seed(author, stage.target.writers_at, dialect, made)
        if where != "from disk":  # its author stays: a peer forgets what nobody has open
            return _timed(stage, made, clients, size, writers)
    stage.restart()
    return _timed(stage, made, clients, size, writers)


def _timed(stage: Stage, made: Made, clients: int, size: int, writers: Writers) -> Sample:
    target = stage.target
    dialect = target.dialect
    with Wires() as wires:
        neighbour = _Neighbour(wires, target.readers_at, dialect, writers)
        seconds, spent_s, complete = _load(wires, target, made, size, clients, neighbour)
        neighbour.finish(wires)
    marks = [] if complete else ["what came is not the whole document"]
    return Sample(
        {
            "load_ms": 1000 * seconds,
            "cpu_client_ms": 1000 * spent_s / clients,
            "neighbour_ms": 1000 * max(neighbour.probe.latencies, default=0.0),
            "document_mb": size / 1e6,
            "memory_mb": memory_bytes(target.pids) / 1e6,
        },
        tuple(marks),
    )


def _seed(wires: Wires, address: Address, dialect: Dialect, made: Made) -> int:
    """Hands the document in; returns how many bytes the server makes of it."""
    client = wires.connect(address, dialect.path(DOC))
    wires.all_ready([client])
    for message in dialect.hello(DOC):
        client.send(masked(message))
    wires.until(lambda: client.heard > 0, DEADLINE_S, "the first client was answered")
    for update in made.updates:
        client.send(masked(dialect.update(DOC, update)))
        wires.until(lambda: client.unsent_bytes == 0, DEADLINE_S, "the document is handed in")
        wires.rest(0.002)
    size = 0
    ends = time.perf_counter() + DEADLINE_S
    while time.perf_counter() < ends:
        loader = _Loader(wires.connect(address, dialect.path(DOC)), dialect)
        wires.all_ready([loader.client])
        loader.greet()
        loader.wait(wires)
        size = len(loader.bodies[0])
        loader.client.close()
        if len(loader.bodies) == 1 and loader.holds(made):  # nothing was still on its way to it
            wires.rest(1.0)  # what the server does behind it: store, compact
            return size
        wires.rest(0.2)
    raise BenchError(f"a document of {made.characters:,} characters was handed in and is not there")


def _load(
    wires: Wires, target: Target, made: Made, size: int, count: int, neighbour: _Neighbour
) -> tuple[float, float, bool]:
    """All at once; the first one's bytes are looked at, of the others' it is enough that they have come.

    Returns how long it took, the servers' CPU meanwhile, and whether it was the whole document. A server may begin to
    read when a client connects, before it asks: all of that counts as CPU.
    """
    before_s = cpu_s(target.pids)
    dialect = target.dialect
    loaders = [_Loader(wires.connect(target.readers_at, dialect.path(DOC)), dialect) for _ in range(count)]
    wires.all_ready([loader.client for loader in loaders])
    wires.deafen(loader.client for loader in loaders[1:])
    wires.emptying_s = 0.0
    enough = 0.98 * size
    began = time.perf_counter()
    ends = began + DEADLINE_S
    had = [loader.client.read_bytes for loader in loaders]
    for loader in loaders:
        loader.greet()
    while any(loader.client.read_bytes - had[at] < enough for at, loader in enumerate(loaders)):
        neighbour.type_on(wires)
        if time.perf_counter() > ends:
            raise BenchError(f"not within {DEADLINE_S:g} s: {count} clients have loaded the document; {wires.lost_why}")
    seconds = time.perf_counter() - began
    neighbour.type_for(wires, 0.1)
    spent_s = cpu_s(target.pids) - before_s
    neighbour.type_for(wires, 0.2)
    return seconds, spent_s, loaders[0].holds(made)


class _Loader:
    def __init__(self, client: Client, dialect: Dialect) -> None:
        self.client = client
        self.bodies: list[bytes] = []
        self._dialect = dialect
        client.hear = self._hear

    def greet(self) -> None:
        for message in self._dialect.hello(DOC):
            self.client.send(masked(message))

    def wait(self, wires: Wires) -> None:
        wires.until(lambda: self.bodies != [], DEADLINE_S, "the document is given back")
        wires.rest(0.1)

    def _hear(self, message: bytes) -> None:
        heard = self._dialect.read(message)
        if heard.kind in (Kind.STATE, Kind.UPDATE):
            self.bodies.append(heard.body)

    def holds(self, made: Made) -> bool:
        if not self.bodies:
            return False
        document = Document(merge(self.bodies))
        return document.clocks() == made.clocks


class _Neighbour:
    """Somebody types in another document of the same server: how long does a character wait?"""

    def __init__(self, wires: Wires, address: Address, dialect: Dialect, writers: Writers) -> None:
        (person,) = writers.first(1)
        self._frames = [masked(dialect.update(NEIGHBOUR, update)) for update in person.type(20_000)]
        self._sent = array("d")
        reader = wires.connect(address, dialect.path(NEIGHBOUR))
        self.probe = Probe(reader, dialect, {person.client_id: self._sent}, NEIGHBOUR_PER_S // 10)
        wires.all_ready([reader])
        for message in dialect.hello(NEIGHBOUR):
            reader.send(masked(message))
        wires.until(lambda: self.probe.synced, DEADLINE_S, "the neighbour's reader is synchronised")
        self._writer = wires.connect(address, dialect.path(NEIGHBOUR))
        wires.all_ready([self._writer])
        for message in dialect.hello(NEIGHBOUR):
            self._writer.send(masked(message))
        self._next_s = time.perf_counter()
        self.type_for(wires, 0.3)

    def type_on(self, wires: Wires) -> None:
        now = time.perf_counter()
        if now >= self._next_s and len(self._sent) < len(self._frames):
            self._next_s = now + 1 / NEIGHBOUR_PER_S
            self._sent.append(now)
            self._writer.send(self._frames[len(self._sent) - 1])
        wires.turn(0.001)

    def type_for(self, wires: Wires, seconds: float) -> None:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            self.type_on(wires)

    def finish(self, wires: Wires) -> None:
        wires.until(lambda: self.probe.delivered == len(self._sent), DEADLINE_S, "the neighbour's last character came")


SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def _runs(plan: Plan, servers: list[Server]) -> list[Run]:
    found: list[Run] = []

    def add(server: Server, made: Made, what: str, clients: int, where: str) -> None:
        many = "1 client" if clients == 1 else f"{clients} clients"
        found.append(
            Run(
                server,
                f"{what}, {many}, {where}",
                made.characters,
                lambda stage: _measure(stage, made, clients, where, plan.writers),
            )
        )

    name, traced = trace()
    of_trace = f"{traced.characters:,} characters of {name}"
    edge, edges = servers[0], [server for server in servers if server.name in ACROSS]
    one_place = [server for server in servers if server.name not in ACROSS]
    for clients in (30,) if plan.quick else (1, 30):
        for server in one_place:
            add(server, traced, of_trace, clients, "from memory")
        add(edge, traced, of_trace, clients, "from disk")
        for server in edges:
            add(server, traced, of_trace, clients, "from another node")
    if plan.quick:
        add(edge, large(1_000_000), "1,000,000 characters", 1, "from memory")
        return found
    for characters in SIZES:
        for server in one_place:
            add(server, large(characters), f"{characters:,} characters", 1, "from memory")
    add(edge, large(SIZES[-1]), f"{SIZES[-1]:,} characters", 1, "from disk")
    for server in edges:
        add(server, large(SIZES[-1]), f"{SIZES[-1]:,} characters", 1, "from another node")
    return found


ACROSS: Final = (skerry.Edges.name, peers.HocuspocusRedis.name)


def _servers() -> list[Server]:
    return [skerry.Edge(), skerry.Edges(), *alone()[1:], peers.HocuspocusRedis()]


LOADING: Final = Case(4, "a large document loaded cold", "characters", _servers, _runs)
