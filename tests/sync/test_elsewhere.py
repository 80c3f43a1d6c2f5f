"""What takes a leader its time is done elsewhere: its loop goes on, and each document stays in the order of the log.

The chair is busy: what was handed out is done when the story says so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import cast

import pycrdt
import pytest

from sync import elsewhere, folding, limits
from sync.change import Change, Context, Snapshot, SyncAsk
from sync.document import Document
from sync.elsewhere import Folding, Loading, Saving
from sync.errors import DocumentBroken
from sync.ids import DocId, Dot, DotSet, Origin, Version, parse_document_id
from sync.lib0 import write_var_uint
from sync.nesting import Places
from sync.replica import Replica
from sync.validate import Shape, check_update
from tests.sync.stage import EPOCH, PLAN, Ada, Chair, Log
from tests.sync.test_slices import every_second, letters

OTHER = parse_document_id("notes/other")
LARGE = letters(3_000, client=5)
EVERYTHING = SyncAsk(PLAN, 1, b"\x00", None)


def change(seq: int, update: bytes, doc: DocId = PLAN) -> Change:
    return Change(doc, Dot(Origin(1), seq), update, Context(edge="a"))


def at(seq: int) -> Version:
    return Version(EPOCH, seq)


def long_text(count: int, client: int) -> bytes:
    return b"\1\1" + write_var_uint(client) + b"\0\4\1\4long" + write_var_uint(count) + b"x" * count + b"\0"


def busy(*updates: bytes) -> Chair:
    """A chair that has these changes of the document, and does nothing elsewhere by itself."""
    log = Log()
    chair = Chair(log)
    for update in updates:
        log.append(change(len(log.entries) + 1, update))
        chair.deliver(len(log.entries))
    chair.busy = True
    chair.said.clear()
    chair.acked.clear()
    return chair


def deliver(chair: Chair, *updates: bytes, doc: DocId = PLAN) -> None:
    first = len(chair.log.entries) + 1
    for update in updates:
        chair.log.append(change(len(chair.log.entries) + 1, update, doc))
    chair.deliver(*range(first, len(chair.log.entries) + 1))


def work(chair: Chair) -> None:
    while chair.works:
        chair.work()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each update that was checked."""
    sizes: list[int] = []

    def checked(update: bytes) -> Shape:
        sizes.append(len(update))
        return check_update(update)

    monkeypatch.setattr(folding, "check_update", checked)
    monkeypatch.setattr(elsewhere, "check_update", checked)
    return sizes


# --- what is delivered ------------------------------------------------------------------------------------------------
def test_a_large_change_is_handed_out_unread_and_broadcast_when_it_comes_back(looked_at: list[int]) -> None:
    chair = busy(Ada(1).type("a"))
    looked_at.clear()

    deliver(chair, LARGE)

    assert looked_at == []
    assert (chair.said, chair.acked) == ([], [])
    assert [type(each) for each in chair.works] == [Folding]

    work(chair)
    chair.do(chair.leader.settle(0))

    assert looked_at == [len(LARGE)]
    assert [(merged.prev, merged.version, merged.update) for merged in chair.said] == [(at(1), at(2), LARGE)]
    assert chair.acked == [2]


def test_what_comes_for_the_same_document_waits_behind_it_and_the_others_go_on() -> None:
    ada, ben = Ada(1), Ada(2)
    chair = busy(ada.type("a"))
    deliver(chair, ben.type("warm"), doc=OTHER)
    chair.said.clear()
    chair.acked.clear()

    deliver(chair, LARGE, ada.type("b"))
    deliver(chair, ben.type("c"), doc=OTHER)

    assert [(merged.doc, merged.version) for merged in chair.said] == [(OTHER, at(5))]
    assert chair.acked == [5]

    work(chair)
    chair.do(chair.leader.settle(0))

    assert [merged.version for merged in chair.said if merged.doc == PLAN] == [at(3), at(4)]
    assert chair.acked == [5, 3, 4]
    assert Document(chair.answer(EVERYTHING).update).text("text") == "ab"


