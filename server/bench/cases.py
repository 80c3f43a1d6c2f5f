"""All cases, run in turns. Repeats are outermost, so that whatever else the machine does meets all servers alike.

Room: the order of runs, and what is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sync.errors import SkerryError

from . import machine
from .case_deaf import DEAF
from .case_growth import GROWTH
from .case_idle import IDLE
from .case_leader import LEADING
from .case_loading import LOADING
from .case_offline import OFFLINE
from .case_presence import PRESENCE
from .case_typing import ACROSS, MANY_DOCUMENTS, ONE_DOCUMENT
from .records import Row, Sample, Skipped
from .servers import Server
from .stage import Case, Plan, Run, Stage

__all__ = ["CASES", "Outcome", "Watcher", "run_cases"]

CASES: Final[dict[int, Case]] = {
    case.number: case
    for case in (ONE_DOCUMENT, MANY_DOCUMENTS, ACROSS, LOADING, OFFLINE, IDLE, PRESENCE, LEADING, GROWTH, DEAF)
}
HOPELESS_SHARE: Final = 50
"""Who delivers less than that of a load (%) is not asked to do it again, or more: that only fails longer."""


@dataclass(slots=True)
class Outcome:
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


class Watcher:
    """Who is told how far it is. This one says nothing."""

    def planned(self, count: int) -> None: ...

    def preparing(self, what: str) -> None: ...

    def running(self, case: Case, run: Run, repeat: int) -> None: ...

    def ran(self, row: Row) -> None: ...


def run_cases(numbers: Iterable[int], plan: Plan, watcher: Watcher) -> Outcome:
    cores = machine.cores()
    machine.pin(cores.generator)
    machine.allow_many_files()
    outcome = Outcome()
    there: dict[str, bool] = {}
    planned: list[tuple[Case, Run, Row]] = []
    for case in (CASES[number] for number in numbers):
        usable = [server for server in case.servers() if _usable(server, plan, there, outcome, watcher)]
        watcher.preparing(f"case {case.number}")
        for run in case.runs(plan, usable):
            planned.append((case, run, Row(case.number, run.server.name, run.work, run.at)))
    watcher.planned(len(planned) * plan.repeat)
    for repeat in range(plan.repeat):
        for case, run, row in planned:
            watcher.running(case, run, repeat)
            less = [other for _, _, other in planned if _same(other, row) and other.at <= row.at]
            failed = next((other.at for other in less if _hopeless(other)), None)
            if failed is None:
                row.samples.append(_sample(run, cores))
            elif not row.samples:
                row.samples.append(Sample({}, (f"not tried: it failed at {failed:,.0f} already",)))
            watcher.ran(row)
    outcome.rows = [row for _, _, row in planned]
    return outcome


def _same(one: Row, other: Row) -> bool:
    return (one.case, one.server, one.work) == (other.case, other.server, other.work)


def _hopeless(row: Row) -> bool:
    return any(sample.values.get("delivered_share", 100) < HOPELESS_SHARE for sample in row.samples)


def _usable(server: Server, plan: Plan, there: dict[str, bool], outcome: Outcome, watcher: Watcher) -> bool:
    if not plan.with_peers and not server.name.startswith("skerry"):
        return False
    if server.name not in there:
        watcher.preparing(server.name)
        reason = server.missing()
        there[server.name] = reason is None
        if reason is None:
            outcome.versions[server.name] = server.version
        if reason is not None:
            outcome.skipped.append(Skipped(server.name, reason))
    return there[server.name]


def _sample(run: Run, cores: machine.Cores) -> Sample:
    try:
        with Stage(run.server, cores) as stage:
            return run.measure(stage)
    except SkerryError as error:
        return Sample({}, (f"failed: {error}",))
