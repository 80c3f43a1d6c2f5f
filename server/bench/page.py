"""What was found, as Markdown: the tables of docs/performance.md, and the page that they stand in. Room: text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sync.errors import ConfigError

from .cases import CASES
from .goals import Verdict
from .records import MEASURES, Row, Skipped
from .report import columns, shown, shown_verdict

__all__ = ["BEGIN", "END", "as_markdown", "put_into"]

BEGIN: Final = "<!-- what the bench writes begins here -->"
END: Final = "<!-- and ends here -->"


def as_markdown(
    rows: Sequence[Row],
    skipped: Sequence[Skipped],
    verdicts: Sequence[Verdict],
    machine: Mapping[str, str],
    settings: Mapping[str, Any],
    pictures: Sequence[str] = (),
) -> str:
    """`pictures`: paths of the plots, as the page sees them."""
    out = ["### The machine", ""]
    out += _table(["what", "which"], [[name, value] for name, value in {**machine, **_told(settings)}.items()])
    for one in skipped:
        out += [f"Skipped: {one.server}: {one.reason}.", ""]
    out += ["### Goals", ""]
    out += _table(
        ["case", "goal", "limit", "measured", ""],
        [[str(one.case), one.goal, *shown_verdict(one)] for one in verdicts],
    )
    for number in sorted({row.case for row in rows}):
        out += [f"### Case {number}: {CASES[number].title}", ""]
        of_case = [row for row in rows if row.case == number]
        for work in dict.fromkeys(row.work for row in of_case):
            out += _work(work, [row for row in of_case if row.work == work])
        out += [f"![{Path(one).stem}]({one})" for one in pictures if Path(one).name.startswith(f"case-{number}-")]
        out.append("")
    return "\n".join(out).rstrip() + "\n"


def _told(settings: Mapping[str, Any]) -> dict[str, str]:
    names = ("repeat", "cores", "versions")
    return {name: str(settings[name]) for name in names if name in settings}


def _work(work: str, rows: Sequence[Row]) -> list[str]:
    measures, several = columns(rows)
    head = [
        "server",
        *(["at"] if several else []),
        *(f"{MEASURES[one].title}, {MEASURES[one].unit}" for one in measures),
        "",
    ]
    lines = []
    for row in rows:
        at = [f"{row.at:,.0f}"] if several else []
        values = row.values
        lines.append([row.server, *at, *(shown(name, values.get(name)) for name in measures), "; ".join(row.marks)])
    return [f"**{work}**", "", *_table(head, lines)]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rule = ["---"] * len(head)
    return [*("| " + " | ".join(line) + " |" for line in (head, rule, *cells)), ""]


def put_into(page: Path, text: str) -> None:
    """Between the two marks of a page; the rest is left as it is."""
    whole = page.read_text("utf-8") if page.is_file() else ""
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"--page: {page} has no place for results; it needs the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", "utf-8")