def test_what_was_folded_before_a_large_change_is_broadcast_before_it_is_lent() -> None:
    ada = Ada(1)
    chair = busy(ada.type("a"))

    deliver(chair, ada.type("b"), LARGE)

    assert [merged.version for merged in chair.said] == [at(2)]


def test_who_asks_meanwhile_is_answered_behind_it() -> None:
    chair = busy(Ada(1).type("a"))
    deliver(chair, LARGE)

    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))
    assert chair.answers == []
    work(chair)

    (answer,) = chair.answers
    assert answer.version == at(2)
    assert Document(answer.update).clocks()[5] == 3_000


def test_a_few_kilobytes_are_folded_at_once_and_read_once(looked_at: list[int]) -> None:
    chair = busy(Ada(1).type("a"))
    looked_at.clear()
    update = letters(700, client=5)
    assert limits.LARGE_FRAME_BYTES < len(update) < limits.FOLDED_BYTES

    deliver(chair, update)

    assert looked_at == [len(update)]
    assert [merged.version for merged in chair.said] == [at(2)]
    assert chair.works == []


def test_a_few_kilobytes_that_delete_many_ranges_are_lent() -> None:
    chair = busy(long_text(10_000, 1))
    update = every_second(2_000)
    assert len(update) < limits.FOLDED_BYTES

    deliver(chair, update)
    assert [type(each) for each in chair.works] == [Folding]
    work(chair)

    assert [merged.update for merged in chair.said] == [update]


def test_pycrdt_is_given_a_large_change_in_pieces_since_no_thread_runs_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chair = busy(long_text(10_000, 1))
    deliver(chair, letters(3_000, client=5), every_second(5_000))
    given: list[tuple[int, int]] = []
    apply = Document.apply_mended

    def counted(document: Document, *updates: bytes) -> None:
        shapes = [check_update(update) for update in updates]
        given.append((sum(shape.joins for shape in shapes), sum(len(shape.deletes) for shape in shapes)))
        apply(document, *updates)

    monkeypatch.setattr(Document, "apply_mended", counted)
    work(chair)

    assert sum(ranges for _, ranges in given) == 5_000
    assert max(joins for joins, _ in given) < 2 * limits.SLICE_STRUCTS
    assert max(ranges for _, ranges in given) <= 4 * limits.SLICE_RANGES


def test_what_is_large_and_no_update_is_refused_in_its_place() -> None:
    chair = busy(Ada(1).type("a"))

    deliver(chair, b"\xff" * 20_000, LARGE)
    work(chair)

    assert [reject.entry.version for reject in chair.rejected] == [at(2)]
    assert chair.said[-1].version == at(3)
    assert Dot(Origin(1), 2) in chair.said[0].rejected


def test_a_large_change_that_comes_early_waits_for_what_closes_the_gap() -> None:
    chair = busy(Ada(1).type("a"))

    deliver(chair, second_half())
    work(chair)
    assert chair.said == []
    deliver(chair, LARGE)
    work(chair)

    assert chair.said[-1].version == at(3)
    assert Document(chair.answer(EVERYTHING).update).clocks()[5] == 6_000


def second_half() -> bytes:
    """What goes on where LARGE ends, as long as that."""
    count = 3_000
    name = write_var_uint(5)
    structs = b"".join(b"\x84" + name + write_var_uint(clock - 1) + b"\1x" for clock in range(count, 2 * count))
    return b"\1" + write_var_uint(count) + name + write_var_uint(count) + structs + b"\0"


