"""Cases 1 to 3: people type, at one edge and across two. Room: loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from . import peers, skerry
from .load import Load, run_load
from .servers import Server
from .stage import Case, Plan, Run
from .typing import Writers

__all__ = ["ACROSS", "MANY_DOCUMENTS", "ONE_DOCUMENT", "alone", "typing_run"]

RATES: Final = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 40_000)
ONE: Final = Load(documents=1, writers=5, readers=21, per_s=0, seconds=3.0)
ONE_ACROSS: Final = replace(ONE, readers=11)
FIFTY: Final = Load(documents=50, writers=1, readers=2, per_s=0, seconds=3.0)
MANY: Final = replace(FIFTY, documents=500)


def alone() -> list[Server]:
    return [skerry.Edge(), peers.Hocuspocus(), peers.YWebsocket(), peers.PycrdtWebsocket()]


def _across() -> list[Server]:
    return [skerry.Edges(), peers.HocuspocusRedis()]


def typing_run(server: Server, load: Load, writers: Writers, at: float, work: str | None = None) -> Run:
    return Run(server, work or load.work, at, lambda stage: run_load(stage.target, load, writers))


def _runs(*shapes: Load, rates: Sequence[int], quick: Sequence[int]) -> Callable[[Plan, list[Server]], list[Run]]:
    def runs(plan: Plan, servers: list[Server]) -> list[Run]:
        loads = [replace(shape, per_s=rate) for shape in shapes for rate in (quick if plan.quick else rates)]
        if plan.quick:
            loads = [replace(load, seconds=1.0, warm_up_s=0.5, deadline_s=5.0) for load in loads]
        return [typing_run(server, load, plan.writers, load.per_s) for load in loads for server in servers]

    return runs


ONE_DOCUMENT: Final = Case(
    1,
    "one document, one edge",
    "characters offered per second",
    alone,
    _runs(ONE, rates=RATES, quick=(500, 10_000)),
)
MANY_DOCUMENTS: Final = Case(
    2,
    "many documents, one edge",
    "characters offered per second",
    alone,
    _runs(FIFTY, MANY, rates=(1_000, 5_000, 10_000), quick=(5_000,)),
)
ACROSS: Final = Case(
    3,
    "two edges, through NATS and the leader",
    "characters offered per second",
    _across,
    _runs(ONE_ACROSS, FIFTY, MANY, rates=(1_000, 5_000, 10_000), quick=(1_000, 5_000)),
)
