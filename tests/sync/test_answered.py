"""A large answer of the leader, looked at beforehand: taken is what would have been, in less of the loop's time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sync import wire
from sync.answered import Looked, look
from sync.change import Change, SyncAnswer
from sync.ids import Dot, Origin
from sync.loading import document_of
from sync.splits import Into
from sync.step import AppendUpdate, Compact
from tests.sync.stage import PLAN, Ada, Island, Sea, frame


def test_a_document_that_was_made_elsewhere_is_the_replicas_and_its_bytes_are_stored_and_answered() -> None:
    island, answer = _island_that_asked("written elsewhere")

    looked = look(answer, True, Into())
    assert looked is not None
    island.do(island.edge.sync_answered(answer, island.now, looked))
    island.flush()

    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    assert replica.materialise() is looked.document
    assert Compact(PLAN, answer.update) in island.commits[0].writes
    assert wire.SyncStep2(answer.update) in island.sent[1]
    assert island.updates(1) == [], "it is told once what the document holds"
    island.commit()
    assert island.text() == "written elsewhere"
    stored = island.store.load(PLAN)
    assert stored is not None
    assert (stored.state, stored.version) == (answer.update, answer.version)


def test_what_was_typed_before_the_answer_came_stays() -> None:
    island, answer = _island_that_asked("written elsewhere")
    island.send(1, frame(Ada(9).type("here ")))
    island.commit()

    island.do(island.edge.sync_answered(answer, island.now, look(answer, True, Into())))
    island.commit()

    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    assert sorted(replica.materialise().clocks()) == [1, 9]
    assert len(island.text()) == len("here written elsewhere")


def test_a_made_document_of_another_digest_is_stored_as_a_row_and_compared() -> None:
    island, answer = _island_that_asked("written elsewhere")
    answer = replace(answer, digest="0" * 32)

    looked = look(answer, True, Into())
    assert looked is not None
    assert not looked.equal
    island.do(island.edge.sync_answered(answer, island.now, looked))
    island.flush()

    assert not any(isinstance(write, Compact) for write in island.commits[0].writes)
    assert len(island.asks) == 1, "asked again, since it is not what the leader has"


def test_an_empty_answer_makes_no_document_and_stores_nothing() -> None:
    island, answer = _island_that_asked("")

    looked = look(answer, True, Into())
    assert looked is not None
    assert looked == Looked(looked.shape)
    island.do(island.edge.sync_answered(answer, island.now, looked))
    island.flush()

    assert [write for write in island.commits[0].writes if isinstance(write, AppendUpdate | Compact)] == []


def test_an_answer_is_taken_in_pieces_and_the_version_moves_behind_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sync.slices.SLICE_STRUCTS", 2)
    island, answer = _island_that_asked(*(f"{number} " for number in range(20)), turns=2)
    looked = look(answer, False, Into())
    assert looked is not None
    assert len(looked.pieces) > 5

    versions = []
    for piece in looked.pieces:
        step = island.edge.sync_piece(answer, piece, island.now)
        assert step is not None
        island.do(step)
        versions.append(island.edge.hosted[PLAN].replica.version)  # type: ignore[union-attr]
    island.do(island.edge.sync_answered(answer, island.now, replace(looked, taken=True)))
    island.commit()

    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    assert set(versions) == {None}
    assert replica.version == answer.version
    assert replica.digest() == answer.digest
    stored = island.store.load(PLAN)
    assert stored is not None
    assert document_of(stored.state, stored.updates).digest() == answer.digest
    assert stored.version == answer.version


def test_pieces_of_an_answer_that_is_nobodys_any_more_are_not_taken() -> None:
    island, answer = _island_that_asked("written elsewhere")
    looked = look(answer, False, Into())
    assert looked is not None
    assert looked.pieces

    island.do(island.edge.sync_failed(PLAN, answer.ask, island.now))

    assert island.edge.sync_piece(answer, looked.pieces[0], island.now) is None
    assert island.edge.hosted[PLAN].replica.clocks == {}  # type: ignore[union-attr]


def test_an_answer_that_cannot_be_is_found_so_by_the_machine() -> None:
    island, answer = _island_that_asked("written elsewhere")
    answer = replace(answer, update=answer.update + b"\1")

    assert look(answer, True, Into()) is None
    island.do(island.edge.sync_answered(answer, island.now, None))

    assert [report.event for report in island.reports] == ["answer_refused"]


def test_an_update_that_does_not_stand_alone_makes_no_document() -> None:
    ada = Ada(1)
    ada.type("first ")
    _, answer = _island_that_asked("x")

    looked = look(replace(answer, update=ada.type("second")), True, Into())

    assert looked is not None
    assert looked.document is None, "pycrdt would wait for what comes before it, and lose it"


def _island_that_asked(*words: str, turns: int = 1) -> tuple[Island, SyncAnswer]:
    """The log has what several people have written; an edge that has nothing has asked, and this is the answer."""
    island = Island("a", 1)
    sea = Sea(island)
    writers = [Ada(number + 1) for number in range(turns)]
    for at, word in enumerate(words):
        if word:
            writer = writers[at % turns]
            for other in writers:
                writer.crdt.apply_update(other.crdt.get_update())
            change = Change(PLAN, Dot(Origin(5), at + 1), writer.type(word))
            sea.chair.deliver(sea.log.append(change).seq)
    sea.chair.said.clear()
    island.open(1)
    return island, sea.chair.answer(island.asks.pop())


def test_who_has_nothing_is_answered_with_the_state_that_was_stored() -> None:
    island, answer = _island_that_asked("written elsewhere")
    island.do(island.edge.sync_answered(answer, island.now, look(answer, True, Into())))
    island.commit()
    again = Island("a", 2, store=island.store)

    again.open(1)
    with_news = Island("a", 3, store=island.store)
    again.send(1, frame(Ada(9).type("here ")))
    again.commit()
    with_news.open(1)

    assert wire.SyncStep2(answer.update) in again.sent[1]
    assert wire.SyncStep2(answer.update) not in with_news.sent[1], "there is more than the state by then"


def test_a_leader_that_has_nothing_of_an_edge_that_was_away_is_asked_once() -> None:
    island, sea = Island("a", 1), Sea()
    island.open(1)
    island.send(1, frame(Ada(1).type("typed while it was cut off")))
    island.commit()

    island.link()
    island.do(island.edge.sync_answered(sea.chair.answer(island.asks.pop()), island.now))

    assert island.asks == [], "there is nothing to compare with"


def test_what_both_have_of_an_edge_that_was_away_is_compared() -> None:
    island, ada = Island("a", 1), Ada(1)
    sea = Sea(island)
    island.open(1)
    island.send(1, frame(ada.type("seen by everybody; ")))
    sea.settle()
    island.do(island.edge.link_down(island.now))
    island.send(1, frame(ada.type("typed while it was cut off")))
    island.commit()

    island.link()
    island.do(island.edge.sync_answered(sea.chair.answer(island.asks.pop()), island.now))

    assert len(island.asks) == 1
