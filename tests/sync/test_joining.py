"""Rows of the outbox that go out together."""

from __future__ import annotations

import pytest

from sync import limits
from sync.change import Change, Context
from sync.document import Document
from sync.ids import DocId, Dot, DotSet, Origin
from sync.joining import Fate, Runs, join, runs_of
from sync.validate import check_update
from tests.sync.stage import PLAN, Ada

A = Origin(10)
OTHER = DocId("other")


def row(seq: int, update: bytes = b"", doc: DocId = PLAN, covers: DotSet | None = None, **said: str) -> Change:
    return Change(doc, Dot(A, seq), update, Context(edge="a", time_ms=seq, **said), covers or DotSet())


def seqs(runs: list[list[Change]]) -> list[list[int]]:
    return [[change.dot.seq for change in run] for run in runs]


def test_rows_of_each_document_are_one_run_also_where_others_lie_between() -> None:
    rows = [row(1), row(2, doc=OTHER), row(3), row(4, doc=OTHER)]

    assert seqs(runs_of((change, Fate.OUT) for change in rows)) == [[1, 3], [2, 4]]


def test_rows_of_another_actor_cause_or_action_are_another_run() -> None:
    rows = [row(1), row(2, actor="ada"), row(3, actor="ada"), row(4, actor="ada", causation="a.1"), row(5)]

    assert seqs(runs_of((change, Fate.OUT) for change in rows)) == [[1], [2, 3], [4], [5]]


def test_a_row_that_is_left_out_ends_a_run() -> None:
    fates = [Fate.OUT, Fate.OUT, Fate.STAYS, Fate.OUT, Fate.OUT, Fate.ALONE, Fate.OUT]

    runs = runs_of((row(seq), fate) for seq, fate in enumerate(fates, 1))

    assert seqs(runs) == [[1, 2], [4, 5], [6], [7]]


def test_a_run_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    half = bytes(limits.RUN_BYTES_MAX // 2)

    assert seqs(runs_of((row(seq, half), Fate.OUT) for seq in range(1, 6))) == [[1, 2], [3, 4], [5]]

    count = limits.RUN_COVERS_MAX // 2
    far = [DotSet({Origin(100 * seq + number): ((1, 1),) for number in range(count)}) for seq in range(1, 5)]
    assert seqs(runs_of((row(seq, covers=far[seq - 1]), Fate.OUT) for seq in range(1, 5))) == [[1], [2], [3], [4]]
    assert seqs(runs_of((row(2 * seq), Fate.OUT) for seq in range(1, 202))) == [list(range(2, 401, 2)), [402]]


def test_a_run_holds_its_rows_and_names_them_and_what_they_named() -> None:
    ada = Ada(1)
    rows = [row(seq, ada.type(letter)) for seq, letter in enumerate("hello", 1)]
    rows.append(row(6, ada.delete_first(), covers=DotSet({Origin(50): ((7, 9),)})))

    change = join(rows, Dot(A, 7))

    assert change.dot == Dot(A, 7)
    assert change.covers.ranges() == [(A, 1, 6), (Origin(50), 7, 9)]
    assert change.context == rows[-1].context
    assert check_update(change.update).brings == ((1, 0, 5),)
    document = Document()
    document.apply(change.update)
    assert document.contents()["text"] == {"kind": "text", "value": "ello"}


def test_typing_that_is_joined_costs_little_more_than_its_letters() -> None:
    ada = Ada(1)
    rows = [row(seq, ada.type("ab")) for seq in range(1, 1001)]

    assert len(join(rows, Dot(A, 1001)).update) < 2000 * 1.05


def test_a_run_is_known_again_only_while_it_is_the_same_rows() -> None:
    runs, rows = Runs(), [Dot(A, seq) for seq in (1, 2, 3)]
    runs.add(PLAN, Dot(A, 9), rows)

    assert runs.known(PLAN, rows) == Dot(A, 9)
    assert runs.known(PLAN, rows[:2]) is None
    assert runs.rows(PLAN, Dot(A, 9)) == tuple(rows)
    assert runs.gone(PLAN, rows[0]) is None
    assert runs.known(PLAN, rows[1:]) is None, "the name stands for three rows"
    assert runs.gone(PLAN, rows[1]) is None
    assert runs.gone(PLAN, rows[2]) == Dot(A, 9)
    assert runs.of(PLAN) == []
    assert runs.rows(PLAN, Dot(A, 9)) == (Dot(A, 9),)


def test_rows_that_are_joined_otherwise_leave_their_first_run() -> None:
    runs = Runs()
    runs.add(PLAN, Dot(A, 8), [Dot(A, 1), Dot(A, 2)])

    runs.add(PLAN, Dot(A, 9), [Dot(A, 2), Dot(A, 3)])

    assert runs.run_of(PLAN, Dot(A, 1)) == Dot(A, 8)
    assert runs.run_of(PLAN, Dot(A, 2)) == Dot(A, 9)
    assert runs.of(PLAN) == [Dot(A, 8), Dot(A, 9)]
