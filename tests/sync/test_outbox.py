"""The outbox and the link, told as scenarios: what is shipped again, and what it says of itself."""

from __future__ import annotations

import pytest

from sync.change import Logged, Merged
from sync.ids import Dot, DotSet, Origin, Version
from sync.limits import COMPARE_MS
from tests.sync.stage import EPOCH, PLAN, Ada, Chair, Island, Log, Sea, frame


def _shorter(log: Log, count: int, epoch: int) -> Log:
    """What a rolled-back server holds: the first `count` changes, under another epoch where somebody has noticed."""
    kept = Log(epoch)
    for entry in log.entries[:count]:
        assert isinstance(entry, Logged)
        kept.append(entry.change)
    return kept


def _healing(island: Island, chair: Chair) -> None:
    """Asked, asked for the last of what both have, and found to hold more than the leader."""
    while island.asks:
        asks, island.asks = island.asks, []
        for ask in asks:
            island.do(island.edge.sync_answered(chair.answer(ask), island.now))


def test_what_heals_one_log_claims_nothing_in_a_log_that_has_lost_more_since() -> None:
    """The difference to what that leader had, with the names of everything: two more words of the log are gone."""
    island, ada, ben = Island("a", 1), Ada(1), Ada(2)
    sea = Sea(island)
    island.open(1)
    for update in (ada.type("ada"), ben.type("ben")):
        island.send(1, frame(update))
        sea.settle()
    chair = Chair(_shorter(sea.log, 1, EPOCH + 1))
    island.link(EPOCH + 1, intact=False)
    _healing(island, chair)
    island.flush()

    chair = Chair(_shorter(sea.log, 0, EPOCH + 2))
    island.unlink()
    island.link(EPOCH + 2, intact=False)
    island.commit()
    for change in island.published:
        chair.deliver(chair.log.append(change).seq)
        replica = chair.leader.lanes[PLAN].replica
        assert replica is not None
        if Dot(Origin(1), 1) in replica.dots:
            assert ada.crdt.client_id in replica.clocks, "a token of what ada wrote would count as covered"
    sea.log, sea.chair = chair.log, chair
    island.published.clear()
    island.tick(6_000)
    sea.settle()

    replica = chair.leader.lanes[PLAN].replica
    assert replica is not None
    assert replica.clocks == {1: 3, 2: 3}
    assert all(Dot(Origin(1), seq) in replica.dots for seq in (1, 2))
    assert island.outbox == 0


def test_what_was_to_heal_a_log_is_no_part_of_the_outbox_after_a_crash() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    island.send(1, frame(ada.type("ada")))
    sea.settle()
    chair = Chair(Log(EPOCH + 1))
    island.link(EPOCH + 1, intact=False)
    _healing(island, chair)
    island.commit()
    assert island.outbox == 1

    island.crash(2)
    island.link(EPOCH + 1)
    island.commit()

    assert island.published == []
    assert island.outbox == 0
    sea.log, sea.chair = chair.log, chair
    island.open(1)
    sea.settle()
    replica = chair.leader.lanes[PLAN].replica
    assert replica is not None
    assert replica.clocks == {1: 3}


def test_rows_that_a_log_acknowledged_and_lost_are_shipped_again_also_under_its_epoch() -> None:
    """Their place may be given to another change, or to none for long."""
    island, ada = Island("a", 1), Ada(1)
    log = Log()
    chair = Chair(log)
    island.link()
    island.open(1)
    island.send(1, frame(ada.type("x")))
    island.commit()
    (change,) = island.published
    island.do(island.edge.published(PLAN, change.dot, log.append(change), island.now))
    island.commit()

    island.crash(2)
    log.entries.clear()
    island.link(EPOCH, intact=False)

    assert [again.dot for again in island.published] == [change.dot]
    chair.deliver(log.append(change).seq)
    for merged in chair.said:
        island.do(island.edge.merged(merged, island.now))
    island.commit()
    assert island.outbox == 0


