"""Skerry's own entries: one edge alone; and two edges with their nats-server and leader.

Room: this program's command line. Nothing is switched off: every update is stored with fsync before it is echoed, and
with two edges it goes through JetStream on disk. Limits per connection are raised, or the load would be what they are
there against (docs/performance.md says so).
"""

from __future__ import annotations

import json
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Final

from .dialect import YJS
from .machine import Cores
from .servers import Process, Processes, Target, ready
from .wires import Address, BenchError

__all__ = ["Edge", "Edges", "linked"]

ENOUGH: Final = 1_000_000_000
UNLIMITED: Final = {
    f"SKERRY_{name}": str(ENOUGH)
    for name in ("CLIENT_MESSAGES_PER_S", "CLIENT_BYTES_PER_S", "CONNECTIONS_MAX", "DOCUMENT_CLIENTS_MAX")
}
NOWHERE: Final = "nats://127.0.0.1:1"
"""An edge alone is an edge whose link is down."""


class _Skerry:
    def __init__(self) -> None:
        self._processes = Processes()

    @property
    def version(self) -> str:
        return version("skerry")

    def missing(self) -> str | None:
        return None

    def stop(self) -> None:
        self._processes.stop()

    def run(self, name: str, *arguments: str, folder: Path, cores: Cores) -> tuple[Process, Address]:
        """One command, until it says that it is ready."""
        package = str(Path(__file__).resolve().parents[2])
        environment = {**UNLIMITED, "PYTHONPATH": package}
        process = self._processes.start(
            name, [sys.executable, "-m", "server.cli", *arguments, "--log-level", "warning"], folder, cores, environment
        )
        ready(process, lambda: b"\nready " in b"\n" + process.log.read_bytes(), "it is ready")
        line = next(
            line for line in process.log.read_text("utf-8", "replace").splitlines() if line.startswith("ready ")
        )
        facts = dict(pair.split("=", 1) for pair in line.split()[1:])
        host, _, port = facts.get("listen", "127.0.0.1:0").rpartition(":")
        return process, (host, int(port))

    def edge(self, name: str, nats: str, folder: Path, cores: Cores) -> tuple[Process, Address]:
        return self.run(
            name,
            *("edge", "--name", name, "--data", str(folder / name), "--listen", "127.0.0.1:0", "--nats", nats),
            folder=folder,
            cores=cores,
        )


class Edge(_Skerry):
    """One edge, its link down: SQLite with fsync, an outbox that grows."""

    name = "skerry"

    def start(self, folder: Path, cores: Cores) -> Target:
        process, address = self.edge("edge", NOWHERE, folder, cores)
        return Target(address, address, YJS, (process.pid,), cores.servers)


class Edges(_Skerry):
    """Writers at one edge, readers at the other: nats-server with JetStream on disk, leader, two edges."""

    name = "skerry x2"
    url = ""

    def link(self, nats: Address) -> str:
        """What an edge is told of where NATS is."""
        return f"nats://{nats[0]}:{nats[1]}"

    def start(self, folder: Path, cores: Cores) -> Target:
        nats, (host, port) = self.run(
            "nats", "nats", "--data", str(folder / "nats"), "--listen", "127.0.0.1:0", folder=folder, cores=cores
        )
        self.url = url = f"nats://{host}:{port}"
        leader, _ = self.run("leader", "leader", "--nats", url, folder=folder, cores=cores)
        first, one = self.edge("a", self.link((host, port)), folder, cores)
        second, other = self.edge("b", self.link((host, port)), folder, cores)
        for process, address in ((first, one), (second, other)):
            ready(process, lambda at=address: linked(at), "its link is up")  # type: ignore[misc]
        return Target(one, other, YJS, (nats.pid, leader.pid, first.pid, second.pid), cores.servers)


def linked(address: Address) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/status", timeout=5) as answer:
            return bool(json.load(answer)["link"]["state"] == "up")
    except (OSError, KeyError, ValueError) as error:
        raise BenchError(f"an edge's status cannot be read: {error}") from None
