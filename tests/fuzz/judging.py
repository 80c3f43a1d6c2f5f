"""What a decoder may do with an input: return, or raise what it says that it raises, in bounded time and memory.

Room: one input, one verdict, in the process that calls it; whether that survives is `campaign`'s to see.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CPU_MS_MAX", "INPUT_BYTES_MAX", "RSS_MIB_MAX", "Decoder", "Peak", "Verdict", "judged", "peak_of"]

CPU_MS_MAX = 100.0
RSS_MIB_MAX = 16.0
INPUT_BYTES_MAX = 256 * 1024  # of what is timed: a larger update takes longer, see `sync.validate`
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
    began = time.thread_time_ns()
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
    cpu_ms = (time.thread_time_ns() - began) / 1e6
    if cpu_ms > CPU_MS_MAX and len(data) <= INPUT_BYTES_MAX:
        cpu_ms = min(_cpu_ms(decoder, data) for _ in range(_AGAIN))
        if cpu_ms > CPU_MS_MAX:
            return Verdict("slow", f"{cpu_ms:.0f} ms for {len(data)} bytes", cpu_ms)
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


def _cpu_ms(decoder: Decoder, data: bytes) -> float:
    began = time.thread_time_ns()
    with contextlib.suppress(*decoder.raises):
        decoder.decode(data)
    return (time.thread_time_ns() - began) / 1e6


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
    """The peak becomes what is resident now; KiB."""
    fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
    try:
        os.write(fd, b"5")
    finally:
        os.close(fd)
    return _status_kib("VmRSS")


def _status_kib(name: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(f"{name}:"))
