"""Broadcasts too large for one turn of the loop: in order, a piece a turn, and the version behind the last one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pycrdt import Doc, Map, Text

from sync import extension, limits, validate, wire
from sync.arriving import difference_of, look_at
from sync.change import Beacon, Change, Context, Merged
from sync.document import Document
from sync.folding import fold_log
from sync.ids import ConnId, Dot, DotSet, Origin, Version
from sync.splits import Into
from sync.step import Look, Send, TakeOn
from tests.sync.stage import EPOCH, PLAN, Ada, Chair, Island, Log

WORDS = [f"{number} " for number in range(20)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large is small here."""
    monkeypatch.setattr("sync.limits.LARGE_FRAME_BYTES", 100)
    monkeypatch.setattr("sync.limits.SLICE_BYTES", 100)
    monkeypatch.setattr("sync.slices.SLICE_STRUCTS", 2)


def island_with_a_reader() -> Island:
    island = Island("a", 1)
    island.by_turns = True
    island.link()
    island.open(1)
    ask = island.asks.pop()
    island.do(island.edge.sync_answered(Chair(Log()).answer(ask), 0))
    island.sent.clear()
    return island


def said(*updates: bytes) -> list[Merged]:
    """What a leader broadcasts of these changes of another edge, one after the other."""
    log = Log()
    chair = Chair(log)
    for seq, update in enumerate(updates, 1):
        chair.deliver(log.append(Change(PLAN, Dot(Origin(5), seq), update)).seq)
    return chair.said


def scattered(ada: Ada) -> bytes:
    """An edit of many structs: each word stands before the one that was written before it."""
    before = ada.crdt.get_state()
    for word in WORDS:
        ada.text.insert(0, word)
    return ada.crdt.get_update(before)


def version_of(island: Island) -> Version | None:
    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    return replica.version


def held(island: Island) -> str:
    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    return replica.materialise().text("text")


def turns(island: Island, at_most: int = 1_000) -> int:
    count = 0
    while island.waiting:
        island.turn()
        count += 1
        assert count <= at_most
    return count


def test_a_large_broadcast_is_looked_at_elsewhere_and_taken_a_piece_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    island, ada = island_with_a_reader(), Ada(1)
    (large,) = said(scattered(ada))
    checked: list[int] = []
    applied: list[int] = []

    def check(update: bytes) -> validate.Shape:
        checked.append(len(update))
        return validate.check_update(update)

    def apply(document: Document, *updates: bytes) -> None:
        applied.append(sum(map(len, updates)))
        apply_mended(document, *updates)

    apply_mended = Document.apply_mended
    monkeypatch.setattr("sync.following.check_update", check)
    monkeypatch.setattr("sync.taking.check_update", check)
    monkeypatch.setattr(Document, "apply_mended", apply)

    island.do(island.edge.merged(large, 0))
    assert island.waiting == [Look(PLAN, 1, large.update, island.edge.into(PLAN))]
    assert (checked, applied) == ([], []), "nothing of it is read here"
    versions, at_once = [], []
    while island.waiting:
        before = len(applied)
        island.turn()
        at_once.append(len(applied) - before)
        versions.append(version_of(island))

    assert max(at_once) == 1
    assert max(applied) <= 100
    assert max(checked) <= 100
    assert len(applied) >= len(WORDS) // 2
    assert versions == [Version(EPOCH, 0)] * (len(versions) - 1) + [large.version]
    assert held(island) == str(ada.text)
    assert b"".join(island.updates(1)) != large.update
    assert island.asks == []
    island.commit()
    assert island.text() == str(ada.text)


def test_what_comes_behind_a_large_broadcast_waits_for_it_and_nothing_is_asked_for() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    broadcasts = said(scattered(ada), ada.type("behind it"), ada.type(", and more"), scattered(ada))

    for one in broadcasts:
        island.do(island.edge.merged(one, 0))
    assert held(island) == ""
    turns(island)

    assert held(island) == str(ada.text)
    assert version_of(island) == broadcasts[-1].version
    assert island.asks == []
    assert island.edge.hosted[PLAN].line is None


def test_small_ones_in_line_are_taken_some_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.limits.LINE_TURN_COUNT", 3)
    island, ada = island_with_a_reader(), Ada(1)
    large, *small = said(scattered(ada), *(ada.type(f"{number};") for number in range(10)))
    island.do(island.edge.merged(large, 0))
    for one in small:
        island.do(island.edge.merged(one, 0))
    while version_of(island) != large.version:
        island.turn()

    versions = []
    while island.waiting:
        island.turn()
        found = version_of(island)
        assert found is not None
        versions.append(found.seq)

    assert versions == [4, 7, 10, 11]


