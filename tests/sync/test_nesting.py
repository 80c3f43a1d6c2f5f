"""Shared types within shared types: bounded over a document's whole life, before pycrdt sees them."""

from __future__ import annotations

import random
from typing import Any, ClassVar

import pytest
from pycrdt import Array, Doc

from sync.answered import look
from sync.change import Change, SyncAnswer
from sync.closing import CLOSE_BAD_UPDATE
from sync.document import Document
from sync.errors import DocumentBroken, InvalidUpdate
from sync.folding import fold_log
from sync.hosted import built, replica_of
from sync.ids import ConnId, Dot, DotSet, Origin, Version
from sync.lib0 import write_var_uint
from sync.limits import EARLY_MS_MAX, LOOK_MS, NESTING_MAX
from sync.nesting import Places, named_at_most, places_of
from sync.ports import StoredDocument
from sync.replica import Replica, Verdict
from sync.roots import find_roots
from sync.splits import Into
from sync.validate import check_update
from tests.sync.children import in_child, nested
from tests.sync.forged import forged
from tests.sync.histories import life
from tests.sync.stage import PLAN, Ada, Chair, Island, Log, frame

CLIENT = 1
DELETE_OUTERMOST = bytes.fromhex("000101010001")


def level(clock: int, client: int = CLIENT, within: int | None = None) -> bytes:
    """An update that is one array: the first in root `r`, each other one in the one before it."""
    inside = clock - 1 if within is None else within
    place = b"\7\1\1r" if clock == 0 and within is None else b"\7\0" + write_var_uint(CLIENT) + write_var_uint(inside)
    return b"\1\1" + write_var_uint(client) + write_var_uint(clock) + place + b"\0\0"


def take(replica: Replica, update: bytes) -> Verdict:
    return replica.take(update, check_update(update), 0).verdict


def as_deep_as_may_be() -> list[bytes]:
    return [level(clock) for clock in range(NESTING_MAX + 1)]


def deep_replica() -> Replica:
    replica = Replica(PLAN)
    for update in as_deep_as_may_be():
        take(replica, update)
    return replica


def test_what_nests_deeper_over_many_updates_is_refused_and_the_document_goes_on() -> None:
    replica = deep_replica()

    with pytest.raises(InvalidUpdate, match=f"nested deeper than {NESTING_MAX}"):
        take(replica, level(NESTING_MAX + 1))

    assert replica.clocks == {CLIENT: NESTING_MAX + 1}
    assert take(replica, level(0, client=2, within=0)) is Verdict.NEW  # at the outermost: not deep
    assert replica.materialise().clocks() == replica.clocks == {CLIENT: NESTING_MAX + 1, 2: 1}


def test_it_is_refused_in_one_update_as_well() -> None:
    with pytest.raises(InvalidUpdate, match="nested deeper"):
        take(Replica(PLAN), nested(NESTING_MAX + 2))

    assert take(Replica(PLAN), nested(NESTING_MAX + 1)) is Verdict.NEW


@pytest.mark.parametrize("stored", ["state", "rows"])
def test_it_is_refused_right_after_a_restart(stored: str) -> None:
    rows = as_deep_as_may_be()
    state = deep_replica().verified_state()
    replica = Replica(PLAN, state) if stored == "state" else Replica(PLAN, None, rows)

    with pytest.raises(InvalidUpdate, match="nested deeper"):
        take(replica, level(NESTING_MAX + 1))

    assert take(replica, level(0, client=2, within=3)) is Verdict.NEW


def test_what_stands_beside_the_deepest_is_as_deep() -> None:
    """A neighbour names no parent: it stands where its origin stands, and what names it stands one deeper."""
    replica = deep_replica()
    beside = b"\1\1\2\0" + b"\x87\1" + write_var_uint(NESTING_MAX) + b"\0\0"

    assert take(replica, beside) is Verdict.NEW

    within_it = b"\1\1\3\0" + b"\7\0\2\0\0" + b"\0"
    with pytest.raises(InvalidUpdate, match="nested deeper"):
        take(replica, within_it)