def test_a_change_that_breaks_pycrdt_elsewhere_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ada = Ada(1)
    chair = busy(ada.type("a"))
    poison = letters(3_000, client=13)
    materialise = Replica.materialise

    def breaking(replica: Replica) -> Document:
        if 13 in replica.clocks:
            raise DocumentBroken("a panic")
        return materialise(replica)

    monkeypatch.setattr(Replica, "materialise", breaking)
    deliver(chair, LARGE, poison, ada.type("b"))
    work(chair)
    chair.do(chair.leader.settle(0))

    assert [reject.entry.version for reject in chair.rejected] == [at(3)]
    assert sorted(chair.acked) == [2, 3, 4]
    document = Document(chair.answer(EVERYTHING).update)
    assert (document.text("text"), document.clocks().get(13)) == ("ab", None)


# --- what happens meanwhile -------------------------------------------------------------------------------------------
def test_a_message_that_went_to_somebody_else_meanwhile_is_read_from_the_log() -> None:
    ada = Ada(1)
    chair = busy(ada.type("a"))
    deliver(chair, LARGE)
    chair.log.append(change(3, ada.type("b")))
    chair.log.delivered += 1  # the third change was given to another leader

    deliver(chair, ada.type("c"))
    work(chair)
    chair.do(chair.leader.settle(0))

    assert Document(chair.answer(EVERYTHING).update).text("text") == "abc"
    assert chair.said[0].update == LARGE, "what was lent is broadcast, not only found in the log"
    assert chair.acked == [2, 4]


def test_a_shard_that_is_lost_meanwhile_leaves_it_to_others() -> None:
    chair = busy(Ada(1).type("a"))
    deliver(chair, LARGE)

    chair.do(chair.leader.lost(0, 0))
    chair.do(chair.leader.gained(0, EPOCH, 0))
    work(chair)
    chair.do(chair.leader.settle(0))

    assert (chair.said, chair.acked) == ([], [])


def test_an_edge_that_stands_further_meanwhile_has_the_log_read_anew() -> None:
    ada = Ada(1)
    chair = busy(ada.type("a"))
    deliver(chair, LARGE)
    chair.log.append(change(3, ada.type("b")))  # given to another leader, which has broadcast it

    chair.do(chair.leader.sync_asked(SyncAsk(PLAN, 1, b"\x00", at(3)), 0, "reply", 0))
    work(chair)

    (answer,) = chair.answers
    assert (answer.version, Document(answer.update).text("text")) == (at(3), "ab")


