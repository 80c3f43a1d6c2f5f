"""The machine: which core works for whom, and what a process has cost so far.

Room: cores, CPU seconds, bytes of memory. Servers share the first core and the load generator has the last one, so
that neither is measured through the other; a machine that cannot pin, or has one core, is said to be so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

__all__ = ["Cores", "allow_many_files", "core_s", "cores", "cpu_s", "describe", "memory_bytes", "pin"]

_clock_of = getattr(ctypes.CDLL(None), "clock_getcpuclockid", None)


@dataclass(frozen=True, slots=True)
class Cores:
    """None: not pinned."""

    servers: int | None
    generator: int | None

    @property
    def apart(self) -> bool:
        return self.servers is not None and self.servers != self.generator


def cores() -> Cores:
    """One for the servers, another for the generator, of those that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[-1])


def pin(core: int | None, pid: int = 0) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {core})


def allow_many_files() -> None:
    """As many connections as the system lets a process have, for this one and the servers that it starts."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes and their children so far. One that has ended counts nothing."""
    spent = 0.0
    for process in _family(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent += _spent_s(process)
    return spent


def _spent_s(process: psutil.Process) -> float:
    """By the process' own clock, in nanoseconds, where there is one (POSIX); psutil's counts in 10 ms."""
    if _clock_of is not None:
        clock = ctypes.c_int()
        if _clock_of(process.pid, ctypes.byref(clock)) == 0:
            with contextlib.suppress(OSError):  # it has just ended
                return time.clock_gettime(clock.value)
    times = process.cpu_times()
    return float(times.user + times.system)


def core_s(core: int | None) -> float:
    """How long a core has been busy so far, for whomever; 0 where it is not known."""
    if core is None:
        return 0.0
    times = psutil.cpu_times(percpu=True)
    return float(sum(times[core]) - times[core].idle - getattr(times[core], "iowait", 0.0))


def memory_bytes(pids: Iterable[int]) -> int:
    """What belongs to these processes alone, where the platform tells; else what is resident. Slow."""
    held = 0
    for process in _family(pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            held += _own_bytes(process)
    return held


def _family(pids: Iterable[int]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found[pid] = process
            found.update((child.pid, child) for child in process.children(recursive=True))
    return list(found.values())


def _own_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except (AttributeError, psutil.AccessDenied):
        return int(process.memory_info().rss)


def describe() -> dict[str, str]:
    """For the report: what ran this."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count() or "?"),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
