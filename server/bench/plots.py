"""What was found, as SVG: what grows with what, and how. Room: matplotlib, an extra that need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .records import MEASURES, Row

__all__ = ["draw"]

COLOURS: Final = {
    "skerry": "#0b6e6e",
    "skerry x2": "#0b6e6e",
    "skerry leader": "#0b6e6e",
    "hocuspocus": "#d1782c",
    "hocuspocus+redis": "#d1782c",
    "y-websocket": "#7a5ba6",
    "pycrdt-websocket": "#9aa02c",
}

Panel = tuple[str, list[Row], str, str]
"""Title, rows, measure, axis."""


def draw(rows: Sequence[Row], folder: Path) -> list[Path] | None:
    """One file per picture; None where matplotlib is not there."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        return None
    matplotlib.rcParams.update({"svg.hashsalt": "skerry", "svg.fonttype": "none", "font.size": 9})
    made = []
    for name, panels in _pictures([row for row in rows if row.values]):
        figure, places = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), squeeze=False)
        for place, panel in zip(places[0], panels, strict=True):
            _panel(place, panel)
        figure.tight_layout()
        path = folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        made.append(path)
    return made


def _pictures(rows: Sequence[Row]) -> list[tuple[str, list[Panel]]]:
    pictures: list[tuple[str, list[Panel]]] = []

    def add(name: str, panels: list[Panel]) -> None:
        panels = [panel for panel in panels if any(len(line) > 1 for line in _lines(panel[1], panel[2]).values())]
        if panels:
            pictures.append((name, panels))

    for case in (1, 2, 3):
        works = dict.fromkeys(row.work for row in rows if row.case == case)
        for measure, name in (("p50_ms", "latency"), ("p99_ms", "latency-p99"), ("cpu_us", "cpu")):
            panels = [
                (work, [row for row in rows if row.case == case and row.work == work], measure, "offered, /s")
                for work in works
            ]
            add(f"case-{case}-{name}", panels)
    sizes = [row for row in rows if row.case == 4 and row.work.endswith("characters, 1 client, from memory")]
    add("case-4-size", [(title, sizes, measure, "characters") for title, measure in _SIZE_PANELS])
    add("case-6-memory", [(work, _of(rows, 6, work), "connection_kb", "connections") for work in _works(rows, 6)])
    add(
        "case-9-growth",
        [(work, _of(rows, 9, work), "cpu_us", work.partition(":")[0]) for work in _works(rows, 9)],
    )
    return pictures


_SIZE_PANELS: Final = (("time to load", "load_ms"), ("CPU", "cpu_client_ms"))


def _of(rows: Sequence[Row], case: int, work: str) -> list[Row]:
    return [row for row in rows if row.case == case and row.work == work]


def _works(rows: Sequence[Row], case: int) -> list[str]:
    return list(dict.fromkeys(row.work for row in rows if row.case == case))


def _lines(rows: Sequence[Row], measure: str) -> dict[str, list[tuple[float, float, tuple[float, float]]]]:
    """Per server: (at, median, (smallest, largest)), ascending. What did not deliver half of it has no meaning."""
    lines: dict[str, list[tuple[float, float, tuple[float, float]]]] = {}
    for row in sorted(rows, key=lambda row: row.at):
        values = row.values
        if measure in values and values[measure] == values[measure] and values.get("delivered_share", 100) > 50:
            lines.setdefault(row.server, []).append((row.at, values[measure], row.spread(measure)))
    return lines


def _panel(place: Any, panel: Panel) -> None:
    title, rows, measure, axis = panel
    for server, line in _lines(rows, measure).items():
        colour = COLOURS.get(server, "#555555")
        at = [one[0] for one in line]
        place.plot(at, [one[1] for one in line], marker="o", markersize=3, color=colour, label=server)
        place.fill_between(at, [one[2][0] for one in line], [one[2][1] for one in line], color=colour, alpha=0.15)
    place.set_xscale("log")
    place.set_yscale("log")
    low, high = place.get_ylim()
    if high < 10 * low:  # a decade at least: what is flat shall look flat
        middle = (low * high) ** 0.5
        place.set_ylim(middle / 3.2, middle * 3.2)
    place.set_title(title, fontsize=9)
    place.set_xlabel(axis)
    place.set_ylabel(f"{MEASURES[measure].title}, {MEASURES[measure].unit}")
    place.grid(True, which="major", alpha=0.3)
    place.legend(fontsize=7)
