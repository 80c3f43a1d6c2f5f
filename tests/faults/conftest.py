"""Real processes and real faults. What they need of the operating system is named here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def linux() -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip(f"faults look at processes under /proc, which {sys.platform} does not have")
