"""docs/guarantees.md: every cell of its table leads to a test that exists and runs, and says what that test asserts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.faults.test_guarantees import FAILURES, STAGES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guarantees.md"
MATRIX = "test_what_is_safe_at_a_stage_outlives"


def rows() -> dict[str, list[str]]:
    """Failure -> its four cells."""
    table = PAGE.read_text("utf-8").split("| failure |", 1)[1].split("\n\n", 1)[0]
    found = {}
    for line in table.splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[name] = cells
    return found


def references() -> dict[str, tuple[Path, str]]:
    """Label -> file and test."""
    found = re.findall(r'^\[([\w-]+)\]: (\S+) "([^"]+)"$', PAGE.read_text("utf-8"), re.MULTILINE)
    return {label: ((PAGE.parent / path).resolve(), test) for label, path, test in found}


def links(cell: str) -> list[str]:
    return re.findall(r"\]\[([\w-]+)\]", cell)


def test_every_cell_says_yes_or_no_and_leads_to_a_test() -> None:
    assert len(rows()) > 20
    for failure, cells in rows().items():
        assert len(cells) == len(STAGES), failure
        for cell in cells:
            assert re.match(r"\[(yes|no)\]\[", cell), (failure, cell)
            assert set(links(cell)) <= references().keys(), (failure, cell)


def test_every_test_that_the_page_names_exists_and_runs() -> None:
    named = references()
    used = {label for cells in rows().values() for cell in cells for label in links(cell)}
    files = sorted({str(path.relative_to(ROOT)) for path, _ in named.values()})

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    collected = {line.strip() for line in done.stdout.splitlines() if "::" in line}
    whole = collected | {line.partition("[")[0] for line in collected}
    assert [test for path, test in named.values() if f"{path.relative_to(ROOT)}::{test}" not in whole] == []
    assert used == named.keys()


def test_the_table_says_what_the_tests_assert() -> None:
    for failure, cells in rows().items():
        for stage, cell in zip(STAGES, cells, strict=True):
            label = links(cell)[0]
            if references()[label][1] == f"{MATRIX}[{label}]":
                kept = "yes" if stage in FAILURES[label][1] else "no"
                assert cell.startswith(f"[{kept}]"), (failure, stage)


def test_every_failure_that_is_tried_is_in_the_table() -> None:
    used = {label for cells in rows().values() for cell in cells for label in links(cell)}

    assert FAILURES.keys() <= used
