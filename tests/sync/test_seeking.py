"""Where everything stands is found beside the loop, whatever asks for it, and what has come for the document waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sync import wire
from sync.answered import look
from sync.change import Change, Merged, SyncAnswer
from sync.digest import encode_clocks
from sync.ids import ConnId, Dot, DotSet, Origin
from sync.limits import LOADING_FRAMES_HELD, NESTING_MAX
from sync.nesting import Places
from sync.replica import Replica
from sync.step import FindPlaces, Look, Pause, Resume, TakeOn
from sync.validate import check_update
from tests.sync.stage import PLAN, Ada, Chair, Island, Log, frame
from tests.sync.test_nesting import DELETE_OUTERMOST, as_deep_as_may_be, level


@pytest.fixture(autouse=True)
def on_the_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Where it was found within the machine's own methods: nowhere."""
    found: list[int] = []

    class Counted(Places):
        def __init__(self, state: bytes) -> None:
            found.append(len(state))
            super().__init__(state)

    monkeypatch.setattr("sync.content.Places", Counted)
    yield found
    assert found == []


def island(levels: int) -> Island:
    """Of a document that nests so deeply, which all came within one look."""
    made = Island("a", 1)
    made.open(1)
    made.open(2)
    for update in as_deep_as_may_be()[:levels]:
        made.send(1, frame(update))
    made.commit()
    made.by_turns = True
    return made


WIDE = level(0, client=2, within=0)
"""One more that names a type, and stands high."""


def clocks_of(made: Island) -> dict[int, int]:
    replica = made.edge.hosted[PLAN].replica
    assert replica is not None
    return replica.clocks


def all_turns(made: Island) -> None:
    while made.waiting:
        made.turn()


def test_what_comes_meanwhile_waits_in_its_order_and_is_taken_then() -> None:
    ada = Ada(9)
    first, second = ada.type("a"), ada.type("b")
    made = island(NESTING_MAX + 1)

    made.send(1, frame(WIDE))
    made.send(1, frame(first))
    made.send(2, frame(second))
    made.send(2, wire.encode(wire.SyncStep1(b"\0")))
    assert [type(effect) for effect in made.waiting] == [FindPlaces]
    assert made.edge.seeks(PLAN)
    assert made.edge.pending_bytes(ConnId(1)) is None, "nor pieces of a large one"
    assert clocks_of(made) == {1: NESTING_MAX + 1}

    made.turn()
    assert not made.edge.seeks(PLAN)
    assert clocks_of(made) == {1: NESTING_MAX + 1, 2: 1, 9: 2}
    assert isinstance(made.sent[2][-1], wire.SyncStep2)
    assert made.closed == {}


def test_who_sends_much_meanwhile_is_not_read() -> None:
    made = island(NESTING_MAX + 1)
    made.send(1, frame(WIDE))
    ada = Ada(9)
    effects = [
        effect
        for _ in range(LOADING_FRAMES_HELD)
        for effect in made.edge.received(ConnId(2), frame(ada.type("x")), made.now).now
    ]
    assert effects == [Pause(ConnId(2))]

    (seek,) = made.waiting
    assert isinstance(seek, FindPlaces)
    step = made.edge.places_found(seek.replica, Places(seek.state), made.now)
    assert Resume((ConnId(2),)) in step.now
    assert clocks_of(made)[9] == LOADING_FRAMES_HELD


def placed() -> Island:
    """It is known where everything stands, as deep as may be."""
    made = island(NESTING_MAX + 1)
    made.send(2, frame(WIDE))
    all_turns(made)
    return made


def test_a_refusal_is_judged_on_what_is_found_then_and_others_go_on() -> None:
    made = placed()
    made.send(1, frame(level(NESTING_MAX + 1)))
    made.send(2, frame(level(0, client=3, within=0)))
    assert [type(effect) for effect in made.waiting] == [FindPlaces]
    assert made.closed == {}

    all_turns(made)
    assert "nested deeper" in made.closed[1][1]
    assert set(made.closed) == {1}
    assert clocks_of(made) == {1: NESTING_MAX + 1, 2: 1, 3: 1}


def test_what_is_deep_by_what_was_known_and_not_by_what_is_there_is_taken() -> None:
    made = placed()
    made.send(2, frame(DELETE_OUTERMOST))  # and all within it
    made.commit()

    made.send(1, frame(level(NESTING_MAX + 1)))
    all_turns(made)

    assert made.closed == {}
    assert clocks_of(made) == {1: NESTING_MAX + 2, 2: 1}


def test_what_an_early_one_names_counts_before_it_is_let_in() -> None:
    made = island(NESTING_MAX)
    for clock in (NESTING_MAX + 2, NESTING_MAX + 1):
        made.send(2, frame(level(clock)))

    made.send(1, frame(level(NESTING_MAX)))
    assert [type(effect) for effect in made.waiting] == [FindPlaces]
    all_turns(made)
    made.tick(200)

    assert clocks_of(made) == {1: NESTING_MAX + 1}
    assert set(made.closed) == {2}


def test_an_early_one_that_names_much_holds_up_nobody_who_does_not_let_it_in() -> None:
    made = placed()
    made.send(1, frame(level(NESTING_MAX + 3)))

    made.send(2, frame(Ada(9).type("a")))

    assert made.waiting == []
    assert clocks_of(made)[9] == 1


