"""A campaign: rounds of faults while authors write; after each, a calm in which everything must come together.

Room: the order of things and what counts as kept. Two phases as in the simulation: chaos, then a calm that must settle
within a bound, or what does not is said in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from sync.document import Document
from sync.errors import BusError, SkerryError

from ..config import Config
from ..daemons import operator_bus
from ..http_client import get_json
from ..status import LEADER, compare_all, list_all
from .child import Child, memory_of
from .faults import Fault, Round, Schedule
from .fleet import Fleet, Shape
from .ground import Ground
from .judge import Judge

__all__ = ["Campaign", "Outcome", "Sample"]

SAMPLE_S = 0.5
LOOK_S = 0.3
VIOLATIONS_KEPT = 200


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    """Seconds from the beginning of the campaign."""
    outbox: dict[str, int]
    """Edge -> changes; an edge that does not answer is left out."""
    lag: int | None
    """Changes in the log that no leader has merged; None where nobody could say."""
    rss: dict[str, int]


@dataclass(slots=True)
class Outcome:
    seed: int
    shape: dict[str, object]
    ground: dict[str, str] = field(default_factory=dict)
    """Kind of fault -> by what it was done, where that depends on the machine."""
    seconds: float = 0.0
    injected: list[dict[str, object]] = field(default_factory=list)
    rounds: list[dict[str, object]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rss_max: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        return not self.violations


class Campaign:
    """`await run()`; `tell` hears what happens, a line at a time."""

    def __init__(
        self,
        directory: Path,
        shape: Shape,
        schedule: Schedule,
        *,
        settle_s: float = 90.0,
        memory_bytes: int = 400 * 1024 * 1024,
        seconds: float | None = None,
        tell: Callable[[str], None] = lambda _: None,
        ground: Ground | None = None,
    ) -> None:
        self.schedule = schedule
        self.judge = Judge()
        self.fleet = Fleet(directory, shape, schedule.seed, self.judge, self._wrong, ground)
        self.outcome = Outcome(schedule.seed, {key: str(value) for key, value in asdict(shape).items()})
        self.outcome.ground = {"disk-full": self.fleet.ground.disks, "black-hole": self.fleet.ground.links}
        self._settle_s = settle_s
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._tell = tell
        self._began = time.monotonic()
        self._over_memory: set[str] = set()
        self._lag: int | None = None

    async def run(self) -> Outcome:
        """Raises SkerryError where the processes cannot be started."""
        outcome = self.outcome
        try:
            await self.fleet.start()
            watch = [asyncio.create_task(work) for work in (self._sample(), self._look_at_leaders())]
            try:
                for number, one in enumerate(self.schedule.rounds, 1):
                    try:
                        if not await self._round(number, one):
                            break
                    except SkerryError as error:  # an author that answers nobody, say: there is a report all the same
                        self._wrong(f"round {number}: {error}")
                        break
                    if self._seconds is not None and self._now() > self._seconds:
                        break
            finally:
                for task in watch:
                    task.cancel()
                await asyncio.gather(*watch, return_exceptions=True)
        finally:
            await self.fleet.end()
        self._read_logs()
        outcome.seconds = round(self._now(), 1)
        outcome.counts = self.judge.counts()
        return outcome

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _wrong(self, what: str) -> None:
        if len(self.outcome.violations) < VIOLATIONS_KEPT and what not in self.outcome.violations:
            self.outcome.violations.append(what)
            self._tell(f"[bold red]VIOLATION[/] {what}")

    # --- a round -----------------------------------------------------------------------------------------------------
    async def _round(self, number: int, one: Round) -> bool:
        """False where it did not settle: what comes after would only say so again."""
        self._tell(f"[bold]round {number}[/] of {len(self.schedule.rounds)}: {len(one.faults)} faults")
        await asyncio.gather(*(self._order(author, "go") for author in self.fleet.of_role("author")))
        await asyncio.gather(*(self._inject(number, fault) for fault in one.faults))
        began = time.monotonic()
        trouble = await self._calm()
        took = round(time.monotonic() - began, 1)
        for complaint in trouble:
            self._wrong(f"round {number}: {complaint}")
        counts = self.judge.counts()
        self.outcome.rounds.append({"round": number, "settled_s": took, "settled": not trouble, **counts})
        self._tell(
            f"  settled after {took:g} s; {counts['written']} edits, {counts['void']} promises void,"
            f" {len(self.outcome.violations)} violations"
        )
        await self.fleet.retire_clones()
        return not trouble

    async def _order(self, author: Child, order: str) -> None:
        with contextlib.suppress(SkerryError):
            await author.order(order)

    async def _inject(self, number: int, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        at = round(self._now(), 2)
        self._tell(f"  {at:7.1f} s  {fault.kind} {fault.target} {fault.seconds:g} s")
        entry: dict[str, object] = {"round": number, "began": at, **asdict(fault)}
        self.outcome.injected.append(entry)
        try:
            await self.fleet.inject(fault)
        except SkerryError as error:
            self._wrong(f"round {number}: {fault.kind} {fault.target}: {error}")
        entry["ended"] = round(self._now(), 2)

    # --- calm --------------------------------------------------------------------------------------------------------
    async def _calm(self) -> list[str]:
        """Mend everything, let nobody write, wait until all is equal; then judge. What is wrong, in words."""
        fleet = self.fleet
        for relay in fleet.relays.values():
            relay.heal()
        authors = fleet.of_role("author")
        for author in authors:
            await self._order(author, "pause")  # who does not answer is found when it is asked what it shows
        ends = time.monotonic() + self._settle_s
        trouble = ["it was not looked"]
        while trouble and time.monotonic() < ends:
            await asyncio.sleep(LOOK_S)
            trouble = await self._unsettled()
        if trouble:
            trouble = [f"not settled within {self._settle_s:g} s: {one}" for one in trouble]
        return trouble + await self._judged()

    async def _unsettled(self) -> list[str]:
        fleet = self.fleet
        edges = fleet.of_role("edge")
        found: list[str] = []
        for edge in edges:
            try:
                status = await get_json(edge.listen, "/status")
            except SkerryError as error:
                return [str(error)]
            if status["link"]["state"] != "up":
                found.append(f"{edge}: link {status['link']['state']} ({status['link']['reason']})")
            if status["outbox"]["count"] or status["sweeping"]:
                found.append(f"{edge}: outbox {status['outbox']['count']}, sweeping {status['sweeping']}")
        if found:
            return found
        try:
            config = Config(nats=(fleet.nats.url,), namespace=fleet.namespace)
            async with operator_bus(config) as bus:
                comparison = await compare_all(bus, await list_all(bus), lambda _: None)
        except (SkerryError, BusError) as error:
            return [str(error)]
        empty = Document().digest()
        wanted = {LEADER, *(edge.name for edge in edges)}
        for doc, states in sorted(comparison.documents.items()):
            if comparison.verdict_of(doc) != "EQUAL":
                shown = {node: (state["version"], str(state["digest"])[:8]) for node, state in states.items()}
                found.append(f"{doc}: {comparison.verdict_of(doc)} {shown}")
            elif not wanted <= states.keys() and {state["digest"] for state in states.values()} != {empty}:
                # an empty one is a page that somebody opened and nobody wrote on
                found.append(f"{doc}: nothing from {sorted(wanted - states.keys())}")
        return found or await self._authors_differ()

    async def _authors_differ(self) -> list[str]:
        found: list[str] = []
        try:
            truth = await self._contents()
        except SkerryError as error:
            return [str(error)]
        for author in self.fleet.of_role("author"):
            try:
                docs = (await author.order("show"))["docs"]
            except SkerryError as error:
                return [str(error)]
            assert isinstance(docs, dict)
            for doc, contents in docs.items():
                if _values(contents) != _values(truth.get(doc, {})):
                    found.append(f"{doc}: {author} shows something else")
        return found

    async def _contents(self) -> dict[str, dict[str, object]]:
        """Of the first edge that answers; raises SkerryError where none does."""
        for edge in self.fleet.of_role("edge"):
            with contextlib.suppress(SkerryError):
                known = (await get_json(edge.listen, "/docs"))["docs"]
                return {
                    doc: (await get_json(edge.listen, f"/docs/{quote(doc, safe='')}"))["content"]
                    for doc in self.fleet.shape.documents
                    if doc in known
                }
        raise SkerryError("no edge answers")

    async def _judged(self) -> list[str]:
        for author in self.fleet.of_role("author"):
            self.judge.read(author.name, self.fleet.journal(author.name))
        try:
            truth = await self._contents()
        except SkerryError as error:
            return [f"not judged: {error}"]
        return [wrong for doc in self.fleet.shape.documents for wrong in self.judge.verdict(doc, truth.get(doc, {}))]

    # --- looking -----------------------------------------------------------------------------------------------------
    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            outbox: dict[str, int] = {}
            for edge in self.fleet.of_role("edge"):
                with contextlib.suppress(SkerryError, TimeoutError, KeyError):
                    async with asyncio.timeout(0.5):
                        status = await get_json(edge.listen, "/status")
                    outbox[edge.name] = status["outbox"]["count"]
            pids = {"nats": self.fleet.nats.pid, **{name: child.pid for name, child in self.fleet.children.items()}}
            memory = {name: memory_of(pid) for name, pid in pids.items()}
            rss = {name: now for name, (now, _) in memory.items()}
            for name, (_, size) in memory.items():
                self.outcome.rss_max[name] = max(size, self.outcome.rss_max.get(name, 0))
                if size > self._memory_bytes and name not in self._over_memory:
                    self._over_memory.add(name)
                    self._wrong(f"{name}: {size >> 20} MiB of memory, over the limit of {self._memory_bytes >> 20}")
            self.outcome.samples.append(Sample(round(self._now(), 2), outbox, self._lag, rss))
            await self._revive()

    async def _revive(self) -> None:
        fleet = self.fleet
        if fleet.nats_wanted and not fleet.nats.running and not fleet.nats_busy.locked():
            async with fleet.nats_busy:
                self._wrong(f"nats-server ended by itself; its log is {fleet.nats.log_path}")
                with contextlib.suppress(SkerryError):
                    await fleet.nats.start(30.0)
        for child in list(self.fleet.children.values()):
            if child.wanted and not child.running and not child.busy.locked():
                async with child.busy:
                    self._wrong(f"{child} ended by itself: {child.last_line()}")
                    with contextlib.suppress(SkerryError):
                        await child.start()

    async def _look_at_leaders(self) -> None:
        """How far the leaders are behind the log: asked over a link of its own."""
        config = Config(nats=(self.fleet.nats.url,), namespace=self.fleet.namespace)
        while True:
            self._lag = None
            with contextlib.suppress(SkerryError):
                async with operator_bus(config) as bus:
                    while True:
                        async with asyncio.timeout(5):
                            answers = await bus.ask_all({"op": "status"}, 0.4)
                        lags = [
                            sum(int(shard.get("lag") or 0) for shard in shards)
                            for answer in answers
                            if isinstance(shards := answer.get("shards"), list) and shards
                        ]
                        self._lag = sum(lags) if lags else None
                        await asyncio.sleep(SAMPLE_S)
            await asyncio.sleep(SAMPLE_S)

    def _read_logs(self) -> None:
        """A traceback in a log is a fault of ours, whatever was done to the process."""
        for child in self.fleet.children.values():
            text = child.log.read_text("utf-8", "replace") if child.log.exists() else ""
            at = text.find("Traceback (most recent call last)")
            if at >= 0:
                lines = [line for line in text[at : at + 6000].splitlines() if line]
                last = next((line for line in lines[1:] if not line.startswith(" ")), lines[-1])
                self._wrong(f"{child}: a traceback in {child.log.name}: {last[:300]}")


def _values(contents: object) -> str:
    """Roots and their values; an empty root is as good as none."""
    assert isinstance(contents, dict)
    found = {root: part.get("value") for root, part in contents.items() if part.get("value")}
    return json.dumps(found, sort_keys=True)
