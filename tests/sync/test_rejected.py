"""An edit that the leader refuses after an edge took it: its client is told, whatever got lost on the way."""

from __future__ import annotations

import pytest

from sync import extension, folding, wire
from sync.change import Merged, Snapshot, SyncAsk
from sync.edge import EdgeStep
from sync.errors import InvalidUpdate
from sync.extension import Edit, Rejected, Safe, Stage
from sync.ids import ConnId, Dot, Origin
from sync.step import EdgeEffect, Send, Step
from sync.validate import Shape, check_update
from tests.sync.stage import PLAN, Ada, Chair, Island, Sea, frame

REASON = "update: forbidden here"


class Extended(Island):
    """An edge whose clients speak the extension: what they are told of their edits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[Safe | Rejected] = []

    def do(self, step: EdgeStep) -> None:
        rest: list[EdgeEffect] = []
        for effect in step.now:
            match effect:
                case Send(_, data) if data[0] >= 100:
                    message = extension.decode(data)
                    if isinstance(message, Safe | Rejected):
                        self.told.append(message)
                case _:
                    rest.append(effect)
        super().do(Step(tuple(rest), step.commit))

    def enter(self, conn: int) -> None:
        self.do(self.edge.opened(ConnId(conn), PLAN, self.now, extended=True))

    def edit(self, conn: int, number: int, update: bytes) -> None:
        self.send(conn, extension.encode(Edit(Dot(Origin(50), number), "ada", "", "", update)))


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader refuses what holds the word `forbidden`; edges take it."""

    def check(update: bytes) -> Shape:
        if b"forbidden" in update:
            raise InvalidUpdate(REASON)
        return check_update(update)

    monkeypatch.setattr(folding, "check_update", check)  # what the fold of the log asks


def words(told: list[Safe | Rejected]) -> list[object]:
    return [(m.stage, m.dots[0].seq) if isinstance(m, Safe) else (m.reason, m.dots[0].seq) for m in told]


def test_who_made_it_is_told_and_not_that_it_is_merged(strict: None) -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    island.enter(1)
    sea.settle()
    island.edit(1, 1, ada.type("good "))
    sea.settle()
    island.edit(1, 2, ada.type("forbidden"))
    sea.settle()

    assert words(island.told) == [
        (Stage.EDGE, 1),
        (Stage.LOG, 1),
        (Stage.MERGED, 1),
        (Stage.EDGE, 2),
        (Stage.LOG, 2),
        (REASON, 2),
    ]
    assert {reject.reason for reject in sea.chair.rejected} == {REASON}
    assert any(report.event == "change_rejected" for report in island.reports)


def test_who_was_away_is_told_when_it_repeats_the_edit(strict: None) -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    island.enter(1)
    sea.settle()
    update = ada.type("forbidden")
    island.edit(1, 1, update)
    island.commit()
    island.do(island.edge.closed(ConnId(1), island.now))
    sea.settle()
    island.told.clear()

    island.enter(2)
    island.edit(2, 1, update)
    sea.settle()

    assert words(island.told) == [(REASON, 1)]


def test_a_repeat_that_waits_for_the_outbox_is_told_too(strict: None) -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    island.enter(1)
    sea.settle()
    update = ada.type("forbidden")
    island.edit(1, 1, update)
    island.commit()
    island.do(island.edge.closed(ConnId(1), island.now))
    island.enter(2)
    island.edit(2, 1, update)
    island.told.clear()
    sea.settle()

    assert words(island.told)[-1] == (REASON, 1)
    assert (Stage.MERGED, 1) not in words(island.told)


def test_a_broadcast_that_is_lost_is_made_up_for_by_an_answer(strict: None) -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    island.enter(1)
    sea.settle()
    island.edit(1, 1, ada.type("forbidden"))
    island.commit()
    (change,) = island.published
    island.published.clear()
    version = sea.log.append(change)
    island.do(island.edge.published(change.doc, change.dot, version, island.now))
    sea.chair.deliver(version.seq)
    (lost,) = sea.chair.said
    sea.chair.said.clear()
    assert isinstance(lost, Merged)
    assert (change.dot in lost.rejected, lost.reason) == (True, REASON)
    assert words(island.told)[-1] == (Stage.LOG, 1)

    island.tick(11_000)
    sea.settle()

    assert words(island.told)[-1] == (REASON, 1)
    assert (Stage.MERGED, 1) not in words(island.told)


def test_a_leader_that_comes_later_knows_it_from_the_log(strict: None) -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    island.enter(1)
    sea.settle()
    island.edit(1, 1, ada.type("forbidden"))
    sea.settle()

    answer = Chair(sea.log).answer(SyncAsk(PLAN, 1, b"\x00", None))

    assert Dot(Origin(1), 1) in answer.rejected
    assert answer.reason == REASON


def come_back(island: Extended, conn: int, update: bytes) -> None:
    """A client of edit 1, which nobody has said is merged, connects and sends it again."""
    island.enter(conn)
    island.send(conn, wire.encode(wire.SyncStep1(b"\x00")))
    island.edit(conn, 1, update)


def restarted_after(island: Extended, sea: Sea, update: bytes) -> None:
    """The edge has taken the edit, and is a new process before anybody has judged it."""
    island.enter(1)
    sea.settle()
    island.edit(1, 1, update)
    island.commit()
    island.published.clear()
    island.crash(2)


def test_a_repeat_that_waits_at_a_restarted_edge_is_told(strict: None) -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    update = ada.type("forbidden")
    restarted_after(island, sea, update)

    come_back(island, 1, update)
    island.link()
    sea.settle()
    assert 1 in island.closed  # its document gave way: nothing was said of the edit, least of all that it is merged
    come_back(island, 2, update)
    sea.settle()

    assert words(island.told)[-1] == (REASON, 1)
    assert (Stage.MERGED, 1) not in words(island.told)


