"""Deleted ranges, kept small."""

from __future__ import annotations

import tracemalloc

import pytest

from sync.deletions import Deletions
from sync.lib0 import write_var_uint
from sync.validate import check_update

MEGABYTE = 1_000_000


def deletes(*spans: tuple[int, int, int]) -> Deletions:
    made = Deletions()
    for span in spans:
        made.adder()(span)
    return made


def test_ranges_come_back_in_their_order_by_place_and_by_slice() -> None:
    spans = [(2**53 - 1, 0, 3), (1, 7, 9), (2, 2**31 - 2, 2**31 - 1)]
    made = deletes(*spans)

    assert list(made) == spans
    assert (len(made), made[1], made[-1], made[1:]) == (3, spans[1], spans[2], tuple(spans[1:]))
    with pytest.raises(IndexError):
        made[3]


def test_none_is_none() -> None:
    assert not deletes()
    assert list(deletes()) == []


def test_a_megabyte_of_deleted_ranges_takes_less_than_sixteen() -> None:
    spans = b"".join(write_var_uint(4 * at) + b"\x01" for at in range(260_000))
    update = b"\x00\x01\x01" + write_var_uint(260_000) + spans
    assert len(update) > MEGABYTE

    tracemalloc.start()
    try:
        shape = check_update(update)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(shape.deletes) == 260_000
    assert peak < 16 * 2**20
