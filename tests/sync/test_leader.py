"""The leader machine, told as scenarios."""

from __future__ import annotations

from sync import limits
from sync.change import Change, Context, Logged, SyncAsk, Unreadable
from sync.document import Document, merge
from sync.ids import DocId, Dot, DotSet, Origin, Version
from sync.leader import Delivery
from tests.sync.stage import EPOCH, PLAN, Ada, Chair, Log

OTHER = DocId("other")


def change(seq: int, update: bytes, origin: int = 1, doc: DocId = PLAN) -> Change:
    return Change(doc, Dot(Origin(origin), seq), update, Context(edge="a", correlation=f"c{seq}"))


def at(seq: int, epoch: int = EPOCH) -> Version:
    return Version(epoch, seq)


def test_changes_are_merged_in_log_order_and_each_broadcast_continues_the_last() -> None:
    log, ada = Log(), Ada(1)
    for seq in (1, 2, 3):
        log.append(change(seq, ada.type("x")))
    chair = Chair(log)

    chair.deliver(1)
    chair.deliver(2, 3)

    assert [(m.prev, m.version) for m in chair.said] == [(at(0), at(1)), (at(1), at(3))]
    assert Document(merge([m.update for m in chair.said])).text("text") == "xxx"
    assert chair.acked == [1, 2, 3]


def test_an_early_change_holds_the_version_and_what_closes_the_gap_brings_everything() -> None:
    log, ada, ben = Log(), Ada(1), Ada(2)
    first, second = ada.type("a"), ada.type("b")
    log.append(change(2, second))
    log.append(change(1, ben.type("z"), origin=2))
    log.append(change(1, first))
    chair = Chair(log)

    chair.deliver(1)
    assert chair.said == []

    chair.deliver(2)
    assert (chair.said[0].prev, chair.said[0].version) == (at(0), at(0))
    assert Dot(Origin(1), 2) not in chair.said[0].dots

    chair.deliver(3)
    closing = chair.said[1]
    assert (closing.prev, closing.version) == (at(0), at(3))
    assert sorted(Document(closing.update).text("text")) == ["a", "b", "z"]
    assert all(dot in closing.dots for dot in (Dot(Origin(1), 1), Dot(Origin(1), 2), Dot(Origin(2), 1)))


def test_a_gap_that_does_not_close_is_asked_for_with_what_is_missing() -> None:
    log, ada = Log(), Ada(1)
    ada.type("abc")
    log.append(change(2, ada.type("d")))
    chair = Chair(log)
    chair.deliver(1)

    chair.tick(limits.EARLY_MS_MAX + 200)

    assert chair.repairs[0].ask.missing == ((1, 3),)


def test_a_refused_change_is_kept_with_its_reason_and_the_version_passes_it() -> None:
    log, ada = Log(), Ada(1)
    log.append(change(1, b"\xff\xff\xff"))
    log.entries.append(Unreadable(PLAN, at(2), "no header Skerry-Dot", {}, b"?"))
    log.append(change(2, ada.type("x")))
    chair = Chair(log)

    chair.deliver(1, 2, 3)

    assert [reject.entry.version.seq for reject in chair.rejected] == [1, 2]
    assert "no header" in chair.rejected[1].reason
    assert chair.said[-1].version == at(3)
    assert Dot(Origin(1), 1) in chair.said[-1].rejected
    assert chair.acked == [1, 2, 3]


def test_a_change_that_comes_twice_takes_effect_once_and_is_confirmed_twice() -> None:
    log, ada = Log(), Ada(1)
    update = ada.type("x")
    log.append(change(1, update))
    log.append(change(1, update))
    chair = Chair(log)

    chair.deliver(1)
    chair.deliver(2)

    assert [dot for emit in chair.emitted for dot, _ in emit.contexts] == [Dot(Origin(1), 1)]
    assert chair.said[1].update == b""
    assert Dot(Origin(1), 1) in chair.said[1].dots
    assert chair.said[1].version == at(2)


def test_the_context_of_a_change_reaches_the_events_also_when_it_came_early() -> None:
    log, ada = Log(), Ada(1)
    first, second = ada.type("a"), ada.type("b")
    log.append(change(2, second))
    log.append(change(1, first))
    chair = Chair(log)

    chair.deliver(1)
    chair.deliver(2)

    assert [context.correlation for emit in chair.emitted for _, context in emit.contexts] == ["c1", "c2"]


