"""Presence at an edge (`sync.company`): to its clients, to the other edges, gathered."""

from __future__ import annotations

from sync import wire
from sync.ids import ConnId
from sync.presence import encode_awareness
from sync.step import PresenceOut, Send
from sync.validate import AwarenessEntry
from tests.sync.stage import PLAN, Island


def test_presence_reaches_the_other_clients_and_the_other_edges_and_a_joiner_at_once() -> None:
    island = Island("a", 1)
    island.link()
    island.open(1)
    island.open(2)
    payload = encode_awareness([AwarenessEntry(9, 1, '{"name":"ada"}')])
    island.presence.clear()

    island.send(1, wire.encode(wire.AwarenessUpdate(payload)))

    assert island.sent[2][-1] == wire.AwarenessUpdate(payload)
    assert island.presence == [payload]
    island.open(3)
    assert wire.AwarenessUpdate(payload) in island.sent[3]
    island.do(island.edge.closed(ConnId(1), 0))
    gone = island.sent[2][-1]
    assert isinstance(gone, wire.AwarenessUpdate)
    assert gone.payload.endswith(b"null")


def test_a_cursor_that_moved_to_another_edge_is_asked_to_renew_itself() -> None:
    island = Island("a", 1)
    island.link()
    island.open(1)
    here = encode_awareness([AwarenessEntry(9, 2, '{"name":"ada"}')])
    island.send(1, wire.encode(wire.AwarenessUpdate(here)))
    island.do(island.edge.closed(ConnId(1), 0))
    island.open(2)
    island.presence.clear()

    island.do(island.edge.presence(PLAN, here, 0))

    assert island.presence == [encode_awareness([AwarenessEntry(9, 3, "null")])]


def test_moves_of_many_are_one_message_to_everybody_and_to_the_other_edges() -> None:
    island = Island("a", 1)
    island.link()
    for conn in (1, 2, 3):
        island.open(conn)
    edge = island.edge

    for clock in range(1, 11):
        for conn in (1, 2):
            entry = AwarenessEntry(conn, clock, f'{{"at":{clock}}}')
            edge.received(ConnId(conn), wire.encode(wire.AwarenessUpdate(encode_awareness([entry]))), 0)
    step = edge.spread()

    newest = encode_awareness([AwarenessEntry(conn, 10, '{"at":10}') for conn in (1, 2)])
    told = [(effect.conns, effect.frame) for effect in step.now if isinstance(effect, Send)]
    assert told == [((ConnId(1), ConnId(2), ConnId(3)), wire.encode(wire.AwarenessUpdate(newest)))]
    assert [effect.payload for effect in step.now if isinstance(effect, PresenceOut)] == [newest]
    assert not edge.wants_spread


def test_who_alone_moved_is_not_sent_it_back() -> None:
    island = Island("a", 1)
    for conn in (1, 2):
        island.open(conn)

    entry = AwarenessEntry(7, 1, "{}")
    island.edge.received(ConnId(1), wire.encode(wire.AwarenessUpdate(encode_awareness([entry]))), 0)
    step = island.edge.spread()

    assert [effect.conns for effect in step.now if isinstance(effect, Send)] == [(ConnId(2),)]