def said(*updates: bytes) -> list[Merged]:
    log = Log()
    chair = Chair(log)
    for seq, update in enumerate(updates, 1):
        chair.deliver(log.append(Change(PLAN, Dot(Origin(5), seq), update)).seq)
    return chair.said


def linked(levels: int) -> tuple[Island, list[Merged]]:
    """An edge that has so many of the levels that a leader says, and all that it says."""
    broadcasts = said(*as_deep_as_may_be(), level(0, client=9, within=3), Ada(8).type("x"))
    made = Island("a", 1)
    made.open(1)
    made.link()
    made.by_turns = True
    for message in broadcasts[:levels]:
        made.do(made.edge.merged(message, made.now))
    return made, broadcasts


def test_a_broadcast_waits_and_what_comes_behind_it() -> None:
    made, broadcasts = linked(NESTING_MAX + 1)
    for message in broadcasts[NESTING_MAX + 1 :]:
        made.do(made.edge.merged(message, made.now))
    assert [type(effect) for effect in made.waiting] == [FindPlaces]
    assert clocks_of(made) == {1: NESTING_MAX + 1}

    all_turns(made)
    assert clocks_of(made) == {1: NESTING_MAX + 1, 8: 1, 9: 1}
    replica = made.edge.hosted[PLAN].replica
    assert replica is not None
    assert replica.version == broadcasts[-1].version
    assert made.edge.hosted[PLAN].line is None


def test_a_piece_of_a_broadcast_waits() -> None:
    made, broadcasts = linked(10)
    whole = Replica(PLAN)
    for update in [*as_deep_as_may_be(), b"\1\1\7\0\4\1\1l\xa0\x9c\1" + b"x" * 20_000 + b"\0"]:
        whole.take(update, check_update(update), 0)
    large = Merged(PLAN, broadcasts[9].version, broadcasts[-1].version, whole.materialise().state(), DotSet())
    made.do(made.edge.merged(large, made.now))
    kinds = []
    while made.waiting:
        kinds.append(type(made.waiting[0]))
        made.turn()

    assert kinds.count(FindPlaces) == 1
    assert kinds.index(Look) < kinds.index(FindPlaces) < len(kinds) - 1 - kinds[::-1].index(TakeOn)
    assert clocks_of(made)[1] == NESTING_MAX + 1


def test_a_piece_of_an_answer_waits_and_is_taken_again() -> None:
    made, broadcasts = linked(10)
    made.tick(1_000)
    ask = made.asks[-1]
    whole = Replica(PLAN)
    for update in as_deep_as_may_be():
        whole.take(update, check_update(update), 0)
    answer = SyncAnswer(
        PLAN, ask.ask, whole.materialise().state(), whole.state_vector(), broadcasts[-1].version, DotSet(), "", DotSet()
    )
    looked = look(answer, False, made.edge.into(PLAN))
    assert looked is not None
    waited = 0
    for piece in looked.pieces:
        for _ in range(2):
            step = made.edge.sync_piece(answer, piece, made.now)
            assert step is not None
            made.do(step)
            if not made.edge.seeks(PLAN):
                break
            waited += 1
            all_turns(made)

    assert waited == 1
    assert clocks_of(made)[1] == NESTING_MAX + 1


def test_a_small_answer_is_asked_for_again() -> None:
    made, broadcasts = linked(NESTING_MAX + 1)
    made.tick(1_000)

    def answered() -> None:
        vector = encode_clocks({1: NESTING_MAX + 1, 2: 1})
        number = made.asks[-1].ask
        answer = SyncAnswer(PLAN, number, WIDE, vector, broadcasts[-1].version, DotSet(), "", DotSet())
        made.do(made.edge.sync_answered(answer, made.now))

    answered()
    assert made.edge.seeks(PLAN)
    assert clocks_of(made) == {1: NESTING_MAX + 1}
    all_turns(made)
    made.tick(1_000)
    answered()

    assert clocks_of(made) == {1: NESTING_MAX + 1, 2: 1}


def test_a_document_that_is_read_anew_meanwhile_goes_on_with_what_waited() -> None:
    made = island(NESTING_MAX + 1)
    made.send(1, frame(WIDE))
    made.do(made.edge.broken(made.edge.hosted[PLAN], "it broke"))
    made.commit()

    all_turns(made)

    assert not made.edge.seeks(PLAN)
    assert clocks_of(made) == {1: NESTING_MAX + 1, 2: 1}


@pytest.mark.parametrize("early", [False, True], ids=["in order", "early"])
def test_a_leader_finds_it_elsewhere_for_a_refusal_and_for_many_at_once(early: bool, on_the_loop: list[int]) -> None:
    log = Log()
    chair = Chair(log)
    chair.busy = True
    last = NESTING_MAX + 1
    order = [*range(last), last, last + 1] if not early else [last, *range(last)]
    for seq, clock in enumerate(order, 1):
        log.append(Change(PLAN, Dot(Origin(1), seq), level(clock)))
    for seq in range(1, len(order) + 1):
        chair.deliver(seq)
        assert on_the_loop == []
        if seq % 700 == 0:
            work(chair, on_the_loop)
    work(chair, on_the_loop)

    bad = [seq for seq, clock in enumerate(order, 1) if clock == last]
    assert bad[0] in [reject.entry.version.seq for reject in chair.rejected]
    fold = chair.leader.lanes[PLAN].replica
    assert fold is not None
    assert fold.clocks == {1: last}


def work(chair: Chair, on_the_loop: list[int]) -> None:
    while chair.works:
        chair.work()
        on_the_loop.clear()
