"""What the bench has found: samples, rows of them, measures and their units. Room: values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from .statistics import medians, spread

__all__ = ["MEASURES", "Measure", "Row", "Sample", "Skipped"]


@dataclass(frozen=True, slots=True)
class Measure:
    title: str
    unit: str
    digits: int = 1


MEASURES: Final[dict[str, Measure]] = {
    "offered_per_s": Measure("offered", "/s", 0),
    "delivered_share": Measure("delivered", "%", 1),
    "delivered_per_s": Measure("delivered", "/s", 0),
    "p50_ms": Measure("p50", "ms", 1),
    "p99_ms": Measure("p99", "ms", 1),
    "cpu_us": Measure("CPU", "us/update", 1),
    "load_ms": Measure("loaded", "ms", 1),
    "cpu_client_ms": Measure("CPU", "ms/client", 1),
    "neighbour_ms": Measure("longest wait", "ms, neighbour", 0),
    "document_mb": Measure("document", "MB", 3),
    "connection_kb": Measure("memory", "kB/connection", 1),
    "connections_per_s": Measure("connected", "/s", 0),
    "cpu_connection_us": Measure("CPU", "us/connection", 0),
    "settled_share": Measure("last moves", "% seen", 1),
    "cpu_share": Measure("CPU", "% of a core", 0),
    "back_ms": Measure("all there", "ms", 1),
    "apply_ms": Measure("applied once", "ms", 2),
    "time_ratio": Measure("time", "x applied once", 1),
    "merged_kb": Measure("merged", "kB", 1),
    "reader_ratio": Measure("to the reader", "x merged", 2),
    "shipped_ratio": Measure("to the log", "x merged", 2),
    "cpu_ms": Measure("CPU", "ms", 0),
    "merged_per_s": Measure("merged", "changes/s", 0),
    "cpu_change_us": Measure("CPU", "us/change", 1),
    "documents_per_gb": Measure("held", "documents/GB", 0),
    "takeover_s": Measure("first change merged", "s", 1),
    "takeover_all_s": Measure("a change in each", "s", 1),
    "p50_deaf_ms": Measure("p50 beside them", "ms", 1),
    "p99_deaf_ms": Measure("p99 beside them", "ms", 1),
    "p99_ratio": Measure("p99", "x without", 2),
    "slow_count": Measure("slow", "readers", 0),
    "deaf_kb": Measure("memory", "kB/of them", 0),
    "budget_share": Measure("of the budget", "%", 0),
    "memory_mb": Measure("memory", "MB", 0),
    "generator_share": Measure("generator", "% busy", 0),
}
"""Every measure by its name in the JSON."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    values: Mapping[str, float]
    marks: tuple[str, ...] = ()
    """What has to be known about it: the generator was saturated, the server closed connections."""


@dataclass(slots=True)
class Row:
    """The repeats of one run: what is shown is the median of each measure."""

    case: int
    server: str
    work: str
    at: float
    """Where it stands on the plot's axis: the offered load, a number of connections, of documents."""
    samples: list[Sample] = field(default_factory=list)

    @property
    def values(self) -> dict[str, float]:
        return medians([sample.values for sample in self.samples])

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(mark for sample in self.samples for mark in sample.marks))

    def spread(self, measure: str) -> tuple[float, float]:
        return spread(sample.values[measure] for sample in self.samples if measure in sample.values)


@dataclass(frozen=True, slots=True)
class Skipped:
    server: str
    reason: str
