"""The edge machine, told as scenarios. Each law that it keeps has a test that fails when it is switched off."""

from __future__ import annotations

import pytest

from sync import limits, wire
from sync.change import Beacon, Change, Logged, Merged, RepairAsk
from sync.closing import CLOSE_BAD_FRAME, CLOSE_BAD_UPDATE, CLOSE_CANNOT_STORE, CLOSE_GAP
from sync.content import Captured
from sync.document import Document
from sync.edge import Edge, EdgeStep
from sync.errors import DocumentBroken
from sync.ids import ConnId, DocId, Dot, DotSet, Origin, Version, parse_document_id
from sync.presence import encode_awareness
from sync.step import PresenceOut, Send, Step
from sync.validate import AwarenessEntry
from tests.sync.stage import EPOCH, PLAN, Ada, Chair, Island, Log, Sea, frame


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


def test_a_gap_that_does_not_close_is_asked_for_and_then_its_sender_is_told() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.open(2)
    ada.type("a")
    island.send(1, frame(ada.type("b")))
    asked_before = sum(isinstance(m, wire.SyncStep1) for m in island.sent[1])

    island.tick(limits.EARLY_MS_MAX + 200)

    assert sum(isinstance(m, wire.SyncStep1) for m in island.sent[1]) == asked_before + 1

    island.tick(limits.EARLY_MS_MAX * (limits.EARLY_REPAIRS_MAX + 1))

    assert island.closed[1][0] == CLOSE_GAP
    assert "client 1 up to clock 1" in island.closed[1][1]
    assert 2 not in island.closed


def test_bad_bytes_close_their_connection_and_nobody_else_notices() -> None:
    island, ada = Island("a", 1), Ada(1)
    for conn in (1, 2, 3):
        island.open(conn)

    island.send(1, b"\x63\x01\x02")
    island.send(2, frame(b"\x01\x01\x01\x00\x2c"))
    update = ada.type("x")
    island.send(3, frame(update))
    island.commit()

    assert island.closed[1][0] == CLOSE_BAD_FRAME
    assert island.closed[2][0] == CLOSE_BAD_UPDATE
    assert 3 not in island.closed
    assert island.updates(3) == [update]


def test_an_update_that_breaks_pycrdt_closes_its_sender_and_the_others_are_kept() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.open(2)
    island.send(1, frame(ada.type("a")))
    island.commit()

    poison = bytes([1, 1, 9, 0, 0x04, 0, 1, 0, 1, ord("x"), 0])  # a string whose parent is a string
    island.send(2, frame(poison))
    island.send(1, frame(ada.type("b")))
    island.commit()

    assert island.closed[2][0] == CLOSE_BAD_UPDATE
    assert 1 not in island.closed
    assert island.text() == "ab"
    assert {report.event for report in island.reports} == {"document_rebuilt", "update_refused"}


def test_a_client_that_opens_is_told_what_is_here_and_asked_for_what_is_not() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.send(1, frame(ada.type("hello")))
    island.commit()

    island.open(2)

    assert [type(message) for message in island.sent[2]] == [wire.SyncStep1, wire.SyncStep2]
    answer = island.sent[2][1]
    assert isinstance(answer, wire.SyncStep2)
    assert Document(answer.update).text("text") == "hello"


def test_the_first_open_of_an_unknown_document_waits_for_the_leader_while_there_is_a_link() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    sea.log.append(Change(PLAN, Dot(Origin(5), 1), ada.type("from elsewhere")))

    island.open(1)
    assert 1 not in island.sent, "an empty page would be a lie"

    sea.settle()

    answer = next(message for message in island.sent[1] if isinstance(message, wire.SyncStep2))
    assert Document(answer.update).text("text") == "from elsewhere"


def test_the_first_open_is_answered_at_once_without_a_link_and_in_time_without_a_leader() -> None:
    cut_off, linked = Island("a", 1), Island("b", 2)
    linked.link()

    cut_off.open(1)
    linked.open(1)

    assert [type(message) for message in cut_off.sent[1]] == [wire.SyncStep1, wire.SyncStep2]
    assert 1 not in linked.sent

    linked.tick(limits.FIRST_OPEN_MS_MAX + 100)

    assert [type(message) for message in linked.sent[1]] == [wire.SyncStep1, wire.SyncStep2]


def test_an_edit_on_a_document_that_waits_for_the_leader_is_stored_all_the_same() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.link()

    island.open(1)
    island.send(1, frame(ada.type("no waiting")))
    island.commit()

    assert island.text() == "no waiting"


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


def test_a_document_without_clients_leaves_memory_when_its_outbox_is_empty() -> None:
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
    answer = island.sent[2][-1]
    assert isinstance(answer, wire.SyncStep2)
    assert Document(answer.update).text("text") == "x"


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


def test_the_updates_of_a_document_are_compacted_and_its_outbox_stays() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    for number in range(limits.COMPACT_ROWS + 1):
        island.send(1, frame(ada.type(chr(97 + number % 26))))
        island.commit()

    stored = island.store.load(PLAN)
    assert stored is not None
    assert stored.state is not None
    assert len(stored.updates) < 10
    assert island.outbox == limits.COMPACT_ROWS + 1
    assert len(island.text()) == limits.COMPACT_ROWS + 1


def test_presence_reaches_the_other_clients_and_the_other_edges_and_a_joiner_at_once() -> None:
    island = Island("a", 1)
    island.link()
    island.open(1)
    island.open(2)
    payload = encode_awareness([AwarenessEntry(9, 1, '{"name":"ada"}')])
    island.presence.clear()

    island.send(1, wire.encode(wire.AwarenessUpdate(payload)))

    assert island.sent[2][-1] == wire.AwarenessUpdate(payload)
    assert island.presence == [payload]
    island.open(3)
    assert wire.AwarenessUpdate(payload) in island.sent[3]
    island.do(island.edge.closed(ConnId(1), 0))
    gone = island.sent[2][-1]
    assert isinstance(gone, wire.AwarenessUpdate)
    assert gone.payload.endswith(b"null")


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


