"""What a decoder may do with an input: return, or raise what it says that it raises, in bounded time and memory.

Room: one input, one verdict, in the process that calls it; whether that survives is `campaign`'s to see.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "CPU_MS_MAX",
    "ELSEWHERE_MS_MAX",
    "INPUT_BYTES_MAX",
    "RSS_MIB_MAX",
    "Decoder",
    "Peak",
    "Verdict",
    "elsewhere",
    "judged",
    "peak_of",
    "turn",
]

CPU_MS_MAX = 100.0
"""How long the event loop may be held; CPU of this thread, so that a busy machine does not lie."""
ELSEWHERE_MS_MAX = 1_000.0
"""How long a thread may take beside the loop. A mebibyte of tiny JSON values takes 600."""
RSS_MIB_MAX = 16.0
INPUT_BYTES_MAX = 1024 * 1024
"""Of what is timed."""
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others keep less
_AGAIN = 5  # measured alone, so many times, before slowness is called one: the machine has other work


@dataclass(frozen=True, slots=True)
class Decoder:
    """`decode` is what is judged; what it returns goes to `use`, which may take its time but not the process."""

    name: str
    seeds: Callable[[], list[bytes]]
    decode: Callable[[bytes], object]
    raises: tuple[type[BaseException], ...]
    use: Callable[[bytes, object], None] | None = None
    words: tuple[bytes, ...] = ()
    weight: float = 1.0
    """Share of a campaign's inputs, beside the others'."""
    large: bool = True


@dataclass(slots=True)
class Verdict:
    word: str
    """accepted, refused; or a finding: raised, panic, slow, memory. `campaign` adds killed and hung."""
    detail: str = ""
    cpu_ms: float = 0.0

    @property
    def bad(self) -> bool:
        return self.word not in ("accepted", "refused")


def judged(decoder: Decoder, data: bytes) -> Verdict:
    """Decode once, and use what was accepted."""
    _watch.begin()
    try:
        value = decoder.decode(data)
        word = "accepted"
    except decoder.raises:
        word = "refused"
    except MemoryError as error:
        return Verdict("memory", repr(error))
    except Exception as error:
        return Verdict("raised", _told(error))
    except BaseException as error:  # pyo3's PanicException
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return Verdict("panic", _told(error))
    turn()
    cpu_ms, elsewhere_ms = _watch.longest_ms, _watch.elsewhere_ms
    if (cpu_ms > CPU_MS_MAX or elsewhere_ms > ELSEWHERE_MS_MAX) and len(data) <= INPUT_BYTES_MAX:
        again = [_cpu_ms(decoder, data) for _ in range(_AGAIN)]
        cpu_ms, elsewhere_ms = min(each[0] for each in again), min(each[1] for each in again)
        if cpu_ms > CPU_MS_MAX:
            return Verdict("slow", f"{cpu_ms:.0f} ms for {len(data)} bytes", cpu_ms)
        if elsewhere_ms > ELSEWHERE_MS_MAX:
            return Verdict("slow", f"{elsewhere_ms:.0f} ms in a thread for {len(data)} bytes", cpu_ms)
    if word == "accepted" and decoder.use is not None:
        try:
            decoder.use(data, value)
        except Exception as error:
            return Verdict("raised", f"while used: {_told(error)}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return Verdict("panic", f"while used: {_told(error)}")
    return Verdict(word, "", cpu_ms)


def _cpu_ms(decoder: Decoder, data: bytes) -> tuple[float, float]:
    """Of the longest turn, and of all that was done elsewhere."""
    _watch.begin()
    with contextlib.suppress(*decoder.raises):
        decoder.decode(data)
    turn()
    return _watch.longest_ms, _watch.elsewhere_ms


class _Watch:
    """What one decoding has taken so far."""

    def begin(self) -> None:
        self.longest_ms = self.elsewhere_ms = 0.0
        self.began = time.thread_time_ns()

    def lap(self) -> float:
        began, self.began = self.began, time.thread_time_ns()
        return (self.began - began) / 1e6


_watch = _Watch()
_watch.begin()


def turn() -> None:
    """Called by a decoder between two steps that are two turns of the event loop in the product."""
    _watch.longest_ms = max(_watch.longest_ms, _watch.lap())


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """In the product a thread does this."""
    turn()
    try:
        yield
    finally:
        _watch.elsewhere_ms += _watch.lap()


def _told(error: BaseException) -> str:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place is not None else ""
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())[:160]}"


@dataclass(slots=True)
class Peak:
    """How far the process' resident memory rose above where it was, MiB."""

    mib: float = 0.0
    _before: int = field(default_factory=lambda: _reset())

    def read(self) -> float:
        self.mib = max(0, _status_kib("VmHWM") - self._before) / 1024
        return self.mib


def peak_of(decoder: Decoder, data: bytes) -> float:
    """MiB that decoding this one input takes at most."""
    peak = Peak()
    with contextlib.suppress(*decoder.raises):
        decoder.decode(data)
    return peak.read()


def _reset() -> int:
    """The peak becomes what is resident now; KiB. What was freed goes back to the kernel first: taken again, it would
    be no rise."""
    if _trim is not None:
        _trim(0)
    fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
    try:
        os.write(fd, b"5")
    finally:
        os.close(fd)
    return _status_kib("VmRSS")


def _status_kib(name: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f"{name}:"))