def test_many_types_that_nest_little_are_no_depth() -> None:
    replica = Replica(PLAN)
    take(replica, level(0))

    for clock in range(3 * NESTING_MAX):
        assert take(replica, level(clock, client=2, within=0)) is Verdict.NEW


def test_what_was_deleted_makes_room_and_a_loaded_replica_judges_the_same() -> None:
    replica = deep_replica()
    take(replica, DELETE_OUTERMOST)
    loaded = Replica(PLAN, replica.verified_state())
    deeper = level(NESTING_MAX + 1)  # within what was deleted: it is collected, and stands nowhere

    assert take(replica, deeper) is take(loaded, deeper) is Verdict.NEW
    assert replica.digest() == loaded.digest()


def test_the_deepest_that_passes_is_deleted_read_encoded_and_dropped_without_harm() -> None:
    code = """
import sys, threading
from pycrdt import Array
from sync.document import Document
def life():
    document = Document(sys.stdin.buffer.read())
    assert Document(document.state()).digest() == document.digest()
    str(document.crdt.get("r", type=Array))
    document.apply(bytes.fromhex("000101010001"))
    document.state()
threading.stack_size(1 << 20)  # an eighth of what a thread usually has
thread = threading.Thread(target=life)
thread.start()
thread.join()
print("alive")
"""
    child = in_child(code, deep_replica().verified_state())

    assert (child.stdout.strip(), child.returncode) == ("alive", 0), child.stderr


def test_an_edge_refuses_it_to_its_sender_alone() -> None:
    edge = Island("a", 1)
    edge.open(1)
    edge.open(2)
    for update in as_deep_as_may_be():
        edge.send(1, frame(update))
    edge.commit()

    edge.send(1, frame(level(NESTING_MAX + 1)))
    edge.send(2, frame(level(0, client=2, within=0)))
    edge.commit()

    assert edge.closed[1][0] == CLOSE_BAD_UPDATE
    assert "nested deeper" in edge.closed[1][1]
    assert 2 not in edge.closed
    host = edge.edge.hosted[PLAN]
    assert host.replica is not None
    assert host.replica.clocks == {CLIENT: NESTING_MAX + 1, 2: 1}


def test_an_early_one_is_refused_when_its_turn_comes_and_its_sender_is_told() -> None:
    edge = Island("a", 1)
    for conn in (1, 2, 3):
        edge.open(conn)
    levels = as_deep_as_may_be()
    edge.send(2, frame(level(NESTING_MAX + 1)))  # before all that it stands in
    edge.send(3, frame(level(0, client=7, within=NESTING_MAX - 1)))
    for update in levels:
        edge.send(1, frame(update))

    edge.tick(200)

    assert set(edge.closed) == {2}
    assert "nested deeper" in edge.closed[2][1]
    host = edge.edge.hosted[PLAN]
    assert host.replica is not None
    assert host.replica.clocks == {CLIENT: NESTING_MAX + 1, 7: 1}
    assert host.replica.early == []
    edge.tick(EARLY_MS_MAX)
    assert set(edge.closed) == {2}


def logged_levels(order: list[int]) -> Log:
    log = Log()
    for seq, clock in enumerate(order, 1):
        log.append(Change(PLAN, Dot(Origin(1), seq), level(clock)))
    return log


@pytest.mark.parametrize("early", [False, True], ids=["in order", "early"])
def test_every_leader_refuses_the_same_change_of_the_log(early: bool) -> None:
    last = NESTING_MAX + 1
    order = [*range(last), last, last + 1] if not early else [last, *range(last)]
    log = logged_levels(order)
    chairs = [Chair(log), Chair(log), Chair(log)]
    for seq in range(1, len(order) + 1):
        chairs[0].deliver(seq)
    log.snapshots.clear()
    chairs[1].deliver(*range(1, len(order) + 1))
    log.snapshots.clear()
    chairs[2].deliver(len(order))  # the rest it reads from the log

    bad = [seq for seq, clock in enumerate(order, 1) if clock == last]
    for chair in chairs[:2]:
        assert bad[0] in [reject.entry.version.seq for reject in chair.rejected]
    folds = [chair.leader.lanes[PLAN].replica for chair in chairs]
    for fold, chair in zip(folds, chairs, strict=True):
        assert fold is not None
        assert fold.clocks == {CLIENT: last}
        assert Dot(Origin(1), bad[0]) in chair.leader.lanes[PLAN].rejected
        assert Dot(Origin(1), bad[0]) not in fold.dots
    assert len({fold.digest() for fold in folds if fold is not None}) == 1


