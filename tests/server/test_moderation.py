"""The loop's rest under load. Times are given, nobody waits."""

from __future__ import annotations

import asyncio
import time

from server.moderation import RATE_FULL, RATE_MIN, REST_S_MAX, WINDOW_S, Moderation, counter_of, moderated_loop


def rest_after(rate: int) -> float:
    """The rest after a second in which so many messages came."""
    moderation = Moderation()
    try:
        moderation.look(0.0)
        moderation.look(1.0)
        moderation.arrived(rate)
        moderation.look(2.0)
        return moderation.rest_s
    finally:
        moderation.close()


def test_nobody_waits_while_little_comes() -> None:
    assert rest_after(RATE_MIN) == 0.0


def test_the_more_comes_the_longer_is_the_rest_and_there_is_a_longest() -> None:
    rests = [rest_after(rate) for rate in (2 * RATE_MIN, 4 * RATE_MIN, RATE_FULL, 10 * RATE_FULL)]

    assert 0 < rests[0] < rests[1] < rests[2] == rests[3] == REST_S_MAX


def test_a_quiet_moment_ends_the_rest() -> None:
    moderation = Moderation()
    try:
        moderation.arrived(RATE_FULL)
        moderation.look(1.0)
        moderation.look(1.0 + WINDOW_S)

        assert moderation.rest_s == 0.0
    finally:
        moderation.close()


def test_callbacks_that_wait_are_not_kept_waiting_and_a_timer_is_not_missed() -> None:
    async def story() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        count = counter_of(loop)
        turns = 0
        began = time.monotonic()
        count(100 * RATE_FULL)
        while turns < 1_000:  # each a turn of the loop: with a rest in each they would take seconds
            await asyncio.sleep(0)
            turns += 1
        return turns, time.monotonic() - began

    with asyncio.Runner(loop_factory=moderated_loop) as runner:
        turns, spent_s = runner.run(story())

    assert turns == 1_000
    assert spent_s < 1_000 * REST_S_MAX


def test_another_loop_does_without() -> None:
    loop = asyncio.new_event_loop()
    try:
        counter_of(loop)(5)
    finally:
        loop.close()
