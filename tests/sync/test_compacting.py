"""The rows of a document give way to its state (`sync.compacting`), once that was seen to load."""

from __future__ import annotations

import pytest

from sync import limits
from sync.content import Captured
from sync.edge import Edge, EdgeStep
from sync.errors import DocumentBroken
from sync.ids import DocId
from sync.step import Step
from tests.sync.stage import PLAN, Ada, Island, frame


def not_yet(monkeypatch: pytest.MonkeyPatch) -> list[Captured]:
    """What is to be verified is kept until the test says so."""
    asked: list[Captured] = []

    def keep(edge: Edge, captured: Captured, refusal: str) -> EdgeStep:
        asked.append(captured)
        return Step()

    monkeypatch.setattr(Edge, "verified", keep)
    return asked


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


def test_what_is_stored_while_a_state_is_verified_stays_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying takes a while, elsewhere; its document goes on, and a death at any time loses nothing."""
    asked = not_yet(monkeypatch)
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
    asked = not_yet(monkeypatch)
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