def test_a_leader_that_was_not_given_a_message_reads_the_log_before_it_goes_on() -> None:
    log, ada = Log(), Ada(1)
    for seq in (1, 2, 3):
        log.append(change(seq, ada.type("abc"[seq - 1])))
    chair = Chair(log)

    chair.deliver(1)
    log.delivered += 1  # the second went to another leader
    chair.deliver(3)

    assert (chair.said[-1].prev, chair.said[-1].version) == (at(2), at(3))
    ask = SyncAsk(PLAN, 1, b"\x00", None)
    assert Document(chair.answer(ask).update).text("text") == "abc"


def test_who_was_answered_before_it_showed_that_another_was_given_a_message_is_told_by_the_beacon() -> None:
    """Another document's change shows it; nobody asks for this one again."""
    log, ada, ben = Log(), Ada(1), Ada(2)
    log.append(change(1, ada.type("a")))
    before, chair = Chair(log, origin=98), Chair(log)
    before.deliver(1)
    ask = SyncAsk(PLAN, 1, b"\x00", None)
    assert chair.answer(ask).version == at(1)
    log.append(change(2, ada.type("b")))
    log.append(change(1, ben.type("c"), origin=2, doc=OTHER))
    before.deliver(2)  # it does not know yet that it leads no more

    chair.now = limits.BEACON_SPAN_MS + 1  # what was said of the document at its load is said no more
    chair.deliver(3)
    chair.tick(2 * limits.BEACON_MS)

    assert {doc: version for doc, version, _ in chair.beacons[-1].beacon.docs} == {PLAN: at(2), OTHER: at(3)}


def test_a_distrusted_document_that_nobody_asked_for_is_not_read_for_that_and_leaves_memory() -> None:
    log, ada, ben = Log(), Ada(1), Ada(2)
    log.append(change(1, ada.type("a")))
    log.append(change(2, ada.type("b")))
    log.append(change(1, ben.type("c"), origin=2, doc=OTHER))
    chair = Chair(log)
    chair.deliver(1)
    log.delivered += 1  # the second went to another leader

    chair.deliver(3)
    chair.tick(limits.BEACON_MS)
    lane = chair.leader.lanes[PLAN]
    assert lane.replica is None
    chair.tick(limits.LEADER_IDLE_MS + limits.BEACON_MS)

    assert PLAN not in chair.leader.lanes


def test_two_leaders_fold_the_same_log_to_the_same_state() -> None:
    log, ada, ben = Log(), Ada(1), Ada(2)
    updates = [ada.type("a"), ada.type("b"), ben.type("c"), ada.delete_first()]
    for place, (seq, update, origin) in enumerate(
        [(2, updates[1], 1), (1, updates[2], 2), (1, updates[0], 1), (3, updates[3], 1)]
    ):
        assert log.append(change(seq, update, origin)).seq == place + 1
    one, two = Chair(log), Chair(log, origin=98)

    one.deliver(1, 2, 3, 4)
    for seq in (1, 2, 3, 4):
        two.deliver(seq)

    ask = SyncAsk(PLAN, 1, b"\x00", None)
    first, second = one.answer(ask), two.answer(ask)
    assert (first.version, first.digest, first.dots) == (second.version, second.digest, second.dots)
    assert first.digest != ""


def test_a_redelivery_changes_nothing_and_is_acknowledged() -> None:
    log, ada = Log(), Ada(1)
    log.append(change(1, ada.type("x")))
    chair = Chair(log)
    chair.deliver(1)

    chair.deliver(1, redelivered=True)

    assert len(chair.said) == 1
    assert chair.acked == [1, 1]


def test_a_new_leader_starts_from_the_snapshot_and_the_changes_after_it() -> None:
    log, ada = Log(), Ada(1)
    chair = Chair(log)
    for seq in range(1, limits.SNAPSHOT_CHANGES + 1):
        log.append(change(seq, ada.type("x")))
        chair.deliver(seq)
    snapshot = log.snapshots[PLAN]
    assert snapshot.version == at(limits.SNAPSHOT_CHANGES)
    assert Document(snapshot.state).digest() == snapshot.digest
    log.append(change(limits.SNAPSHOT_CHANGES + 1, ada.type("y")))
    log.entries[: limits.SNAPSHOT_CHANGES] = [  # what the snapshot covers need not be read again
        Unreadable(PLAN, entry.version, "must not be read", {}, b"") for entry in log.entries[: limits.SNAPSHOT_CHANGES]
    ]

    fresh = Chair(log)
    fresh.deliver(limits.SNAPSHOT_CHANGES + 1)

    answer = fresh.answer(SyncAsk(PLAN, 1, b"\x00", None))
    assert Document(answer.update).text("text") == "x" * limits.SNAPSHOT_CHANGES + "y"
    assert fresh.rejected == []


