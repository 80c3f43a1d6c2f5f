"""Documents' lives from a seed: four editors at texts, maps, arrays, XML and nested types, and all their updates."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from pycrdt import Array, Doc, Map, Text, UndoManager, XmlElement, XmlFragment, XmlText, merge_updates

from sync.validate import check_state_vector

__all__ = ["History", "clocks_of", "content_of", "life", "mutants"]


@dataclass(frozen=True, slots=True)
class History:
    updates: list[bytes]
    """In an order in which each one's causes come first. Some are several merged into one, as an edge flushes them."""
    content: str
    clocks: dict[int, int]
    state: bytes


def content_of(doc: Doc[Any]) -> str:
    """All that a reader of the document can see, the same text for equal replicas."""
    return repr(
        (
            doc.get("text", type=Text).diff(),
            sorted(_plain(doc.get("map", type=Map)).items()),
            _plain(doc.get("array", type=Array)),
            _plain_xml(doc.get("xml", type=XmlFragment)),
        )
    )


def _plain(value: object) -> Any:
    if isinstance(value, Map):
        return {key: _plain(value[key]) for key in sorted(value.keys())}
    if isinstance(value, Array):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Text) else value


def _plain_xml(node: XmlFragment | XmlElement | XmlText) -> Any:
    """Nested tuples: `str()` of an element writes its attributes in hash order."""
    if isinstance(node, XmlText):
        return str(node)
    children = [_plain_xml(child) for child in node.children]
    if not isinstance(node, XmlElement):
        return children
    attributes = cast("Iterable[tuple[str, object]]", node.attributes)  # it is one, and its type does not say so
    return (node.tag, sorted(attributes), children)


def clocks_of(doc: Doc[Any]) -> dict[int, int]:
    return check_state_vector(doc.get_state())


def life(seed: int, edits: int = 60) -> History:
    """Four editors, each now and then catching up with another; characters have one to four bytes."""
    rng = random.Random(seed)
    updates: list[bytes] = []
    docs = [Doc[Any](client_id=rng.choice((at + 1, rng.getrandbits(32), rng.getrandbits(53)))) for at in range(4)]
    local = [True]
    kept = []
    undo = {}
    for doc in docs:
        kept.append(doc.observe(lambda event: updates.append(event.update) if local[0] else None))
        undo[doc.client_id] = UndoManager(scopes=[doc.get("text", type=Text)], capture_timeout_millis=0)
    for _ in range(edits):
        doc = rng.choice(docs)
        if rng.random() < 0.3:
            local[0] = False
            doc.apply_update(rng.choice(docs).get_update(doc.get_state()))
            local[0] = True
        if rng.random() < 0.06:
            undo[doc.client_id].undo()
        elif rng.random() < 0.1:
            with doc.transaction():
                _edit(rng, doc)
                _edit(rng, doc)
        else:
            _edit(rng, doc)
    local[0] = False
    for _ in range(2):
        for doc in docs:
            for other in docs:
                doc.apply_update(other.get_update(doc.get_state()))
    for doc, subscription in zip(docs, kept, strict=True):
        doc.unobserve(subscription)
    assert len({content_of(doc) for doc in docs}) == 1, "\n".join(content_of(doc) for doc in docs)
    return History(_flushed(rng, updates), content_of(docs[0]), clocks_of(docs[0]), docs[0].get_update())


def _flushed(rng: random.Random, updates: list[bytes]) -> list[bytes]:
    flushed: list[bytes] = []
    while updates:
        count = 1 if rng.random() < 0.8 else rng.randint(2, 5)
        flushed.append(merge_updates(*updates[:count]) if count > 1 else updates[0])
        updates = updates[count:]
    return flushed


_WORDS = ("a", "bc", "é", "日本", "\N{GRINNING FACE}", "x\N{GRINNING FACE}y", "lorem ipsum ")


def _edit(rng: random.Random, doc: Doc[Any]) -> None:
    kind = rng.random()
    if kind < 0.45:
        _edit_text(rng, doc.get("text", type=Text))
    elif kind < 0.65:
        _edit_map(rng, doc.get("map", type=Map))
    elif kind < 0.85:
        _edit_array(rng, doc.get("array", type=Array), depth=0)
    else:
        _edit_xml(rng, doc.get("xml", type=XmlFragment))


