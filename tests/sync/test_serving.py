"""What clients bring, from the gate to the commit: nobody is told before the disk has it."""

from __future__ import annotations

from sync import wire
from sync.closing import CLOSE_CANNOT_STORE
from sync.ids import ConnId, Dot, Origin, Version
from tests.sync.stage import EPOCH, PLAN, Ada, Island, Sea, frame


def test_a_change_is_committed_before_it_is_published_and_before_its_writer_sees_it_echoed() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.link()
    island.open(1)
    island.open(2)

    update = ada.type("hello")
    island.send(1, frame(update))
    island.flush()

    assert island.updates(2) == [update], "the others see it at once"
    assert island.updates(1) == []
    assert island.published == []

    island.commit()

    assert island.updates(1) == [update]
    assert [change.update for change in island.published] == [update]
    assert island.text() == "hello"


def test_what_is_pending_becomes_one_change() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.link()
    island.open(1)
    island.open(2)

    for letter in "hello":
        island.send(1, frame(ada.type(letter)))
    island.commit()

    assert len(island.published) == 1
    assert len(island.updates(2)) == 1
    assert island.published[0].dot == Dot(Origin(1), 1)
    assert island.published[0].context.edge == "a"
    assert island.published[0].context.time_ms == 1_000_000


def test_an_early_update_is_neither_stored_nor_passed_on_before_its_gap_closes() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.open(2)
    first, second = ada.type("a"), ada.type("b")

    island.send(1, frame(second))
    island.commit()

    assert island.updates(2) == []
    assert island.store.load(PLAN) is None

    island.send(1, frame(first))
    island.commit()

    assert island.text() == "ab"
    assert len(island.updates(2)) == 1


def test_an_early_update_is_echoed_to_its_own_writer_only_after_the_commit() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.open(2)
    first, second = ada.type("a"), ada.type("b")

    island.send(1, frame(second))
    island.send(2, frame(first))
    island.flush()

    assert island.updates(1) == []
    assert island.updates(2) == []


def test_a_crash_before_the_commit_loses_only_what_was_acknowledged_to_nobody() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.link()
    island.open(1)
    island.send(1, frame(ada.type("x")))
    island.flush()

    assert island.updates(1) == []
    assert island.published == []
    island.crash(origin=2)

    assert island.store.load(PLAN) is None


def test_a_full_disk_tells_the_writers_and_loses_nothing_that_was_acknowledged() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.open(2)
    island.send(1, frame(ada.type("safe")))
    island.commit()

    lost = ada.type(" not")
    island.send(1, frame(lost))
    island.fail_commit()

    assert {island.closed[1][0], island.closed[2][0]} == {CLOSE_CANNOT_STORE}
    assert "disk full" in island.closed[1][1]
    island.open(3)
    island.send(3, frame(lost))
    island.commit()
    assert island.text() == "safe not"
    assert island.updates(3) == [lost]


def test_nobody_reads_its_own_edit_before_the_commit_also_when_another_client_brings_it() -> None:
    """The commit of an edit fails, its author and a reader come back, and the reader is first to bring it."""
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.open(2)
    lost = ada.type("relayed")
    island.send(1, frame(lost))
    island.fail_commit()
    island.open(3)
    island.open(4)

    island.send(4, wire.encode(wire.SyncStep2(lost)))
    island.send(3, wire.encode(wire.SyncStep2(lost)))
    island.flush()

    assert island.updates(3) == island.updates(4) == []
    island.commit()
    assert island.updates(3) == [lost]


def test_who_comes_back_while_its_edit_waits_reads_it_only_after_the_commit() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.send(1, frame(edit := ada.type("pending")))
    island.do(island.edge.closed(ConnId(1), 0))
    island.open(2)

    island.flush()

    assert island.updates(2) == []
    island.commit()
    assert island.updates(2) == [edit]


def test_what_comes_from_the_log_while_clients_wait_for_a_commit_reaches_them_after_it() -> None:
    a, b = Island("a", 1), Island("b", 2)
    ada, ben = Ada(1), Ada(2)
    sea = Sea(a, b)
    a.open(1)
    b.open(1)
    sea.settle()
    first = ada.type("first")
    a.send(1, wire.encode(wire.SyncStep2(first)))
    a.flush()
    ben.crdt.apply_update(first)
    ben.type(" second")
    b.send(1, wire.encode(wire.SyncStep2(ben.crdt.get_update())))
    b.commit()
    version = sea.log.append(b.published.pop())
    sea.chair.deliver(version.seq)
    for merged in sea.chair.said:
        a.do(a.edge.merged(merged, 0))
    assert a.updates(1) == []

    a.commit()

    reader = Ada(3)
    for update in a.updates(1):
        reader.crdt.apply_update(update)
    assert a.updates(1)[0] == first
    assert len(a.updates(1)) == 2
    assert str(reader.text) == "first second"


def test_a_repeat_of_what_is_safe_is_echoed_and_neither_stored_nor_shipped_again() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.link()
    island.open(1)
    update = ada.type("x")
    island.send(1, frame(update))
    island.commit()
    island.open(2)

    island.send(2, frame(update))
    island.commit()

    assert island.updates(2) == [update]
    assert len(island.published) == 1


def test_what_builds_on_a_commit_that_failed_is_not_written_either() -> None:
    a, b = Island("a", 1), Island("b", 2)
    ada, ben = Ada(1), Ada(2)
    sea = Sea(a, b)
    a.open(1)
    b.open(1)
    sea.settle()
    a.send(1, frame(ada.type("lost with its commit")))
    a.flush()
    b.send(1, frame(ben.type("from b")))
    b.commit()
    change = b.published.pop()
    version = sea.log.append(change)
    sea.chair.deliver(version.seq)
    for merged in sea.chair.said:
        a.do(a.edge.merged(merged, 0))

    a.do(a.edge.commit_failed(a.commits.pop(0).ticket, a.now, "disk full"))
    a.commit()

    stored = a.store.load(PLAN)
    assert stored is not None
    assert (stored.version, stored.updates) == (Version(EPOCH, 0), ())
    a.open(2)
    sea.chair.said.clear()
    sea.settle()
    assert a.text() == "from b"
