"""What somebody holds of a document, and whether an update is within it: the simulator's own yardstick.

Room: clocks and deleted clocks, as plain sets, apart from the ranges and the gate of `sync.replica` that it judges.
Worlds are small; a set of numbers is the shortest way to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import cast

import pycrdt

from sync.digest import decode_snapshot_bytes
from sync.validate import Shape, check_update

__all__ = ["Contents", "Doc", "Roots", "fold_of", "merged", "roots", "shape_of", "view"]

Doc = pycrdt.Doc[pycrdt.Text]
_KINDS = (("text", pycrdt.Text), ("map", pycrdt.Map), ("list", pycrdt.Array), ("xml", pycrdt.XmlFragment))
Roots = tuple[pycrdt.Text, "pycrdt.Map[object]", "pycrdt.Array[object]", pycrdt.XmlFragment]

shape_of = lru_cache(maxsize=20_000)(check_update)


class Contents:
    __slots__ = ("clocks", "deleted")

    def __init__(self) -> None:
        self.clocks: dict[int, int] = {}
        self.deleted: set[tuple[int, int]] = set()

    @classmethod
    def of(cls, doc: Doc) -> Contents:
        contents = cls()
        contents.clocks, deleted = decode_snapshot_bytes(pycrdt.Snapshot.from_doc(doc).encode())
        for client, spans in deleted.items():
            contents.deleted.update((client, clock) for first, following in spans for clock in range(first, following))
        return contents

    def copy(self) -> Contents:
        other = Contents()
        other.clocks, other.deleted = dict(self.clocks), set(self.deleted)
        return other

    def holds(self, shape: Shape) -> bool:
        clocks = self.clocks
        return all(clocks.get(client, 0) >= following for client, _, following in shape.brings) and all(
            (client, clock) in self.deleted
            for client, first, following in shape.deletes
            for clock in range(first, following)
        )

    def brings_held(self, shape: Shape) -> bool:
        return all(self.clocks.get(client, 0) >= following for client, _, following in shape.brings)

    def early(self, shape: Shape) -> str:
        """What is missing before this may be applied, in words; empty where nothing is."""
        reach = dict(self.clocks)
        for client, first, following in shape.brings:
            if first > reach.get(client, 0):
                return f"client {client}: has {reach.get(client, 0)}, the update begins at {first}"
            reach[client] = max(following, reach.get(client, 0))
        wanted = [*shape.needs, *((client, following) for client, _, following in shape.deletes)]
        for client, following in wanted:
            if reach.get(client, 0) < following:
                return f"client {client}: has {reach.get(client, 0)}, the update needs {following}"
        return ""

    def add(self, shape: Shape) -> None:
        for client, _, following in shape.brings:
            self.clocks[client] = max(following, self.clocks.get(client, 0))
        for client, first, following in shape.deletes:
            self.deleted.update((client, clock) for clock in range(first, following))

    def lacks(self, other: Contents) -> str:
        """What `other` holds and this does not, in words; empty where nothing."""
        words = [
            f"client {client}: {self.clocks.get(client, 0)} of {clock}"
            for client, clock in sorted(other.clocks.items())
            if self.clocks.get(client, 0) < clock
        ]
        gone = sorted(other.deleted - self.deleted)
        if gone:
            words.append(f"{len(gone)} deletions, as of {gone[0]}")
        return "; ".join(words)


def merged(updates: Iterable[bytes]) -> bytes:
    """In a tree of few at a time: `merge_updates` panics over hundreds of updates that overlap."""
    found = list(updates) or [b"\x00\x00"]
    while len(found) > 1:
        found = [pycrdt.merge_updates(*found[at : at + 16]) for at in range(0, len(found), 16)]
    return found[0]


def fold_of(updates: Iterable[bytes]) -> Doc:
    """A fresh document with all of it, merged first: right whatever the order (facts 1.2)."""
    doc: Doc = pycrdt.Doc()
    doc.apply_update(merged(updates))
    return doc


def roots(doc: Doc) -> Roots:
    """The four roots that every document of the simulation has: a text, a map, a list and some XML."""
    get: Callable[..., object] = doc.get  # typed for documents of one kind of root: ours have four
    found = tuple(get(name, type=kind) for name, kind in _KINDS)
    return cast(Roots, found)


def view(doc: Doc) -> tuple[str, str, str, str]:
    """What a reader sees of the four roots."""
    text, table, items, xml = roots(doc)
    return repr(text.diff()), _plain(table.to_py()), _plain(items.to_py()), _xml(xml)


def _plain(value: object) -> str:
    """With keys sorted: the order of a Map's keys is not canonical (facts 1.5)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_plain(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return repr(value)


def _xml(node: object) -> str:
    """With attributes sorted, for the same reason."""
    if isinstance(node, pycrdt.XmlText):
        return repr(str(node))
    assert isinstance(node, pycrdt.XmlFragment | pycrdt.XmlElement)
    inner = "".join(map(_xml, node.children))
    if isinstance(node, pycrdt.XmlFragment):
        return inner
    attributes = sorted(map(str, cast("Iterable[object]", node.attributes)))
    return f"<{node.tag} {attributes}>{inner}</>"