def test_a_row_that_the_log_acknowledged_is_a_witness_after_a_crash() -> None:
    """The edge died before it stored a newer one: else a tail that is gone would be missed until the log has grown."""
    island, ada = Island("a", 1), Ada(1)
    log = Log()
    island.link()
    island.open(1)
    island.send(1, frame(ada.type("x")))
    island.commit()
    (change,) = island.published
    version = log.append(change)
    island.do(island.edge.published(PLAN, change.dot, version, island.now))
    island.commit()

    island.crash(2)
    island.link()

    assert island.edge.witness == (version, PLAN, change.dot)


def test_a_row_that_left_the_outbox_is_not_learned_again_from_a_page_that_was_read_before() -> None:
    """The leader named it while the page was on its way; nobody would ever name it again."""
    island, ada = Island("a", 1), Ada(1)
    island.link()
    island.open(1)
    island.send(1, frame(ada.type("x")))
    island.commit()
    (change,) = island.published
    page = island.store.outbox(0, 10, 1000)
    version = Version(EPOCH, 1)
    dots = DotSet({Origin(1): ((1, 1),)})
    island.do(island.edge.merged(Merged(PLAN, Version(EPOCH, 0), version, change.update, dots), island.now))

    island.do(island.edge.outbox_read(99, page, island.now))
    island.commit()

    assert island.outbox == 0
    assert not len(island.edge.hosted[PLAN].unmerged)


