"""Events and acknowledgements of a leader, gathered."""

from __future__ import annotations

from sync.change import Context
from sync.ids import DocId, Dot, Origin, Version
from sync.limits import EVENT_CHANGES_MAX, SETTLE_MS, UNSETTLED_COUNT_MAX
from sync.settling import Settling
from sync.step import Ack, Emit

PLAN = DocId("notes/plan")


def said(*seqs: int) -> list[tuple[Dot, Context]]:
    return [(Dot(Origin(1), seq), Context("a")) for seq in seqs]


def test_an_event_goes_out_before_its_change_is_acknowledged() -> None:
    settling = Settling()
    settling.handled(0, 1)
    settling.emit(PLAN, Version(7, 1), said(1))

    effects = settling.settle(0)

    assert effects == [Emit(PLAN, Version(7, 1), tuple(said(1))), Ack(0, (1,))]
    assert not settling


def test_changes_of_one_document_are_one_event_at_the_newest_version() -> None:
    settling = Settling()
    for seq in (1, 2, 3):
        settling.handled(0, seq)
        settling.emit(PLAN, Version(7, seq), said(seq))

    effects = settling.settle(0)

    assert effects == [Emit(PLAN, Version(7, 3), tuple(said(1, 2, 3))), Ack(0, (1, 2, 3))]


def test_a_change_is_emitted_once_and_acknowledged_each_time() -> None:
    settling = Settling()
    settling.emit(PLAN, Version(7, 1), said(1))
    settling.settle(0)

    settling.handled(0, 1)
    settling.emit(PLAN, Version(7, 1), said(1))

    assert settling.settle(0) == [Ack(0, (1,))]


def test_the_first_is_settled_at_once_and_what_follows_after_a_while_or_in_a_crowd() -> None:
    settling = Settling()
    assert settling.due(0)
    settling.settle(0)

    settling.handled(0, 1)
    assert not settling.due(SETTLE_MS - 1)
    assert settling.due(SETTLE_MS)

    for seq in range(2, UNSETTLED_COUNT_MAX + 1):
        settling.handled(0, seq)
    assert settling.due(1)


def test_what_is_folded_once_more_is_not_acknowledged() -> None:
    settling = Settling()
    for seq in (1, 2, 3):
        settling.handled(0, seq)

    settling.not_handled(0, [2, 3])

    assert settling.settle(0) == [Ack(0, (1,))]


def test_one_event_holds_a_bounded_number_of_changes() -> None:
    settling = Settling()
    settling.emit(PLAN, Version(7, 1), said(*range(1, EVENT_CHANGES_MAX + 2)))

    effects = settling.settle(0)

    assert [len(effect.contexts) for effect in effects if isinstance(effect, Emit)] == [EVENT_CHANGES_MAX, 1]
