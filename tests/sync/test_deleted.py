"""What is deleted in a document is read where somebody asks, and says the same as all of it read at once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from sync import deleted
from sync.deleted import Deleted
from sync.deletions import Span
from sync.digest import decode_snapshot_bytes, read_ranges
from sync.document import Document
from sync.ids import parse_document_id
from sync.lib0 import write_var_uint
from sync.loading import document_of
from sync.replica import Replica, Verdict
from sync.validate import check_update
from tests.sync.histories import life

PLAN = parse_document_id("notes/plan")
RANGES = 100_000


def text(length: int) -> bytes:
    return b"\1\1\1\0\4\1\1r" + write_var_uint(length) + b"x" * length + b"\0"


def deleting(clocks: Sequence[int]) -> bytes:
    spans = b"".join(write_var_uint(clock) + b"\1" for clock in clocks)
    return b"\0\1\1" + write_var_uint(len(clocks)) + spans


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ranges were read, each time."""
    counts: list[int] = []

    def counted(encoded: bytes, at: int, count: int) -> tuple[list[tuple[int, int]], int, bool]:
        counts.append(count)
        return read_ranges(encoded, at, count)

    monkeypatch.setattr(deleted, "read_ranges", counted)
    return counts


def every_second_letter_deleted() -> Replica:
    written = document_of(None, [text(2 * RANGES), deleting(range(0, 2 * RANGES, 2))])
    return Replica(PLAN, document=document_of(written.state(), ()))


def test_nothing_is_read_before_somebody_asks_and_then_what_is_near(read: list[int]) -> None:
    replica = every_second_letter_deleted()

    replica.know_deletions()
    assert not read

    assert replica.judge(check_update(deleting(range(1_000, 1_500, 2)))).verdict is Verdict.SEEN
    assert sum(read) < 1_000
    read.clear()
    assert replica.judge(check_update(deleting(range(0, 2 * RANGES, 2 * RANGES // 250)))).verdict is Verdict.SEEN
    assert sum(read) < RANGES


def test_what_is_deleted_since_counts_and_what_is_not_does_not() -> None:
    replica = every_second_letter_deleted()
    replica.know_deletions()
    more = deleting(range(101, 103))

    shape = check_update(more)
    assert replica.take(more, shape, 0).verdict is Verdict.NEW

    assert replica.judge(shape).verdict is Verdict.SEEN
    assert replica.judge(check_update(b"\0\1\1\1" + write_var_uint(100) + b"\4")).verdict is Verdict.NEW, "103 is there"
    assert replica.judge(check_update(b"\0\1\1\1" + write_var_uint(100) + b"\3")).verdict is Verdict.SEEN


def asked(spans: dict[int, list[tuple[int, int]]], dice: random.Random) -> list[Span]:
    """Ranges of what is deleted, some of them beside it."""
    asked: list[Span] = []
    for client in (*spans, 7):
        for first, following in spans.get(client, [(1, 2)]):
            begin = dice.randint(first, following - 1)
            asked.append((client, begin, dice.randint(begin + 1, following + (dice.random() < 0.2))))
    return asked


@pytest.mark.parametrize("seed", range(40))
def test_it_says_what_all_of_it_read_at_once_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(deleted, "_STRIDE_BYTES", dice.choice((4, 5, 16, 512)))
    monkeypatch.setattr(deleted, "_FEW", dice.choice((0, 3, 64)))
    length = dice.choice((40, 400, 40_000, 3_000_000))
    document = Document()
    document.apply(text(length))
    said = Deleted(document.snapshot())
    for at in range(3):
        clocks = sorted(dice.sample(range(length), min(length, 120)))
        update = deleting(clocks)
        document.apply(update)
        if at == 1:
            said = Deleted(document.snapshot())
        else:
            for span in check_update(update).deletes:
                said.add(*span)
    _, spans = decode_snapshot_bytes(document.snapshot())

    for span in asked(spans, dice):
        client, first, following = span
        assert said.holds([span]) == any(a <= first and following <= b for a, b in spans.get(client, ())), span
    assert said.holds((client, a, b) for client in spans for a, b in spans[client])
    assert said.holds((client, a, b) for client in spans for a, b in reversed(spans[client]))


def test_pycrdt_writes_a_client_s_ranges_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2."""
    monkeypatch.setattr(deleted, "_STRIDE_BYTES", 4)
    monkeypatch.setattr(deleted, "_FEW", 0)
    for seed in range(30):
        document = Document()
        for update in life(seed).updates:
            document.apply(update)
        encoded = document.snapshot()
        _, spans = decode_snapshot_bytes(encoded)
        assert Deleted(encoded).holds((client, a, b) for client in spans for a, b in spans[client])
