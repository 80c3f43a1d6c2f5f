"""Every shared type of stock Yjs, through two edges and the leader: all editors read the same in the end."""

from __future__ import annotations

import pytest

from tests.interop.agent import Agent, Edit, Editor, shared
from tests.interop.conftest import Same
from tests.processes import Cluster, Json

FACE = "\N{GRINNING FACE}"


@pytest.fixture
def ada(agent: Agent, cluster: Cluster, doc: str) -> Editor:
    """At edge a."""
    return agent.open("ada", cluster["a"], doc).wait_synced()


@pytest.fixture
def ben(agent: Agent, cluster: Cluster, doc: str) -> Editor:
    """At edge b."""
    return agent.open("ben", cluster["b"], doc).wait_synced()


def test_text_typed_at_one_edge_is_read_at_the_other(ada: Editor, ben: Editor, same: Same) -> None:
    ada.type("hello")
    ben.until("text", "hello")
    ben.type(" there")
    ada.until("text", "hello there")

    ada.delete(0, 6)

    assert same(ada, ben)["text"] == [{"insert": "there"}]


def test_formatting_and_embeds_arrive(ada: Editor, ben: Editor, same: Same) -> None:
    ada.edit(["insert", ["text"], 0, "bold and plain", {"bold": True}])
    ada.edit(["format", ["text"], 4, 10, {"bold": None, "link": {"href": "x"}}])
    ben.until_same(ada)
    ben.edit(["embed", ["text"], 4, {"image": "x", "n": [1, None]}])

    assert same(ada, ben)["text"] == [
        {"insert": "bold", "attributes": {"bold": True}},
        {"insert": {"image": "x", "n": [1, None]}},
        {"insert": " and plain", "attributes": {"link": {"href": "x"}}},
    ]


def test_map_values_of_every_kind_arrive(ada: Editor, ben: Editor, same: Same) -> None:
    values: dict[str, Json] = {
        "null": None,
        "yes": True,
        "integer": -42,
        "large": 2**53 - 1,
        "float": 0.1,
        "text": "é日本\N{GRINNING FACE}",
        "list": [1, "two", [3.5, {"deep": None}]],
        "object": {"a": {"b": []}},
        "": "empty key",
    }
    edits: list[Edit] = [["set", ["map"], key, value] for key, value in values.items()]
    ada.edit(*edits)
    ben.until("at", values, ["map"])

    ben.edit(["unset", ["map"], "null"], ["set", ["map"], "yes", False])

    assert same(ada, ben)["map"] == {key: value for key, value in values.items() if key != "null"} | {"yes": False}


def test_a_map_key_set_on_both_sides_at_once_has_one_value(ada: Editor, ben: Editor, same: Same) -> None:
    ada.disconnect()
    ben.disconnect()
    ada.edit(["set", ["map"], "k", "ada"])
    ben.edit(["set", ["map"], "k", "ben"])

    ada.connect()
    ben.connect()

    assert same(ada, ben)["map"] in ({"k": "ada"}, {"k": "ben"})


def test_array_inserts_and_deletes_arrive(ada: Editor, ben: Editor, same: Same) -> None:
    ada.edit(["insert", ["array"], 0, [1, "two", None, {"x": [True]}]])
    ben.until_same(ada)

    ben.edit(["insert", ["array"], 2, ["middle"]], ["delete", ["array"], 0, 1])
    ada.until_same(ben)
    ada.edit(["append", ["array"], ["last"]], apart=True)

    assert same(ada, ben)["array"] == ["two", "middle", None, {"x": [True]}, "last"]


def test_xml_elements_texts_and_attributes_arrive(ada: Editor, ben: Editor, same: Same) -> None:
    paragraph = shared("xml", name="p", attributes={"class": "lead"}, children=[shared("xmltext", "one")])
    ada.edit(["insert", ["xml"], 0, [paragraph, shared("xml", name="hr")]])
    ben.until_same(ada)

    ben.edit(["attribute", ["xml", 0], "id", "first"], ["insert", ["xml", 0], 1, [shared("xml", name="br")]])
    ben.edit(["insert", ["xml", 0, 0], 3, " two"], ["attribute", ["xml", 0], "class", None])
    ada.until_same(ben)
    ada.edit(["delete", ["xml"], 1, 1])

    assert same(ada, ben)["xml"] == '<p id="first">one two<br></br></p>'


