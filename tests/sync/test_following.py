"""What an edge does with what the leader and the log say: broadcasts, beacons, answers, repair, pins."""

from __future__ import annotations

from sync import limits
from sync.change import Beacon, Change, Logged, Merged, RepairAsk
from sync.document import Document
from sync.ids import ConnId, Dot, DotSet, Origin, Version, parse_document_id
from tests.sync.stage import EPOCH, PLAN, Ada, Chair, Island, Log, Sea, frame


def test_a_lost_broadcast_is_found_by_the_beacon_and_the_outbox_empties() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    sea.settle()
    island.send(1, frame(ada.type("x")))
    island.commit()
    change = island.published.pop()
    version = sea.log.append(change)
    island.do(island.edge.published(PLAN, change.dot, version, 0))
    sea.chair.deliver(version.seq)
    sea.chair.said.clear()

    island.do(island.edge.beacon(Beacon(((PLAN, version, ""),)), 0))
    sea.settle()

    assert island.outbox == 0


def test_a_document_that_the_log_forgot_is_shipped_again() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    sea.settle()
    island.send(1, frame(ada.type("kept")))
    island.send(1, frame(ada.delete_first()))
    sea.settle()
    assert island.outbox == 0
    island.crash(origin=2)

    sea.log = Log(epoch=EPOCH + 1)
    sea.chair = Chair(sea.log)
    island.link(EPOCH + 1, intact=False)
    sea.settle()

    assert not island.edge.sweeping
    assert island.outbox == 0
    assert len(sea.log.entries) == 1
    asked = Island("b", 3)
    asked.link(EPOCH + 1)
    asked.open(1)
    sea.islands = (asked,)
    sea.settle()
    assert asked.text() == "ept"


def test_a_document_that_stands_further_than_a_log_without_its_tail_makes_its_leader_look() -> None:
    a, b, ada, ben = Island("a", 1), Island("b", 2), Ada(1), Ada(2)
    sea = Sea(a, b)
    a.open(1)
    b.open(1)
    sea.settle()
    a.send(1, frame(ada.type("a")))
    sea.settle()
    b.unlink()
    a.unlink()
    for letter in "bcd":  # what was read by question alone leaves no witness
        sea.log.append(Change(PLAN, Dot(Origin(9), ord(letter)), ben.type(letter)))
    sea.chair = Chair(sea.log)
    b.link(intact=False)
    sea.settle(b)
    del sea.log.entries[1:]
    sea.chair = Chair(sea.log)

    b.link()
    sea.settle(b)

    assert b.edge.witness is None
    assert [(look.doc, look.version) for look in sea.chair.missed[:1]] == [(PLAN, Version(EPOCH, 4))]
    assert "b" in b.text()
    sea.log = Log(epoch=EPOCH + 1)  # so the log is marked, and everybody compares
    sea.chair = Chair(sea.log)
    for island in (a, b):
        island.link(EPOCH + 1, intact=False)
    sea.settle()
    assert not b.edge.sweeping
    assert not sea.chair.missed
    assert a.text() == b.text()
    assert sorted(a.text()) == list("abcd")


def test_what_a_broadcast_said_over_another_link_overtakes_no_answer_of_this_one() -> None:
    a, ada = Island("a", 1), Ada(1)
    sea = Sea(a)
    a.open(1)
    sea.settle()
    a.send(1, frame(ada.type("a")))
    sea.settle()
    a.do(a.edge.merged(Merged(PLAN, Version(EPOCH, 5), Version(EPOCH, 9), b"", DotSet()), 0))  # lost with the tail
    a.asks.clear()
    a.unlink()

    a.link()
    a.do(a.edge.sync_answered(sea.chair.answer(a.asks.pop()), 0))

    assert not a.asks, "asked again at once, for as long as the link lasts"


