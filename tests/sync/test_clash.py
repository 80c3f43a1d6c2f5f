"""One client id used by two writers: noticed and refused by name; what is rightly sent again passes."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from pycrdt import Array, Doc, Map, Text

from sync.closing import CLOSE_CLIENT_ID
from sync.document import Document, merge
from sync.errors import ClientIdClash
from sync.ids import DocId
from sync.lib0 import write_var_uint
from sync.nesting import Nesting
from sync.replica import Replica, Verdict
from sync.validate import Shape, check_update
from tests.sync.histories import life
from tests.sync.stage import Ada, Island, Sea, frame

NOTES = DocId("notes")


def _guarded(*updates: bytes) -> Replica:
    replica = Replica(NOTES, guarded=True)
    for update in updates:
        replica.take(update, check_update(update), 0)
    return replica


def _take(replica: Replica, update: bytes) -> Verdict:
    return replica.take(update, check_update(update), 0).verdict


# --- what is rightly sent again passes --------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_sent_again_cut_into_whatever_pieces_is_no_clash(seed: int) -> None:
    history, rng = life(seed), random.Random(seed)
    replica = _guarded(*history.updates)
    again = list(history.updates)
    again.append(history.state)
    again += [merge(history.updates[at : at + 7]) for at in range(0, len(history.updates), 7)]
    reader = Document(history.state)
    for _ in range(10):  # what another reader says to somebody who has some of it
        some = {client: rng.randrange(clock + 1) for client, clock in reader.clocks().items()}
        difference = reader.since(some)
        brings = check_update(difference).brings
        assert all(following == reader.clocks()[client] for client, _, following in brings), "cut within a character"
        again.append(difference)
    rng.shuffle(again)

    for update in again:
        _take(replica, update)

    half = _guarded(*history.updates[: len(history.updates) // 2])
    for update in again:
        _take(half, update)  # overlapping in part
    assert half.digest() == replica.digest() == Document(history.state).digest()


def test_a_client_without_a_guard_compares_nothing() -> None:
    ada, clone = Ada(5), Ada(5)
    replica = Replica(NOTES)
    update = ada.type("one")
    replica.take(update, check_update(update), 0)

    other = clone.type("two")

    assert replica.take(other, check_update(other), 0).verdict is Verdict.SEEN


# --- what is not, is refused by name ----------------------------------------------------------------------------------
def _made(kind: str, value: str) -> bytes:
    """What a client 5 writes; two values are two histories."""
    doc: Doc[Any] = Doc(client_id=5)
    if kind == "text":
        doc.get("text", type=Text).insert(0, value)
    elif kind == "astral":
        doc.get("text", type=Text).insert(0, "\N{GRINNING FACE}" + value)
    elif kind == "map":
        doc.get("map", type=Map)["key"] = value
    elif kind == "numbers":
        doc.get("array", type=Array).extend([1, len(value) + 0.5])
    elif kind == "booleans":
        doc.get("array", type=Array).append(value == "one")
    else:
        doc.get("array", type=Array).append(Text() if value == "one" else Map())
    return doc.get_update()


@pytest.mark.parametrize("kind", ["text", "astral", "map", "numbers", "booleans", "types"])
def test_other_content_under_the_same_clocks_is_refused(kind: str) -> None:
    one, two = _made(kind, "one"), _made(kind, "three" if kind == "numbers" else "two")
    replica = _guarded(one)
    before = replica.digest()

    assert _take(replica, one) is Verdict.SEEN
    with pytest.raises(ClientIdClash, match="client 5 has written something else at clock"):
        _take(replica, two)

    assert replica.digest() == before


def test_the_same_letters_in_another_place_are_other_content() -> None:
    base = Ada(1).type("hello")
    front, back = (Doc[Any](client_id=5) for _ in range(2))
    for doc, at in ((front, 0), (back, 5)):
        doc.apply_update(base)
        doc.get("text", type=Text).insert(at, "x")
    replica = _guarded(base, front.get_update(b"\1\1\5"))

    with pytest.raises(ClientIdClash):
        _take(replica, back.get_update(b"\1\1\5"))


def test_a_clone_that_has_written_more_is_refused_whole() -> None:
    base = Ada(1).type("hello ")
    ada, clone = Ada(5), Ada(5)
    for each in (ada, clone):
        each.crdt.apply_update(base)
    replica = _guarded(base, ada.type("ab"))

    with pytest.raises(ClientIdClash):
        _take(replica, clone.type("xyz"))

    assert replica.clocks[5] == 2


def test_what_was_deleted_here_is_not_compared() -> None:
    ada, clone = Ada(5), Ada(5)
    replica = _guarded(ada.type("a"), ada.delete_first())

    assert _take(replica, clone.type("b")) is Verdict.SEEN  # its content is gone: nobody can tell


# --- at an edge and at the leader -------------------------------------------------------------------------------------
def test_only_the_clocks_that_are_compared_are_looked_at() -> None:
    """Fuzzing found it: 300 million deleted clocks in ten bytes, and a value was made for each of them."""
    text = "0123456789" * 100_000
    replica = _guarded(_typed(text))
    deleted = b"\1\1\7\0\1\1\4body" + write_var_uint(300_000_000) + b"\0"

    assert _memory_of(replica, deleted) < 16 * 2**20
    replica = _guarded(_typed(text))
    assert _memory_of(replica, _typed(text + "!")) < 16 * 2**20
    with pytest.raises(ClientIdClash, match=str(len(text) - 4)):
        _take(replica, _typed(text[:-4] + "?" + text[-3:] + "!!"))


def _memory_of(replica: Replica, update: bytes) -> int:
    """Bytes that Python had at most while the replica took what is new to it."""
    tracemalloc.start()
    try:
        assert _take(replica, update) is Verdict.NEW
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _typed(text: str) -> bytes:
    spelled = text.encode()
    return b"\1\1\7\0\4\1\4body" + write_var_uint(len(spelled)) + spelled + b"\0"


def test_an_edge_closes_the_second_writer_and_nobody_else() -> None:
    island, ada, clone = Island("a", 1), Ada(5), Ada(5)
    for conn in (1, 2, 3):
        island.open(conn)
    island.send(1, frame(ada.type("from ada")))
    island.commit()

    island.send(2, frame(clone.type("from the clone")))
    island.send(3, frame(Ada(6).type("ben")))
    island.commit()

    assert set(island.closed) == {2}
    code, reason = island.closed[2]
    assert code == CLOSE_CLIENT_ID
    assert "client 5 has written something else" in reason
    assert "client_id_clash" in [report.event for report in island.reports]
    assert "from the clone" not in island.text()
    assert "ben" in island.text()


def test_another_tab_that_relays_is_let_be() -> None:
    island, ada = Island("a", 1), Ada(5)
    island.open(1)
    island.open(2)
    for letter in "hello":
        update = ada.type(letter)
        island.send(1, frame(update))
        island.send(2, frame(update))
    island.send(2, frame(ada.crdt.get_update()))
    island.commit()

    assert island.closed == {}
    assert island.text() == "hello"


def _clash_while_cut_off(looks: bool = False) -> tuple[Sea, Island, Island]:
    """The same client id writes at two edges that do not see each other; then the second one is linked again."""
    here, there = Island("a", 1), Island("b", 2)
    sea = Sea(here, there)
    sea.looks = looks
    for island in (here, there):
        island.open(1)
    here.send(1, frame(Ada(6).type("common ")))
    sea.settle()
    there.unlink()
    here.send(1, frame(Ada(5).type("from ada")))
    there.send(1, frame(Ada(5).type("from the clone, longer")))
    there.send(1, frame(Ada(7).type("cyd")))
    sea.settle(here)
    there.commit()
    there.link()
    sea.settle()
    for _ in range(100):
        for island in (here, there):
            island.tick(1_000)
        sea.chair.tick(1_000)
        sea.settle()
    return sea, here, there


@pytest.mark.parametrize("looks", [False, True])
def test_a_clone_at_another_edge_is_named_by_the_leader_and_all_are_equal_again(
    looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`looks`: what replaces the document was made elsewhere."""
    made: list[Replica] = []
    adopts = Replica.adopt

    def adopt(replica: Replica, document: Document, update: bytes, shape: Shape, nesting: Nesting) -> bool:
        made.append(replica)
        return adopts(replica, document, update, shape, nesting)

    monkeypatch.setattr(Replica, "adopt", adopt)

    sea, here, there = _clash_while_cut_off(looks)
    assert bool(made) == looks

    reasons = [reject.reason for reject in sea.chair.rejected]
    assert reasons
    assert all("client 5 has written something else" in reason for reason in reasons)
    assert "document_replaced" in [report.event for report in there.reports]
    text = here.text()
    assert there.text() == text
    assert "from ada" in text
    assert "from the clone" not in text
    assert "cyd" in text, "what others wrote at that edge is kept"
    assert there.closed[1][0] == CLOSE_CLIENT_ID
    assert [kept for kept in there.aside if "from the clone" in Document(kept.update).text("text")]
    assert (here.outbox, there.outbox) == (0, 0)
    assert here.closed == {}
    assert "client_id_clash" not in [report.event for report in here.reports], "who did nothing is left alone"
    assert "client_id_clash" in [report.event for report in sea.chair.reports]


def test_it_stays_equal_after_a_crash_at_any_commit_of_it() -> None:
    sea, here, there = _clash_while_cut_off()
    there.crash(12)
    there.open(9)
    there.link()
    sea.settle()

    assert here.text() == there.text()
