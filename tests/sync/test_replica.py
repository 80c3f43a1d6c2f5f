"""One document's truth: the gate, the fold over the log, what versions pass and what they never pass."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest

from sync.change import Change, LogEntry, Logged, Snapshot, Unreadable
from sync.document import EMPTY_UPDATE, Document, merge
from sync.errors import DocumentBroken, LimitReached
from sync.folding import fold_log
from sync.ids import ConnId, Dot, DotSet, Origin, Version, parse_document_id
from sync.limits import EARLY_BYTES_MAX, EARLY_COUNT_MAX
from sync.replica import Replica, Taken, Verdict
from sync.validate import check_update
from tests.sync.histories import life

DOC = parse_document_id("notes/plan")
EPOCH = 7
ADA = Origin(1)


def _take(replica: Replica, update: bytes, now_ms: int = 0, conn: ConnId | None = None) -> Taken:
    return replica.take(update, check_update(update), now_ms, conn)


def _typed(count: int, client_id: int = 1) -> list[bytes]:
    """So many letters, one after the other; each needs the one before."""
    author = Document(client_id=client_id)
    return [author.edit_text("text", at, 0, chr(ord("a") + at % 26)) for at in range(count)]


def _text(replica: Replica) -> str:
    return replica.materialise().text("text")


def _logged(seq: int, update: bytes, *, dot: int | None = None, covers: DotSet | None = None) -> Logged:
    change = Change(DOC, Dot(ADA, dot if dot is not None else seq), update, covers=covers or DotSet())
    return Logged(change, Version(EPOCH, seq))


def _unreadable(seq: int) -> Unreadable:
    return Unreadable(DOC, Version(EPOCH, seq), "no change", {}, b"")


def _folded(*entries: LogEntry, snapshot: Snapshot | None = None) -> Replica:
    return fold_log(DOC, snapshot, entries, EPOCH, 0)


def _dots(*seqs: int) -> DotSet:
    dots = DotSet()
    for seq in seqs:
        dots.add(Dot(ADA, seq))
    return dots


def _at(seq: int) -> Version:
    return Version(EPOCH, seq)


# --- the gate ---------------------------------------------------------------------------------------------------------
def test_an_update_in_order_is_new_and_then_seen() -> None:
    (a, b) = _typed(2)
    replica = Replica(DOC)

    assert _take(replica, a) == Taken(Verdict.NEW, (a,))
    assert _take(replica, b) == Taken(Verdict.NEW, (b,))
    assert _take(replica, a) == Taken(Verdict.SEEN)
    assert _text(replica) == "ab"


def test_an_update_before_its_cause_is_early_and_names_what_is_missing() -> None:
    (_, b) = _typed(2)
    replica = Replica(DOC)

    assert _take(replica, b) == Taken(Verdict.EARLY)

    judgement = replica.judge(check_update(b))
    assert (judgement.verdict, judgement.missing) == (Verdict.EARLY, ((1, 1),))
    assert replica.early[0].missing == ((1, 1),)
    assert replica.clocks == {}
    assert _text(replica) == ""


def test_a_closed_gap_lets_the_early_ones_in_with_the_received_bytes() -> None:
    updates = _typed(4)
    replica = Replica(DOC)
    for at in (3, 1, 2):
        assert _take(replica, updates[at], now_ms=at, conn=ConnId(at)).verdict is Verdict.EARLY

    taken = _take(replica, updates[0])

    assert taken.verdict is Verdict.NEW
    assert taken.updates[0] == updates[0]
    assert sorted(taken.updates) == sorted(updates)
    assert {(early.conn, early.since_ms) for early in taken.released} == {(1, 1), (2, 2), (3, 3)}
    assert (replica.early, replica.early_bytes) == ([], 0)
    assert _text(replica) == "abcd"


def test_an_early_one_that_came_by_another_way_meanwhile_is_released_and_not_taken_twice() -> None:
    a, b = _typed(2)
    replica = Replica(DOC)
    _take(replica, b)

    taken = _take(replica, merge([a, b]))

    assert taken.updates == (merge([a, b]),)
    assert [early.update for early in taken.released] == [b]


def test_a_deletion_before_its_letter_is_early_and_after_it_new_then_seen() -> None:
    author = Document(client_id=1)
    letter = author.edit_text("text", 0, 0, "a")
    deletion = author.edit_text("text", 0, 1, "")
    replica = Replica(DOC)

    assert _take(replica, deletion).verdict is Verdict.EARLY
    assert _take(replica, letter).updates == (letter, deletion)
    assert _take(replica, deletion).verdict is Verdict.SEEN
    assert _text(replica) == ""


def test_a_deletion_that_goes_further_than_what_is_deleted_is_new() -> None:
    author = Document(client_id=1)
    letters = author.edit_text("text", 0, 0, "abcd")
    replica = Replica(DOC)
    _take(replica, letters)
    _take(replica, b"\0\1\1\1\0\2")  # clocks 0 and 1

    assert _take(replica, b"\0\1\1\1\1\1").verdict is Verdict.SEEN
    assert _take(replica, b"\0\1\1\1\1\2").verdict is Verdict.NEW
    assert _take(replica, b"\0\1\1\2\0\1\2\1").verdict is Verdict.SEEN
    assert _text(replica) == "d"


def test_an_update_that_refers_to_another_client_waits_for_it() -> None:
    ada = Document(client_id=1)
    first = ada.edit_text("text", 0, 0, "ac")
    ben = Document(first, client_id=2)
    between = ben.edit_text("text", 1, 0, "b")
    replica = Replica(DOC)

    assert _take(replica, between).verdict is Verdict.EARLY
    assert replica.early[0].missing == ((1, 2),)
    assert _take(replica, first).updates == (first, between)
    assert _text(replica) == "abc"


def test_an_update_over_a_hole_is_early() -> None:
    a, b, c = _typed(3)
    replica = Replica(DOC)

    assert _take(replica, merge([a, c])).verdict is Verdict.EARLY
    assert replica.clocks == {}
    assert _take(replica, merge([a, b])).verdict is Verdict.NEW
    assert _text(replica) == "abc"


def test_the_empty_update_is_seen() -> None:
    assert _take(Replica(DOC), EMPTY_UPDATE).verdict is Verdict.SEEN


def test_the_same_early_update_is_kept_once() -> None:
    (_, b) = _typed(2)
    replica = Replica(DOC)

    for _ in range(3):
        assert _take(replica, b).verdict is Verdict.EARLY

    assert (len(replica.early), replica.early_bytes) == (1, len(b))


def test_an_early_one_that_is_given_up_is_gone() -> None:
    a, b = _typed(2)
    replica = Replica(DOC)
    _take(replica, b)
    held = replica.early[0]

    replica.drop_early(held)
    replica.drop_early(held)

    assert (replica.early, replica.early_bytes) == ([], 0)
    assert _take(replica, a).updates == (a,)


def test_too_many_early_updates_reach_a_limit_and_leave_the_rest_as_it_was() -> None:
    updates = _typed(EARLY_COUNT_MAX + 2)
    replica = Replica(DOC)
    for update in updates[1:-1]:
        _take(replica, update)

    with pytest.raises(LimitReached, match="early_count: 1001 is over the limit of 1000"):
        _take(replica, updates[-1])

    assert len(replica.early) == EARLY_COUNT_MAX
    assert len(_take(replica, updates[0]).updates) == EARLY_COUNT_MAX + 1


def test_early_updates_that_are_too_large_together_reach_a_limit() -> None:
    author = Document(client_id=1)
    author.edit_text("text", 0, 0, "a")
    half = author.edit_text("text", 1, 0, "b" * (EARLY_BYTES_MAX // 2 + 1))
    more = author.edit_text("text", 2, 0, "c" * (EARLY_BYTES_MAX // 2 + 1))
    replica = Replica(DOC)
    _take(replica, half)

    with pytest.raises(LimitReached, match="early_bytes"):
        _take(replica, more)

    assert (len(replica.early), replica.early_bytes) == (1, len(half))


def test_any_order_with_repeats_ends_as_the_history_did() -> None:
    for seed in range(60):
        history = life(seed)
        rng = random.Random(seed)
        order = [*history.updates, *rng.choices(history.updates, k=10)]
        rng.shuffle(order)
        replica = Replica(DOC)

        out: list[bytes] = []
        for update in order:
            out += _take(replica, update).updates
            if rng.random() < 0.1:
                replica.materialise()

        assert replica.early == [], f"seed {seed}"
        assert replica.clocks == history.clocks
        assert replica.digest() == Document(history.state).digest(), f"seed {seed}"
        follower = Replica(DOC)  # what was handed out is in order for whoever takes it
        for update in out:
            assert _take(follower, update).verdict is not Verdict.EARLY
        assert follower.digest() == replica.digest()


# --- what is stored ---------------------------------------------------------------------------------------------------
def test_a_replica_from_what_is_stored_goes_on_where_it_was() -> None:
    a, b, c = _typed(3)
    replica = Replica(DOC, Document(a).state(), [b], _at(2), _dots(1, 2))

    assert (replica.version, replica.read, replica.clocks) == (_at(2), 2, {1: 2})
    assert _take(replica, c).verdict is Verdict.NEW
    assert _text(replica) == "abc"


def test_a_replica_from_bytes_that_are_no_state_is_broken() -> None:
    with pytest.raises(DocumentBroken):
        Replica(DOC, b"\xff")


def test_what_was_taken_is_applied_in_one_piece_when_somebody_looks() -> None:
    replica = Replica(DOC)
    for update in _typed(5):
        _take(replica, update)
    assert replica.unapplied_count == 5

    assert _text(replica) == "abcde"

    assert replica.unapplied_count == 0


def test_the_verified_state_loads_to_the_same_digest() -> None:
    history = life(11)
    replica = Replica(DOC)
    for update in history.updates:
        _take(replica, update)

    state = replica.verified_state()

    assert Document(state).digest() == replica.digest() == Document(history.state).digest()


def test_a_state_that_pycrdt_lost_something_of_is_not_verified() -> None:
    a, _, c = _typed(3)
    replica = Replica(DOC)
    _take(replica, a)
    replica._accept(c, check_update(c))  # what the gate would never do

    with pytest.raises(DocumentBroken, match="other clocks than were taken"):
        replica.verified_state()


# --- the fold over the log --------------------------------------------------------------------------------------------
def test_a_log_in_order_is_folded_to_its_end() -> None:
    updates = _typed(3)

    replica = _folded(*(_logged(seq, update) for seq, update in enumerate(updates, 4)))

    assert (replica.version, replica.read, replica.gap) == (_at(6), 6, False)
    assert replica.dots == _dots(4, 5, 6)
    assert _text(replica) == "abc"


def test_an_empty_log_is_a_document_at_version_zero_of_its_epoch() -> None:
    replica = _folded()

    assert (replica.version, _text(replica)) == (_at(0), "")


def test_a_version_passes_what_was_refused() -> None:
    a, b = _typed(2)

    replica = _folded(_logged(1, a), _unreadable(2), _logged(3, b"\xff"), _logged(4, b))

    assert (replica.version, _text(replica)) == (_at(4), "ab")
    assert replica.dots == _dots(1, 4)


def test_a_version_passes_a_repeat_by_its_dot() -> None:
    a, b = _typed(2)

    replica = _folded(_logged(1, a, dot=1), _logged(2, b, dot=2), _logged(3, a, dot=1))

    assert (replica.version, replica.dots) == (_at(3), _dots(1, 2))


def test_a_version_never_passes_a_change_that_is_set_aside() -> None:
    a, b, c, d = _typed(4)
    other = Document(client_id=2).edit_text("other", 0, 0, "x")

    replica = _folded(_logged(1, a), _logged(2, c, dot=12), _logged(3, other), _logged(4, d, dot=14), _unreadable(5))

    assert (replica.version, replica.read, replica.gap) == (_at(1), 5, True)
    assert replica.dots == _dots(1, 3)  # those set aside are confirmed when their content is in
    taken = replica.take_logged(_at(6), (Dot(ADA, 6),), DotSet(), b, check_update(b), 0)
    assert set(taken.updates) == {b, c, d}
    assert (replica.version, replica.gap) == (_at(6), False)
    assert replica.dots == _dots(1, 3, 6, 12, 14)
    assert _text(replica) == "abcd"


def test_a_version_comes_as_far_as_the_first_that_is_still_set_aside() -> None:
    ada, ben = _typed(3, client_id=1), _typed(3, client_id=2)
    entries = [_logged(1, ada[1]), _logged(2, EMPTY_UPDATE), _logged(3, ben[1]), _logged(4, EMPTY_UPDATE)]

    assert _folded(*entries).version == _at(0)
    assert _folded(*entries, _logged(5, ada[0])).version == _at(2)
    assert _folded(*entries, _logged(5, ben[0])).version == _at(0)
    assert _folded(*entries, _logged(5, ben[0]), _logged(6, ada[0])).version == _at(6)


def test_a_repair_that_covers_the_missing_confirms_their_dots() -> None:
    a, b, c = _typed(3)

    replica = _folded(_logged(1, c, dot=3), _logged(2, merge([a, b]), dot=9, covers=_dots(1, 2)))

    assert (replica.version, replica.dots) == (_at(2), _dots(1, 2, 3, 9))
    assert _text(replica) == "abc"


def test_a_document_shipped_again_under_a_known_dot_is_read_for_what_it_covers() -> None:
    a, b = _typed(2)

    replica = _folded(_logged(1, a, dot=5), _logged(2, merge([a, b]), dot=5, covers=_dots(1, 2)))

    assert (replica.dots, _text(replica)) == (_dots(1, 2, 5), "ab")


def test_a_change_over_the_limit_of_early_ones_is_passed_and_the_rest_is_held() -> None:
    updates = _typed(EARLY_COUNT_MAX + 2)
    entries = [_logged(seq, update) for seq, update in enumerate(updates[1:], 1)]

    replica = _folded(*entries)

    assert len(replica.early) == EARLY_COUNT_MAX
    assert (replica.version, replica.read) == (_at(0), EARLY_COUNT_MAX + 1)


def test_a_fold_from_a_snapshot_equals_the_fold_of_everything() -> None:
    for seed in range(30):
        history = life(seed)
        entries = [_logged(seq, update) for seq, update in enumerate(history.updates, 1)]
        half = _folded(*entries[: len(entries) // 2])
        assert half.version is not None
        snapshot = Snapshot(DOC, half.version, half.verified_state(), half.dots.copy(), half.digest())

        whole, rest = _folded(*entries), _folded(*entries, snapshot=snapshot)

        assert (rest.version, rest.dots, rest.digest()) == (whole.version, whole.dots, whole.digest()), f"seed {seed}"


def test_folding_does_not_change_the_snapshot() -> None:
    a, b = _typed(2)
    snapshot = Snapshot(DOC, _at(1), Document(a).state(), _dots(1), "")

    _folded(_logged(1, a), _logged(2, b), snapshot=snapshot)

    assert snapshot.dots == _dots(1)


def test_a_snapshot_of_another_epoch_is_not_used() -> None:
    a, b = _typed(2)
    snapshot = Snapshot(DOC, Version(EPOCH - 1, 50), Document(merge([a, b])).state(), _dots(1, 2), "")

    replica = _folded(_logged(1, a), snapshot=snapshot)

    assert (replica.version, _text(replica)) == (_at(1), "a")


def _held_back(entries: Sequence[LogEntry], replica: Replica) -> int:
    """The version by definition: the newest place with nothing set aside at or before it."""
    held = {early.seq for early in replica.early}
    places = [0, *(entry.version.seq for entry in entries)]
    return max(place for place in places if not any(seq is not None and seq <= place for seq in held))


def test_versions_hold_in_any_order_of_the_log() -> None:
    for seed in range(40):
        history = life(seed)
        rng = random.Random(seed)
        order = [*history.updates, *rng.choices(history.updates, k=5)]
        rng.shuffle(order)
        entries: list[LogEntry] = []
        replica = Replica(DOC, version=_at(0))
        seq = 0
        for update in order:
            seq += rng.choice((1, 1, 3))  # a log holds other documents' changes too
            if rng.random() < 0.1:
                entries.append(_unreadable(seq))
                replica.pass_over(_at(seq))
            else:
                entries.append(_logged(seq, update))
                replica.take_logged(_at(seq), (Dot(ADA, seq),), DotSet(), update, check_update(update), 0)
            assert replica.version == _at(_held_back(entries, replica)), f"seed {seed} at {seq}"
            assert replica.gap == bool(replica.early)
        again = _folded(*entries)
        assert (again.version, again.digest()) == (replica.version, replica.digest()), f"seed {seed}"


def test_a_gap_closed_by_a_client_is_no_gap_and_the_version_follows_with_the_next_change() -> None:
    a, b, c = _typed(3)
    replica = _folded(_logged(1, b))
    assert replica.gap

    _take(replica, a)

    assert not replica.gap
    assert replica.dots == _dots(1)
    replica.take_logged(_at(2), (Dot(ADA, 2),), DotSet(), c, check_update(c), 0)
    assert (replica.version, _text(replica)) == (_at(2), "abc")


# --- what the leader says ---------------------------------------------------------------------------------------------
def _merged(replica: Replica, prev: int, version: int, updates: Iterable[bytes]) -> tuple[Verdict, bool]:
    update = merge(list(updates))
    taken, gap = replica.take_merged(_at(prev), _at(version), update, check_update(update), 0)
    return taken.verdict, gap


def test_broadcasts_in_order_move_the_version() -> None:
    a, b, c = _typed(3)
    replica = Replica(DOC)

    assert _merged(replica, 0, 4, [a]) == (Verdict.NEW, False)
    assert _merged(replica, 4, 6, [b, c]) == (Verdict.NEW, False)
    assert (replica.version, _text(replica)) == (_at(6), "abc")


def test_a_lost_broadcast_shows_and_the_version_stays() -> None:
    a, b = _typed(2)
    other = Document(client_id=2).edit_text("other", 0, 0, "x")
    replica = Replica(DOC)
    _merged(replica, 0, 4, [a])

    assert _merged(replica, 5, 6, [other]) == (Verdict.NEW, True)  # right to take, and yet something is missing
    assert replica.version == _at(4)
    assert _merged(replica, 4, 5, [b]) == (Verdict.NEW, False)
    assert replica.version == _at(5)


def test_a_broadcast_that_is_early_is_set_aside_and_shows_a_gap() -> None:
    a, b = _typed(2)
    replica = Replica(DOC)

    assert _merged(replica, 0, 4, [b]) == (Verdict.EARLY, True)
    assert replica.version is None
    assert _take(replica, a).updates == (a, b)


def test_an_old_broadcast_shows_no_gap_and_does_not_move_back() -> None:
    a, b = _typed(2)
    replica = Replica(DOC)
    _merged(replica, 0, 4, [a])
    _merged(replica, 4, 6, [b])

    assert _merged(replica, 0, 4, [a]) == (Verdict.SEEN, False)
    assert replica.version == _at(6)


def test_a_broadcast_that_overlaps_is_taken() -> None:
    a, b, c = _typed(3)
    replica = Replica(DOC)
    _merged(replica, 0, 4, [a, b])

    assert _merged(replica, 2, 6, [b, c]) == (Verdict.NEW, False)
    assert (replica.version, _text(replica)) == (_at(6), "abc")


def test_a_broadcast_of_another_epoch_shows_a_gap() -> None:
    a, b = _typed(2)
    replica = Replica(DOC)
    _merged(replica, 0, 4, [a])

    taken, gap = replica.take_merged(Version(EPOCH + 1, 4), Version(EPOCH + 1, 5), b, check_update(b), 0)

    assert (taken.verdict, gap, replica.version) == (Verdict.NEW, True, _at(4))


def test_a_broadcast_without_bytes_moves_the_version() -> None:
    (a,) = _typed(1)
    replica = Replica(DOC)
    _merged(replica, 0, 4, [a])

    taken, gap = replica.take_merged(_at(4), _at(9), b"", check_update(EMPTY_UPDATE), 0)

    assert (taken, gap, replica.version) == (Taken(Verdict.SEEN), False, _at(9))


def test_a_reader_that_starts_in_the_middle_sees_a_gap() -> None:
    a, _ = _typed(2)
    replica = Replica(DOC)

    assert _merged(replica, 3, 4, [a]) == (Verdict.NEW, True)
    assert replica.version is None


def test_what_is_missing_is_named_once_a_client_however_many_ranges_are_deleted() -> None:
    """A megabyte of deleted ranges named each of them as missing: 38 MiB (found by fuzzing)."""
    update = b"\x00\x01\x07\x05" + bytes(each for at in range(5) for each in (4 * at, 2))

    judgement = Replica(DOC).judge(check_update(update))

    assert judgement.verdict is Verdict.EARLY
    assert judgement.missing == ((7, 18),)