def test_an_answer_that_a_broadcast_has_overtaken_starts_no_healing() -> None:
    a, b = Island("a", 1), Island("b", 2)
    ada, ben = Ada(1), Ada(2)
    sea = Sea(a, b)
    a.open(1)
    b.open(1)
    sea.settle()
    b.unlink()
    a.send(1, frame(ada.type("a")))
    sea.settle(a)
    b.send(1, frame(ben.type("b")))
    b.commit()

    b.link()
    old = sea.chair.answer(b.asks.pop())
    change = b.published.pop()
    version = sea.log.append(change)
    sea.chair.deliver(version.seq)
    b.do(b.edge.published(PLAN, change.dot, version, 0))
    for merged in sea.chair.said:
        b.do(b.edge.merged(merged, 0))
    b.do(b.edge.sync_answered(old, 0))
    sea.settle()

    assert len(sea.log.entries) == 2
    assert a.text() == b.text()


def test_a_lost_deletion_shows_in_the_digest_and_is_mended() -> None:
    a, b = Island("a", 1), Island("b", 2)
    ada = Ada(1)
    sea = Sea(a, b)
    a.open(1)
    b.open(1)
    a.send(1, frame(ada.type("abc")))
    sea.settle()

    a.send(1, frame(ada.delete_first()))
    sea.settle(a)  # the broadcast to b is lost
    assert b.text() == "abc"
    sea.chair.tick(limits.BEACON_MS + 100)
    for beacon in sea.chair.beacons:
        b.do(b.edge.beacon(beacon.beacon, 0))
    sea.settle()

    assert b.text() == "bc"


def test_what_the_leader_lacks_is_shipped_by_whoever_has_it() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.send(1, frame(ada.type("abc")))
    island.commit()
    island.link()
    island.published.clear()

    island.do(island.edge.repair_asked(RepairAsk(PLAN, b"\x00", ((1, 3),)), 0))
    island.commit()

    assert len(island.published) == 1
    assert Document(island.published[0].update).text("text") == "abc"
    assert Dot(Origin(1), 1) in island.published[0].covers


def test_an_early_update_of_a_client_that_the_log_lets_in_becomes_a_change_of_this_edge() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    sea.settle()
    first, second = ada.type("a"), ada.type("b")
    island.send(1, frame(second))

    version = sea.log.append(Change(PLAN, Dot(Origin(5), 1), first))
    sea.chair.deliver(version.seq)
    sea.settle()

    assert island.text() == "ab"
    assert [e.change.update for e in sea.log.entries if hasattr(e, "change")] == [first, second]


def test_an_answer_to_a_replica_that_was_thrown_away_is_not_taken() -> None:
    island, ada, log = Island("a", 1), Ada(1), Log()
    island.link()
    island.open(1)
    chair = Chair(log)
    version = log.append(Change(PLAN, Dot(Origin(2), 1), ada.type("hello")))
    chair.deliver(version.seq)
    island.do(island.edge.sync_answered(chair.answer(island.asks.pop()), island.now))

    island.do(island.edge.beacon(Beacon(((PLAN, Version(EPOCH, 2), "other"),)), island.now))
    ask = island.asks.pop()  # names what is in memory: "hello", which is not on the disk yet
    island.fail_commit()
    island.open(2)
    island.do(island.edge.sync_answered(chair.answer(ask), island.now))
    island.commit()

    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    assert replica.version is None, "it lacks what the answer left out"

    island.tick(500)
    island.do(island.edge.sync_answered(chair.answer(island.asks.pop()), island.now))
    island.commit()

    assert island.text() == "hello"


def test_a_pinned_document_is_replicated_without_a_client() -> None:
    a, b = Island("a", 1), Island("b", 2, pins=("notes/*",))
    ada = Ada(1)
    sea = Sea(a, b)
    a.open(1)
    a.open(2, parse_document_id("secret"))
    sea.settle()

    a.send(1, frame(ada.type("everywhere")))
    sea.settle()

    assert b.text() == "everywhere"
    assert list(b.store.documents()) == [PLAN]


def test_a_pinned_document_that_the_disk_refused_is_fetched_again() -> None:
    a, b = Island("a", 1), Island("b", 2, pins=("notes/*",))
    ada = Ada(1)
    sea = Sea(a, b)
    a.open(1)
    sea.settle(a)
    a.send(1, frame(ada.type("everywhere")))
    sea.settle(a)
    b.do(b.edge.listed([PLAN], True, b.now))
    b.do(b.edge.sync_answered(sea.chair.answer(b.asks.pop()), b.now))
    b.fail_commit()
    assert b.store.load(PLAN) is None

    b.tick(limits.HEAL_PAUSE_MS)
    sea.settle()

    assert b.text() == "everywhere"


