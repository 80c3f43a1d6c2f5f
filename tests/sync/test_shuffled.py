"""facts 1.1 through edge and leader: whole histories shuffled and repeated, by clients and in the log, end equal."""

from __future__ import annotations

import random

import pytest

from sync.change import Change, SyncAsk
from sync.document import Document
from sync.ids import Dot, Origin
from tests.sync.histories import life
from tests.sync.stage import PLAN, Chair, Island, Log, Sea, frame

SEEDS = range(40)


def shuffled(rng: random.Random, updates: list[bytes]) -> list[bytes]:
    """All of them, some twice, in any order."""
    order = updates + rng.sample(updates, len(updates) // 4)
    rng.shuffle(order)
    return order


@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_that_clients_send_shuffled_and_repeated_is_whole_at_edges_and_leader(seed: int) -> None:
    rng = random.Random(seed)
    history = life(seed)
    a, b = Island("a", 1), Island("b", 2)
    sea = Sea(a, b)
    for conn in (1, 2, 3):
        a.open(conn)
    b.open(1)
    sea.settle()

    for update in shuffled(rng, history.updates):
        a.send(rng.choice((1, 2, 3)), frame(update))
        if rng.random() < 0.3:
            sea.settle(*rng.choice(((a,), (a, b))))
    sea.settle()
    for island in (a, b):  # what was cut off meanwhile asks
        island.link()
    sea.settle()

    want = Document(history.state).digest()
    answer = sea.chair.answer(SyncAsk(PLAN, 1, b"\x00", None))
    assert answer.digest == want
    for island in (a, b):
        host = island.edge.hosted[PLAN]
        assert host.replica is not None
        assert host.replica.digest() == want
        assert host.replica.early == []
    assert (a.outbox, a.closed, b.closed) == (0, {}, {})


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_in_any_order_folds_to_the_whole_history_at_its_last_place(seed: int) -> None:
    rng = random.Random(1_000 + seed)
    history = life(seed)
    log = Log()
    for number, update in enumerate(shuffled(rng, history.updates), start=1):
        log.append(Change(PLAN, Dot(Origin(rng.randint(1, 3)), number), update))
    chair = Chair(log)

    at = 0
    while at < len(log.entries):
        count = min(rng.randint(1, 7), len(log.entries) - at)
        chair.deliver(*range(at + 1, at + count + 1))
        at += count

    answer = chair.answer(SyncAsk(PLAN, 1, b"\x00", None))
    assert answer.digest == Document(history.state).digest()
    assert answer.version.seq == len(log.entries)
    edge = Island("late", 9)
    edge.link()
    edge.open(1)
    for merged in chair.said:
        edge.do(edge.edge.merged(merged, 0))
    host = edge.edge.hosted[PLAN]
    assert host.replica is not None
    assert host.replica.digest() == answer.digest
    assert host.replica.version == answer.version
