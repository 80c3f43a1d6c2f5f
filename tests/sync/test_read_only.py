"""A connection that may only read: it sees everything, changes nothing, and is told why."""

from __future__ import annotations

import pytest

from sync import extension, wire
from sync.edge import EdgeStep
from sync.ids import ConnId, Dot, Origin
from sync.presence import encode_awareness
from sync.step import Send
from sync.validate import AwarenessEntry
from tests.sync.stage import PLAN, Ada, Island, frame

READER, WRITER = 2, 1


@pytest.fixture
def island() -> Island:
    """A writer and a reader of one document."""
    island = Island("a", 1)
    island.open(WRITER)
    island.do(island.edge.opened(ConnId(READER), PLAN, island.now, read_only=True))
    island.send(READER, wire.encode(wire.SyncStep1(b"\x00")))
    return island


def refusals(island: Island) -> list[wire.Message]:
    return [message for message in island.sent.get(READER, []) if isinstance(message, wire.PermissionDenied)]


def test_it_sees_what_the_others_write(island: Island) -> None:
    update = Ada(1).type("hello")
    island.send(WRITER, frame(update))
    island.commit()

    assert island.updates(READER) == [update]


@pytest.mark.parametrize("message", [wire.Update, wire.SyncStep2])
def test_what_it_writes_changes_nothing_and_is_answered(
    island: Island, message: type[wire.Update] | type[wire.SyncStep2]
) -> None:
    island.send(READER, wire.encode(message(Ada(2).type("mine"))))
    island.commit()

    (refusal,) = refusals(island)
    assert isinstance(refusal, wire.PermissionDenied)
    assert "read-only" in refusal.reason
    assert READER not in island.closed
    assert island.updates(WRITER) == []
    assert island.store.load(PLAN) is None


def test_a_deletion_is_a_change(island: Island) -> None:
    ada = Ada(1)
    island.send(WRITER, frame(ada.type("hello")))
    island.send(READER, wire.encode(wire.SyncStep2(ada.delete_first())))
    island.commit()

    assert len(refusals(island)) == 1
    assert island.text() == "hello"


def test_an_update_that_waits_for_a_gap_is_not_kept_either(island: Island) -> None:
    ada = Ada(2)
    first, second = ada.type("a"), ada.type("b")
    island.send(READER, frame(second))
    island.send(WRITER, frame(first))
    island.tick(10_000)

    assert len(refusals(island)) == 1
    assert island.text() == "a"


def test_a_step_2_with_nothing_new_is_not_punished(island: Island) -> None:
    ada = Ada(1)
    island.send(WRITER, frame(ada.type("hello")))
    island.send(WRITER, frame(ada.delete_first()))
    island.commit()
    for update in (b"\x00\x00", ada.crdt.get_update(), ada.crdt.get_update(ada.crdt.get_state())):
        island.send(READER, wire.encode(wire.SyncStep2(update)))
        island.send(READER, frame(update))
    island.commit()

    assert refusals(island) == []
    assert READER not in island.closed


def test_bad_bytes_close_it_as_anybody(island: Island) -> None:
    island.send(READER, wire.encode(wire.Update(b"\xff\xff")))

    assert READER in island.closed


def test_its_presence_passes(island: Island) -> None:
    payload = encode_awareness([AwarenessEntry(7, 1, '{"user":"ada"}')])
    island.send(READER, wire.encode(wire.AwarenessUpdate(payload)))

    assert wire.AwarenessUpdate(payload) in island.sent[WRITER]


def test_a_token_where_nobody_asked_for_one_does_no_harm(island: Island) -> None:
    island.send(WRITER, wire.encode(wire.Authenticate("a.b.c")))

    assert island.closed == {}


def test_another_connection_with_the_same_document_may_write_afterwards(island: Island) -> None:
    island.do(island.edge.closed(ConnId(READER), island.now))
    island.open(READER)
    island.send(READER, frame(Ada(2).type("mine")))
    island.commit()

    assert island.text() == "mine"


# --- on a channel of the extension ------------------------------------------------------------------------------------
def said(step: EdgeStep, conn: int) -> list[object]:
    frames = [each.frame for each in step.now if isinstance(each, Send) and ConnId(conn) in each.conns]
    return [extension.decode(each) for each in frames]


def test_an_edit_is_refused_within_its_channel_and_its_name_is_not_taken() -> None:
    island = Island("a", 1)
    for conn, read_only in ((1, False), (2, True)):
        island.edge.opened(ConnId(conn), PLAN, 0, extended=True, read_only=read_only)
    island.edge.loaded(PLAN, None, 0)
    edit = extension.encode(extension.Edit(Dot(Origin(9), 1), "", "", "", Ada(2).type("mine")))

    refused = said(island.edge.received(ConnId(2), edit, 0), 2)
    assert [type(message) for message in refused] == [wire.PermissionDenied]
    assert not island.edge.wants_flush

    island.edge.received(ConnId(1), edit, 0)
    assert island.edge.wants_flush


def test_an_edit_that_is_here_already_is_told_how_safe_it_is() -> None:
    island = Island("a", 1)
    for conn, read_only in ((1, False), (2, True)):
        island.edge.opened(ConnId(conn), PLAN, 0, extended=True, read_only=read_only)
    island.edge.loaded(PLAN, None, 0)
    edit = extension.encode(extension.Edit(Dot(Origin(9), 1), "", "", "", Ada(2).type("mine")))
    island.edge.received(ConnId(1), edit, 0)
    commit = island.edge.flush(0, 0).commit
    assert commit is not None
    island.edge.committed(commit.ticket, 0)

    told = said(island.edge.received(ConnId(2), edit, 0), 2)

    assert told == [extension.Safe(extension.Stage.EDGE, (Dot(Origin(9), 1),), None)]
