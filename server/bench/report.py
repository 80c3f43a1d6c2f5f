"""What was found, as a table on the terminal and as JSON in a folder. Room: showing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .cases import CASES, Outcome
from .records import MEASURES, Row

__all__ = ["as_json", "print_tables", "shown", "write_json"]

FORMAT = 1


def as_json(outcome: Outcome, machine: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "machine": dict(machine),
        "settings": dict(settings),
        "measures": {name: {"title": one.title, "unit": one.unit} for name, one in MEASURES.items()},
        "skipped": [{"server": one.server, "reason": one.reason} for one in outcome.skipped],
        "rows": [_row(row) for row in outcome.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "case": row.case,
        "server": row.server,
        "work": row.work,
        "at": row.at,
        "median": _numbers(row.values),
        "samples": [{"values": _numbers(one.values), "marks": list(one.marks)} for one in row.samples],
        "marks": list(row.marks),
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}


def write_json(found: Mapping[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def shown(measure: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.{MEASURES[measure].digits}f}"


def print_tables(outcome: Outcome, console: Console) -> None:
    for number in sorted({row.case for row in outcome.rows}):
        console.print(f"[bold]case {number}: {CASES[number].title}[/]")
        of_case = [row for row in outcome.rows if row.case == number]
        for work in dict.fromkeys(row.work for row in of_case):
            console.print(_table(work, [row for row in of_case if row.work == work]))
            console.print()
    for one in outcome.skipped:
        console.print(f"[yellow]skipped[/] {one.server}: {one.reason}")


def _table(work: str, rows: Sequence[Row]) -> Table:
    measures = [name for name in MEASURES if any(name in row.values for row in rows)]
    table = Table(title=work, title_justify="left", box=None, pad_edge=False)
    table.add_column("server", no_wrap=True)
    several = (len({row.at for row in rows}) > 1 and "offered_per_s" not in measures) or rows[0].case == 9
    if several:
        table.add_column(CASES[rows[0].case].axis, justify="right")
    for name in measures:
        table.add_column(f"{MEASURES[name].title}\n{MEASURES[name].unit}", justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        values = row.values
        at = (f"{row.at:,.0f}",) if several else ()
        table.add_row(row.server, *at, *(shown(name, values.get(name)) for name in measures), "; ".join(row.marks))
    return table