def test_an_answer_of_the_leader_while_one_is_taken_is_compared_behind_it() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    log = Log()
    chair = Chair(log)
    chair.deliver(log.append(Change(PLAN, Dot(Origin(5), 1), scattered(ada))).seq)
    (large,) = chair.said
    island.do(island.edge.merged(large, 0))
    island.turn()
    island.turn()
    island.now += limits.RECHECK_MS
    island.tick(1_000)
    ask = island.asks.pop()
    before = Chair(Log()).answer(ask)

    island.do(island.edge.sync_answered(before, island.now))
    assert island.asks == [], "half of a broadcast is here: nothing that it says can be compared"
    turns(island)

    assert version_of(island) == large.version
    assert [report.event for report in island.reports] == []
    island.do(island.edge.sync_answered(chair.answer(island.asks.pop()), island.now))
    assert island.asks == []
    assert island.published == []


def test_a_beacon_about_what_stands_in_line_makes_nobody_ask() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    large, small = said(scattered(ada), ada.type("behind it"))
    island.do(island.edge.merged(large, 0))
    island.do(island.edge.merged(small, 0))

    island.do(island.edge.beacon(Beacon(((PLAN, small.version, "0" * 32),)), 0))
    assert island.asks == []
    island.do(island.edge.beacon(Beacon(((PLAN, Version(EPOCH, 9), "0" * 32),)), 0))

    assert len(island.asks) == 1, "that one was lost"


def test_when_the_link_breaks_the_line_is_lost_and_asked_for() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    (large,) = said(scattered(ada))
    island.do(island.edge.merged(large, 0))
    island.turn()
    island.turn()
    half = held(island)

    island.unlink()
    turns(island)
    assert 0 < len(half) < len(str(ada.text))
    assert held(island) == half
    assert version_of(island) == Version(EPOCH, 0)
    island.link()

    assert len(island.asks) == 1


def test_what_was_looked_at_for_a_document_that_was_read_anew_is_lost_and_asked_for() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    (large,) = said(scattered(ada))
    island.do(island.edge.merged(large, 0))
    island.turn()
    island.turn()
    island.fail_commit()
    island.open(2)
    island.asks.clear()

    turns(island)

    assert version_of(island) != large.version
    assert island.edge._catchup.wants(PLAN)


def test_a_large_broadcast_that_depends_on_what_is_not_here_is_asked_for() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    _, large = said(ada.type("lost on the way; "), scattered(ada))

    island.do(island.edge.merged(large, 0))
    turns(island)

    assert version_of(island) == Version(EPOCH, 0)
    assert len(island.asks) == 1
    assert Dot(Origin(5), 2) not in island.edge.hosted[PLAN].replica.dots  # type: ignore[union-attr]


def test_ones_own_large_change_comes_back_and_is_not_looked_at() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    island.send(1, wire.encode(wire.Update(scattered(ada))))
    island.commit()
    change = island.published.pop()
    log = Log()
    chair = Chair(log)
    chair.deliver(log.append(change).seq)

    island.do(island.edge.merged(chair.said[0], 0))

    assert island.waiting == []
    assert version_of(island) == chair.said[0].version
    assert island.edge.hosted[PLAN].unmerged == DotSet()


def test_an_update_that_cannot_be_is_reported_and_what_is_behind_it_goes_on() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    large, small = said(scattered(ada), Ada(2).type("behind it"))

    island.do(island.edge.merged(replace(large, update=large.update + b"\1"), 0))
    island.do(island.edge.merged(small, 0))
    turns(island)

    assert [report.event for report in island.reports] == ["merged_refused"]
    assert held(island) == "behind it"
    assert version_of(island) == Version(EPOCH, 0)
    assert len(island.asks) == 1


def test_a_line_is_bounded_and_what_finds_no_room_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.limits.LINE_COUNT_MAX", 2)
    island, ada = island_with_a_reader(), Ada(1)
    broadcasts = said(scattered(ada), *(ada.type("x") for _ in range(4)))

    for one in broadcasts:
        island.do(island.edge.merged(one, 0))

    line = island.edge.hosted[PLAN].line
    assert line is not None
    assert len(line.arrivals) == 2
    assert len(island.asks) == 1
    turns(island)
    assert version_of(island) == broadcasts[1].version