def test_what_was_to_heal_the_log_is_compared_again_where_the_disk_refused_it() -> None:
    a = Island("a", 1)
    ada = Ada(1)
    sea = Sea(a)
    a.open(1)
    sea.settle()
    a.send(1, frame(ada.type("forgotten by the log")))
    sea.settle()
    a.do(a.edge.closed(ConnId(1), a.now))
    a.tick(limits.DOCUMENT_IDLE_MS + 1_000)
    sea = Sea()
    sea.islands = (a,)
    sea.log.epoch = EPOCH + 1
    sea.chair = Chair(sea.log)

    a.link(EPOCH + 1, intact=False)
    a.do(a.edge.sync_answered(sea.chair.answer(a.asks.pop()), a.now))
    a.fail_commit()
    a.tick(2 * limits.HEAL_PAUSE_MS)
    sea.settle()

    assert [entry.change.update for entry in sea.log.entries if isinstance(entry, Logged)] != []


def test_without_a_leader_an_edge_reads_the_log_itself() -> None:
    island, ada = Island("a", 1), Ada(1)
    log = Log()
    log.append(Change(PLAN, Dot(Origin(5), 1), ada.type("from the log")))
    island.link()
    island.open(1)

    while not island.logged:
        ask = island.asks.pop()
        island.do(island.edge.sync_failed(PLAN, ask.ask, island.now))
        island.tick(1_000)
    island.do(island.edge.logged(PLAN, None, log.entries, island.now))
    island.commit()

    assert island.text() == "from the log"
    host = island.edge.hosted[PLAN]
    assert host.replica is not None
    assert host.replica.version == Version(EPOCH, 1)


def test_a_dot_is_not_held_while_the_leader_holds_the_version_back() -> None:
    island = Island("a", 1)
    island.link()
    island.open(1)
    held = Version(EPOCH, 0)

    # The leader has the content already, so the dot comes without bytes; that this edge lacks it shows nowhere.
    island.do(island.edge.merged(Merged(PLAN, held, held, b"", DotSet({Origin(2): ((1, 1),)})), island.now))

    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    assert Dot(Origin(2), 1) not in replica.dots


def test_a_dot_is_not_held_across_a_gap() -> None:
    island = Island("a", 1)
    island.link()
    island.open(1)
    dots = DotSet()
    dots.add(Dot(Origin(5), 1))

    island.do(island.edge.merged(Merged(PLAN, Version(EPOCH, 7), Version(EPOCH, 12), b"", dots), 0))

    host = island.edge.hosted[PLAN]
    assert host.replica is not None
    assert Dot(Origin(5), 1) not in host.replica.dots, "its content may be in the broadcast that is missing"


def test_a_question_for_repair_does_not_make_an_edge_hold_what_it_never_had() -> None:
    a, b = Island("a", 1), Island("b", 2)
    ada = Ada(1)
    sea = Sea(a, b)
    a.open(1)
    a.send(1, frame(ada.type("not for b")))
    sea.settle()

    b.do(b.edge.repair_asked(RepairAsk(PLAN, b"\x00", ((1, 3),)), 0))
    sea.settle()

    assert list(b.store.documents()) == []
    assert b.published == []


def test_an_edge_that_only_listens_applies_what_it_hears_before_it_is_too_much() -> None:
    """Nobody looked for a minute: thousands of broadcasts were applied at once, and took a kilobyte a letter."""
    island, ada = Island("a", 1), Ada(1)
    island.link()
    island.open(1)

    for seq in range(1, 2_000):
        said = Merged(PLAN, Version(EPOCH, seq - 1), Version(EPOCH, seq), ada.type("x"), DotSet())
        island.do(island.edge.merged(said, island.now))
        replica = island.edge.hosted[PLAN].replica
        assert replica is not None
        assert replica.unapplied_bytes < limits.SLICE_BYTES
        assert replica.unapplied_count < 1_500
