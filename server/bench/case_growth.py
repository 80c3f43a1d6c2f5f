"""Case 9: cost as work grows: more documents, a longer log, more connections. Room: one load, and what it grows in."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from . import peers, skerry
from .case_typing import typing_run
from .load import Load, run_load
from .log_client import LogClient
from .records import Sample
from .servers import Server
from .stage import Case, Plan, Run, Stage
from .typing import Writers

__all__ = ["GROWTH"]

PROBED: Final = 50
DOCUMENTS: Final = (1, 10, 100, 1_000, 10_000)
CHANGES: Final = (1, 1_000, 10_000, 100_000)
CONNECTIONS: Final = (1, 10, 100, 1_000)
MERGED_S_MAX: Final = 120.0


def _after(stage: Stage, changes: int, load: Load, writers: Writers) -> Sample:
    """The document's log has so many changes already, a character each, when people begin to type."""
    server = stage.server
    assert isinstance(server, skerry.Edges)
    before = writers.first(load.writers + 1)[-1].type(changes)
    with LogClient(server.url) as log:
        log.write([("bench/0", update) for update in before[:changes]])
        log.wait_merged(MERGED_S_MAX)
    return run_load(stage.target, load, writers)


def _runs(plan: Plan, servers: list[Server]) -> list[Run]:
    most = 100 if plan.quick else 1_000_000
    seconds = 1.0 if plan.quick else 3.0
    by_documents = Load(1, 1, 1, 2_000, seconds, warm_up_s=0.5, probed=PROBED)
    by_changes = Load(1, 1, 1, 500, seconds)
    by_connections = Load(1, 1, 1, 200, seconds)
    alone = [server for server in servers if server.name != skerry.Edges.name]
    found: list[Run] = []
    for documents in (count for count in DOCUMENTS if count <= most):
        load = replace(by_documents, documents=documents)
        found += [typing_run(server, load, plan.writers, documents, WORKS[0]) for server in alone]
    for server in servers:
        if server.name == skerry.Edges.name:
            for changes in (count for count in CHANGES if count <= max(most, 1_000)):
                found.append(_log_run(server, changes, by_changes, plan.writers))
    for connections in (count for count in CONNECTIONS if count <= most):
        load = replace(by_connections, readers=connections)
        found += [typing_run(server, load, plan.writers, connections, WORKS[2]) for server in alone]
    return found


def _log_run(server: Server, changes: int, load: Load, writers: Writers) -> Run:
    return Run(server, WORKS[1], changes, lambda stage: _after(stage, changes, load, writers))


WORKS: Final = (
    "documents: 2,000/s over all of them",
    "changes in one document's log: 500/s behind them",
    "readers of one document: 200/s",
)
GROWTH: Final = Case(
    9,
    "cost as work grows",
    "documents, changes or connections",
    lambda: [skerry.Edge(), skerry.Edges(), peers.Hocuspocus(), peers.YWebsocket()],
    _runs,
)
