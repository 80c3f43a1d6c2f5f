"""What people do to a document: texts, maps, arrays, XML, deletions and nested types, mixed in one document.

Room: one random edit of a `pycrdt.Doc`. Upstream's fuzzers use one type at a time and miss facts 1.1.
"""

from __future__ import annotations

from random import Random

import pycrdt

from sync.document import byte_offset

from .contents import Doc, roots

__all__ = ["random_edit"]

_WORDS = ("a", "b ", "the ", "sea", "é", "日本", "語", "😀", "👩‍🚀", "\n", "0", "skerry ")
_KEYS = ("k1", "k2", "k3", "n1", "n2")


def random_edit(rng: Random, doc: Doc) -> None:
    """One transaction with one to three operations, as one keystroke or one paste or one click makes."""
    with doc.transaction():
        for _ in range(1 if rng.random() < 0.7 else rng.randint(2, 3)):
            rng.choices((_text, _table, _items, _xml), (5, 2, 2, 1))[0](rng, doc)


def _text(rng: Random, doc: Doc) -> None:
    edit_text(rng, roots(doc)[0])


def edit_text(rng: Random, text: pycrdt.Text) -> None:
    """Positions are UTF-8 bytes (facts 1.8): a code point is chosen, and never split."""
    now = str(text)
    dice = rng.random()
    if now and dice < 0.25:
        first = rng.randrange(len(now))
        last = min(len(now), first + rng.randint(1, 4))
        del text[byte_offset(now, first) : byte_offset(now, last)]
    elif now and dice < 0.30:
        first = rng.randrange(len(now))
        text.format(byte_offset(now, first), byte_offset(now, min(len(now), first + 3)), {"bold": True})
    else:
        at = len(now) if rng.random() < 0.5 else rng.randint(0, len(now))
        text.insert(byte_offset(now, at), "".join(rng.choices(_WORDS, k=rng.randint(1, 2))))


def _value(rng: Random) -> object:
    dice = rng.randrange(6)
    if dice == 0:
        return pycrdt.Map({"in": pycrdt.Text("deep"), "n": 1})
    if dice == 1:
        return pycrdt.Array([1, "two", pycrdt.Map({"three": 3})])
    if dice == 2:
        return pycrdt.Text(rng.choice(_WORDS))
    return rng.choice([1, 2.5, True, None, "text 😀", [1, 2], {"json": "日本"}])


def _table(rng: Random, doc: Doc) -> None:
    edit_map(rng, roots(doc)[1])


def edit_map(rng: Random, table: pycrdt.Map[object]) -> None:
    key = rng.choice(_KEYS)
    dice = rng.random()
    if key in table and dice < 0.25:
        del table[key]
    elif key in table and dice < 0.6:
        _deeper(rng, table[key])
    else:
        table[key] = _value(rng)


def _items(rng: Random, doc: Doc) -> None:
    edit_array(rng, roots(doc)[2])


def edit_array(rng: Random, items: pycrdt.Array[object]) -> None:
    size = len(items)
    dice = rng.random()
    if size and dice < 0.25:
        del items[rng.randrange(size)]
    elif size and dice < 0.5:
        _deeper(rng, items[rng.randrange(size)])
    else:
        items.insert(rng.randint(0, size), _value(rng))


def _deeper(rng: Random, value: object) -> None:
    if isinstance(value, pycrdt.Text):
        edit_text(rng, value)
    elif isinstance(value, pycrdt.Map):
        edit_map(rng, value)
    elif isinstance(value, pycrdt.Array):
        edit_array(rng, value)


def _xml(rng: Random, doc: Doc) -> None:
    parent: pycrdt.XmlFragment | pycrdt.XmlElement = roots(doc)[3]
    while len(parent.children) and rng.random() < 0.5:
        child = parent.children[rng.randrange(len(parent.children))]
        if isinstance(child, pycrdt.XmlText):
            now = str(child)
            if now.isascii() and "<" not in now:  # formatted text reads as markup: its positions are not ours to know
                child.insert(rng.randint(0, len(now)), rng.choice("xyz"))
            return
        if not isinstance(child, pycrdt.XmlElement):
            return
        parent = child
    dice = rng.random()
    if len(parent.children) and dice < 0.25:
        del parent.children[rng.randrange(len(parent.children))]
    elif dice < 0.4 and isinstance(parent, pycrdt.XmlElement):
        parent.attributes[rng.choice("ab")] = rng.choice(_WORDS)
    elif dice < 0.7:
        parent.children.append(pycrdt.XmlElement(rng.choice(("p", "li")), {"k": "v"}))
    else:
        parent.children.append(pycrdt.XmlText(rng.choice("xyz")))
