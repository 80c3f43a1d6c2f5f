"""Hundreds of worlds: chaos, then calm. A failure names its seed and the command that repeats it."""

from __future__ import annotations

import pytest

from .sweep import failures, run_seed

WORLDS = 300
CHUNK = 10


@pytest.mark.parametrize("first", range(0, WORLDS, CHUNK))
def test_worlds_survive_their_faults_and_settle(first: int) -> None:
    assert failures(range(first, first + CHUNK)) == []


def test_tokens_are_held_against_what_was_written() -> None:
    assert run_seed(0).judged_count > 100