@pytest.mark.parametrize("seed", range(20))
def test_whenever_it_comes_back_the_fold_is_the_log_s(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two authors, large and small, out of order and bad ones among them; deliveries in any portions."""
    monkeypatch.setattr(limits, "LARGE_FRAME_BYTES", 12)
    monkeypatch.setattr(limits, "FOLDED_BYTES", 24)
    rng, authors = random.Random(seed), (Ada(1), Ada(2))
    updates = [rng.choice(authors).type("x" * rng.choice((1, 1, 5, 40))) for _ in range(40)]
    for place in rng.sample(range(39), 8):
        updates[place], updates[place + 1] = updates[place + 1], updates[place]
    updates[rng.randrange(40)] = b"\xff" * 30
    log = Log()
    for seq, update in enumerate(updates, 1):
        log.append(change(seq, update))
    chair = Chair(log)
    chair.busy = True

    seq = 1
    while seq <= 40:
        count = min(rng.choice((1, 1, 3, 9)), 41 - seq)
        chair.deliver(*range(seq, seq + count))
        seq += count
        for _ in range(rng.choice((0, 0, 1, 2))):
            if chair.works:
                chair.work()
    work(chair)
    chair.do(chair.leader.settle(0))

    folded = folding.fold_log(PLAN, None, log.entries, EPOCH, 0)
    lane = chair.leader.lanes[PLAN]
    assert lane.replica is not None
    assert (lane.replica.version, lane.replica.digest()) == (folded.version, folded.digest())
    assert sorted(chair.acked) == list(range(1, 41))
    assert [merged.prev for merged in chair.said[1:]] == [merged.version for merged in chair.said[:-1]]


# --- what is read from the log ----------------------------------------------------------------------------------------
def stored(*updates: bytes) -> Log:
    log = Log()
    for seq, update in enumerate(updates, 1):
        log.append(change(seq, update))
    return log


def test_a_large_document_is_made_elsewhere_and_who_asked_is_answered_then(looked_at: list[int]) -> None:
    chair = Chair(stored(LARGE))
    chair.busy = True

    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))

    assert [type(each) for each in chair.works] == [Loading]
    assert (looked_at, chair.answers) == ([], [])

    work(chair)

    (answer,) = chair.answers
    assert Document(answer.update).digest() == answer.digest
    assert looked_at == [len(LARGE)]


def test_a_small_document_is_made_at_once() -> None:
    chair = Chair(stored(Ada(1).type("a")))
    chair.busy = True

    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))

    assert len(chair.answers) == 1


def test_what_is_delivered_while_a_document_is_made_is_folded_behind_it() -> None:
    chair = Chair(stored(LARGE))
    deliver(chair, Ada(2).type("b"), doc=OTHER)
    chair.busy = True
    chair.said.clear()
    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))

    deliver(chair, Ada(1).type("a"))
    assert chair.said == []
    work(chair)

    assert [(merged.prev, merged.version) for merged in chair.said] == [(at(1), at(3))]


def test_a_document_that_turned_out_to_be_read_too_short_is_made_again() -> None:
    ada = Ada(1)
    chair = Chair(stored(LARGE, ada.type("a")))
    chair.busy = True
    chair.log.delivered = 1
    chair.deliver(2)  # loads what comes before it
    chair.log.append(change(3, ada.type("b")))

    chair.deliver(2, redelivered=True)  # others may have acknowledged what came behind it
    work(chair)

    assert Document(chair.answer(EVERYTHING).update).text("text") == "ab"


def test_a_snapshot_that_pycrdt_breaks_over_elsewhere_is_reported() -> None:
    chair = Chair(Log())
    chair.busy = True
    chair.log.snapshots[PLAN] = Snapshot(PLAN, at(1), b"\xff" * 20_000, DotSet(), "")

    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))
    work(chair)

    assert [report.event for report in chair.reports] == ["document_unreadable"]
    assert chair.answers == []


def test_a_large_snapshot_of_a_lost_log_is_looked_at_elsewhere(looked_at: list[int]) -> None:
    chair = Chair(Log())
    chair.busy = True
    state = long_text(20_000, 4)
    chair.log.snapshots[PLAN] = Snapshot(PLAN, Version(EPOCH - 1, 1), state, DotSet(), Document(state).digest())

    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))
    assert looked_at == []
    work(chair)

    assert [each.update for each in chair.published] == [state]


# --- what is read of a document ---------------------------------------------------------------------------------------
def test_a_large_snapshot_is_verified_elsewhere_before_it_is_stored(looked_at: list[int]) -> None:
    ada = Ada(1)
    chair = busy(ada.type("a"), long_text(20_000, 4))
    chair.leader.lanes[PLAN].snapshots.changes = limits.SNAPSHOT_CHANGES

    deliver(chair, ada.type("b"))

    assert [type(each) for each in chair.works] == [Saving]
    assert chair.log.snapshots == {}
    deliver(chair, ada.type("c"))  # meanwhile: no part of it

    work(chair)

    snapshot = chair.log.snapshots[PLAN]
    document = Document(snapshot.state)
    assert (snapshot.version, document.text("text"), document.digest()) == (at(3), "ab", snapshot.digest)


def test_a_snapshot_that_does_not_load_to_the_same_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    ada = Ada(1)
    chair = busy(ada.type("a"), long_text(20_000, 4))
    chair.leader.lanes[PLAN].snapshots.changes = limits.SNAPSHOT_CHANGES
    deliver(chair, ada.type("b"))
    monkeypatch.setattr("sync.content.digest_of_snapshot", lambda _: "another")

    work(chair)

    assert chair.log.snapshots == {}
    assert [report.event for report in chair.reports] == ["snapshot_refused"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of whole documents."""
    asked: list[str] = []
    digest, diff = Replica.digest, Replica.diff

    def digested(replica: Replica) -> str:
        asked.append("digest")
        return digest(replica)

    def differed(replica: Replica, state_vector: bytes) -> bytes:
        asked.append("diff")
        return diff(replica, state_vector)

    monkeypatch.setattr(Replica, "digest", digested)
    monkeypatch.setattr(Replica, "diff", differed)
    return asked


def test_a_large_document_is_digested_elsewhere_for_an_answer_and_a_beacon(reads: list[str]) -> None:
    ada = Ada(1)
    chair = busy(long_text(limits.DIGESTED_BYTES + 1, 4))

    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))
    assert (reads, chair.answers) == ([], [])
    deliver(chair, ada.type("a"))  # behind the answer
    work(chair)

    (answer,) = chair.answers
    assert (answer.version, answer.digest) == (at(1), Document(answer.update).digest())
    assert [merged.version for merged in chair.said] == [at(2)]

    reads.clear()
    chair.tick(limits.BEACON_MS + 100)
    assert reads == []
    work(chair)
    chair.tick(limits.BEACON_MS)

    assert reads == ["digest"]
    assert chair.beacons[-1].beacon.docs == ((PLAN, at(2), Document(chair.answer(EVERYTHING).update).digest()),)


