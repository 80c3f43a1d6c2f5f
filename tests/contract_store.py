"""The contract of `sync.ports.Store`: every implementation passes it.

A test module subclasses `StoreContract` and gives it the fixture `disk`: a `Disk`, whose `open` opens the same store
again after `close`.
"""

from __future__ import annotations

from typing import Protocol

import pytest

from sync.change import Change, Context
from sync.ids import DocId, Dot, DotSet, Origin, Version
from sync.ports import OutboxRow, OutboxTotals, Store, StoredDocument
from sync.step import AppendUpdate, Compact, DropOutbox, MarkShipped, SetVersion

__all__ = ["ADA", "BEN", "Disk", "StoreContract", "dots_of", "pages_of"]

ADA = Origin(2**53 - 1)  # the largest origin
BEN = Origin(0)
PLAN = DocId("notes/plan")
OTHER = DocId("notes/other")
EPOCH = 1_790_000_000_123_456_789  # nanoseconds
ALL = 2**31
CONTEXT = Context(edge="köln", actor="ada", causation="1f.3", correlation="klick-7", time_ms=1_790_000_000_123)


class Disk(Protocol):
    def open(self) -> Store:
        """The store as it was left, after it was closed; a new one at first."""
        ...


def dots_of(*ranges: tuple[Origin, int, int]) -> DotSet:
    dots = DotSet()
    for origin, first, last in ranges:
        dots.add_range(origin, first, last)
    return dots


def edit(seq: int, update: bytes, doc: DocId = PLAN, origin: Origin = ADA, time_ms: int = 0) -> AppendUpdate:
    return AppendUpdate(doc, update, Dot(origin, seq), Context(time_ms=time_ms))


def loaded(store: Store, doc: DocId = PLAN) -> StoredDocument:
    document = store.load(doc)
    assert document is not None
    return document


def updates_in_outbox(store: Store) -> list[bytes]:
    return [row.change.update for row in store.outbox(0, ALL, ALL)]


def pages_of(store: Store, count_max: int, bytes_max: int) -> list[list[OutboxRow]]:
    """The whole outbox, read as a shipper reads it."""
    pages: list[list[OutboxRow]] = []
    after = 0
    while page := store.outbox(after, count_max, bytes_max):
        for row in page:
            assert row.row > after  # or it would be read for ever
            after = row.row
        pages.append(page)
    return pages