def test_nested_types_are_edited_from_both_sides(ada: Editor, ben: Editor, same: Same) -> None:
    tasks = shared("array", [shared("map", {"title": shared("text", "buy"), "done": False})])
    ada.edit(["set", ["map"], "tasks", tasks])
    ben.until_same(ada)

    ada.edit(["append", ["map", "tasks", 0, "title"], " milk"])
    ben.edit(["set", ["map", "tasks", 0], "done", True])
    ben.edit(["append", ["map", "tasks"], [shared("map", {"title": shared("text", "sleep")})]])

    assert same(ada, ben)["map"] == {"tasks": [{"title": "buy milk", "done": True}, {"title": "sleep"}]}


def test_deleting_a_container_takes_what_others_put_in_it(ada: Editor, ben: Editor, same: Same) -> None:
    ada.edit(["set", ["map"], "list", shared("array", [1, 2])], ["set", ["map"], "keep", 1])
    ben.until_same(ada)
    ada.disconnect()

    ada.edit(["append", ["map", "list"], [3]])
    ben.edit(["unset", ["map"], "list"])
    ada.connect()

    assert same(ada, ben)["map"] == {"keep": 1}


def test_all_types_in_one_transaction_arrive_as_one(ada: Editor, ben: Editor, same: Same) -> None:
    ada.edit(
        ["insert", ["text"], 0, "t"],
        ["set", ["map"], "k", shared("map", {"n": 1})],
        ["insert", ["array"], 0, [shared("text", "in an array")]],
        ["insert", ["xml"], 0, [shared("xml", name="p")]],
    )

    assert same(ada, ben) == {
        "text": [{"insert": "t"}],
        "map": {"k": {"n": 1}},
        "array": ["in an array"],
        "xml": "<p></p>",
    }


def test_deletions_of_text_that_the_other_one_edits_agree(ada: Editor, ben: Editor, same: Same) -> None:
    ada.insert(0, "one two three")
    ben.until_same(ada)

    ada.delete(4, 4)
    ben.insert(7, "!")

    assert same(ada, ben)["text"] == [{"insert": "one !three"}]


def test_undo_takes_back_own_edits_only(ada: Editor, ben: Editor, same: Same) -> None:
    ada.undoable("text", "map")
    ada.insert(0, "ada ")
    ada.edit(["set", ["map"], "k", 1])
    ben.until_same(ada)
    ben.append("ben")
    ada.until("text", "ada ben")

    assert ada.undo()
    ben.until("at", {}, ["map"])
    assert ada.undo()
    ben.until("text", "ben")
    assert ada.redo()

    assert same(ada, ben)["text"] == [{"insert": "ada ben"}]


def test_undo_of_a_deletion_brings_the_text_back_everywhere(ada: Editor, ben: Editor, same: Same) -> None:
    ben.insert(0, f"precious {FACE} text")
    ada.until_same(ben)
    ada.undoable("text")

    ada.delete(0, 11)
    ben.until("text", " text")
    assert ada.undo()

    assert same(ada, ben)["text"] == [{"insert": f"precious {FACE} text"}]


def test_both_type_at_the_same_place_at_the_same_time(ada: Editor, ben: Editor, same: Same) -> None:
    ada.insert(0, "<>")
    ben.until_same(ada)

    for piece in range(20):
        ada.insert(1, f"a{piece:02}")
        ben.insert(1, f"b{piece:02}")

    same(ada, ben)
    text = ada.text
    assert len(text) == 2 + 2 * 20 * 3
    assert all(text.count(f"{who}{piece:02}") == 1 for who in "ab" for piece in range(20))
