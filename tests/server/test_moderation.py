"""The loop's rest under load. Times are given, nobody waits."""

from __future__ import annotations

import asyncio

import pytest

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


def test_callbacks_that_wait_are_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr("server.moderation.time.sleep", rests.append)

    async def story() -> None:
        counter_of(asyncio.get_running_loop())(100 * RATE_FULL)
        for _ in range(100):  # each a turn of the loop
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=moderated_loop) as runner:
        runner.run(story())

    assert rests == []


def test_a_rest_ends_where_a_timer_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr("server.moderation.time.sleep", rests.append)
    moderation = Moderation()
    try:
        moderation.rest_s = REST_S_MAX
        monkeypatch.setattr(moderation, "look", lambda now_s: None)

        moderation.select(0)
        moderation.select(REST_S_MAX / 4)
        moderation.select(2 * REST_S_MAX)

        assert rests == [REST_S_MAX / 4, REST_S_MAX]
    finally:
        moderation.close()


def test_another_loop_does_without() -> None:
    loop = asyncio.new_event_loop()
    try:
        counter_of(loop)(5)
    finally:
        loop.close()
