"""A long text is cut in two, and copied, by what is deleted in it or put into it: bounded, whichever way it comes."""

from __future__ import annotations

import random
import time
from bisect import insort
from collections.abc import Callable
from typing import Any

import pytest

from server.large import in_pieces
from sync import limits, wire
from sync.answered import look
from sync.change import Change, Context, Logged, Merged, Snapshot, SyncAnswer
from sync.document import Document, merge
from sync.elsewhere import Folding, Loading, light_shapes
from sync.hosted import built
from sync.ids import ConnId, Dot, DotSet, Origin, Version
from sync.lib0 import write_var_uint
from sync.loading import document_of
from sync.ports import StoredDocument
from sync.replica import Replica
from sync.slices import cut
from sync.splits import Into, at_once_bytes
from sync.step import Look
from sync.structs import NOBODY, read_structs
from sync.validate import check_update
from tests.sync.stage import EPOCH, PLAN, Island, frame
from tests.sync.test_slices import every_second, letters

LENGTH = 10_000_000
LARGE = Into(LENGTH, {1: LENGTH})
STEP = LENGTH // 300


def text(length: int = LENGTH) -> bytes:
    return b"\1\1\1\0\4\1\1r" + write_var_uint(length) + b"x" * length + b"\0"


def deleting(*clocks: int) -> bytes:
    """One letter at each of these clocks of the text."""
    return b"\0\1\1" + write_var_uint(len(clocks)) + b"".join(write_var_uint(clock) + b"\1" for clock in clocks)


def inserting(*clocks: int) -> bytes:
    """A letter of another client's before each of these."""
    places = (b"\xc4\1" + write_var_uint(clock - 1) + b"\1" + write_var_uint(clock) + b"\1y" for clock in clocks)
    return b"\1" + write_var_uint(len(clocks)) + b"\2\0" + b"".join(places) + b"\0"


SPREAD = [at * STEP + 5 for at in range(250)]
UPDATES = {
    "ranges from end to end": deleting(*SPREAD),
    "ranges at its beginning": deleting(*range(5, 505, 2)),
    "ranges at its end": deleting(*range(LENGTH - 505, LENGTH - 5, 2)),
    "ranges backwards": deleting(*reversed(SPREAD)),
    "letters from end to end": inserting(*SPREAD),
    "letters backwards": inserting(*reversed(SPREAD)),
}


class Copied:
    """What Yrs copies of the text where it is cut: a count, not a measurement."""

    def __init__(self) -> None:
        self.points = [0, LENGTH]
        self.calls: list[int] = []

    def takes(self, update: bytes) -> None:
        self.calls.append(0)
        structs, _ = read_structs(update)
        for client, own in structs.items():
            for at in range(len(own)) if client != 1 else ():
                if own.left[at] == 1:
                    self._cut(own.left_at[at] + 1)
                if own.right[at] != NOBODY and own.right[at] == 1:
                    self._cut(own.right_at[at])
        for client, first, following in check_update(update).deletes:
            if client == 1:
                self._cut(first)
                self._cut(following)

    def _cut(self, clock: int) -> None:
        if clock in self.points:
            return
        insort(self.points, clock)
        at = self.points.index(clock)
        self.calls[-1] += self.points[at + 1] - self.points[at - 1]

    def bounded(self) -> bool:
        return max(self.calls) <= limits.SPLIT_BYTES + LENGTH  # what one range copies is not divided


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> Copied:
    """Of every update that pycrdt is given, in one call each."""
    found = Copied()
    apply = Document.apply_mended

    def counted(document: Document, *updates: bytes) -> None:
        if sum(map(len, updates)) < LENGTH:
            found.takes(merge(updates))
        apply(document, *updates)

    monkeypatch.setattr(Document, "apply_mended", counted)
    return found


@pytest.mark.parametrize("update", UPDATES.values(), ids=UPDATES.keys())
def test_no_piece_copies_more_than_its_share_of_a_long_text(update: bytes) -> None:
    copied = Copied()

    for piece in cut(update, {}, LARGE):
        copied.takes(piece)

    assert copied.bounded()


def test_ranges_that_ascend_are_taken_from_the_middle_outwards() -> None:
    ascending, halving = Copied(), Copied()

    ascending.takes(deleting(*SPREAD))
    for piece in cut(deleting(*SPREAD), {}, LARGE):
        halving.takes(piece)

    assert sum(halving.calls) < 12 * LENGTH
    assert sum(ascending.calls) > 100 * LENGTH


