"""What Skerry means to reach, as ratios within one run, and whether it does. Room: arithmetic over rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from .records import Row

__all__ = ["Verdict", "judge"]

SUSTAINED: Final = 0.97
"""Who delivers this share of what is offered while it is offered keeps up."""
GROWTH_MAX: Final = 1.2
"""What does not grow may vary by so much between two runs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    case: int
    goal: str
    value: float
    """Not a number: this run has not measured it."""
    limit: float
    at_least: bool = False
    unit: str = "x"

    @property
    def reached(self) -> bool | None:
        if math.isnan(self.value):
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class _Found:
    """Rows by what they are."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if row.values]

    def of(self, case: int, server: str = "", work: str = "", at: float | None = None) -> list[Row]:
        return [
            row
            for row in self.rows
            if row.case == case
            and (not server or row.server == server)
            and work in row.work
            and (at is None or row.at == at)
        ]

    def value(self, measure: str, case: int, server: str, work: str = "", at: float | None = None) -> float:
        return next((row.values[measure] for row in self.of(case, server, work, at) if measure in row.values), math.nan)

    def best_peer(self, measure: str, case: int, work: str, at: float | None = None) -> float:
        """The smallest of those that keep up."""
        peers = [row.values for row in self.of(case, "", work, at) if not row.server.startswith("skerry")]
        return min((one[measure] for one in peers if measure in one and _keeps_up(one)), default=math.nan)


def _keeps_up(values: dict[str, float]) -> bool:
    offered = values.get("offered_per_s")
    return offered is None or values["delivered_per_s"] >= SUSTAINED * offered


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Every goal of the cases that were run."""
    found = _Found(rows)
    made: list[Verdict] = []
    for case, judged in _JUDGES.items():
        if any(row.case == case for row in found.rows):
            made += judged(found)
    return made


def _one_document(found: _Found) -> list[Verdict]:
    fast = [
        row.at
        for row in found.of(1, "skerry")
        if _keeps_up(row.values) and row.values["delivered_share"] > 99.9 and row.values["p99_ms"] < 100
    ]
    return [
        Verdict(1, "characters/s sustained with p99 below 100 ms", max(fast, default=0), 40_000, True, "/s"),
        _ratio(found, 1, "CPU per update at 10,000/s, of Hocuspocus's", "cpu_us", "hocuspocus", 0.33, at=10_000),
        _ratio(found, 1, "p50 at 500/s, of Hocuspocus's", "p50_ms", "hocuspocus", 1.0, at=500),
    ]


def _ratio(
    found: _Found,
    case: int,
    goal: str,
    measure: str,
    peer: str,
    limit: float,
    *,
    work: str = "",
    at: float | None = None,
    ours: str = "skerry",
) -> Verdict:
    """`peer`: a name, or `best` for the best of those that keep up."""
    mine = found.value(measure, case, ours, work, at)
    theirs = found.best_peer(measure, case, work, at) if peer == "best" else found.value(measure, case, peer, work, at)
    return Verdict(case, goal, mine / theirs if theirs else math.nan, limit)


def _many_documents(found: _Found) -> list[Verdict]:
    return [
        _ratio(
            found,
            2,
            f"CPU per update, {count} documents at 5,000/s, of the best peer's",
            "cpu_us",
            "best",
            0.5,
            work=f"{count} documents",
            at=5_000,
        )
        for count in (50, 500)
    ]


def _across(found: _Found) -> list[Verdict]:
    verdicts = []
    for work in ("1 document", "50 documents", "500 documents"):
        for at in (1_000, 5_000, 10_000):
            for measure, what, limit in (
                ("cpu_us", "CPU per update", 0.5),
                ("p50_ms", "p50", 1.0),
                ("p99_ms", "p99", 1.0),
            ):
                goal = f"{what}, {work} at {at:,}/s, of Hocuspocus with Redis's"
                one = _ratio(found, 3, goal, measure, "hocuspocus+redis", limit, work=work, at=at, ours="skerry x2")
                verdicts.append(one)
    return [one for one in verdicts if not math.isnan(one.value)]


