"""What a keystroke costs, as counts of calls: the same on every machine, so a slower hot path is a red test.

The bounds are a little above what is there. Whoever makes a path cheaper lowers them; whoever has to raise one says
why in the commit. Python's versions differ by a few calls (comprehensions), which the bounds leave room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from sync.change import Change, Context
from sync.document import Document
from sync.ids import ConnId, Dot, Origin
from sync.leader import Delivery
from tests.calls import calls, calls_by_name
from tests.sync.stage import PLAN, Ada, Chair, Island, Log, frame

RECEIVED_CALLS = 34
FLUSHED_CALLS_EACH = 5
COMMITTED_CALLS = 35
READER_CALLS = 1
MERGED_CALLS = 98


def typed(count: int, client_id: int = 1) -> list[bytes]:
    """Frames of somebody who types at the end of a text."""
    document = Document(client_id=client_id)
    made: list[bytes] = []
    text = document.crdt["text"]
    with document.told(lambda event: made.append(event.update)):
        for at in range(count):
            text.insert(at, "x")
    return [frame(update) for update in made]


def island(readers: int = 0) -> Island:
    """An edge with a writer (connection 1) and so many readers."""
    made = Island("a", 1)
    for conn in range(1, readers + 2):
        made.open(conn)
    return made


def receive(edge: Island, frames: list[bytes]) -> None:
    for one in frames:
        edge.edge.received(ConnId(1), one, edge.now)


def test_receiving_a_keystroke_is_a_few_calls() -> None:
    edge, frames = island(), typed(60)
    receive(edge, frames[:10])

    count = calls(lambda: receive(edge, frames[10:60])) / 50

    assert count <= RECEIVED_CALLS


def test_a_flush_of_a_hundred_keystrokes_costs_little_for_each() -> None:
    edge, frames = island(readers=2), typed(110)
    receive(edge, frames[:10])
    edge.commit()
    receive(edge, frames[10:110])

    count = calls(lambda: edge.edge.flush(edge.now, 1_000)) / 100

    assert count <= FLUSHED_CALLS_EACH


def test_what_goes_to_many_is_encoded_once() -> None:
    def flushed(readers: int) -> Counter[str]:
        edge, frames = island(readers), typed(20)
        receive(edge, frames[:10])
        edge.commit()
        receive(edge, frames[10:])
        with calls_by_name() as found:
            edge.edge.flush(edge.now, 1_000)
        return found

    few, many = flushed(10), flushed(100)

    assert many["encode"] == few["encode"]
    assert many.total() - few.total() <= 90 * READER_CALLS


def test_a_commit_that_ended_costs_little() -> None:
    edge, frames = island(readers=2), typed(110)
    receive(edge, frames)
    step = edge.edge.flush(edge.now, 1_000)
    assert step.commit is not None
    ticket = step.commit.ticket

    count = calls(lambda: edge.edge.committed(ticket, edge.now))

    assert count <= COMMITTED_CALLS


def test_the_leader_merges_a_change_in_a_few_calls() -> None:
    log, ada = Log(), Ada(1)
    for seq in range(1, 61):
        log.append(Change(PLAN, Dot(Origin(1), seq), ada.type("x"), Context(edge="a")))
    chair = Chair(log)
    chair.deliver(*range(1, 11))
    deliveries = [Delivery(entry, 10 + at) for at, entry in enumerate(log.entries[10:60], 1)]

    count = calls(lambda: chair.leader.delivered(0, deliveries, chair.now)) / 50

    assert count <= MERGED_CALLS


@pytest.mark.parametrize("readers", [0, 5])
def test_a_keystroke_costs_the_same_behind_a_long_history(readers: int) -> None:
    """No work per update grows with what came before it."""
    edge, frames = island(readers), typed(3_200)

    def round_of(first: int) -> Callable[[], None]:
        def work() -> None:
            receive(edge, frames[first : first + 100])
            edge.commit()

        return work

    receive(edge, frames[:100])
    edge.commit()
    early = calls(round_of(100))
    for at in range(200, 3_100, 100):
        round_of(at)()
    late = calls(round_of(3_100))

    assert late <= early * 1.05 + 20
