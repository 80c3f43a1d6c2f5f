"""One process of a campaign: begun, killed, frozen, given no room on its disk, and looked at.

Room: process ids, signals, `/proc`. What it writes to standard error is drained through a pipe into a file of the
campaign: a quota on the process's files must not hit its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sync.errors import SkerryError

from .launch import make_clock

__all__ = ["ROOT", "Child", "memory_of"]

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 40.0
ANSWER_S_MAX = 20.0
QUOTA_BYTES = 8 * 1024  # no page of a database lies below it but the first two


class Child:
    """In `command`, `{listen}` is its address: a free port at first, the same one ever after."""

    def __init__(self, role: str, name: str, directory: Path, command: Sequence[str], launched: bool = True) -> None:
        self.role = role
        self.name = name
        self.listen = "127.0.0.1:0"
        self.busy = asyncio.Lock()
        """Held by whoever does something to the process."""
        self.wanted = False
        """It should be running: when it is not, it has died by itself."""
        self.died_count = 0
        self.process: asyncio.subprocess.Process | None = None
        self.log = directory / f"{name}.log"
        self.clock = directory / f"{name}.clock"
        make_clock(self.clock)
        start = [sys.executable, "-m", "server.torture.launch", str(self.clock)] if launched else []
        self._command = [*start, *command]
        self._drains: set[asyncio.Task[None]] = set()
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Raises SkerryError with the end of its log where it does not become ready."""
        assert not self.running, f"{self} runs already"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SKERRY_")}
        paths = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
        self.process = await asyncio.create_subprocess_exec(
            *[part.replace("{listen}", self.listen) for part in self._command],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
            env={**environment, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is for the campaign, which ends its processes in order
        )
        drain = asyncio.create_task(self._drain(self.process))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)
        assert self.process.stdout is not None
        line = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S_MAX):
                line = (await self.process.stdout.readline()).decode()
        if not line.startswith("ready"):
            await asyncio.sleep(0.1)
            raise SkerryError(f"{self} did not start: {self.last_line()}; its log is {self.log}")
        facts = dict(part.partition("=")[::2] for part in line.split()[1:])
        self.listen = facts.get("listen", self.listen)
        self.wanted = True

    async def _drain(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        with self.log.open("ab") as file:
            while piece := await process.stderr.read(64 * 1024):
                file.write(piece)
                file.flush()

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.wanted = False
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    async def stop(self, deadline_s: float = 20.0) -> None:
        """SIGTERM, and SIGKILL where that was not enough."""
        self.wanted = False
        if self.process is not None and self.process.returncode is None:
            self.signal(signal.SIGCONT)
            if self.process.stdin is not None:
                self.process.stdin.close()
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(deadline_s):
                    await self.process.wait()
        await self.kill()

    def signal(self, number: signal.Signals) -> None:
        if self.running and self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def quota(self, full: bool) -> None:
        """No file of it may grow, nor be written beyond its beginning: the kernel's own limit, set from outside."""
        if self.running and self.process is not None:
            _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
            soft = QUOTA_BYTES if full else hard
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    async def order(self, line: str) -> dict[str, object]:
        """One order to an author, and its answer. Raises SkerryError where it does not answer."""
        async with self._asking:
            try:
                assert self.process is not None
                assert self.process.stdin is not None
                assert self.process.stdout is not None
                self.process.stdin.write(line.encode() + b"\n")
                await self.process.stdin.drain()
                async with asyncio.timeout(ANSWER_S_MAX):
                    answer = await self.process.stdout.readline()
                found = json.loads(answer)
                assert isinstance(found, dict)
                return found
            except (OSError, TimeoutError, ValueError) as error:
                raise SkerryError(f"{self}: no answer to {line!r} ({error}); its log is {self.log}") from None

    @property
    def pid(self) -> int | None:
        """While it runs."""
        return self.process.pid if self.running and self.process is not None else None

    def last_line(self) -> str:
        lines = self.log.read_text("utf-8", "replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it said nothing"


def memory_of(pid: int | None) -> tuple[int, int]:
    """Bytes in memory now, and at most so far; zeros where it does not run."""
    found = {"VmRSS:": 0, "VmHWM:": 0}
    if pid is not None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                name, *value = line.split()
                if name in found:
                    found[name] = int(value[0]) * 1024
    return found["VmRSS:"], found["VmHWM:"]
