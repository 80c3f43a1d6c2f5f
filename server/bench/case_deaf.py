"""Case 10: many idle connections, some busy ones, and a few that never read: what those cost the others, and memory.

Room: the same load twice on one server, in one run: beside twenty readers of a document that somebody pastes into
without a break, and beside twenty on it that do not read.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final

from sync import limits
from sync.document import Document

from . import skerry
from .case_idle import connect_all
from .load import Load, run_load
from .machine import memory_bytes
from .records import Sample
from .servers import Server
from .stage import Case, Plan, Run, Stage
from .typing import ROOT, Writers
from .wires import BenchError, Client, Wires, masked

__all__ = ["DEAF"]

DOC: Final = "bench/pasted"
DEAF_COUNT: Final = 20
IDLE_COUNT: Final = 2_000
BUSY: Final = Load(documents=50, writers=1, readers=3, per_s=500, seconds=6.0)
"""200 connections, 10 characters a second from each that writes."""
PASTE_BYTES: Final = 32_768
PASTES_PER_S: Final = 20
FILLED_S: Final = 90.0
"""A kernel keeps up to some MiB for a socket whose other end does not read; only then the edge notices."""


def budget_bytes(connections: int, deaf: int) -> int:
    """What an edge may take above an edge with nobody, its documents apart (docs/operations.md)."""
    return connections * limits.CONNECTION_BYTES + deaf * (limits.READER_SLOW_BYTES + 2 * PASTE_BYTES)


class _Pasting:
    """While it is entered, a thread pastes, reads for who reads, and answers for who is idle."""

    def __init__(self, wires: Wires, stage: Stage, paster: Client) -> None:
        self._wires = wires
        self._dialect = stage.target.dialect
        self._paster = paster
        self._document = Document()
        self._number = 0
        self._over = threading.Event()

    def __enter__(self) -> _Pasting:
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="pasting", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        next_s = time.perf_counter()
        while not self._over.is_set():
            if time.perf_counter() >= next_s:
                next_s += 1 / PASTES_PER_S
                self._number += 1
                text = f"{self._number:08}" * (PASTE_BYTES // 8)  # in the last one's place: the document does not grow
                update = self._document.edit_text(ROOT, 0, len(self._document.text(ROOT)), text)
                self._paster.send(masked(self._dialect.update(DOC, update)))
            self._wires.turn(0.005)


def _never_reading(stage: Stage) -> socket.socket:
    """Open and synchronised as far as it can be told from here; its kernel keeps as little as it may."""
    dialect = stage.target.dialect
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.settimeout(10)
    raw.connect(stage.target.readers_at)
    host, port = stage.target.readers_at
    raw.sendall(
        f"GET {dialect.path(DOC)} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: c2tlcnJ5IGJlbmNoIHJ1bg==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode("ascii")
    )
    for message in dialect.hello(DOC):
        raw.sendall(masked(message))
    return raw


def _slow_count(stage: Stage) -> int:
    host, port = stage.target.readers_at
    with urllib.request.urlopen(f"http://{host}:{port}/status", timeout=10) as answer:
        return int(json.load(answer)["slow_readers"]["now"])


def _measure(stage: Stage, idle: int, deaf: int, load: Load, writers: Writers) -> Sample:
    with Wires() as wires:
        connect_all(wires, stage, [f"bench/warm/{at}" for at in range(50)], 1)
        bare = memory_bytes(stage.target.pids)
        connect_all(wires, stage, [f"bench/idle/{at // 10}" for at in range(idle)])
        paster = wires.connect(stage.target.writers_at, stage.target.dialect.path(DOC))
        wires.all_ready([paster])
        known = set(wires.clients)
        connect_all(wires, stage, [DOC] * deaf)
        readers = wires.clients - known
        wires.deafen([*readers, paster])  # emptied, and not looked at
        pasting = _Pasting(wires, stage, paster)
        with pasting:
            without = run_load(stage.target, load, writers)
            before = memory_bytes(stage.target.pids)
        for reader in list(readers):
            reader.close()
        sockets = [_never_reading(stage) for _ in range(deaf)]
        try:
            with pasting:
                _wait_until_slow(stage, deaf)
                after = memory_bytes(stage.target.pids)
                beside = run_load(stage.target, replace(load, name="beside"), writers)
            slow = _slow_count(stage)
        finally:
            for raw in sockets:
                raw.close()
        lost = [f"{wires.lost_count} connections lost: {wires.lost_why}"] if wires.lost_count else []
    held = 1e6 * beside.values["memory_mb"] - bare
    connections = idle + deaf + load.documents * (load.writers + load.readers)
    return Sample(
        {
            "p50_ms": without.values["p50_ms"],
            "p99_ms": without.values["p99_ms"],
            "p50_deaf_ms": beside.values["p50_ms"],
            "p99_deaf_ms": beside.values["p99_ms"],
            "p99_ratio": beside.values["p99_ms"] / without.values["p99_ms"],
            "slow_count": slow,
            "memory_mb": beside.values["memory_mb"],
            "deaf_kb": (after - before) / deaf / 1000,
            "budget_share": 100 * held / budget_bytes(connections, deaf),
            "generator_share": beside.values["generator_share"],
        },
        tuple(dict.fromkeys((*_marks(without, "without"), *_marks(beside, "beside"), *lost))),
    )


def _wait_until_slow(stage: Stage, count: int) -> None:
    ends = time.monotonic() + FILLED_S
    while _slow_count(stage) < count:
        if time.monotonic() > ends:
            raise BenchError(f"not within {FILLED_S:g} s: {count} readers that do not read are noticed")
        time.sleep(0.2)


def _marks(sample: Sample, which: str) -> Sequence[str]:
    return [f"{which}: {mark}" for mark in sample.marks]


def _runs(plan: Plan, servers: list[Server]) -> list[Run]:
    idle = 200 if plan.quick else IDLE_COUNT
    load = replace(BUSY, documents=10, per_s=100, seconds=1.0, warm_up_s=0.5) if plan.quick else BUSY
    busy = load.documents * (load.writers + load.readers)
    work = f"{idle:,} idle, {busy} busy, {DEAF_COUNT} that never read"
    return [
        Run(server, work, DEAF_COUNT, lambda stage: _measure(stage, idle, DEAF_COUNT, load, plan.writers))
        for server in servers
    ]


DEAF: Final = Case(10, "readers that do not read", "of them", lambda: [skerry.Edge()], _runs)