def test_no_snapshot_is_taken_across_a_gap() -> None:
    log, ada, ben = Log(), Ada(1), Ada(2)
    ada.type("lost")
    log.append(change(2, ada.type("x")))
    chair = Chair(log)
    chair.deliver(1)
    for seq in range(1, limits.SNAPSHOT_CHANGES + 5):
        log.append(change(seq, ben.type("b"), origin=2))
        chair.deliver(seq + 1)

    assert log.snapshots == {}
    assert chair.answer(SyncAsk(PLAN, 1, b"\x00", None)).digest == "", "nothing to compare while there is a gap"


def test_the_snapshot_of_a_lost_log_is_shipped_into_the_new_one() -> None:
    old, ada = Log(), Ada(1)
    chair = Chair(old)
    for seq in range(1, limits.SNAPSHOT_CHANGES + 1):
        old.append(change(seq, ada.type("x")))
        chair.deliver(seq)

    new = Log(epoch=EPOCH + 1)
    new.snapshots = old.snapshots
    fresh = Chair(new)
    fresh.answers.clear()
    fresh.answer(SyncAsk(PLAN, 1, b"\x00", None))

    assert len(fresh.published) == 1
    assert Dot(Origin(1), 1) in fresh.published[0].covers
    new.append(fresh.published[0])
    fresh.deliver(1)
    answer = fresh.answer(SyncAsk(PLAN, 1, b"\x00", None))
    assert Document(answer.update).text("text") == "x" * limits.SNAPSHOT_CHANGES


def test_a_change_that_breaks_pycrdt_is_refused_and_the_others_are_merged() -> None:
    log, ada = Log(), Ada(1)
    poison = bytes([1, 1, 9, 0, 0x04, 0, 1, 0, 1, ord("x"), 0])  # a string whose parent is a string
    log.append(change(1, ada.type("a")))
    log.append(change(1, poison, origin=9))
    log.append(change(2, ada.type("b")))
    chair = Chair(log)

    chair.deliver(1, 2, 3)

    assert [reject.entry.version.seq for reject in chair.rejected] == [2]
    assert chair.said[-1].version == at(3)
    answer = chair.answer(SyncAsk(PLAN, 1, b"\x00", None))
    assert Document(answer.update).text("text") == "ab"
    assert sorted(set(chair.acked)) == [1, 2, 3]

    later = Chair(log)
    assert Document(later.answer(SyncAsk(PLAN, 1, b"\x00", None)).update).text("text") == "ab"


def test_a_shard_that_is_lost_is_forgotten_and_its_deliveries_are_left_to_others() -> None:
    log, ada = Log(), Ada(1)
    log.append(change(1, ada.type("x")))
    chair = Chair(log)
    chair.do(chair.leader.lost(0, 0))

    chair.deliver(1)

    assert chair.said == []
    assert chair.acked == []
    assert chair.leader.lanes == {}


def test_a_beacon_names_what_changed_with_its_digest_and_stops_when_it_was_said_often_enough() -> None:
    log, ada = Log(), Ada(1)
    log.append(change(1, ada.type("x")))
    chair = Chair(log)
    chair.deliver(1)

    chair.tick(limits.BEACON_MS + 100)
    assert chair.beacons[-1].beacon.docs[0][:2] == (PLAN, at(1))
    assert chair.beacons[-1].beacon.docs[0][2] == Document(ada.crdt.get_update()).digest()

    chair.tick(limits.BEACON_SPAN_MS)
    said = len(chair.beacons)
    chair.tick(3 * limits.BEACON_MS)
    assert len(chair.beacons) == said


def test_a_document_nobody_uses_leaves_memory() -> None:
    log, ada = Log(), Ada(1)
    log.append(change(1, ada.type("x")))
    chair = Chair(log)
    chair.deliver(1)

    chair.tick(limits.LEADER_IDLE_MS + 200)

    assert chair.leader.lanes == {}