def test_who_changed_it_and_how_far_it_came_is_told_behind_the_last_piece() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    island.edge.opened(ConnId(2), PLAN, 0, extended=True)
    island.edge.received(ConnId(2), wire.encode(wire.SyncStep1(b"\0")), 0)
    log = Log()
    chair = Chair(log)
    change = Change(PLAN, Dot(Origin(5), 1), scattered(ada), Context("b", "ada"))
    chair.deliver(log.append(change).seq)
    kinds: list[str] = []

    step = island.edge.merged(chair.said[0], 0)
    for effect in step.now:
        assert isinstance(effect, Look)
        step = island.edge.looked(PLAN, effect.number, look_at(effect.update, effect.into), 0)
    while step.now:
        to_her = [effect.frame for effect in step.now if isinstance(effect, Send) and 2 in effect.conns]
        kinds += [type(extension.decode(each)).__name__ for each in to_her]
        (again,) = [effect.number for effect in step.now if isinstance(effect, TakeOn)] or [0]
        step = island.edge.take_on(PLAN, again, 0)

    assert kinds[-2:] == ["Changed", "At"]
    assert len(kinds) > 5
    assert set(kinds[:-2]) == {"Update"}


def test_a_broadcast_without_its_update_moves_no_version() -> None:
    island = island_with_a_reader()
    thin = Merged(PLAN, Version(EPOCH, 0), Version(EPOCH, 1), b"", DotSet({Origin(5): ((1, 1),)}), fetch=True)

    island.do(island.edge.merged(thin, 0))

    assert version_of(island) == Version(EPOCH, 0), "its content has yet to come"
    assert Dot(Origin(5), 1) not in island.edge.hosted[PLAN].replica.dots  # type: ignore[union-attr]
    assert len(island.asks) == 1


def test_what_an_edge_reads_from_the_log_itself_is_taken_in_pieces_too() -> None:
    island, ada = island_with_a_reader(), Ada(1)
    log = Log()
    log.append(Change(PLAN, Dot(Origin(5), 1), scattered(ada)))
    asks = island.edge.asks_log(PLAN)
    assert asks is not None
    fold = fold_log(PLAN, None, log.entries, EPOCH, 0)
    found = difference_of(fold, *asks)
    assert found is not None

    island.do(island.edge.logged(PLAN, None, log.entries, 0, fold, found))
    assert held(island) == ""
    taken = turns(island)

    assert taken == len(found.pieces)
    assert held(island) == str(ada.text)
    assert version_of(island) == Version(EPOCH, 1)


def test_looking_says_why_an_update_cannot_be() -> None:
    assert "ends too early" in str(look_at(b"\1\2\3", Into()))


def test_what_the_first_pieces_delete_unsaid_is_passed_on_where_the_last_ones_say_it() -> None:
    """Yrs deletes a value when another one is put for it, and not in every order of taking them."""
    island = island_with_a_reader()
    crdt: Doc[Any] = Doc(client_id=1)
    values, text = crdt.get("map", type=Map), crdt.get("text", type=Text)
    values["key"] = "old"
    old = crdt.get_update()
    before = crdt.get_state()
    values["key"] = "new"
    for word in WORDS:
        text.insert(0, word)
    first, large = said(old, crdt.get_update(before))
    island.do(island.edge.merged(first, 0))
    island.sent.clear()

    island.do(island.edge.merged(large, 0))
    turns(island)

    assert (1, 0, 1) in validate.check_update(large.update).deletes
    assert (1, 0, 1) in [span for update in island.updates(1) for span in validate.check_update(update).deletes]
    island.commit()
    stored = island.store.load(PLAN)
    assert stored is not None
    assert (1, 0, 1) in [span for update in stored.updates for span in validate.check_update(update).deletes]


def test_what_the_first_pieces_of_a_client_delete_unsaid_is_shipped_where_its_last_ones_say_it() -> None:
    island = island_with_a_reader()
    crdt: Doc[Any] = Doc(client_id=1)
    values, text = crdt.get("map", type=Map), crdt.get("text", type=Text)
    values["key"] = "old"
    island.send(1, wire.encode(wire.Update(crdt.get_update())))
    before = crdt.get_state()
    values["key"] = "new"
    for word in WORDS:
        text.insert(0, word)
    island.commit()
    found = look_at(crdt.get_update(before), Into())
    assert not isinstance(found, str)

    island.edge.pieces_come(ConnId(1))
    for piece, _ in found:
        island.send(1, wire.encode(wire.Update(piece)))
        island.commit()

    assert (1, 0, 1) in [span for change in island.published for span in validate.check_update(change.update).deletes]