def test_a_snapshot_and_the_changes_behind_it_refuse_what_the_whole_log_refuses() -> None:
    log = logged_levels([*range(NESTING_MAX + 2)])
    whole: list[Any] = []
    fold_log(PLAN, None, log.entries, log.epoch, 0, whole)
    chair = Chair(log)
    chair.deliver(*range(1, NESTING_MAX + 2))
    snapshot = log.snapshots[PLAN]
    behind: list[Any] = []
    fold_log(PLAN, snapshot, log.entries, log.epoch, 0, behind)

    assert [entry.version.seq for entry, _ in whole] == [entry.version.seq for entry, _ in behind] == [NESTING_MAX + 2]


@pytest.mark.parametrize("seed", range(60))
def test_places_know_how_deep_a_document_of_mixed_types_nests(seed: int) -> None:
    """Against `sync.roots`, which asks another way; a type that holds nothing makes nothing deeper here."""
    history = life(seed)
    depth = find_roots(history.state).depth
    step_by_step = Places(b"\0\0")
    for update in history.updates:
        step_by_step.add(update)

    assert depth - 1 <= Places(history.state).deepest(history.state) <= depth
    assert Places(history.state).deepest(history.state) <= step_by_step.deepest(history.state)
    assert named_at_most(history.state) >= sum(check_update(update).names for update in [history.state])


class Watched(bytes):
    """A state that notes how much of it is gone through at once, each time."""

    steps: ClassVar[list[int]] = []

    def __getitem__(self, at: Any) -> Any:
        return Watched(super().__getitem__(at))

    def count(self, *of: Any) -> int:
        Watched.steps.append(len(self))
        return super().count(*of)

    def translate(self, *by: Any) -> bytes:
        Watched.steps.append(len(self))
        return Watched(super().translate(*by))


def test_who_counts_what_names_a_type_goes_through_a_state_twice_in_parts_and_misses_none() -> None:
    """Nobody else runs meanwhile: eighteen times at once were 55 ms for four megabytes."""
    kinds = [bytes((keyed | content, 0)) for keyed in (0, 0x20) for content in range(1, 10)]
    mixed = random.Random(1).randbytes(300_000).translate(bytes(byte % 48 for byte in range(256)))
    state = mixed + b"\7\0" * 150_000 + b"\2" + b"\7\0" * 150_000  # one is wherever a part may end
    Watched.steps.clear()

    named = named_at_most(Watched(state))

    assert named == sum(map(state.count, kinds)) > 0
    assert sum(Watched.steps) < 2.1 * len(state)
    assert max(Watched.steps) < 300_000


@pytest.mark.parametrize("seed", range(200))
def test_nothing_forged_stands_deeper_in_pycrdt_than_was_reckoned(seed: int) -> None:
    """Any ids, parents and neighbours. Not where pycrdt judges such neighbours otherwise when it loads them."""
    rng = random.Random(seed)
    document = Document(life(seed, 20).state)
    for _ in range(6):
        before = document.state()
        update = forged(rng, document.clocks())
        try:
            shape = check_update(update)
            places = Places(before)
            reckoned = max(places.deepest(update), places.deepest(before))
        except InvalidUpdate:
            continue
        if Replica(PLAN, before).judge(shape).verdict is not Verdict.NEW:
            continue
        try:
            document.apply(update)
            after = document.state()
            whole = Document(after).digest() == document.digest()
        except DocumentBroken:
            whole = False
        if whole:
            assert Places(after).deepest(after) <= reckoned
        else:
            document = Document(before)


