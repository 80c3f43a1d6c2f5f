"""For all tests: what is beside the project and may be missing, and no skip where none is allowed.

Environment: SKERRY_NO_SKIP=1 turns every skip into a failure (set by .ci/run); SKERRY_SHARED names the folder with
`traces/` (otherwise `shared` beside the project); SKERRY_LONG=1 makes the faults last longer.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

NO_SKIP = "SKERRY_NO_SKIP"

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _no_skip(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(NO_SKIP) == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason}; with {NO_SKIP}=1 nothing may be skipped"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _no_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _no_skip((yield))


@pytest.fixture(scope="session")
def traces() -> Path:
    """The folder with the recorded editing histories; they live beside the project and are not part of it."""
    root = Path(__file__).resolve().parents[1]
    for shared in (os.environ.get("SKERRY_SHARED"), root.parent / "shared"):
        if shared and (folder := Path(shared) / "traces").is_dir():
            return folder
    pytest.skip("editing traces not found; set SKERRY_SHARED to the folder that holds traces/")


@pytest.fixture(scope="session")
def long() -> bool:
    """True where somebody has the time: SKERRY_LONG=1."""
    return os.environ.get("SKERRY_LONG") == "1"