def test_many_that_ask_the_same_are_answered_with_one_reading(reads: list[str]) -> None:
    chair = busy(LARGE)

    for asker in range(5):
        chair.do(chair.leader.sync_asked(EVERYTHING, 0, f"reply {asker}", 0))
    deliver(chair, Ada(1).type("a"))
    chair.do(chair.leader.sync_asked(EVERYTHING, 0, "reply", 0))

    assert reads.count("diff") == 2
    assert [Document(answer.update).text("text") for answer in chair.answers] == [""] * 5 + ["a"]


def maps(count: int, client: int) -> list[bytes]:
    """A map in a root, and so many maps in that one, one behind the other."""
    doc: pycrdt.Doc[pycrdt.Map[object]] = pycrdt.Doc(client_id=client)
    made: list[bytes] = []
    root = doc.get("maps", type=pycrdt.Map)
    for at in range(count):
        before = doc.get_state()
        root["m" if at == 0 else f"m{at}"] = pycrdt.Map()
        if at == 0:
            root = cast("pycrdt.Map[object]", root["m"])
        made.append(doc.get_update(before))
    return made


def test_where_everything_stands_is_found_out_elsewhere_before_a_nested_type_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []

    class Counted(Places):
        def __init__(self, state: bytes) -> None:
            read.append(len(state))
            super().__init__(state)

    monkeypatch.setattr("sync.content.Places", Counted)
    monkeypatch.setattr("sync.nesting.Places", Counted)
    updates = maps(limits.NESTING_MAX + 50, 7)
    chair = busy()

    for update in updates:
        worked = len(read)
        deliver(chair, update)
        assert len(read) == worked, "on the loop"
        work(chair)

    assert len(read) == 1
    assert chair.said[-1].version == at(len(updates))


# --- what waits -------------------------------------------------------------------------------------------------------
def sizes_of(chair: Chair) -> Sequence[int]:
    return [len(each.entries) for each in chair.works if isinstance(each, Folding)]


def test_of_many_changes_that_wait_a_work_takes_a_thousand_or_a_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.backlog.LOAN_COUNT", 10)
    ada = Ada(1)
    chair = busy(ada.type("a"))
    deliver(chair, LARGE)

    deliver(chair, *[ada.type("x" * 2_000) for _ in range(25)])
    found: list[int] = []
    while chair.works:
        found += sizes_of(chair)
        chair.work()

    assert found == [1, 10, 10], "and the last five, of 10 kB, at once"
    assert chair.said[-1].version == at(27)
