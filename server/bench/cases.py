"""The cases by number, and one way to run them: every server, every load, so many times, in turns.

Room: the order of runs. Repeats are outermost, so that whatever else the machine does meets all servers alike.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sync.errors import SkerryError

from . import machine, peers, skerry
from .load import Load, run_load
from .records import Row, Sample, Skipped
from .servers import Server, Target
from .typing import Writers

__all__ = ["CASES", "Case", "Outcome", "Plan", "Run", "Watcher", "run_cases"]


@dataclass(frozen=True, slots=True)
class Plan:
    quick: bool
    repeat: int
    with_peers: bool
    writers: Writers = field(default_factory=Writers)


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement, to be repeated."""

    server: Server
    work: str
    at: float
    measure: Callable[[Target], Sample]


@dataclass(frozen=True, slots=True)
class Case:
    number: int
    title: str
    axis: str
    """What `Row.at` counts."""
    runs: Callable[[Plan, list[Server]], Sequence[Run]]
    servers: Callable[[], list[Server]]
    """Skerry's first."""


@dataclass(slots=True)
class Outcome:
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


class Watcher:
    """Who is told how far it is. This one says nothing."""

    def planned(self, count: int) -> None: ...

    def installing(self, name: str) -> None: ...

    def running(self, case: Case, run: Run, repeat: int) -> None: ...

    def ran(self, row: Row) -> None: ...


def run_cases(numbers: Iterable[int], plan: Plan, watcher: Watcher) -> Outcome:
    outcome = Outcome()
    cores = machine.cores()
    machine.pin(cores.generator)
    planned: list[tuple[Case, Run, Row]] = []
    there: dict[str, bool] = {}
    for number in numbers:
        case = CASES[number]
        usable = []
        for server in case.servers()[: None if plan.with_peers else 1]:
            if server.name not in there:
                watcher.installing(server.name)
                reason = server.missing()
                there[server.name] = reason is None
                if reason is not None:
                    outcome.skipped.append(Skipped(server.name, reason))
            if there[server.name]:
                usable.append(server)
        for run in case.runs(plan, usable):
            row = Row(number, run.server.name, run.work, run.at)
            planned.append((case, run, row))
            outcome.rows.append(row)
    watcher.planned(len(planned) * plan.repeat)
    failed: set[tuple[int, str, str]] = set()
    for repeat in range(plan.repeat):
        for case, run, row in planned:
            watcher.running(case, run, repeat)
            if (row.case, row.server, row.work) not in failed:
                sample = _run(run, cores)
                row.samples.append(sample)
                if repeat == 0 and sample.values.get("delivered_share", 100) < 50:
                    failed.add((row.case, row.server, row.work))  # more of the same only fails longer
            watcher.ran(row)
    outcome.rows = [row for row in outcome.rows if row.samples]
    return outcome


def _run(run: Run, cores: machine.Cores) -> Sample:
    """On processes and files of its own, which are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="skerry-bench-"))
    try:
        target = run.server.start(folder, cores)
        return run.measure(target)
    except SkerryError as error:
        return Sample({}, (f"failed: {error}",))
    finally:
        run.server.stop()
        shutil.rmtree(folder, ignore_errors=True)


# --- typing: cases 1 to 3 ---------------------------------------------------------------------------------------------
RATES: Final = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 40_000)


def _typing(*loads: Load, rates: Sequence[int], quick: Sequence[int]) -> Callable[[Plan, list[Server]], list[Run]]:
    def runs(plan: Plan, servers: list[Server]) -> list[Run]:
        found = []
        for shape in loads:
            for per_s in quick if plan.quick else rates:
                load = Load(
                    shape.documents,
                    shape.writers,
                    shape.readers,
                    per_s,
                    seconds=1.0 if plan.quick else 3.0,
                    warm_up_s=0.5 if plan.quick else 1.0,
                )
                for server in servers:
                    found.append(_typing_run(server, load, plan.writers))
        return found

    return runs


def _typing_run(server: Server, load: Load, writers: Writers) -> Run:
    return Run(server, load.work, load.per_s, lambda target: run_load(target, load, writers))


_ONE: Final = Load(1, 5, 21, 0, 0)
_ONE_APART: Final = Load(1, 5, 11, 0, 0)
_FIFTY: Final = Load(50, 1, 2, 0, 0)
_MANY: Final = Load(500, 1, 2, 0, 0)


def _alone() -> list[Server]:
    return [skerry.Edge(), peers.Hocuspocus(), peers.YWebsocket(), peers.PycrdtWebsocket()]


def _apart() -> list[Server]:
    return [skerry.Edges(), peers.HocuspocusRedis()]


CASES: Final[dict[int, Case]] = {
    case.number: case
    for case in (
        Case(
            1,
            "one document, one edge",
            "characters offered per second",
            _typing(_ONE, rates=RATES, quick=(500, 10_000)),
            _alone,
        ),
        Case(
            2,
            "many documents, one edge",
            "characters offered per second",
            _typing(_FIFTY, _MANY, rates=(1_000, 5_000, 10_000), quick=(5_000,)),
            _alone,
        ),
        Case(
            3,
            "two edges, through NATS and the leader",
            "characters offered per second",
            _typing(_ONE_APART, _FIFTY, _MANY, rates=(1_000, 5_000, 10_000), quick=(1_000, 5_000)),
            _apart,
        ),
    )
}
