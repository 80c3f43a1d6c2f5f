"""Names: document ids and their subject tokens, shards, dots and sets of them, versions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import InvalidDocumentId
from sync.ids import (
    ORIGIN_MAX,
    DocId,
    Dot,
    DotSet,
    Origin,
    Version,
    from_subject_token,
    parse_document_id,
    shard_of,
    subject_token,
)
from sync.limits import DOCUMENT_ID_BYTES_MAX

documents = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=60).map(DocId)


# --- document ids -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["a", "notes/plan", "日本語 テキスト", "🏝", "a.b*c>d", "%41", " ", "é" * 128])
def test_a_document_may_have_almost_any_name(text: str) -> None:
    assert parse_document_id(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("a\nb", "U\\+000A"),
        ("a\x00", "U\\+0000"),
        ("a\x85", "U\\+0085"),
        ("a\x7f", "U\\+007F"),
        ("a\ud800", "not UTF-8"),
        ("é" * 128 + "x", "257 bytes, at most 256"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidDocumentId, match=why):
        parse_document_id(text)


@given(documents)
@settings(max_examples=200, deadline=None)
def test_a_document_is_one_token_of_a_subject_and_comes_back_from_it(doc: DocId) -> None:
    token = subject_token(doc)

    assert token
    assert token.isascii()
    assert token.isprintable()
    assert not set(token) & set(".*> \t\r\n")
    assert from_subject_token(token) == doc
    assert len(token) <= 3 * DOCUMENT_ID_BYTES_MAX


@given(documents, documents)
@settings(max_examples=100, deadline=None)
def test_two_documents_never_share_a_subject(one: DocId, other: DocId) -> None:
    assert (subject_token(one) == subject_token(other)) == (one == other)


def test_a_subject_token_stays_readable() -> None:
    assert subject_token(DocId("notes/plan-2_b")) == "notes/plan-2_b"
    assert subject_token(DocId("a.b *>~%é")) == "a%2Eb%20%2A%3E%7E%25%C3%A9"


@pytest.mark.parametrize("token", ["", "%00", "%FF", "%C3", "a%0Ab", "a" * 257])
def test_a_subject_token_of_no_document_is_refused(token: str) -> None:
    with pytest.raises(InvalidDocumentId):
        from_subject_token(token)


def test_a_document_stays_in_its_shard() -> None:
    """On record: another hash would put every document of a running deployment into another shard."""
    assert [shard_of(DocId(doc), 16) for doc in ("a", "notes/plan", "日本")] == [3, 3, 12]


@given(documents, st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_a_shard_is_within_the_count(doc: DocId, shard_count: int) -> None:
    assert 0 <= shard_of(doc, shard_count) < shard_count


# --- versions and dots ------------------------------------------------------------------------------------------------
def test_a_version_covers_what_is_before_it_in_the_same_log_only() -> None:
    assert Version(1, 5).covers(Version(1, 5))
    assert Version(1, 5).covers(Version(1, 4))
    assert not Version(1, 5).covers(Version(1, 6))
    assert not Version(2, 5).covers(Version(1, 4))
    assert not Version(1, 5).covers(Version(2, 4))


def test_dots_and_versions_are_written_as_they_are_read() -> None:
    assert str(Dot(Origin(0xABC), 12)) == "abc.12"
    assert str(Version(0xABC, 12)) == "abc-12"


# --- sets of dots -----------------------------------------------------------------------------------------------------
ranges = st.tuples(st.integers(0, 2).map(Origin), st.integers(1, 30), st.integers(0, 6)).map(
    lambda r: (r[0], r[1], r[1] + r[2])
)
many_ranges = st.lists(ranges, max_size=10)


def set_of(parts: list[tuple[Origin, int, int]]) -> DotSet:
    dots = DotSet()
    for origin, first, last in parts:
        dots.add_range(origin, first, last)
    return dots


def plain(parts: list[tuple[Origin, int, int]]) -> set[Dot]:
    return {Dot(origin, seq) for origin, first, last in parts for seq in range(first, last + 1)}


EVERY_DOT = [Dot(Origin(origin), seq) for origin in range(3) for seq in range(1, 38)]


@given(many_ranges)
@settings(max_examples=200, deadline=None)
def test_a_set_of_dots_holds_what_was_added_and_nothing_else(parts: list[tuple[Origin, int, int]]) -> None:
    assert {dot for dot in EVERY_DOT if dot in set_of(parts)} == plain(parts)


@given(many_ranges)
@settings(max_examples=100, deadline=None)
def test_the_order_of_adding_and_adding_twice_make_no_difference(parts: list[tuple[Origin, int, int]]) -> None:
    one_by_one = DotSet()
    for dot in sorted(plain(parts), key=lambda dot: (-dot.seq, dot.origin)):
        one_by_one.add(dot)

    assert set_of([*reversed(parts), *parts]) == set_of(parts) == one_by_one


@given(many_ranges)
@settings(max_examples=100, deadline=None)
def test_ranges_are_ascending_and_never_touch(parts: list[tuple[Origin, int, int]]) -> None:
    held = set_of(parts).ranges()

    assert held == sorted(held)
    assert len(held) == len(set_of(parts))
    for (one, _, last), (other, first, _) in pairwise(held):
        assert one != other or first > last + 1


@given(many_ranges, many_ranges)
@settings(max_examples=100, deadline=None)
def test_an_updated_set_is_the_union(
    mine: list[tuple[Origin, int, int]], theirs: list[tuple[Origin, int, int]]
) -> None:
    dots = set_of(mine)

    dots.update(set_of(theirs))

    assert dots == set_of([*mine, *theirs])


@given(many_ranges)
@settings(max_examples=100, deadline=None)
def test_a_set_of_dots_comes_back_from_its_text(parts: list[tuple[Origin, int, int]]) -> None:
    assert DotSet.from_text(set_of(parts).to_text()) == set_of(parts)


def test_a_copy_goes_its_own_way() -> None:
    dots = set_of([(Origin(1), 1, 3)])
    copy = dots.copy()

    copy.add(Dot(Origin(1), 4))

    assert Dot(Origin(1), 4) in copy
    assert Dot(Origin(1), 4) not in dots


def test_the_text_of_a_set_of_dots_is_the_one_on_record() -> None:
    dots = set_of([(Origin(ORIGIN_MAX), 1, 1), (Origin(0xABC), 9, 9), (Origin(0xABC), 1, 7)])

    assert dots.to_text() == "abc:1-7,abc:9-9,1fffffffffffff:1-1"
    assert DotSet().to_text() == ""


@pytest.mark.parametrize(
    "text", ["x", "1", "1:1", "1:0-1", "1:2-1", "1:1-2,", "-1:1-2", "20000000000000:1-2", "1:1-9007199254740992"]
)
def test_what_is_no_text_of_dots_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no range of dots|invalid literal"):
        DotSet.from_text(text)
