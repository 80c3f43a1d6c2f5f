"""A large update in pieces: each can be taken behind those before it, and together they are the same document."""

from __future__ import annotations

from typing import Any

import pytest
from pycrdt import Array, Doc, Map, Text

from sync.document import Document
from sync.ids import DocId
from sync.pieces import pieces_of
from sync.replica import Replica, Verdict
from sync.validate import check_update
from tests.sync.histories import content_of, life


def taken(pieces: list[bytes]) -> Replica:
    """A replica that has taken them, none of them early."""
    replica = Replica(DocId("notes/plan"))
    for piece in pieces:
        assert replica.take(piece, check_update(piece), 0).verdict is not Verdict.EARLY
    return replica


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("bytes_max", [90, 150, 400])
def test_pieces_of_a_life_are_the_same_document(seed: int, bytes_max: int) -> None:
    state = life(seed).state
    pieces = list(pieces_of(state, bytes_max))

    assert len(pieces) > len(state) // bytes_max
    replica = taken(pieces)
    assert replica.digest() == Replica(DocId("notes/plan"), state).digest()
    again: Doc[Any] = Doc()
    for piece in pieces:
        again.apply_update(piece)
    whole: Doc[Any] = Doc()
    whole.apply_update(state)
    assert content_of(again) == content_of(whole)


def test_a_piece_is_no_longer_than_was_asked_for_where_no_value_is() -> None:
    state = life(7, 200).state

    assert all(len(piece) <= 400 for piece in pieces_of(state, 400))


@pytest.mark.parametrize("text", ["x" * 1000, "日本語" * 300, "😀a" * 300])
def test_one_long_text_is_cut_between_characters(text: str) -> None:
    document = Document()
    document.edit_text("body", 0, 0, "around it")
    document.edit_text("body", 3, 0, text)
    state = document.state()

    pieces = list(pieces_of(state, 120))

    assert all(len(piece) <= 120 for piece in pieces)
    assert taken(pieces).materialise().text("body") == "aro" + text + "und it"


def test_one_long_list_is_cut_between_values() -> None:
    doc: Doc[Any] = Doc()
    values = [{"n": number, "text": "x" * (number % 30)} for number in range(200)]
    doc.get("rows", type=Array).extend(values)
    doc.get("map", type=Map)["k"] = "v" * 50

    pieces = list(pieces_of(doc.get_update(), 120))

    assert all(len(piece) <= 120 for piece in pieces)
    again: Doc[Any] = Doc()
    for piece in pieces:
        again.apply_update(piece)
    assert again.get("rows", type=Array).to_py() == values
    assert again.get("map", type=Map).to_py() == {"k": "v" * 50}


def test_one_value_that_is_longer_makes_a_longer_piece() -> None:
    doc: Doc[Any] = Doc()
    doc.get("map", type=Map)["a"] = "v" * 500
    doc.get("text", type=Text).insert(0, "short")

    sizes = [len(piece) for piece in pieces_of(doc.get_update(), 120)]

    assert sorted(sizes)[-1] > 500
    assert sorted(sizes)[-2] <= 120


def test_what_is_typed_on_after_the_pieces_converges() -> None:
    doc: Doc[Any] = Doc()
    text = doc.get("body", type=Text)
    text.insert(0, "a" * 500)
    replica = taken(list(pieces_of(doc.get_update(), 120)))

    before = doc.get_state()
    text.insert(250, "in the middle of what was one struct")
    del text[100:400]
    update = doc.get_update(before)

    assert replica.take(update, check_update(update), 0).verdict is Verdict.NEW
    assert replica.materialise().text("body") == str(text)


def test_a_small_update_is_one_piece() -> None:
    assert list(pieces_of(b"\x00\x00", 100)) == [b"\x00\x00"]
