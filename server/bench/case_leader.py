"""Case 8: the leader alone: changes merged per second, documents held, and how soon another takes over.

Room: a log that is filled before the clock starts, and leaders that begin and are killed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from sync.document import merge

from . import skerry
from .dialect import YJS
from .log_client import LogClient
from .machine import Cores, cpu_s, memory_bytes
from .records import Sample
from .servers import Process, Server, Target
from .stage import Case, Plan, Run, Stage
from .typing import Writers

__all__ = ["LEADING"]

DEADLINE_S: Final = 120.0
DOCUMENTS_OF_LOG: Final = 100


class _Leading(skerry.Edge):
    """A nats-server; leaders are begun by the run."""

    name = "skerry leader"
    url = ""
    pid = 0

    def start(self, folder: Path, cores: Cores) -> Target:
        nats, address = self.run(
            "nats", "nats", "--data", str(folder / "nats"), "--listen", "127.0.0.1:0", folder=folder, cores=cores
        )
        self.url = f"nats://{address[0]}:{address[1]}"
        self.pid = nats.pid
        return Target(address, address, YJS, (nats.pid,), cores.servers)

    def leader(self, stage: Stage, name: str) -> Process:
        process, _ = self.run(
            name, "leader", "--name", name, "--nats", self.url, folder=stage.folder, cores=stage.cores
        )
        return process


def _server(stage: Stage) -> _Leading:
    assert isinstance(stage.server, _Leading)
    return stage.server


def _merging(stage: Stage, count: int, writers: Writers) -> Sample:
    """A log that has piled up is merged: single characters, of a hundred documents in turn."""
    server = _server(stage)
    (person,) = writers.first(1)
    each = count // DOCUMENTS_OF_LOG
    updates = person.type(each)
    with LogClient(server.url) as log:
        log.write([(f"bench/{at}", updates[clock]) for clock in range(each) for at in range(DOCUMENTS_OF_LOG)])
        leader = server.leader(stage, "leader")
        spent_s, began = cpu_s([leader.pid]), time.perf_counter()
        log.wait_merged(DEADLINE_S)  # with getting the lease: a second at most
        seconds = time.perf_counter() - began
        spent_s = cpu_s([leader.pid]) - spent_s
    return Sample({"merged_per_s": count / seconds, "cpu_change_us": 1e6 * spent_s / count})


def _holding(stage: Stage, documents: int, writers: Writers) -> Sample:
    """Documents of a hundred characters, changed once each; then the leader is killed, and each is changed again."""
    server = _server(stage)
    (person,) = writers.first(1)
    typed = person.type(200)
    before, after = merge(typed[:100]), merge(typed[100:200])
    with LogClient(server.url) as log:
        leader = server.leader(stage, "leader-a")
        log.write([("bench/first", before)])
        log.wait_merged(DEADLINE_S)
        empty_bytes = memory_bytes([leader.pid])
        log.write([(f"bench/{at}", before) for at in range(documents)])
        log.wait_merged(DEADLINE_S)
        held = memory_bytes([leader.pid]) - empty_bytes
        server.leader(stage, "leader-b")
        time.sleep(1.0)  # until it looks at the lease, and waits
        place = log.last_place()
        leader.kill()
        killed = time.perf_counter()
        log.write([(f"bench/{at}", after) for at in range(documents)])
        log.wait_merged(DEADLINE_S, beyond=place)
        first_s = time.perf_counter() - killed
        log.wait_merged(DEADLINE_S)
        all_s = time.perf_counter() - killed
    return Sample({"documents_per_gb": documents * 1e9 / held, "takeover_s": first_s, "takeover_all_s": all_s})


def _runs(plan: Plan, servers: list[Server]) -> list[Run]:
    count, documents = (5_000, 200) if plan.quick else (50_000, 10_000)
    (server,) = servers
    return [
        Run(
            server,
            f"{count:,} changes that have piled up",
            count,
            lambda stage: _merging(stage, count, plan.writers),
        ),
        Run(
            server,
            f"{documents:,} documents held and taken over",
            documents,
            lambda stage: _holding(stage, documents, plan.writers),
        ),
    ]


LEADING: Final = Case(8, "the leader alone", "changes or documents", lambda: [_Leading()], _runs)
