"""Hundreds of worlds: chaos, then calm. A failure names its seed and the command that repeats it."""

from __future__ import annotations

import pytest

from .sweep import failures, run_seed

WORLDS = 300
CHUNK = 10


@pytest.mark.parametrize("first", range(0, WORLDS, CHUNK))
def test_worlds_survive_their_faults_and_settle(first: int) -> None:
    assert failures(range(first, first + CHUNK)) == []


def test_a_hundred_thousand_reads_that_a_token_covers_are_held_against_what_was_written() -> None:
    outcomes = [run_seed(seed) for seed in range(120)]

    assert [outcome.sentence for outcome in outcomes if outcome.wrong_read] == []
    assert sum(outcome.judged_count for outcome in outcomes) >= 100_000
    assert sum(outcome.judged_deletions_count for outcome in outcomes) >= 30_000
