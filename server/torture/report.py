"""What a campaign leaves: `report.json`, and `report.svg` with outbox, lag and memory over time and the faults marked.

Room: values into files. Three lines over time need no library of plots.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from xml.sax.saxutils import escape

from .campaign import Outcome

__all__ = ["write_report"]

WIDTH, PANEL, LEFT, TOP, GAP = 1100, 170, 70, 40, 45
COLOURS = ("#1b6ca8", "#c8553d", "#2e8b57", "#8e44ad", "#b8860b", "#555555", "#d63384", "#008b8b", "#7f4f24", "#4b0082")

Series = Mapping[str, Sequence[tuple[float, float]]]


def write_report(outcome: Outcome, directory: Path) -> tuple[Path, Path]:
    data, plot = directory / "report.json", directory / "report.svg"
    data.write_text(json.dumps({"kept": outcome.kept, **asdict(outcome)}, indent=1) + "\n", "utf-8")
    plot.write_text(_svg(outcome), "utf-8")
    return data, plot


def _svg(outcome: Outcome) -> str:
    samples = outcome.samples
    names = sorted({name for sample in samples for name in sample.outbox})
    outbox = {name: [(s.at, float(s.outbox[name])) for s in samples if name in s.outbox] for name in names}
    lag = {"leaders": [(s.at, float(s.lag)) for s in samples if s.lag is not None]}
    nodes = sorted({name for sample in samples for name in sample.rss})
    memory = {n: [(s.at, s.rss[n] / 2**20) for s in samples if s.rss.get(n)] for n in nodes}
    end = max([sample.at for sample in samples], default=1.0)
    height = TOP + 3 * (PANEL + GAP)
    verdict = "everything kept" if outcome.kept else f"{len(outcome.violations)} violations"
    title = f"skerry torture, seed {outcome.seed}: {len(outcome.injected)} faults, {verdict}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    panels: list[tuple[str, Series]] = [
        ("outbox of each edge, changes", outbox),
        ("lag of the leaders, changes", lag),
        ("memory of each process, MiB", memory),
    ]
    for number, (name, series) in enumerate(panels):
        parts += _panel(name, series, TOP + number * (PANEL + GAP), end, outcome.injected)
    return "\n".join([*parts, "</svg>", ""])


def _panel(name: str, series: Series, top: int, end: float, faults: Sequence[Mapping[str, object]]) -> list[str]:
    width = WIDTH - LEFT - 20
    highest = max([value for line in series.values() for _, value in line], default=0.0) or 1.0
    bottom = top + PANEL

    def x(at: float) -> float:
        return LEFT + width * at / end

    def y(value: float) -> float:
        return bottom - (PANEL - 20) * value / highest

    parts = [
        f'<rect x="{LEFT}" y="{top}" width="{width}" height="{PANEL}" fill="none" stroke="#ccc"/>',
        f'<text x="{LEFT}" y="{top - 4}" font-size="12">{escape(name)}</text>',
        f'<text x="{LEFT - 6}" y="{y(highest) + 4:.1f}" font-size="11" text-anchor="end">{highest:.0f}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" font-size="11" text-anchor="end">0</text>',
        f'<text x="{LEFT + width}" y="{bottom + 13}" font-size="11" text-anchor="end">{end:.0f} s</text>',
    ]
    for fault in faults:
        began, ended = float(str(fault["began"])), float(str(fault.get("ended", fault["began"])))
        told = escape(f"{began:.1f} s: {fault['kind']} {fault['target']} {fault['seconds']} s")
        wide = max(1.0, x(ended) - x(began))
        parts.append(
            f'<rect x="{x(began):.1f}" y="{top}" width="{wide:.1f}" height="{PANEL}" fill="#c00" opacity="0.10">'
            f"<title>{told}</title></rect>"
        )
    for number, (label, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        place = LEFT + 10 + 92 * number
        parts.append(f'<text x="{place}" y="{bottom + 13}" font-size="11" fill="{colour}">{escape(label)}</text>')
    return parts
