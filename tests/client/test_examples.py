"""The examples of docs/examples/, run as their first lines say, and checked as strictly as the code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, Cluster, record, wait_for

EXAMPLES = ROOT / "docs" / "examples"


def run(example: str, *arguments: str, deadline_s: float = 60) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_note_taker_is_cut_off_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    said = run("note_taker.py", cluster["a"].ws, str(tmp_path / "notes.db")).stdout.splitlines()

    assert said == [
        "merged: ['Pack the tent.']",
        "offline: 2 edits are only here",
        "at the edge",
        "merged: ['Pack the tent and the stove.', 'Buy a map.']",
    ]


def test_the_sensor_loses_no_reading_when_it_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    store = str(tmp_path / "sensor.db")
    assert run("sensor.py", store, "--count", "50", "--every", "0").stdout == "written down: 50\n"
    child = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "sensor.py"), store, "--every", "0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    size = (tmp_path / "sensor.db").stat().st_size
    try:
        wal = tmp_path / "sensor.db-wal"
        wait_for(lambda: wal.exists() and wal.stat().st_size > size, 20, "it writes")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()

    said = run("sensor.py", store, "--deliver", cluster["b"].ws).stdout

    match = re.fullmatch(r"to be delivered: (\d+)\nmerged at version sk1\.\S+\n", said)
    assert match
    count = int(match[1])
    assert count > 50
    readings = record(record(cluster["b"].document("readings/harbour")["content"])["readings"])["value"]
    assert isinstance(readings, list)
    assert len(readings) == count
    assert [record(reading)["number"] for reading in readings] == [*range(50), *range(count - 50)]


def test_two_programs_hand_a_token_to_each_other(cluster: Cluster, tmp_path: Path) -> None:
    ada = (cluster["a"].ws, str(tmp_path / "ada.db"), "ada")
    ben = (cluster["b"].ws, str(tmp_path / "ben.db"), "ben")

    first = run("handover.py", *ada)
    second = run("handover.py", *ben, first.stdout.strip())
    third = run("handover.py", *ada, second.stdout.strip())

    assert first.stderr == "read: []\n"
    assert second.stderr == "read: ['ada was here']\n"
    assert third.stderr == "read: ['ada was here', 'ben was here']\n"


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_is_strictly_typed(example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(EXAMPLES / example)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout
