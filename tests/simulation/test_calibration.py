"""What the simulator must see before anybody believes what it does not see."""

from __future__ import annotations

import os
import subprocess
import sys

from .bare import lost_operations
from .sweep import run_seed

SEEDS = range(25)


def test_bare_pycrdt_loses_operations_and_the_simulator_finds_it() -> None:
    assert any(lost_operations(seed, gate=False) for seed in SEEDS)


def test_behind_the_gate_the_same_histories_lose_nothing() -> None:
    assert [seed for seed in SEEDS if lost_operations(seed, gate=True)] == []


def test_a_seed_is_one_history() -> None:
    assert run_seed(3).trace_hash == run_seed(3).trace_hash
    assert run_seed(3).trace_hash != run_seed(4).trace_hash


def test_a_seed_is_the_same_history_in_another_process() -> None:
    here = run_seed(5)

    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run(
            [sys.executable, "-m", "tests.simulation.sweep", "--seed", "5"],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        assert here.trace_hash in there.stdout, there.stdout + there.stderr