def test_a_document_whose_log_cannot_be_read_is_tried_again() -> None:
    log, ada = Log(), Ada(1)
    log.append(change(1, ada.type("x")))
    chair = Chair(log)
    loads = 0

    step = chair.leader.delivered(0, [Delivery(log.entries[0], 1)], 0)
    loads += len(step.now)
    chair.do(chair.leader.log_failed(PLAN, 0))
    chair.tick(1_000)

    assert loads == 1
    assert chair.said[-1].version == at(1)


def test_dots_that_a_change_covers_are_confirmed_with_it() -> None:
    log, ada = Log(), Ada(1)
    covers = DotSet()
    covers.add_range(Origin(1), 1, 7)
    healed = Change(PLAN, Dot(Origin(3), 1), ada.type("x"), Context(), covers)
    log.append(healed)
    chair = Chair(log)

    chair.deliver(1)

    assert Dot(Origin(1), 7) in chair.said[0].dots
    assert isinstance(log.entries[0], Logged)


def test_a_leader_that_is_first_given_a_redelivered_message_reads_what_others_have_acknowledged_after_it() -> None:
    log, ada = Log(), Ada(1)
    for seq in (1, 2, 3, 4):
        log.append(change(seq, ada.type("abcd"[seq - 1])))
    chair = Chair(log)

    chair.deliver(1, redelivered=True)  # 2 and 3 were acknowledged by a leader that is gone
    chair.deliver(4)

    assert Document(chair.answer(SyncAsk(PLAN, 1, b"\x00", None)).update).text("text") == "abcd"


def test_a_repeat_that_waited_early_beside_its_first_is_not_emitted() -> None:
    log, ada = Log(), Ada(1)
    first, second = ada.type("a"), ada.type("b")
    log.append(change(2, second))
    log.append(change(2, second))
    log.append(change(1, first))
    chair = Chair(log)

    chair.deliver(1, 2, 3)

    assert [dot for emit in chair.emitted for dot, _ in emit.contexts] == [Dot(Origin(1), 1), Dot(Origin(1), 2)]


def test_what_a_load_for_a_question_refused_is_kept_when_it_is_delivered() -> None:
    """Found on real processes: a leader that had died of it answered an edge first, and the change was kept nowhere."""
    log, ada = Log(), Ada(1)
    log.append(change(1, ada.type("x")))
    log.append(change(2, b"\xff\xff\xff"))
    chair = Chair(log)

    chair.answer(SyncAsk(PLAN, 1, b"\x00", None))
    chair.deliver(1, 2)

    assert [reject.entry.version.seq for reject in chair.rejected] == [2]


def test_what_was_read_for_a_question_is_the_log_s_witness() -> None:
    log, ada = Log(), Ada(1)
    for seq in (1, 2):
        log.append(change(seq, ada.type("x")))
    chair = Chair(log)

    chair.answer(SyncAsk(PLAN, 1, b"\x00", None))

    assert chair.leader.witness == (at(2), PLAN, Dot(Origin(1), 2))


def test_a_leader_looks_for_a_place_of_the_log_that_only_an_edge_knows() -> None:
    log, ada = Log(), Ada(1)
    for seq in (1, 2):
        log.append(change(seq, ada.type("x")))
    chair = Chair(log)

    for version in (None, at(1), at(2), at(9, EPOCH - 1), at(3)):
        chair.answer(SyncAsk(PLAN, 1, b"\x00", version))

    assert [(look.doc, look.version) for look in chair.missed] == [(PLAN, at(3))]


def test_another_change_at_a_place_that_was_folded_makes_the_leader_look_at_the_log() -> None:
    """The log was lost and begun anew, and nobody has noticed: told that it holds what only memory does, an edge would
    heal the difference alone."""
    log, ada, ben = Log(), Ada(1), Ada(2)
    log.append(change(1, ada.type("x")))
    chair = Chair(log)
    chair.deliver(1)
    chair.deliver(1, redelivered=True)
    assert chair.missed == []

    log.entries.clear()
    log.append(change(1, ben.type("y"), origin=2))
    chair.deliver(1)

    assert [(look.doc, look.version) for look in chair.missed] == [(PLAN, at(1))]