class StoreContract:
    """Subclass it and give it a fixture `disk`."""

    @pytest.fixture
    def store(self, disk: Disk) -> Store:
        return disk.open()

    # --- documents ----------------------------------------------------------------------------------------------------
    def test_a_document_that_was_never_written_is_none(self, store: Store) -> None:
        store.commit([AppendUpdate(OTHER, b"x")])

        assert store.load(PLAN) is None

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert list(store.documents()) == []
        assert store.outbox(0, ALL, ALL) == []
        assert store.outbox_totals() == OutboxTotals(0, 0, None)
        assert store.get_meta("edge") is None

    def test_updates_come_back_as_they_went_in_oldest_first(self, store: Store) -> None:
        store.commit([AppendUpdate(PLAN, b"\x00\xff"), AppendUpdate(OTHER, b"other"), edit(1, b"")])
        store.commit([AppendUpdate(PLAN, b"third")])

        assert loaded(store).updates == (b"\x00\xff", b"", b"third")
        assert loaded(store, OTHER).updates == (b"other",)

    def test_documents_are_sorted_by_code_points_and_may_be_any_script(self, store: Store) -> None:
        names = [DocId(name) for name in ("z", "a/b", "日本語/計画", "é", "🏝", "a", "Z", "￿", "a'b\"c%_", "x" * 256)]

        store.commit([AppendUpdate(name, name.encode()) for name in names])

        assert list(store.documents()) == sorted(names)
        for name in names:
            assert loaded(store, name).updates == (name.encode(),)

    @pytest.mark.parametrize(
        "write",
        [
            AppendUpdate(PLAN, b"", folded=True),
            SetVersion(PLAN, None, DotSet()),
            MarkShipped(PLAN, ((Dot(ADA, 1), Version(EPOCH, 1)),)),
            DropOutbox(PLAN, (Dot(ADA, 1),)),
        ],
        ids=lambda write: type(write).__name__,
    )
    def test_any_write_makes_the_document(self, store: Store, write: AppendUpdate | SetVersion) -> None:
        store.commit([write])

        assert loaded(store) == StoredDocument(None, (), None, DotSet(), ())
        assert list(store.documents()) == [PLAN]
        assert store.outbox_totals() == OutboxTotals(0, 0, None)

    def test_a_document_can_begin_with_its_compacted_state(self, store: Store) -> None:
        store.commit([Compact(PLAN, b"state")])

        assert loaded(store) == StoredDocument(b"state", (), None, DotSet(), ())

    def test_versions_and_dots_come_back(self, store: Store, disk: Disk) -> None:
        dots = dots_of((ADA, 1, 7), (ADA, 9, 2**53 - 1), (BEN, 3, 3))

        store.commit([SetVersion(PLAN, Version(2**63 - 1, 2**63 - 1), dots), SetVersion(OTHER, None, dots)])
        store.close()
        store = disk.open()

        assert (loaded(store).version, loaded(store).dots) == (Version(2**63 - 1, 2**63 - 1), dots)
        assert (loaded(store, OTHER).version, loaded(store, OTHER).dots) == (None, dots)

    def test_the_newest_version_counts_also_none(self, store: Store) -> None:
        store.commit([SetVersion(PLAN, Version(EPOCH, 9), dots_of((ADA, 1, 9)))])
        store.commit([SetVersion(PLAN, Version(EPOCH, 10), DotSet()), SetVersion(PLAN, None, dots_of((BEN, 1, 1)))])

        assert (loaded(store).version, loaded(store).dots) == (None, dots_of((BEN, 1, 1)))

    def test_dots_that_were_handed_in_or_out_are_not_shared(self, store: Store) -> None:
        dots = dots_of((ADA, 1, 1))

        store.commit([SetVersion(PLAN, None, dots), AppendUpdate(PLAN, b"", Dot(ADA, 2), covers=dots)])
        dots.add(Dot(ADA, 2))
        loaded(store).dots.add(Dot(ADA, 3))

        assert loaded(store).dots == dots_of((ADA, 1, 1))
        assert store.outbox(0, ALL, ALL)[0].change.covers == dots_of((ADA, 1, 1))

    def test_five_megabytes_are_an_update_like_any_other(self, store: Store, disk: Disk) -> None:
        update = bytes(range(256)) * 20_000

        store.commit([edit(1, update), AppendUpdate(PLAN, b"small")])
        store.close()
        store = disk.open()

        assert loaded(store).updates == (update, b"small")
        assert updates_in_outbox(store) == [update]
        assert store.outbox_totals().bytes == 5_120_000

    # --- atomicity and durability -------------------------------------------------------------------------------------
    def test_a_commit_of_nothing_changes_nothing(self, store: Store) -> None:
        store.commit([])

        assert list(store.documents()) == []

    def test_a_dot_that_is_in_the_outbox_already_fails_the_whole_commit(self, store: Store) -> None:
        store.commit([edit(1, b"first", time_ms=5), SetVersion(PLAN, Version(EPOCH, 1), DotSet())])
        before, rows, totals = loaded(store), store.outbox(0, ALL, ALL), store.outbox_totals()

        with pytest.raises(AssertionError, match="outbox already"):
            store.commit(
                [
                    edit(2, b"second"),
                    AppendUpdate(OTHER, b"new"),
                    SetVersion(PLAN, Version(EPOCH, 2), dots_of((ADA, 1, 1))),
                    Compact(PLAN, b"state"),
                    DropOutbox(OTHER, (Dot(ADA, 1),)),
                    edit(1, b"again"),
                ]
            )

        assert loaded(store) == before
        assert store.load(OTHER) is None
        assert (store.outbox(0, ALL, ALL), store.outbox_totals()) == (rows, totals)
        store.commit([edit(2, b"second")])
        assert loaded(store).updates == (b"first", b"second")

    def test_everything_is_there_after_opening_again(self, store: Store, disk: Disk) -> None:
        covers = dots_of((BEN, 1, 4))
        store.commit([Compact(PLAN, b"state"), AppendUpdate(PLAN, b"one", Dot(ADA, 1), CONTEXT, covers)])
        store.commit([edit(2, b"two", time_ms=7), SetVersion(PLAN, Version(EPOCH, 5), dots_of((ADA, 1, 2)))])
        store.commit([MarkShipped(PLAN, ((Dot(ADA, 1), Version(EPOCH, 6)),)), AppendUpdate(OTHER, b"three")])
        before = (loaded(store), loaded(store, OTHER), store.outbox(0, ALL, ALL), store.outbox_totals())
        store.close()

        store = disk.open()

        assert (loaded(store), loaded(store, OTHER), store.outbox(0, ALL, ALL), store.outbox_totals()) == before
        assert loaded(store) == StoredDocument(
            state=b"state",
            updates=(b"one", b"two"),
            version=Version(EPOCH, 5),
            dots=dots_of((ADA, 1, 2)),
            outbox=((Dot(ADA, 1), Version(EPOCH, 6)), (Dot(ADA, 2), None)),
        )

    def test_meta_is_kept_and_replaced(self, store: Store, disk: Disk) -> None:
        store.set_meta("edge", "ada's laptop")
        store.set_meta("leer", "")
        store.set_meta("edge", "📟 zwei")
        store.close()
        store = disk.open()

        assert (store.get_meta("edge"), store.get_meta("leer"), store.get_meta("none")) == ("📟 zwei", "", None)

    def test_closing_twice_is_closing(self, store: Store) -> None:
        store.close()
        store.close()

    # --- the outbox ---------------------------------------------------------------------------------------------------
    def test_only_updates_with_a_dot_are_in_the_outbox_with_all_they_carry(self, store: Store) -> None:
        covers = dots_of((ADA, 1, 4), (BEN, 6, 6))
        store.commit(
            [AppendUpdate(PLAN, b"from the leader"), AppendUpdate(PLAN, b"ours", Dot(ADA, 5), CONTEXT, covers)]
        )

        (row,) = store.outbox(0, ALL, ALL)

        assert row == OutboxRow(row.row, Change(PLAN, Dot(ADA, 5), b"ours", CONTEXT, covers), None)
        assert row.row > 0

    def test_the_outbox_is_in_the_order_of_commits_over_all_documents_and_origins(self, store: Store) -> None:
        store.commit([edit(7, b"1"), edit(1, b"2", OTHER), edit(1, b"3", origin=BEN)])
        store.commit([edit(2, b"4", OTHER), edit(8, b"5")])

        rows = store.outbox(0, ALL, ALL)

        assert [row.change.update for row in rows] == [b"1", b"2", b"3", b"4", b"5"]
        assert [row.row for row in rows] == sorted({row.row for row in rows})
        assert [dot for dot, _ in loaded(store).outbox] == [Dot(ADA, 7), Dot(BEN, 1), Dot(ADA, 8)]

    def test_a_place_in_the_outbox_never_passes_a_later_change(self, store: Store, disk: Disk) -> None:
        """Row numbers are not used again, also when the newest row is gone, the store is empty and opened again."""
        store.commit([edit(1, b"one"), edit(2, b"two")])
        place = store.outbox(0, ALL, ALL)[-1].row
        store.commit([Compact(PLAN, b"state"), DropOutbox(PLAN, (Dot(ADA, 1), Dot(ADA, 2)))])
        store.close()
        store = disk.open()

        store.commit([edit(3, b"three")])

        assert [row.change.update for row in store.outbox(place, ALL, ALL)] == [b"three"]
        assert loaded(store).updates == (b"three",)

    def test_a_page_of_the_outbox_is_bounded_by_rows(self, store: Store) -> None:
        store.commit([edit(seq, b"%d" % seq) for seq in range(1, 8)])

        pages = [[row.change.update for row in page] for page in pages_of(store, 3, ALL)]

        assert pages == [[b"1", b"2", b"3"], [b"4", b"5", b"6"], [b"7"]]

    def test_a_page_of_the_outbox_is_bounded_by_bytes_but_never_empty(self, store: Store) -> None:
        store.commit([edit(seq, bytes(size)) for seq, size in enumerate((4, 6, 1, 50, 2), 1)])

        pages = [[len(row.change.update) for row in page] for page in pages_of(store, ALL, 10)]

        assert pages == [[4, 6], [1], [50], [2]]
        assert len(store.outbox(0, 1, 0)) == 1

    def test_shipped_is_kept_where_the_log_put_it(self, store: Store) -> None:
        store.commit([edit(1, b"1"), edit(2, b"2"), edit(1, b"3", OTHER)])

        store.commit([MarkShipped(PLAN, ((Dot(ADA, 2), Version(EPOCH, 8)), (Dot(ADA, 99), Version(EPOCH, 9))))])
        store.commit([MarkShipped(PLAN, ((Dot(ADA, 2), Version(EPOCH + 1, 1)),))])

        assert [row.shipped for row in store.outbox(0, ALL, ALL)] == [None, Version(EPOCH + 1, 1), None]
        assert loaded(store).outbox == ((Dot(ADA, 1), None), (Dot(ADA, 2), Version(EPOCH + 1, 1)))
        assert store.outbox_totals().count == 3

    def test_dropping_leaves_the_update_in_the_document(self, store: Store) -> None:
        store.commit([edit(1, b"1"), edit(2, b"2"), edit(1, b"3", OTHER)])

        store.commit([DropOutbox(PLAN, (Dot(ADA, 1), Dot(BEN, 1)))])
        store.commit([DropOutbox(PLAN, (Dot(ADA, 1),))])

        assert loaded(store).updates == (b"1", b"2")
        assert loaded(store).outbox == ((Dot(ADA, 2), None),)
        assert updates_in_outbox(store) == [b"2", b"3"]

    def test_a_dot_that_was_dropped_may_come_again(self, store: Store) -> None:
        store.commit([edit(1, b"1"), DropOutbox(PLAN, (Dot(ADA, 1),)), edit(1, b"2")])

        assert loaded(store).updates == (b"1", b"2")
        assert updates_in_outbox(store) == [b"2"]

    def test_a_folded_row_is_the_outbox_s_alone(self, store: Store) -> None:
        store.commit([AppendUpdate(PLAN, b"all of it", Dot(ADA, 1), folded=True), AppendUpdate(PLAN, b"next")])

        assert loaded(store).updates == (b"next",)
        assert updates_in_outbox(store) == [b"all of it"]

        store.commit([DropOutbox(PLAN, (Dot(ADA, 1),))])
        assert loaded(store) == StoredDocument(None, (b"next",), None, DotSet(), ())
        assert updates_in_outbox(store) == []

    def test_a_row_that_heals_says_so(self, store: Store, disk: Disk) -> None:
        store.commit([edit(1, b"1"), AppendUpdate(PLAN, b"again", Dot(ADA, 2), folded=True, heals=True)])
        store.close()
        store = disk.open()

        assert [(row.change.update, row.heals) for row in store.outbox(0, ALL, ALL)] == [
            (b"1", False),
            (b"again", True),
        ]

    # --- compaction ---------------------------------------------------------------------------------------------------
    def test_compaction_replaces_the_updates_before_it_and_no_other(self, store: Store) -> None:
        store.commit([AppendUpdate(PLAN, b"1"), AppendUpdate(OTHER, b"other")])
        store.commit([AppendUpdate(PLAN, b"2"), Compact(PLAN, b"12"), AppendUpdate(PLAN, b"3")])

        assert (loaded(store).state, loaded(store).updates) == (b"12", (b"3",))
        assert (loaded(store, OTHER).state, loaded(store, OTHER).updates) == (None, (b"other",))

        store.commit([AppendUpdate(PLAN, b"4"), Compact(PLAN, b"1234")])
        assert (loaded(store).state, loaded(store).updates) == (b"1234", ())

    def test_compaction_keeps_the_outbox_to_the_byte(self, store: Store, disk: Disk) -> None:
        covers = dots_of((BEN, 1, 2))
        store.commit([AppendUpdate(PLAN, b"0"), AppendUpdate(PLAN, b"\x00one", Dot(ADA, 1), CONTEXT, covers)])
        store.commit([edit(2, b"two"), MarkShipped(PLAN, ((Dot(ADA, 1), Version(EPOCH, 3)),))])
        rows, totals = store.outbox(0, ALL, ALL), store.outbox_totals()

        store.commit([Compact(PLAN, b"state")])
        store.commit([Compact(PLAN, b"state, again")])
        store.close()
        store = disk.open()

        assert (store.outbox(0, ALL, ALL), store.outbox_totals()) == (rows, totals)
        assert loaded(store).updates == ()
        assert loaded(store).outbox == ((Dot(ADA, 1), Version(EPOCH, 3)), (Dot(ADA, 2), None))

    def test_a_row_dropped_after_compaction_does_not_come_back_as_an_update(self, store: Store) -> None:
        store.commit([edit(1, b"1"), edit(2, b"2"), Compact(PLAN, b"12"), edit(3, b"3")])

        store.commit([DropOutbox(PLAN, (Dot(ADA, 1), Dot(ADA, 3)))])

        assert (loaded(store).state, loaded(store).updates) == (b"12", (b"3",))
        assert updates_in_outbox(store) == [b"2"]

    # --- totals -------------------------------------------------------------------------------------------------------
    def test_totals_are_right_after_every_write(self, store: Store, disk: Disk) -> None:
        store.commit([edit(1, b"1234", time_ms=50), edit(1, b"56", OTHER, time_ms=40)])
        assert store.outbox_totals() == OutboxTotals(2, 6, 50)  # the oldest by commit, not by clock

        store.commit([AppendUpdate(PLAN, b"not ours"), SetVersion(PLAN, Version(EPOCH, 1), DotSet())])
        store.commit(
            [AppendUpdate(PLAN, b"789", Dot(ADA, 2), Context(time_ms=60), folded=True), Compact(PLAN, b"state")]
        )
        assert store.outbox_totals() == OutboxTotals(3, 9, 50)

        store.commit([MarkShipped(PLAN, ((Dot(ADA, 1), Version(EPOCH, 1)),)), DropOutbox(PLAN, (Dot(ADA, 1),))])
        assert store.outbox_totals() == OutboxTotals(2, 5, 40)

        store.commit([DropOutbox(OTHER, (Dot(ADA, 1), Dot(ADA, 1), Dot(ADA, 9)))])
        assert store.outbox_totals() == OutboxTotals(1, 3, 60)
        store.close()
        store = disk.open()
        assert store.outbox_totals() == OutboxTotals(1, 3, 60)

        store.commit([edit(3, b"abc"), DropOutbox(PLAN, (Dot(ADA, 2), Dot(ADA, 3)))])
        assert store.outbox_totals() == OutboxTotals(0, 0, None)
