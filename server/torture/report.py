"""What a campaign leaves: `report.json`, and `report.svg` with outbox, lag and memory over time and the faults marked.

Room: values into files. The plot wants matplotlib (the extra `plots`); without it there is the JSON alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from .campaign import Outcome

__all__ = ["write_report"]

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Name -> (seconds, value)."""

MIB = 1024 * 1024
NAMED_MAX = 80  # more names of faults would cover each other


def write_report(outcome: Outcome, directory: Path) -> tuple[Path, Path | None]:
    """Paths of the report and of the plot: None where there is no matplotlib."""
    data, plot = directory / "report.json", directory / "report.svg"
    data.write_text(json.dumps({"kept": outcome.kept, **asdict(outcome)}, indent=1) + "\n", "utf-8")
    try:
        _plot(outcome, plot)
    except ImportError:
        return data, None
    return data, plot


def _series(outcome: Outcome) -> dict[str, Series]:
    samples = outcome.samples
    edges = sorted({name for sample in samples for name in sample.outbox})
    nodes = sorted({name for sample in samples for name in sample.rss})
    return {
        "outbox of each edge, changes": {
            name: [(s.at, float(s.outbox[name])) for s in samples if name in s.outbox] for name in edges
        },
        "lag of the leaders, changes": {"leaders": [(s.at, float(s.lag)) for s in samples if s.lag is not None]},
        "memory of each process, MiB": {
            name: [(s.at, s.rss[name] / MIB) for s in samples if s.rss.get(name)] for name in nodes
        },
    }


def _plot(outcome: Outcome, path: Path) -> None:
    """Raises ImportError."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = _series(outcome)
    figure = Figure(figsize=(15, 10), layout="constrained")
    verdict = "everything kept" if outcome.kept else f"{len(outcome.violations)} violations"
    figure.suptitle(f"skerry torture, seed {outcome.seed}: {len(outcome.injected)} faults, {verdict}")
    axes = figure.subplots(len(panels), 1, sharex=True)
    for axis, (name, series) in zip(axes, panels.items(), strict=True):
        for fault in outcome.injected:
            began = float(str(fault["began"]))
            axis.axvspan(began, float(str(fault.get("ended", began))), color="tab:red", alpha=0.08, linewidth=0)
        for label, line in series.items():
            clone = label.startswith("clone")  # lives for seconds
            xs, ys = [at for at, _ in line], [value for _, value in line]
            axis.plot(xs, ys, linewidth=1, label=None if clone else label, color="lightgray" if clone else None)
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
        axis.margins(x=0.01)
        if series:
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    if len(outcome.injected) <= NAMED_MAX:
        across = axes[0].get_xaxis_transform()
        for fault in outcome.injected:
            told = f"{fault['kind']} {fault['target']}"
            axes[0].text(float(str(fault["began"])), 0.98, told, rotation=90, size=6, va="top", transform=across)
    axes[-1].set_xlabel("seconds; red: a fault")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "skerry"}):
        figure.savefig(path, metadata={"Date": ""})