def test_where_everything_stands_in_what_is_loaded_was_found_out_beside_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the first nested edit would hold the loop: 0.2 s for 80,000 structs."""
    state = deep_replica().verified_state()
    stored = built(StoredDocument(state, (level(0, client=3, within=0),), None, DotSet(), ()))
    replica = replica_of(PLAN, stored)
    made: list[int] = []

    def places(state: bytes) -> Places:
        made.append(len(state))
        return Places(state)

    monkeypatch.setattr("sync.content.Places", places)

    assert take(replica, level(0, client=2, within=0)) is Verdict.NEW
    assert take(replica, level(0, client=4, within=NESTING_MAX - 1)) is Verdict.NEW
    assert made == []
    with pytest.raises(InvalidUpdate, match="nested deeper"):
        take(replica, level(0, client=5, within=NESTING_MAX))


def test_where_everything_stands_is_found_out_beside_the_loop_before_a_nested_type_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, beside = list[int](), list[int]()

    class Counted(Places):
        def __init__(self, state: bytes) -> None:
            read.append(len(state))
            super().__init__(state)

    def found(state: bytes) -> Places:
        beside.append(len(state))
        return Counted(state)

    monkeypatch.setattr("sync.content.Places", Counted)
    monkeypatch.setattr("tests.sync.stage.places_of", found)
    island = Island("a", 1)
    island.open(1)

    for clock in range(NESTING_MAX):
        island.do(island.edge.received(ConnId(1), frame(level(clock)), island.now))
        if clock % 50 == 0:
            island.now += LOOK_MS
            island.do(island.edge.tick(island.now))
    assert (len(read), len(beside)) == (1, 1)
    island.do(island.edge.received(ConnId(1), frame(level(NESTING_MAX)), island.now))

    assert len(read) == 1, "nor for this one, which is as deep as may be"
    island.do(island.edge.received(ConnId(1), frame(level(NESTING_MAX + 1)), island.now))
    assert "nested deeper" in island.closed[1][1]
    assert (len(read), len(beside)) == (2, 2)


def test_what_is_taken_while_it_is_found_out_counts() -> None:
    replica = Replica(PLAN)
    for clock in range(NESTING_MAX - 100):
        take(replica, level(clock))
    state = replica.begin_places()
    assert state is not None
    assert replica.begin_places() is None, "once"

    for clock in range(NESTING_MAX - 100, NESTING_MAX + 1):
        take(replica, level(clock))
    replica.end_places(places_of(state))

    assert not replica.wants_places
    with pytest.raises(InvalidUpdate, match="nested deeper"):
        take(replica, level(NESTING_MAX + 1))


def test_a_document_without_nested_types_pays_nothing_for_it() -> None:
    stored = built(StoredDocument(Ada(1).type("text " * 100), (), None, DotSet(), ()))

    assert stored.nesting is not None
    assert stored.nesting.places is None


def test_a_document_made_of_an_answer_comes_with_where_everything_stands_or_is_refused() -> None:
    deepest, deeper = (nested(NESTING_MAX + more) for more in (1, 2))

    found = look(_answer_of(deepest), True, Into())
    assert found is not None
    assert found.nesting is not None
    assert found.nesting.places is not None
    assert found.document is not None
    replica = Replica(PLAN)
    assert replica.adopt(found.document, deepest, found.shape, found.nesting)
    with pytest.raises(InvalidUpdate, match="nested deeper"):
        take(replica, level(0, client=5, within=NESTING_MAX))
    refused = look(_answer_of(deeper), True, Into())
    assert refused is not None
    assert refused.document is None, "pycrdt has not seen it"


def _answer_of(update: bytes) -> SyncAnswer:
    return SyncAnswer(PLAN, 1, update, b"\0", Version(7, 1), DotSet(), "")


def test_structs_that_wait_for_each_other_are_refused() -> None:
    """Each names the other's client: Yrs would keep both for ever, and no clock would move."""
    one = b"\1\1\0" + b"\7\0\2\0\0"
    two = b"\1\2\0" + b"\7\0\1\0\0"

    with pytest.raises(InvalidUpdate, match="wait for each other"):
        Places(b"\0\0").deepest(b"\2" + one + two + b"\0")


def test_a_type_that_is_no_array_is_counted_alike() -> None:
    doc: Doc[Any] = Doc()
    outer: Array[Any] = doc.get("a", type=Array)
    inner: Array[Any] = Array()
    outer.append(inner)
    inner.append(1)

    assert Places(doc.get_update()).deepest(doc.get_update()) == 1
