"""Servers under test as processes: started on their core, ready when they listen, ended by their id.

Room: processes. What each is called, needs and says is in `skerry` and `peers`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from .dialect import Dialect
from .machine import Cores, pin
from .wires import Address, BenchError

__all__ = ["Process", "Processes", "Server", "Target", "free_port", "ready", "wait_listening"]

READY_S_MAX: Final = 30.0
STOP_S_MAX: Final = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """What a run needs to know of the servers: where writers and readers connect, how they talk, who they are."""

    writers_at: Address
    readers_at: Address
    dialect: Dialect
    pids: tuple[int, ...]
    core: int | None = None
    """Where they run, and ideally nobody else."""


class Server(Protocol):
    """One entry of the tables. `start` and `stop` may be called again; what is in the folder is found again."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def missing(self) -> str | None:
        """Why it cannot run on this machine; None where it can. May install it."""
        ...

    def start(self, folder: Path, cores: Cores) -> Target: ...

    def stop(self) -> None: ...


class Process:
    """A child with its log."""

    def __init__(self, name: str, child: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.child = child
        self.log = log

    @property
    def pid(self) -> int:
        return self.child.pid

    def last_lines(self) -> str:
        lines = self.log.read_text("utf-8", "replace").splitlines()[-5:]
        return " / ".join(lines) or "(it said nothing)"

    def stop(self) -> None:
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        self.child.wait()


class Processes:
    """The children of one server."""

    def __init__(self) -> None:
        self._children: list[Process] = []

    def start(
        self, name: str, command: Sequence[str], folder: Path, cores: Cores, env: Mapping[str, str] | None = None
    ) -> Process:
        """None is forgotten: a signal that comes meanwhile ends the bench once `stop` knows the child."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{name}.log"
        with open(log, "wb") as out, _signals_wait():
            child = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            )
            process = Process(name, child, log)
            self._children.append(process)
        with contextlib.suppress(ProcessLookupError):
            pin(cores.servers, child.pid)
        return process

    def stop(self) -> None:
        """The last one first."""
        for process in reversed(self._children):
            process.stop()
        self._children.clear()


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # where no signal is met
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signum in came:
            signal.raise_signal(signum)


def ready(process: Process, condition: Callable[[], bool], what: str) -> None:
    """Waits until it holds. Raises BenchError where the process ends or does not get there in time."""
    ends = time.monotonic() + READY_S_MAX
    while not condition():
        if process.child.poll() is not None:
            raise BenchError(f"{process.name} ended before {what}: {process.last_lines()}")
        if time.monotonic() > ends:
            raise BenchError(f"{process.name}: not within {READY_S_MAX:g} s: {what}: {process.last_lines()}")
        time.sleep(0.02)


def wait_listening(process: Process, address: Address) -> None:
    def listening() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(address, 1.0):
            return True
        return False

    ready(process, listening, f"it listens on port {address[1]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
