"""Campaigns of `skerry torture`: one with every kind of fault, and one that an edge without law 2 must not pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.torture.faults import KINDS, Fault, Round, Schedule, make_schedule, read_schedule, write_schedule
from tests.processes import ROOT, Json, record, run_cli

SEED = 256  # of the first 300 seeds, the one whose five rounds of five faults take the least time


def report(directory: Path) -> dict[str, Json]:
    found: Json = json.loads((directory / "report.json").read_text())
    return record(found)


def test_a_campaign_with_every_kind_of_fault_loses_nothing_and_ends_equal(tmp_path: Path, long: bool) -> None:
    rounds, faults = (40, 8) if long else (5, 5)

    done = run_cli(
        *("torture", "--seed", str(SEED), "--rounds", str(rounds), "--faults", str(faults)),
        *("--data", str(tmp_path / "campaign"), "--json"),
        deadline_s=3600 if long else 500,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = report(tmp_path / "campaign")
    assert found["kept"] is True
    injected = found["injected"]
    assert isinstance(injected, list)
    assert {str(record(fault)["kind"]) for fault in injected} == KINDS.keys()
    assert len(injected) == rounds * faults
    counts = record(found["counts"])
    assert all(int(str(counts[stage])) > 50 for stage in ("own", "edge", "log", "merged")), counts
    assert read_schedule(tmp_path / "campaign" / "schedule.json") == make_schedule(SEED, rounds, faults)
    assert record(found["ground"]).keys() == {"disk-full", "black-hole"}  # by what: the machine decides


@pytest.mark.parametrize("program", ["server.cli", "tests.faults.broken"], ids=["kept", "broken on purpose"])
def test_a_schedule_that_kills_edges_is_passed_by_an_edge_that_commits_first_and_by_no_other(
    tmp_path: Path, program: str
) -> None:
    faults = [Fault(4.0, "kill", "edge1", 0.2), Fault(5.0, "kill", "edge2", 0.2), Fault(7.0, "kill", "edge1", 0.2)]
    write_schedule(Schedule(1, (Round(tuple(faults)),), edges=2, leaders=1, clients=1), tmp_path / "schedule.json")

    arguments = ["--schedule", tmp_path / "schedule.json", "--data", tmp_path / "campaign", "--settle", "40"]
    done = subprocess.run(
        [sys.executable, "-m", program, "torture", *map(str, arguments), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    found = report(tmp_path / "campaign")
    violations = found["violations"]
    assert isinstance(violations, list)
    if program == "server.cli":
        assert (done.returncode, violations) == (0, [])
    else:
        assert done.returncode == 1
        assert any("acknowledged, and not on its disk" in str(one) for one in violations), violations
    injected = found["injected"]
    assert isinstance(injected, list)
    names = ("at", "kind", "target", "seconds")
    shown = sorted(tuple(record(fault)[name] for name in names) for fault in injected)
    assert shown == [(fault.at, fault.kind, fault.target, fault.seconds) for fault in faults]