def _loading(found: _Found) -> list[Verdict]:
    verdicts = [
        _ratio(
            found,
            4,
            f"CPU per client, real document, {clients}, from memory, of the best peer's",
            "cpu_client_ms",
            "best",
            0.5,
            work=f"edits, {clients}, from memory",
        )
        for clients in ("1 client", "30 clients")
    ]
    verdicts.append(
        _ratio(
            found,
            4,
            "CPU per client, real document, 30 clients, another node, of Hocuspocus with Redis's",
            "cpu_client_ms",
            "hocuspocus+redis",
            0.5,
            work="edits, 30 clients, from another",
            ours="skerry x2",
        )
    )
    opened = [found.value("load_ms", 4, "skerry", f"10,000,000 characters, 1 client, {where}") for where in _PLACES]
    opened.append(found.value("load_ms", 4, "skerry x2", "10,000,000 characters"))
    verdicts.append(
        Verdict(
            4,
            "ways in which 10,000,000 characters open (memory, disk, other edge)",
            sum(not math.isnan(one) for one in opened),
            3,
            True,
            "",
        )
    )
    for what in ("real edits", "10,000,000"):
        waits = [
            row.values["neighbour_ms"]
            for row in found.of(4, "", what)
            if row.server.startswith("skerry") and "neighbour_ms" in row.values
        ]
        goal = f"longest wait of another document's typist meanwhile ({what})"
        verdicts.append(Verdict(4, goal, max(waits, default=math.nan), 50, False, "ms"))
    return verdicts


_PLACES: Final = ("from memory", "from disk")


def _offline(found: _Found) -> list[Verdict]:
    verdicts = []
    for who, work in (("a client was away", "client"), ("an edge was cut off", "edge")):
        for measure, what, limit in (("shipped_ratio", "bytes to the log", 1.1), ("time_ratio", "time", 2.0)):
            of = "the merged update's" if measure == "shipped_ratio" else "that of applying it once"
            verdicts.append(Verdict(5, f"{what}, {who}, of {of}", found.value(measure, 5, "skerry x2", work), limit))
    return verdicts


def _idle(found: _Found) -> list[Verdict]:
    verdicts = []
    for work, what, kilobytes in (("all on one", "one document", 10), ("each", "a document each", 25)):
        rows = sorted(found.of(6, "skerry", work), key=lambda row: row.at)
        held, speed = (rows[-1].values[name] if rows else math.nan for name in ("connection_kb", "connections_per_s"))
        verdicts.append(Verdict(6, f"memory of an idle connection, {what}", held, kilobytes, False, "kB"))
        verdicts.append(Verdict(6, f"connections accepted, {what}", speed, 1_000, True, "/s"))
    return verdicts


def _presence(found: _Found) -> list[Verdict]:
    return [_ratio(found, 7, "CPU per cursor move, of Hocuspocus's", "cpu_us", "hocuspocus", 0.5)]


def _growth(found: _Found) -> list[Verdict]:
    rows = sorted(found.of(9, "skerry x2", "log"), key=lambda row: row.at)
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    return [
        Verdict(
            9,
            f"{what} behind {last.at:,.0f} changes, of that behind {first.at:,.0f}",
            last.values.get(measure, math.nan) / first.values.get(measure, math.nan),
            GROWTH_MAX,
        )
        for measure, what in (("cpu_us", "CPU per update"), ("p50_ms", "p50"), ("memory_mb", "memory of all processes"))
    ]


def _deaf(found: _Found) -> list[Verdict]:
    ratio, share = (found.value(measure, 10, "skerry") for measure in ("p99_ratio", "budget_share"))
    return [
        Verdict(10, "p99 of the busy beside readers that do not read, of that without", ratio, 2.0),
        Verdict(10, "memory, of the budget for so many connections", share, 100, False, "%"),
    ]


_JUDGES: Final[dict[int, Callable[[_Found], list[Verdict]]]] = {
    1: _one_document,
    2: _many_documents,
    3: _across,
    4: _loading,
    5: _offline,
    6: _idle,
    7: _presence,
    9: _growth,
    10: _deaf,
}