def test_a_state_that_does_not_verify_replaces_nothing_and_is_not_tried_with_every_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[DocId] = []

    def refuse(captured: Captured) -> None:
        tries.append(captured.doc)
        raise DocumentBroken("its state does not load to the same digest")

    monkeypatch.setattr(Captured, "verify", refuse)
    island, ada = Island("a", 1), Ada(1)
    island.open(1)

    for _ in range(limits.COMPACT_ROWS * 2 + 2):
        island.send(1, frame(ada.type("x")))
        island.commit()

    assert len(tries) == 2
    assert island.text() == "x" * (limits.COMPACT_ROWS * 2 + 2)


def test_a_cursor_that_moved_to_another_edge_is_asked_to_renew_itself() -> None:
    island = Island("a", 1)
    island.link()
    island.open(1)
    here = encode_awareness([AwarenessEntry(9, 2, '{"name":"ada"}')])
    island.send(1, wire.encode(wire.AwarenessUpdate(here)))
    island.do(island.edge.closed(ConnId(1), 0))
    island.open(2)
    island.presence.clear()

    island.do(island.edge.presence(PLAN, here, 0))

    assert island.presence == [encode_awareness([AwarenessEntry(9, 3, "null")])]


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


def test_moves_of_many_are_one_message_to_everybody_and_to_the_other_edges() -> None:
    island = Island("a", 1)
    island.link()
    for conn in (1, 2, 3):
        island.open(conn)
    edge = island.edge

    for clock in range(1, 11):
        for conn in (1, 2):
            entry = AwarenessEntry(conn, clock, f'{{"at":{clock}}}')
            edge.received(ConnId(conn), wire.encode(wire.AwarenessUpdate(encode_awareness([entry]))), 0)
    step = edge.spread()

    newest = encode_awareness([AwarenessEntry(conn, 10, '{"at":10}') for conn in (1, 2)])
    told = [(effect.conns, effect.frame) for effect in step.now if isinstance(effect, Send)]
    assert told == [((ConnId(1), ConnId(2), ConnId(3)), wire.encode(wire.AwarenessUpdate(newest)))]
    assert [effect.payload for effect in step.now if isinstance(effect, PresenceOut)] == [newest]
    assert not edge.wants_spread


def test_who_alone_moved_is_not_sent_it_back() -> None:
    island = Island("a", 1)
    for conn in (1, 2):
        island.open(conn)

    entry = AwarenessEntry(7, 1, "{}")
    island.edge.received(ConnId(1), wire.encode(wire.AwarenessUpdate(encode_awareness([entry]))), 0)
    step = island.edge.spread()

    assert [effect.conns for effect in step.now if isinstance(effect, Send)] == [(ConnId(2),)]


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


def test_what_is_stored_while_a_state_is_verified_stays_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying takes a while, elsewhere; its document goes on, and a death at any time loses nothing."""
    asked: list[Captured] = []

    def not_yet(edge: Edge, captured: Captured, refusal: str) -> EdgeStep:
        asked.append(captured)
        return Step()

    monkeypatch.setattr(Edge, "verified", not_yet)
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    for _ in range(limits.COMPACT_ROWS):
        island.send(1, frame(ada.type("x")))
        island.commit()
    (captured,) = asked
    for _ in range(5):
        island.send(1, frame(ada.type("y")))
        island.commit()
    monkeypatch.undo()
    assert sorted(island.text()) == ["x"] * limits.COMPACT_ROWS + ["y"] * 5

    island.do(island.edge.verified(captured, ""))
    island.send(1, frame(ada.type("z")))
    island.commit()

    stored = island.store.load(PLAN)
    assert stored is not None
    assert stored.state == captured.state
    assert len(stored.updates) == 6
    assert sorted(island.text()) == ["x"] * limits.COMPACT_ROWS + ["y"] * 5 + ["z"]


def test_a_state_that_was_taken_before_its_document_was_read_anew_replaces_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Captured] = []

    def not_yet(edge: Edge, captured: Captured, refusal: str) -> EdgeStep:
        asked.append(captured)
        return Step()

    monkeypatch.setattr(Edge, "verified", not_yet)
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    for _ in range(limits.COMPACT_ROWS):
        island.send(1, frame(ada.type("x")))
        island.commit()
    (captured,) = asked
    monkeypatch.undo()
    island.send(1, frame(ada.type("y")))
    island.fail_commit()  # of what was typed since: the document is read from the disk again
    island.open(2)

    island.do(island.edge.verified(captured, ""))
    island.commit()

    stored = island.store.load(PLAN)
    assert stored is not None
    assert stored.state is None


def test_who_asks_the_same_is_answered_with_the_same_bytes_until_something_changes() -> None:
    island, ada = Island("a", 1), Ada(1)
    island.open(1)
    island.send(1, frame(ada.type("x")))
    island.commit()

    answers: list[bytes] = []
    for conn in (2, 3, 4):
        island.do(island.edge.opened(ConnId(conn), PLAN, island.now))
        if conn == 4:
            island.send(1, frame(ada.type("y")))
        step = island.edge.received(ConnId(conn), wire.encode(wire.SyncStep1(b"\x00")), island.now)
        (answer,) = [effect.frame for effect in step.now if isinstance(effect, Send)]
        answers.append(answer)

    assert answers[1] is answers[0]
    late = wire.decode_frame(answers[2])
    assert isinstance(late, wire.SyncStep2)
    assert Document(late.update).text("text") == "xy"