def test_a_hundred_thousand_ranges_of_a_long_text_are_seconds_and_not_minutes() -> None:
    """One after the other they copy two megabytes each time: 100 GB."""
    update = deleting(*range(0, 100_000, 2))
    document = Document(text(4_000_000))

    began = time.thread_time()
    for piece in cut(update, {}, Into(4_000_000, {1: 4_000_000})):
        document.apply(piece)

    assert time.thread_time() - began < 1.5
    assert document.text("r") == "x" * 3_950_000


def test_a_small_document_is_cut_as_ever() -> None:
    ranges = deleting(*range(0, 4 * limits.SLICE_RANGES, 2))

    pieces = cut(ranges, {}, Into(limits.SPLIT_DOCUMENT_BYTES - len(ranges), {1: 300_000}))

    assert [check_update(piece).deletes[0][1] for piece in pieces] == [0, 2 * limits.SLICE_RANGES]


def test_who_types_on_in_a_long_text_is_not_cut() -> None:
    typed = b"".join(b"\x84\2" + write_var_uint(at) + b"\1y" for at in range(900))
    update = b"\1" + write_var_uint(901) + b"\2\0" + b"\x84\1" + write_var_uint(LENGTH // 2) + b"\1y" + typed + b"\0"

    assert cut(update, {}, LARGE) == [update]


# --- whichever way it comes -------------------------------------------------------------------------------------------
SHORT = deleting(*SPREAD[::2])
"""Short enough to be taken at once, in a document of another size."""
BASE = Version(EPOCH, 1)


def island() -> Island:
    """An edge that has the text, with a client and a link."""
    made = Island("a", 1)
    made.by_turns = True
    made.link()
    made.edge.opened(ConnId(1), PLAN, 0)
    made.do(made.edge.loaded(PLAN, built(StoredDocument(text(), (), BASE, DotSet(), ())), 0))
    made.do(made.edge.received(ConnId(1), wire.encode(wire.SyncStep1(b"\0")), 0))
    return made


def replica_of(island: Island) -> Replica:
    replica = island.edge.hosted[PLAN].replica
    assert replica is not None
    return replica


def logged(seq: int, update: bytes) -> Logged:
    return Logged(Change(PLAN, Dot(Origin(5), seq), update, Context("a")), Version(EPOCH, seq))


def test_a_document_that_was_written_over_and_over_counts_as_long_as_it_is() -> None:
    replica, ada = Replica(PLAN), Document(client_id=1)
    for _ in range(40):
        for change in ((0, 0, "x" * 10_000), (0, 10_000, "")):
            replica.take(update := ada.edit_text("t", *change), check_update(update), 0)
    replica.materialise()
    assert replica.held_bytes > limits.SPLIT_DOCUMENT_BYTES

    replica.verified_state()  # as compacting asks for it

    assert replica.held_bytes < 1_000


def test_short_is_short() -> None:
    assert at_once_bytes(0) == limits.LARGE_FRAME_BYTES
    assert at_once_bytes(LENGTH) < len(SHORT) < limits.LARGE_FRAME_BYTES


def test_a_client_s_frame(copied: Copied) -> None:
    edge = island()

    frames = in_pieces(frame(SHORT), replica_of(edge).into())
    for each in frames:
        edge.do(edge.edge.received(ConnId(1), each, 0))
        edge.commit()

    assert len(frames) > 1
    assert copied.bounded()
    assert replica_of(edge).materialise().text("r") == "x" * (LENGTH - 125)


def test_what_came_at_once_is_applied_in_pieces(copied: Copied) -> None:
    edge = island()

    edge.do(edge.edge.received(ConnId(1), frame(SHORT), 0))
    edge.commit()
    replica_of(edge).materialise()

    assert copied.bounded()


def test_a_broadcast_is_taken_a_piece_a_turn(copied: Copied) -> None:
    edge = island()

    edge.do(edge.edge.merged(Merged(PLAN, BASE, Version(EPOCH, 2), SHORT, DotSet({Origin(2): ((1, 1),)})), 0))
    assert [type(each) for each in edge.waiting] == [Look]
    most = 0
    while edge.waiting:
        before = sum(copied.calls)
        edge.turn()
        most = max(most, sum(copied.calls) - before)

    assert most <= limits.SPLIT_BYTES + LENGTH
    assert replica_of(edge).version == Version(EPOCH, 2)


def test_a_leader_s_answer() -> None:
    edge, copied = island(), Copied()
    answer = SyncAnswer(PLAN, 1, SHORT, b"\0", Version(EPOCH, 2), DotSet(), "")

    looked = look(answer, False, edge.edge.into(PLAN))
    assert looked is not None
    for piece, _ in looked.pieces:
        copied.takes(piece)

    assert copied.bounded()


def test_a_leader_lends_it_and_folds_it_in_pieces(copied: Copied) -> None:
    snapshot = Snapshot(PLAN, BASE, text(), DotSet(), "")
    loaded = Loading(PLAN, snapshot, (), frozenset(), EPOCH, 0).run().replica
    assert loaded is not None
    change = logged(2, SHORT)
    assert light_shapes([change], loaded) is None
    assert light_shapes([change], Replica(PLAN)) is not None

    Folding(PLAN, loaded, [change], frozenset(), 0).run()

    assert copied.bounded()


def test_a_leader_s_load(copied: Copied) -> None:
    snapshot = Snapshot(PLAN, BASE, text(), DotSet(), "")
    changes = [logged(2 + at, deleting(clock)) for at, clock in enumerate(SPREAD)]

    found = Loading(PLAN, snapshot, changes, frozenset(), EPOCH, 0).run()

    assert found.replica is not None
    assert copied.bounded()


def test_stored_rows(copied: Copied) -> None:
    rows = [deleting(clock) for clock in SPREAD]

    document = document_of(text(), rows)

    assert copied.bounded()
    assert document.text("r") == "x" * (LENGTH - 250)


def test_a_stored_state_of_a_text_that_others_have_written_into(copied: Copied) -> None:
    """Its own letters come first, and are joined: then each of the others' cuts them again."""
    written = Document(text())
    for piece in cut(inserting(*SPREAD), {}, LARGE):
        written.apply(piece)
    copied.calls, copied.points = [], [0, LENGTH]
    state = written.state()

    loaded = document_of(state, ())

    assert copied.bounded()
    assert loaded.digest() == written.digest()


@pytest.mark.parametrize("seed", range(3))
def test_small_pieces_of_a_stored_state_are_taken_together_as_far_as_they_copy_little(
    copied: Copied, seed: int
) -> None:
    """A letter each of 500 people, at five places: pycrdt takes those of one call in an order of its own."""
    clients = random.Random(seed).sample(range(2, 502), 500)
    places = [place * LENGTH // 6 + 2 * at for place in range(1, 6) for at in range(100)]
    written = Document(text())
    for client, clock in zip(clients, places, strict=True):
        one = b"\xc4\1" + write_var_uint(clock - 1) + b"\1" + write_var_uint(clock) + b"\1y"
        written.apply(b"\1\1" + write_var_uint(client) + b"\0" + one + b"\0")
    state = written.state()
    pieces = cut(state, {})
    copied.calls, copied.points = [], [0, LENGTH]

    loaded = document_of(state, ())

    assert copied.bounded()
    assert len(copied.calls) < len(pieces) // 4
    assert loaded.digest() == written.digest()


def test_what_a_stored_state_was_cut_into_is_not_put_together_to_more_than_a_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = every_second(2_500, 3)  # nothing is cut for these
    state = merge([text(limits.WHOLE_BYTES), letters(5_000, 2), every_second(2_500, 2), unknown])
    taken: list[bytes] = []
    apply = Document.apply_mended

    def noted(document: Document, *updates: bytes) -> None:
        taken.append(merge(updates))
        apply(document, *updates)

    monkeypatch.setattr(Document, "apply_mended", noted)

    loaded = document_of(state, ())

    assert max(len(check_update(update).deletes) for update in taken) <= limits.SLICE_RANGES
    assert max(sum(map(len, read_structs(update)[0].values())) for update in taken) <= limits.SLICE_STRUCTS
    assert loaded.digest() == Document(state).digest()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes Python has read, struct by struct, each time: 0.1 to 0.2 s a megabyte of small ones."""
    sizes: list[int] = []

    def of(walk: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def counted(update: bytes) -> Any:
            sizes.append(len(update))
            return walk(update)

        return counted

    for place in ("sync.slices.read_structs", "sync.loading.read_structs"):
        monkeypatch.setattr(place, of(read_structs))
    monkeypatch.setattr("sync.slices.check_update", of(check_update))
    return sizes


def test_a_stored_state_is_read_once(read: list[int]) -> None:
    """And is not put together from its pieces and cut again."""
    written = Document(text())
    for piece in cut(inserting(*SPREAD), {}, LARGE):
        written.apply(piece)
    state = written.state()
    read.clear()

    document_of(state, ())

    assert read == [len(state)]


def test_stored_rows_are_read_once(read: list[int]) -> None:
    """Whether a row stands for itself, and where it is cut."""
    rows = [letters(5_000, client) for client in range(2, 12)]

    document_of(Document(text(400_000)).state(), rows)

    assert read == [*map(len, rows)]
