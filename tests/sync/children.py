"""What might take the process with it, tried in a child; and bytes that do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sync.lib0 import write_var_uint

__all__ = ["in_child", "nested"]


def in_child(code: str, data: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run this program with the project on its path, `data` as its standard input."""
    child = subprocess.run(
        [sys.executable, "-c", code],
        input=data,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(child.args, child.returncode, child.stdout.decode(), child.stderr.decode())


def nested(depth: int) -> bytes:
    """Arrays within arrays, in 7 bytes a level."""
    structs = b"\7\1\1r\0" + b"".join(b"\7\0\1" + write_var_uint(clock - 1) + b"\0" for clock in range(1, depth))
    return b"\1" + write_var_uint(depth) + b"\1\0" + structs + b"\0"
