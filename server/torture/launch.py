"""One program with a wall clock that can be moved from outside while it runs.

    python -m server.torture.launch CLOCKFILE MODULE ARGUMENTS…

Room: `time.time` and `time.time_ns` of this process, and nothing else: the file holds eight bytes, nanoseconds to add.
A machine's clock cannot be moved for one process otherwise without a library from outside.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path

__all__ = ["main", "make_clock", "set_clock"]

_OFFSET = struct.Struct("<q")


def make_clock(path: Path) -> None:
    path.write_bytes(_OFFSET.pack(0))


def set_clock(path: Path, seconds: float) -> None:
    with path.open("r+b") as file:
        file.write(_OFFSET.pack(int(seconds * 1_000_000_000)))


def main() -> None:
    clock, module, *arguments = sys.argv[1:]
    with open(clock, "rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + int(_OFFSET.unpack_from(offset)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1_000_000_000
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
