"""Hundreds of worlds: chaos, then calm. A failure names its seed and the command that repeats it."""

from __future__ import annotations

from typing import Any

import pytest

from sync.slow import Readers

from .sweep import failures, run_seed
from .world import World

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


def test_what_clients_are_told_that_they_were_sent_is_held_against_it() -> None:
    """A world in which it was not says so."""
    worlds = [World(seed) for seed in range(2, 82, 4)]
    for world in worlds:
        world.run()

    assert sum(world.listened_count for world in worlds) > 2_000


def test_in_some_worlds_readers_are_slow_and_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world that ends unequal says so."""
    made: list[bool] = []
    make = Readers._make_difference

    def counted(*arguments: Any) -> bool:
        done = make(*arguments)
        made.append(done and arguments[2].lacks)
        return done

    monkeypatch.setattr(Readers, "_make_difference", counted)
    for seed in range(1, 61, 3):
        World(seed).run()

    assert sum(made) > 100


def test_in_some_worlds_nearly_every_broadcast_is_too_large_for_one_turn() -> None:
    worlds = [World(seed) for seed in range(2, 62, 3)]
    for world in worlds:
        world.run()

    assert sum(world.looked_count for world in worlds) > 100