def _edit_text(rng: random.Random, text: Text) -> None:
    content = str(text)
    at, until = sorted((rng.randint(0, len(content)), rng.randint(0, len(content))))
    start, end = (len(content[:index].encode()) for index in (at, until))  # pycrdt counts bytes (facts 1.8)
    kind = rng.random()
    if kind < 0.3 and start < end:
        del text[start:end]
    elif kind < 0.4 and start < end:
        text.format(start, end, {"bold": rng.choice((True, None, "thick", {"n": 1.5}))})
    else:
        text.insert(start, rng.choice(_WORDS))


def _value(rng: random.Random, depth: int) -> Any:
    plain = (None, True, 7, -1.5, 2**40, "text", b"\0\xff", [1, {"k": [2, None]}], {"deep": {"er": "x"}})
    if depth < 3 and rng.random() < 0.35:
        return rng.choice((Text("nested"), Array([1, 2]), Map({"k": "v"}), Map({"list": Array([Text("t")])})))
    return rng.choice(plain)


def _edit_map(rng: random.Random, shared: Map[Any], depth: int = 0) -> None:
    key = rng.choice("abcdé")
    inner = shared.get(key)
    if isinstance(inner, Map) and rng.random() < 0.6:
        _edit_map(rng, inner, depth + 1)
    elif isinstance(inner, Array) and rng.random() < 0.6:
        _edit_array(rng, inner, depth + 1)
    elif isinstance(inner, Text) and rng.random() < 0.6:
        inner.insert(0, rng.choice(_WORDS))
    elif key in shared and rng.random() < 0.3:
        del shared[key]
    else:
        shared[key] = _value(rng, depth)


def _edit_array(rng: random.Random, array: Array[Any], depth: int) -> None:
    at = rng.randint(0, len(array))
    inner = array[at] if at < len(array) else None
    if isinstance(inner, Map) and rng.random() < 0.6:
        _edit_map(rng, inner, depth + 1)
    elif isinstance(inner, Array) and rng.random() < 0.6:
        _edit_array(rng, inner, depth + 1)
    elif at < len(array) and rng.random() < 0.4:
        del array[at : min(len(array), at + rng.randint(1, 3))]
    elif rng.random() < 0.3:
        array.extend([1, "two", None])
    else:
        array.insert(at, _value(rng, depth))


def _edit_xml(rng: random.Random, xml: XmlFragment) -> None:
    children = list(xml.children)
    at = rng.randint(0, len(children))
    child = children[at] if at < len(children) else None
    if isinstance(child, XmlElement) and rng.random() < 0.6:
        if rng.random() < 0.5:
            child.attributes[rng.choice("ab")] = rng.choice(_WORDS)
        else:
            child.children.append(rng.choice((XmlText("in"), XmlElement("b", {}, []))))
    elif isinstance(child, XmlText) and rng.random() < 0.6:
        child.insert(0, rng.choice(_WORDS))
    elif child is not None and rng.random() < 0.5:
        del xml.children[at]
    else:
        xml.children.insert(at, rng.choice((XmlElement("p", {"class": "c"}, [XmlText("hi")]), XmlText("plain"))))


_BYTES = (0, 1, 2, 4, 7, 8, 9, 10, 0x20, 0x7F, 0x80, 0x81, 0x84, 0xC4, 0xFF)


def mutants(rng: random.Random, updates: list[bytes], count: int) -> list[bytes]:
    """Real updates with a few bytes changed, doubled, moved, lost, or taken from another one."""
    made: list[bytes] = []
    for _ in range(count):
        data = bytearray(rng.choice(updates))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            at = rng.randrange(len(data)) if data else 0
            kind = rng.randrange(7)
            if kind == 0 and data:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and data:
                data[at] = rng.choice(_BYTES)
            elif kind == 2 and data:
                data[at] = (data[at] + rng.choice((1, -1))) % 256
            elif kind == 3:
                data.insert(at, rng.choice(_BYTES))
            elif kind == 4:
                del data[at : at + rng.choice((1, 1, 2, 5))]
            elif kind == 5:
                data[at:at] = data[at : at + rng.randint(1, 8)]
            else:
                other = rng.choice(updates)
                start = rng.randrange(len(other))
                data[at : at + rng.randint(0, 8)] = other[start : start + rng.randint(1, 12)]
        made.append(bytes(data))
    return made
