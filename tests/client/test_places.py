"""JSON Pointers into a document: what is read, what is set, and what is refused with nothing changed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pycrdt import Array, Map, Text

from client import OpenDocument, connect
from client.places import NotJson, UnknownPath, WrongKind, parse_json, parse_path, put, remove, value_at
from sync.document import Document, JsonValue
from sync.errors import InvalidUpdate


def in_document(tmp_path: Path, act: Callable[[OpenDocument], None]) -> None:
    async def run() -> None:
        async with connect([], store=tmp_path / "notes.db") as session:
            act(await session.open("notes/plan"))

    asyncio.run(run())


def values(plan: OpenDocument) -> JsonValue:
    return value_at(plan, ())


def set_json(plan: OpenDocument, path: str, text: str) -> bool:
    return put(plan, parse_path(path), parse_json(text))


def test_roots_are_made_by_their_first_value(tmp_path: Path) -> None:
    def act(plan: OpenDocument) -> None:
        set_json(plan, "/body", '"Hello"')
        set_json(plan, "/set/theme", '"dark"')
        set_json(plan, "/todo/-", '"tent"')
        set_json(plan, "/rows", "[1, 2.5, null, true]")

        assert values(plan) == {
            "body": "Hello",
            "set": {"theme": "dark"},
            "todo": ["tent"],
            "rows": [1, 2.5, None, True],
        }

    in_document(tmp_path, act)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("/set/theme", '"light"', {"set": {"theme": "light", "deep": {"list": [1, {"a": 2}]}}}),
        ("/set/deep/list/1/a", "3", {"set": {"theme": "dark", "deep": {"list": [1, {"a": 3}]}}}),
        ("/set/deep/list/-", "4", {"set": {"theme": "dark", "deep": {"list": [1, {"a": 2}, 4]}}}),
        ("/set/a~1b~0", "null", {"set": {"theme": "dark", "deep": {"list": [1, {"a": 2}]}, "a/b~": None}}),
        ("/todo/1", '"map"', {"todo": ["tent", "map", "stove"]}),
        ("/todo", '["rope", "tent", "stove"]', {"todo": ["rope", "tent", "stove"]}),
        ("/body", '"日本 🏝!"', {"body": "日本 🏝!"}),
        ("", '{"body": "new", "todo": []}', {"body": "new", "todo": None}),
    ],
)
def test_what_is_set_is_there_and_the_rest_stays(
    tmp_path: Path, path: str, value: str, expected: dict[str, JsonValue]
) -> None:
    def act(plan: OpenDocument) -> None:
        set_json(
            plan,
            "",
            '{"body": "日本語 🏝", "todo": ["tent", "x", "stove"],'
            ' "set": {"theme": "dark", "deep": {"list": [1, {"a": 2}]}}}',
        )
        before = values(plan)
        assert isinstance(before, dict)

        assert set_json(plan, path, value)

        after = {root: each for root, each in {**before, **expected}.items() if each is not None}
        assert values(plan) == after
        assert Document(plan.state()).contents() == plan.contents()

    in_document(tmp_path, act)


def test_what_is_the_same_takes_no_edit(tmp_path: Path) -> None:
    def act(plan: OpenDocument) -> None:
        text = '{"body": "a", "set": {"n": 1, "o": {"x": [1, 2]}}, "todo": [{"a": 1}]}'
        assert set_json(plan, "", text)
        assert not set_json(plan, "", text)
        assert not set_json(plan, "/set/n", "1.0")
        assert set_json(plan, "/set/n", "true")  # which Python calls equal to 1
        assert len(plan.status.edits) == 2

    in_document(tmp_path, act)


def test_shared_types_within_are_edited_and_not_replaced(tmp_path: Path) -> None:
    def act(plan: OpenDocument) -> None:
        with plan.edit() as crdt:
            cards = crdt.get("cards", type=Array)
            cards.append(Map({"title": Text("Pack the tent"), "tags": Array(["a"])}))
        other = Document(plan.state())
        other_title = other.crdt.get("cards", type=Array)[0]["title"]
        other_title += " tonight"

        set_json(plan, "/cards", '[{"title": "Pack the big tent", "tags": ["a", "b"]}]')
        set_json(plan, "/cards/0/title", '"Pack the big red tent"')

        other.apply(plan.state())
        assert other.contents()["cards"] == {
            "kind": "array",
            "value": [{"tags": ["a", "b"], "title": "Pack the big red tent tonight"}],
        }

    in_document(tmp_path, act)


@pytest.mark.parametrize(
    ("path", "value", "error", "says"),
    [
        ("/set/nope/x", "1", UnknownPath, "nothing is at /set/nope; in /set there is theme"),
        ("/nope/x/y", "1", UnknownPath, "nothing is at /nope; in notes/plan there is body, set, todo"),
        ("/todo/1", '"x"', UnknownPath, "nothing is at /todo/1; in /todo there are 1 items"),
        ("/todo/01", '"x"', UnknownPath, "nothing is at /todo/01"),
        ("/set/theme/x", "1", WrongKind, 'is "dark"; there are no places within it'),
        ("/body/0", "1", WrongKind, "is a text or XML"),
        ("/body", "[1]", WrongKind, "is a text and cannot become an array; name another root"),
        ("/new", "5", WrongKind, "/new would be 5; a root is a text, an object or an array"),
        ("", "[]", WrongKind, "a document is an object of its roots"),
        ("/set/deep", "[" * 70 + "]" * 70, InvalidUpdate, "nested deeper than 64"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(
    tmp_path: Path, path: str, value: str, error: type[Exception], says: str
) -> None:
    def act(plan: OpenDocument) -> None:
        set_json(plan, "", '{"body": "a", "set": {"theme": "dark"}, "todo": ["x"]}')
        before = values(plan)

        with pytest.raises(error, match=re.escape(says)):
            set_json(plan, path, value)

        assert values(plan) == before
        assert len(plan.status.edits) == 1

    in_document(tmp_path, act)


@pytest.mark.parametrize("text", ["dark", "{", "NaN", "Infinity", "1e999", '"\\ud800"', "", "[" * 100_000])
def test_what_is_no_json_is_told_so(text: str) -> None:
    with pytest.raises(NotJson, match="not JSON"):
        parse_json(text)


def test_a_path_is_a_json_pointer() -> None:
    assert parse_path("") == ()
    assert parse_path("/a~1b/0") == ("a/b", "0")
    for wrong in ("body", "/a~2"):
        with pytest.raises(UnknownPath, match="no JSON Pointer"):
            parse_path(wrong)


def test_numbers_are_what_every_yjs_reads() -> None:
    assert repr(parse_json("9007199254740995")) == "9007199254740996.0"
    assert repr(parse_json("[2.0, 1.5, 3]")) == "[2, 1.5, 3]"


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/body", {"set": {"theme": "dark", "o": {"x": 1, "y": [1]}}, "todo": ["a", "b"]}),
        ("/set/theme", {"body": "a", "set": {"o": {"x": 1, "y": [1]}}, "todo": ["a", "b"]}),
        ("/set/o/y/0", {"body": "a", "set": {"theme": "dark", "o": {"x": 1, "y": []}}, "todo": ["a", "b"]}),
        ("/todo/0", {"body": "a", "set": {"theme": "dark", "o": {"x": 1, "y": [1]}}, "todo": ["b"]}),
    ],
)
def test_what_is_removed_is_gone(tmp_path: Path, path: str, left: JsonValue) -> None:
    def act(plan: OpenDocument) -> None:
        set_json(plan, "", '{"body": "a", "set": {"theme": "dark", "o": {"x": 1, "y": [1]}}, "todo": ["a", "b"]}')

        assert remove(plan, parse_path(path))

        assert values(plan) == left
        with pytest.raises(UnknownPath):
            remove(plan, parse_path("/nope"))

    in_document(tmp_path, act)


def test_an_emptied_root_may_become_another_kind(tmp_path: Path) -> None:
    def act(plan: OpenDocument) -> None:
        set_json(plan, "/x", '"text"')
        remove(plan, ("x",))
        set_json(plan, "/x", '{"now": "a map"}')

        assert values(plan) == {"x": {"now": "a map"}}
        assert Document(plan.state()).contents() == plan.contents()

    in_document(tmp_path, act)
