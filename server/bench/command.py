"""`skerry bench`: progress on the terminal, and where the results go. Room: the terminal."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sync.errors import ConfigError

from . import goals, machine, page, plots, report
from .cases import CASES, Watcher, run_cases
from .records import Row, Skipped
from .stage import Case, Plan, Run

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    return _show(options) if options.show else _run(options)


def _show(options: argparse.Namespace) -> int:
    """What an earlier run has left, judged and drawn again."""
    if options.out is None or not (options.out / report.FILE).is_file():
        raise ConfigError("--show: name with --out the folder of an earlier run")
    console = Console(stderr=True)
    path = options.out / report.FILE
    rows = report.read_rows(path)
    skipped, described, settings = report.read_facts(path)
    verdicts = goals.judge(rows)
    report.print_tables(rows, skipped, Console())
    report.print_verdicts(verdicts, Console())
    _write(options.out, options.page, rows, (skipped, verdicts, described, settings), console)
    return 0


def _run(options: argparse.Namespace) -> int:
    numbers = _numbers(options.cases)
    repeat = options.repeat if options.repeat is not None else 1 if options.quick else 5
    if repeat < 1:
        raise ConfigError("--repeat: at least 1")
    console = Console(stderr=True)
    cores = machine.cores()
    settings: dict[str, object] = {
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
    rows = _with_earlier(outcome.rows, options.out)
    settings["versions"] = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    verdicts = goals.judge(rows)
    facts = (outcome.skipped, verdicts, machine.describe(), settings)
    if options.json:
        print(json.dumps(report.as_json(rows, *facts), indent=1, ensure_ascii=False))
    else:
        report.print_tables(outcome.rows, outcome.skipped, Console())
        report.print_verdicts([one for one in verdicts if one.case in numbers], Console())
    if options.out is not None:
        _write(options.out, options.page, rows, facts, console)
    return 0


def _with_earlier(rows: list[Row], folder: Path | None) -> list[Row]:
    """Cases that this run did not measure are kept from what the folder has."""
    if folder is None:
        return rows
    measured = {row.case for row in rows}
    kept = [row for row in report.read_rows(folder / report.FILE) if row.case not in measured and row.case in CASES]
    return sorted(kept + rows, key=lambda row: row.case)


Facts = tuple[list[Skipped], list[goals.Verdict], dict[str, str], dict[str, object]]


def _write(folder: Path, page_path: Path | None, rows: list[Row], facts: Facts, console: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / report.FILE
    path.write_text(json.dumps(report.as_json(rows, *facts), indent=1, ensure_ascii=False) + "\n", "utf-8")
    console.print(f"written: {path}", soft_wrap=True)
    pictures = plots.draw(rows, folder)
    if pictures is None:
        console.print("[yellow]no plots[/]: matplotlib is not here; `make bench` installs it")
    for picture in pictures or ():
        console.print(f"written: {picture}", soft_wrap=True)
    if page_path is not None:
        seen = [os.path.relpath(picture, page_path.parent) for picture in pictures or ()]
        page.put_into(page_path, page.as_markdown(rows, *facts, seen))
        console.print(f"written: {page_path}", soft_wrap=True)


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
