"""Case 6: connections that do nothing: what each holds, how fast they come in. Room: many connections at once."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

from .case_typing import alone
from .dialect import Dialect
from .machine import cpu_s, memory_bytes
from .records import Sample
from .servers import Server
from .stage import Case, Plan, Run, Stage
from .wires import BenchError, Client, Wires, masked

__all__ = ["IDLE", "connect_all"]

AT_ONCE: Final = 64
"""So many are on their way in at a time: an office whose network comes back."""
DEADLINE_S: Final = 60.0


def connect_all(wires: Wires, stage: Stage, docs: list[str], at_once: int = AT_ONCE) -> float:
    """One client per entry, connected and synchronised; returns the seconds that it took."""
    dialect, address = stage.target.dialect, stage.target.readers_at
    began = time.perf_counter()
    ends = began + DEADLINE_S
    coming: deque[_Coming] = deque()
    left = iter(docs)
    while True:
        while len(coming) < at_once and (doc := next(left, None)) is not None:
            coming.append(_Coming(wires.connect(address, dialect.path(doc)), dialect, doc))
        if not coming:
            return time.perf_counter() - began
        wires.turn(0.002)
        for _ in range(len(coming)):
            one = coming.popleft()
            if not one.come():
                coming.append(one)
        if time.perf_counter() > ends:
            raise BenchError(f"{len(wires.clients)} of {len(docs)} clients are synchronised after {DEADLINE_S:g} s")


class _Coming:
    def __init__(self, client: Client, dialect: Dialect, doc: str) -> None:
        self._client = client
        self._dialect = dialect
        self._doc = doc
        self._greeted = False

    def come(self) -> bool:
        """Does what is next; True once it was answered. Raises BenchError where it is turned away."""
        if self._client.closed is not None:
            raise BenchError(f"a connection failed: {self._client.closed}")
        if self._client.ready and not self._greeted:
            self._greeted = True
            for message in self._dialect.hello(self._doc):
                self._client.send(masked(message))
        return self._greeted and self._client.heard > 0


def _measure(stage: Stage, count: int, apart: bool) -> Sample:
    with Wires() as wires:
        connect_all(wires, stage, ["bench/0"] * 10 + [f"bench/warm/{at}" for at in range(50)], 1)
        wires.rest(0.5)
        before_bytes, before_s = memory_bytes(stage.target.pids), cpu_s(stage.target.pids)
        own_s = time.process_time()
        seconds = connect_all(wires, stage, [f"bench/{at if apart else 0}" for at in range(1, count + 1)])
        own_s = time.process_time() - own_s
        wires.rest(0.5)
        spent_s = cpu_s(stage.target.pids) - before_s
        held = memory_bytes(stage.target.pids) - before_bytes
        marks = [f"{wires.lost_count} connections lost: {wires.lost_why}"] if wires.lost_count else []
    return Sample(
        {
            "connection_kb": held / count / 1000,
            "connections_per_s": count / seconds,
            "cpu_connection_us": 1e6 * spent_s / count,
            "generator_share": 100 * own_s / seconds,
        },
        tuple(marks),
    )


def _runs(plan: Plan, servers: list[Server]) -> list[Run]:
    found: list[Run] = []
    for apart in (False, True):
        for count in (300,) if plan.quick else (500, 1_000, 2_000):
            for server in servers:
                work = "idle, a document each" if apart else "idle, all on one document"
                found.append(
                    Run(server, work, count, lambda stage, count=count, apart=apart: _measure(stage, count, apart))  # type: ignore[misc]
                )
    return found


IDLE: Final = Case(6, "idle connections", "connections", alone, _runs)
