"""`skerry bench`: progress on the terminal, and where the results go. Room: the terminal."""

from __future__ import annotations

import argparse
import json
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sync.errors import ConfigError

from . import machine, report
from .cases import CASES, Watcher, run_cases
from .records import Row
from .stage import Case, Plan, Run

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    numbers = _numbers(options.cases)
    repeat = options.repeat if options.repeat is not None else 1 if options.quick else 5
    if repeat < 1:
        raise ConfigError("--repeat: at least 1")
    console = Console(stderr=True)
    cores = machine.cores()
    settings = {
        "cases": numbers,
        "quick": options.quick,
        "repeat": repeat,
        "peers": options.peers,
        "cores": f"servers {cores.servers}, generator {cores.generator}" if cores.apart else "not apart",
        "began": time.strftime("%Y-%m-%d %H:%M"),
    }
    if not cores.apart:
        console.print("[yellow]servers and generator share cores here: times and CPU mean little[/]")
    with _Bar(console, repeat) as bar:
        outcome = run_cases(numbers, Plan(options.quick, repeat, options.peers), bar)
    found = report.as_json(outcome, machine.describe(), settings)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        report.print_tables(outcome, Console())
    if options.out is not None:
        console.print(f"written: {report.write_json(found, options.out)}")
    return 0


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return list(CASES)
    numbers = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if not numbers or len(numbers) != len(text.split(",")) or set(numbers) - set(CASES):
        raise ConfigError(f"--cases: {text!r}; name some of {', '.join(map(str, CASES))}, separated by commas")
    return list(dict.fromkeys(numbers))


class _Bar(Watcher):
    """Drawn between runs only: a thread that redraws would be measured."""

    def __init__(self, console: Console, repeat: int) -> None:
        self._repeat = repeat
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("preparing", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _say(self, text: str) -> None:
        self._progress.update(self._task, description=text)
        self._progress.refresh()

    def planned(self, count: int) -> None:
        self._progress.update(self._task, total=count)

    def preparing(self, what: str) -> None:
        self._say(f"preparing {what}")

    def running(self, case: Case, run: Run, repeat: int) -> None:
        again = f" ({repeat + 1} of {self._repeat})" if self._repeat > 1 else ""
        self._say(f"case {case.number}: {run.server.name}, {run.work}, {run.at:,.0f}{again}")

    def ran(self, row: Row) -> None:
        self._progress.advance(self._task)