def test_what_this_link_has_acknowledged_is_not_shipped_again_when_the_outbox_is_read_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More waits than is kept in memory, and the outbox is read: what the log has been given since is in it too."""
    monkeypatch.setattr("sync.shipping.OUTBOX_WINDOW_COUNT", 1)
    island, ada = Island("a", 1), Ada(1)
    log = Log()
    island.link(EPOCH, intact=False)
    island.open(1)
    for letter in "abcd":
        island.send(1, frame(ada.type(letter)))
        island.commit()

    for change in island.published:  # it grows meanwhile
        island.do(island.edge.published(PLAN, change.dot, log.append(change), island.now))

    first, rest = island.published
    assert first.dot == Dot(Origin(1), 1)
    assert rest.covers.ranges() == [(Origin(1), 2, 4)]


def test_a_row_that_could_not_leave_the_disk_is_dropped_once_the_disk_takes_writes_again() -> None:
    """The leader named it while a commit of its document was on its way, and that commit failed."""
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    sea.settle()
    island.send(1, frame(ada.type("x")))
    island.commit()
    (change,), island.published = island.published, []
    version = sea.log.append(change)
    island.do(island.edge.published(PLAN, change.dot, version, island.now))
    sea.chair.deliver(version.seq)
    island.send(1, frame(ada.type("y")))
    island.flush()  # on its way
    for merged in sea.chair.said:
        island.do(island.edge.merged(merged, island.now))
    assert island.outbox == 1

    island.do(island.edge.commit_failed(island.commits.pop().ticket, island.now, "disk full"))
    sea.chair.said.clear()
    island.tick(6_000)
    sea.settle()
    island.tick(6_000)
    sea.settle()

    assert island.outbox == 0
    assert not len(island.edge.hosted[PLAN].unmerged)


# --- rows that waited go out together ---------------------------------------------------------------------------------
def _typed_offline(island: Island, ada: Ada, text: str) -> None:
    """Each letter is a row of its own."""
    for letter in text:
        island.send(1, frame(ada.type(letter)))
        island.commit()


def test_what_was_typed_while_cut_off_goes_out_as_one_change_and_leaves_the_outbox_whole() -> None:
    island, other, ada = Island("a", 1), Island("b", 2), Ada(1)
    sea = Sea(island, other)
    other.open(1)
    island.open(1)
    sea.settle()
    island.unlink()
    _typed_offline(island, ada, "hello")
    assert island.outbox == 5

    island.link()
    assert len(island.published) == 1
    sea.settle()

    assert len(sea.log.entries) == 1
    assert island.outbox == other.outbox == 0
    assert other.text() == "hello"
    for node in (island, other):
        replica = node.edge.hosted[PLAN].replica
        assert replica is not None
        assert all(Dot(Origin(1), seq) in replica.dots for seq in range(1, 6)), "each row's token is covered"


def test_a_run_that_the_log_has_is_not_shipped_again_by_the_edge_that_knows_it() -> None:
    """The disk does not say which rows were one change, and the leader names the change where it refuses it."""
    island, ada = Island("a", 1), Ada(1)
    log = Log()
    island.open(1)
    _typed_offline(island, ada, "abc")
    island.link()
    (change,) = island.published

    island.do(island.edge.published(PLAN, change.dot, log.append(change), island.now))
    island.commit()

    assert [row.shipped for row in island.store.outbox(0, 10, 1000)] == [None] * 3
    island.unlink()
    island.link()
    assert island.published == [change]

    island.crash(2)
    island.link()

    assert [again.covers for again in island.published] == [change.covers]


def test_a_run_that_may_be_in_the_log_goes_out_again_under_its_name_while_it_is_the_same() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    _typed_offline(island, ada, "abc")
    island.link()
    island.unlink()
    island.link()
    first, again = island.published
    assert first == again

    island.unlink()
    _typed_offline(island, ada, "d")
    island.link()

    assert island.published[2].dot != first.dot
    assert island.published[2].covers.ranges() == [(Origin(1), 1, 3), (Origin(1), 5, 5)]


@pytest.mark.parametrize("crashed", [False, True])
def test_rows_that_are_in_the_log_already_come_again_within_a_run_and_count_once(crashed: bool) -> None:
    """The first was published by itself and in the log before the link fell; nobody here heard of it."""
    island, other, ada = Island("a", 1), Island("b", 2), Ada(1)
    sea = Sea(island, other)
    other.open(1)
    island.open(1)
    sea.settle()
    _typed_offline(island, ada, "x")
    (first,) = island.published
    sea.chair.deliver(sea.log.append(first).seq)
    island.published.clear()
    island.unlink()
    _typed_offline(island, ada, "yz")
    if crashed:
        island.crash(3)
    island.link()
    sea.settle()

    assert [len(entry.change.covers) for entry in sea.log.entries if isinstance(entry, Logged)] == [0, 1]
    assert island.outbox == 0
    assert other.text() == island.text() == "xyz"


def test_a_change_after_a_run_is_not_joined_while_the_run_is_on_its_way() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    _typed_offline(island, ada, "abc")
    island.link()

    _typed_offline(island, ada, "d")

    run, single = island.published
    assert run.covers.ranges() == [(Origin(1), 1, 3)]
    assert (single.dot, len(single.covers)) == (Dot(Origin(1), 5), 0)


def returned() -> tuple[Island, Sea]:
    """An edge that was cut off, and whose changes are merged now."""
    island, ada = Island("a", 1), Ada(9)
    sea = Sea(island)
    island.open(1)
    sea.settle()
    island.unlink()
    island.send(1, frame(ada.type("while it was cut off")))
    island.commit()
    island.link()
    asks, island.asks = island.asks, []
    for ask in asks:  # the answer comes before the log has what was written meanwhile
        island.do(island.edge.sync_answered(sea.chair.answer(ask), island.now))
    sea.settle()
    assert island.outbox == 0
    island.asks.clear()
    return island, sea


def test_a_beacon_that_says_that_all_is_equal_saves_an_edge_that_was_away_a_question() -> None:
    island, sea = returned()
    sea.chair.tick(2_000)
    for sent in sea.chair.beacons:
        island.do(island.edge.beacon(sent.beacon, island.now))
    assert sea.chair.beacons
    island.tick(COMPARE_MS + 1_000)

    assert island.asks == []


def test_without_a_beacon_it_asks_whether_all_is_equal() -> None:
    island, _ = returned()
    island.tick(COMPARE_MS + 1_000)

    assert len(island.asks) == 1
