from __future__ import annotations

import pytest

from server.pace import FLOOR_S, RATE_BUSY, SHARE_MAX, WAIT_S_MAX, Pace


def flushes(rate: int, cost_s: float) -> float:
    """The wait after a flush that follows a second of so many updates."""
    pace = Pace()
    pace.flushed(0.0, cost_s)
    for _ in range(rate):
        pace.arrived(1)
    pace.flushed(1.0, 1.0 + cost_s)
    return pace.wait_s(1.0 + cost_s)


def test_a_lone_keystroke_does_not_wait() -> None:
    assert flushes(1, 0.0005) == 0.0


def test_the_more_comes_the_longer_it_is_gathered() -> None:
    waits = [flushes(rate, 0.0005) for rate in (1_000, 5_000, 10_000)]

    assert waits == sorted(waits)
    assert 0 < waits[-1] < WAIT_S_MAX


@pytest.mark.parametrize("rate", [100_000, 1_000_000])
def test_nobody_waits_longer_than_the_limit(rate: int) -> None:
    assert flushes(rate, 0.0005) <= WAIT_S_MAX


def test_a_flush_to_thousands_leaves_time_for_others() -> None:
    assert flushes(100_000, 0.05) == pytest.approx((SHARE_MAX - 1) * 0.05)


def test_what_is_no_load_yet_is_flushed_at_once_and_a_busy_edge_gathers_for_a_moment() -> None:
    assert flushes(RATE_BUSY // 2, 0.0) == 0.0
    assert flushes(RATE_BUSY, 0.0) == pytest.approx(FLOOR_S)