def test_who_comes_back_after_a_restart_and_a_rejection_is_told(strict: None) -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    update = ada.type("forbidden")
    restarted_after(island, sea, update)
    island.link()
    sea.settle()
    island.tick(11_000)
    sea.settle()
    assert island.outbox == 0

    come_back(island, 1, update)
    sea.settle()

    assert words(island.told)[-1] == (REASON, 1)
    assert (Stage.MERGED, 1) not in words(island.told)


def test_a_rejection_that_a_later_leader_does_not_know_is_judged_again(strict: None) -> None:
    """It lies before the snapshot that the leader has begun with; the edge was away and has restarted since."""
    island, other, ada, ben = Extended("a", 1), Island("b", 3), Ada(9), Ada(8)
    sea = Sea(island, other)
    update = ada.type("forbidden")
    island.enter(1)
    sea.settle()
    island.edit(1, 1, update)
    island.commit()
    (change,) = island.published
    island.published.clear()
    version = sea.log.append(change)
    island.do(island.edge.published(change.doc, change.dot, version, island.now))
    island.commit()
    island.crash(2)
    sea.chair.deliver(version.seq)
    sea.chair.said.clear()
    other.open(1)
    other.send(1, frame(ben.type("good")))
    sea.settle(other)
    snapshot_of(sea)
    sea.chair = Chair(sea.log, 98)

    island.link()
    come_back(island, 1, update)
    sea.settle()
    for conn in (2, 3):
        if conn - 1 in island.closed:
            come_back(island, conn, update)
            sea.settle()

    assert words(island.told)[-1] == (REASON, 1)
    assert (Stage.MERGED, 1) not in words(island.told)


def snapshot_of(sea: Sea) -> None:
    answer = sea.chair.answer(SyncAsk(PLAN, 1, b"\x00", None))
    sea.log.snapshots[PLAN] = Snapshot(PLAN, answer.version, answer.update, answer.dots, answer.digest)


def test_a_lost_rejection_is_not_taken_for_a_merge_when_a_later_broadcast_comes(strict: None) -> None:
    island, other, ada, ben = Extended("a", 1), Island("b", 3), Ada(9), Ada(8)
    sea = Sea(island, other)
    island.enter(1)
    other.open(1)
    sea.settle()
    island.edit(1, 1, ada.type("forbidden"))
    island.commit()
    (change,) = island.published
    island.published.clear()
    version = sea.log.append(change)
    island.do(island.edge.published(change.doc, change.dot, version, island.now))
    sea.chair.deliver(version.seq)
    sea.chair.said.clear()

    other.send(1, frame(ben.type("good")))
    sea.settle()

    assert words(island.told) == [(Stage.EDGE, 1), (Stage.LOG, 1), (REASON, 1)]


def test_what_an_edge_reads_from_the_log_itself_no_leader_has_merged() -> None:
    island, ada = Extended("a", 1), Ada(9)
    sea = Sea(island)
    island.enter(1)
    sea.settle()
    island.edit(1, 1, ada.type("x"))
    island.commit()
    (change,) = island.published
    island.published.clear()
    version = sea.log.append(change)
    island.do(island.edge.published(change.doc, change.dot, version, island.now))

    island.do(island.edge.logged(PLAN, None, sea.log.entries, island.now))
    island.commit()
    assert words(island.told) == [(Stage.EDGE, 1), (Stage.LOG, 1)]
    assert island.outbox == 1

    sea.chair.deliver(version.seq)
    sea.settle()
    assert words(island.told)[-1] == (Stage.MERGED, 1)


def test_what_is_refused_within_a_run_harms_none_of_the_other_rows(strict: None) -> None:
    """They were made while the link was down, and went out as one change."""
    island, other = Extended("a", 1), Island("b", 2)
    sea = Sea(island, other)
    other.open(1)
    for conn in (1, 2, 3):
        island.enter(conn)
    sea.settle()
    island.unlink()
    for conn, word in enumerate(("good ", "forbidden ", "fine "), 1):
        island.edit(conn, conn, Ada(conn).type(word))
        island.commit()

    island.link()
    assert len(island.published) == 1
    sea.settle()

    last = {m.dots[0].seq: m.stage if isinstance(m, Safe) else m.reason for m in island.told}
    assert last == {1: Stage.MERGED, 2: REASON, 3: Stage.MERGED}
    assert sorted(other.text().split()) == ["fine", "good"]
    assert island.outbox == 0


def test_a_run_whose_refusal_got_lost_is_asked_for_before_its_rows_are_given_up(strict: None) -> None:
    island, other = Extended("a", 1), Island("b", 2)
    sea = Sea(island, other)
    other.open(3)
    for conn in (1, 2):
        island.enter(conn)
    sea.settle()
    island.unlink()
    for conn, word in enumerate(("good ", "forbidden "), 1):
        island.edit(conn, conn, Ada(conn).type(word))
        island.commit()
    island.link()
    (run,) = island.published
    version = sea.log.append(run)
    island.do(island.edge.published(PLAN, run.dot, version, island.now))
    sea.chair.deliver(version.seq)
    sea.chair.said.clear()  # lost
    island.published.clear()
    other.send(3, frame(Ada(9).type("other ")))
    sea.settle()

    assert sorted(other.text().split()) == ["good", "other"]
    last = {m.dots[0].seq: m.stage if isinstance(m, Safe) else m.reason for m in island.told}
    assert last == {1: Stage.MERGED, 2: REASON}
    assert island.outbox == 0
