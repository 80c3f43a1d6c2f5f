"""A document as JSON for people: kinds of roots from their bytes, the same text for equal replicas, and it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Array, Doc, Map, Text, XmlElement, XmlFragment, XmlText

from sync.document import Document
from sync.errors import LimitReached
from sync.limits import CONTENTS_DEPTH_MAX
from sync.validate import check_update
from tests.sync.children import in_child, nested
from tests.sync.histories import life

STOCK: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "stock_updates.json").read_text())
HISTORIES = int(os.environ.get("SKERRY_HISTORIES", "60"))
ASTRAL = "\N{GRINNING FACE}"


def test_contents_name_every_root_its_kind_and_its_value() -> None:
    document = Document()
    document.edit_text("body", 0, 0, f"héllo {ASTRAL}")
    crdt: Doc[Any] = document.crdt
    crdt.get("body", type=Text).format(0, 3, {"bold": True})
    crdt.get("body", type=Text).insert_embed(3, {"image": "x"})
    crdt.get("meta", type=Map).update(
        {"n": 7, "half": 0.5, "on": True, "none": None, "list": Array([Map({"k": Text("t")})])}
    )
    crdt.get("list", type=Array).extend([1, "two", [3, {"z": 1, "a": 2}], b"\0\xff", 2**40])
    crdt.get("page", type=XmlFragment).children.append(XmlElement("p", {"b": "2", "a": "<1>"}, [XmlText("a & b")]))

    contents = Document(document.state()).contents()

    assert contents == {
        "body": {"kind": "text", "value": f"héllo {ASTRAL}"},
        "list": {"kind": "array", "value": [1, "two", [3, {"a": 2, "z": 1}], [0, 255], 2**40]},
        "meta": {"kind": "map", "value": {"half": 0.5, "list": [{"k": "t"}], "n": 7, "none": None, "on": True}},
        "page": {"kind": "xml", "value": '<p a="&lt;1&gt;" b="2">a &amp; b</p>'},
    }
    assert list(contents) == sorted(contents)
    assert '"n": 7,' in json.dumps(contents)
    assert contents == document.contents()


def test_contents_of_formatted_xml_are_nested_by_name() -> None:
    crdt = Doc[Any]()
    crdt.get("page", type=XmlFragment).children.append(XmlText("abc"))
    node = crdt.get("page", type=XmlFragment).children[0]
    node.format(0, 2, {"strong": True, "a": {"href": "x"}})
    node.insert_embed(3, {"n": 1})

    value = Document(crdt.get_update()).contents()["page"]

    assert value == {"kind": "xml", "value": '<a href="x"><strong>ab</strong></a>c<embed>{"n":1}</embed>'}


def test_contents_show_xml_within_maps_and_arrays_with_its_attributes_sorted() -> None:
    crdt = Doc[Any]()
    element = {"c": "3", "a": "1", "b": "2"}
    crdt.get("map", type=Map)["page"] = XmlFragment([XmlElement("p", element)])
    crdt.get("list", type=Array).extend([1, Map({"page": XmlFragment([XmlElement("p", element)])})])

    contents = Document(crdt.get_update()).contents()

    page = '<p a="1" b="2" c="3"></p>'
    assert contents["map"] == {"kind": "map", "value": {"page": page}}
    assert contents["list"] == {"kind": "array", "value": [1, {"page": page}]}


def test_contents_of_equal_replicas_are_equal_to_the_byte() -> None:
    for seed in range(HISTORIES):
        history = life(seed)
        stepwise = Document()
        for update in history.updates:
            stepwise.apply(update)

        shown = {
            json.dumps(each.contents()) for each in (stepwise, Document(history.state), Document(stepwise.state()))
        }

        assert len(shown) == 1, f"seed {seed}"


def test_contents_of_lives_have_the_kinds_they_were_lived_with() -> None:
    for seed in range(HISTORIES):
        history = life(seed)
        crdt: Doc[Any] = Document(history.state).crdt

        contents: dict[str, Any] = dict(Document(history.state).contents())

        for name, kind in (("text", "text"), ("map", "map"), ("array", "array"), ("xml", "xml")):
            if name in contents and contents[name]["kind"] != "unknown":
                assert contents[name]["kind"] == kind, f"seed {seed}"
        if "text" in contents:
            assert contents["text"]["value"] in (str(crdt.get("text", type=Text)), None)
        if "map" in contents:
            assert contents["map"]["value"] == json.loads(str(crdt.get("map", type=Map)))


def test_a_text_whose_first_letters_are_gone_is_still_a_text() -> None:
    document = Document()
    document.edit_text("body", 0, 0, "ab")
    document.edit_text("body", 1, 0, "X")
    document.edit_text("body", 0, 1, "")
    document.edit_text("body", 1, 1, "")

    assert Document(document.state()).contents() == {"body": {"kind": "text", "value": "X"}}


def test_nobody_knows_what_an_emptied_root_was_but_for_a_map() -> None:
    document = Document()
    document.edit_text("body", 0, 0, "ab")
    document.edit_text("body", 0, 2, "")
    crdt: Doc[Any] = document.crdt
    crdt.get("map", type=Map)["k"] = 1
    del crdt.get("map", type=Map)["k"]

    assert document.contents() == {"body": {"kind": "unknown", "value": None}, "map": {"kind": "map", "value": {}}}


def test_an_array_that_holds_text_is_never_read_as_an_array() -> None:
    """pycrdt would never end (`tests.sync.test_validate.ARRAY_THAT_HANGS`). Here the text has a neighbour, no name."""
    root = b"\1\1\2\0" + b"\x08\1\1a\1\x7d\2" + b"\0"
    letters = b"\1\1\3\0" + b"\x44\2\0\3x\xc3\xa9" + b"\0"
    nested = b"\1\2\4\0" + b"\x27\1\1m\1k\0" + b"\x04\0\4\0\3x\xc3\xa9" + b"\0"

    for update in (root, letters, nested):
        check_update(update)
    code = f"""
import json, signal
from sync.document import Document
signal.alarm(20)
document = Document(bytes.fromhex("{root.hex()}"))
document.apply(bytes.fromhex("{letters.hex()}"))
document.apply(bytes.fromhex("{nested.hex()}"))
print(json.dumps(document.contents()))
"""
    child = in_child(code)

    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == {
        "a": {"kind": "text", "value": "xé"},
        "m": {"kind": "unreadable", "value": None},
    }


def test_contents_of_what_nests_too_deeply_are_refused() -> None:
    assert Document(nested(CONTENTS_DEPTH_MAX)).contents()["r"]

    with pytest.raises(LimitReached, match=f"CONTENTS_DEPTH_MAX: {CONTENTS_DEPTH_MAX + 1} is over"):
        Document(nested(CONTENTS_DEPTH_MAX + 1)).contents()


@pytest.mark.parametrize("name", STOCK["v1"])
def test_contents_of_stock_yjs_are_readable(name: str) -> None:
    document = Document(bytes.fromhex(STOCK["v1"][name]))

    for part in document.contents().values():
        assert isinstance(part, dict)
        assert part["kind"] in ("text", "map", "array", "xml", "unknown")
    json.dumps(document.contents(), allow_nan=False)


def test_reading_contents_changes_nothing() -> None:
    history = life(5)
    document = Document(history.state)
    before = document.state(), document.digest()

    document.contents()

    assert document.digest() == before[1]
    assert Document(document.state()).digest() == Document(before[0]).digest()
