"""The whole edge machine: changes on their way through outbox and log, crashes, edges that join again."""

from __future__ import annotations

from sync import limits
from sync.ids import ConnId, Dot, Origin
from tests.sync.stage import PLAN, Ada, Island, Sea, frame


def test_the_outbox_keeps_a_change_until_the_leader_has_merged_it() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    sea.settle()
    island.send(1, frame(ada.type("x")))
    island.commit()

    change = island.published.pop()
    version = sea.log.append(change)
    island.do(island.edge.published(PLAN, change.dot, version, 0))
    island.commit()
    assert island.outbox == 1, "an acknowledgement of the log is no promise"

    sea.chair.deliver(version.seq)
    sea.settle()

    assert island.outbox == 0


def test_edges_cut_off_edited_and_joined_again_are_equal() -> None:
    a, b = Island("a", 1), Island("b", 2)
    ada, ben = Ada(1), Ada(2)
    sea = Sea(a, b)
    a.open(1)
    b.open(1)
    sea.settle()
    b.unlink()

    a.send(1, frame(ada.type("ada ")))
    b.send(1, frame(ben.type("ben ")))
    sea.settle(a)
    b.commit()
    assert (a.text(), b.text(), b.outbox) == ("ada ", "ben ", 1)

    b.link()
    sea.settle()

    assert a.text() == b.text()
    assert (a.outbox, b.outbox) == (0, 0)
    assert len(sea.log.entries) == 2, "nothing is shipped that need not be"


def test_the_outbox_survives_a_crash_and_keeps_its_dots() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.send(1, frame(ada.type("x")))
    island.commit()

    island.crash(origin=2)
    sea = Sea(island)
    sea.settle()

    assert [e.change.dot for e in sea.log.entries if hasattr(e, "change")] == [Dot(Origin(1), 1)]
    assert island.outbox == 0


def test_a_publish_that_fails_goes_out_again_with_the_same_dot() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.link()
    island.open(1)
    island.send(1, frame(ada.type("x")))
    island.commit()
    first = island.published.pop()

    island.do(island.edge.publish_failed(PLAN, first.dot, island.now))
    island.tick(1_000)

    assert island.published == [first]


def test_a_dot_is_never_used_twice_also_when_the_document_has_left_memory_meanwhile() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    sea.settle()
    island.send(1, frame(ada.type("x")))
    sea.settle()
    island.do(island.edge.closed(ConnId(1), island.now))
    island.tick(limits.DOCUMENT_IDLE_MS + 500)
    assert list(island.edge.hosted) == []

    island.open(2)
    island.send(2, frame(ada.type("y")))
    sea.settle()

    dots = [entry.change.dot for entry in sea.log.entries if hasattr(entry, "change")]
    assert dots == [Dot(Origin(1), 1), Dot(Origin(1), 2)]
