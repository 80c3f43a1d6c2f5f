"""What was found, as tables on the terminal and as JSON in a folder. Room: showing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sync.errors import ConfigError

from .cases import CASES
from .goals import Verdict
from .records import MEASURES, Row, Sample, Skipped

__all__ = [
    "FILE",
    "FORMAT",
    "as_json",
    "columns",
    "print_tables",
    "print_verdicts",
    "read_facts",
    "read_rows",
    "shown",
    "shown_verdict",
]

FORMAT: Final = 1
FILE: Final = "bench.json"


def as_json(
    rows: Sequence[Row],
    skipped: Sequence[Skipped],
    verdicts: Sequence[Verdict],
    machine: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "machine": dict(machine),
        "settings": dict(settings),
        "measures": {name: {"title": one.title, "unit": one.unit} for name, one in MEASURES.items()},
        "skipped": [{"server": one.server, "reason": one.reason} for one in skipped],
        "goals": [
            {
                "case": one.case,
                "goal": one.goal,
                "value": None if math.isnan(one.value) else round(one.value, 4),
                "limit": one.limit,
                "at_least": one.at_least,
                "unit": one.unit,
                "reached": one.reached,
            }
            for one in verdicts
        ],
        "rows": [_row(row) for row in rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "case": row.case,
        "server": row.server,
        "work": row.work,
        "at": row.at,
        "median": _numbers(row.values),
        "samples": [{"values": _numbers(one.values), "marks": list(one.marks)} for one in row.samples],
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}


def read_rows(path: Path) -> list[Row]:
    """What an earlier run has written; nothing where there was none. Raises ConfigError for what is no such file."""
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text("utf-8"))
        if found["format"] != FORMAT:
            raise ConfigError(f"{path}: format {found['format']}, and this bench reads {FORMAT}; name another folder")
        return [
            Row(
                one["case"],
                one["server"],
                one["work"],
                one["at"],
                [Sample(_values(sample["values"]), tuple(sample["marks"])) for sample in one["samples"]],
            )
            for one in found["rows"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no results of a bench ({error!r}); name another folder") from None


def read_facts(path: Path) -> tuple[list[Skipped], dict[str, str], dict[str, object]]:
    """Of a file that `read_rows` has read: what was skipped, the machine, the settings."""
    found = json.loads(path.read_text("utf-8"))
    skipped = [Skipped(one["server"], one["reason"]) for one in found.get("skipped", ())]
    return skipped, dict(found.get("machine", {})), dict(found.get("settings", {}))


def _values(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def shown(measure: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.{MEASURES[measure].digits}f}"


def shown_verdict(one: Verdict) -> tuple[str, str, str]:
    """Limit, what was measured, and the word."""
    word = {True: "reached", False: "not reached", None: "not measured"}[one.reached]
    digits = 2 if one.unit == "x" else 0
    value = "-" if math.isnan(one.value) else f"{one.value:,.{digits}f} {one.unit}".rstrip()
    return f"{'at least' if one.at_least else 'at most'} {one.limit:,g} {one.unit}".rstrip(), value, word


def columns(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """The measures that these rows have; and whether a column has to tell what each stands for."""
    measures = [name for name in MEASURES if any(name in row.values for row in rows)]
    return measures, len({row.at for row in rows}) > 1 and (rows[0].case == 9 or "offered_per_s" not in measures)


def print_tables(rows: Sequence[Row], skipped: Sequence[Skipped], console: Console) -> None:
    for number in sorted({row.case for row in rows}):
        console.print(f"[bold]case {number}: {CASES[number].title}[/]")
        of_case = [row for row in rows if row.case == number]
        for work in dict.fromkeys(row.work for row in of_case):
            console.print(_table(work, [row for row in of_case if row.work == work]))
            console.print()
    for one in skipped:
        console.print(f"[yellow]skipped[/] {one.server}: {one.reason}")


def _table(work: str, rows: Sequence[Row]) -> Table:
    measures, several = columns(rows)
    table = Table(title=work, title_justify="left", box=None, pad_edge=False)
    table.add_column("server", no_wrap=True)
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


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    if not verdicts:
        return
    table = Table("case", "goal", "limit", "measured", "", title="goals", title_justify="left", box=None)
    for one in verdicts:
        colour = {True: "green", False: "red", None: "yellow"}[one.reached]
        limit, value, word = shown_verdict(one)
        table.add_row(str(one.case), one.goal, limit, value, f"[{colour}]{word}[/]")
    console.print(table)
