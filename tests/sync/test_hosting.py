"""Clients and documents come and go (`sync.hosting`): who is told what, and whom bad bytes cost the connection."""

from __future__ import annotations

from sync import limits, wire
from sync.change import Change
from sync.closing import CLOSE_BAD_FRAME, CLOSE_BAD_UPDATE, CLOSE_GAP
from sync.document import Document
from sync.ids import ConnId, Dot, Origin
from sync.step import Send
from tests.sync.stage import PLAN, Ada, Island, Sea, frame


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
