"""One random edit: what it writes, what it deletes. Every edit writes a mark that occurs nowhere else.

Room: a CRDT with three roots (`text`, `map`, `array`) and a random number generator. A deletion is made in the same
transaction as a mark is written, so that whoever holds the mark holds the deletion as well.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from sync.document import Array, Crdt, Map

__all__ = ["MARK", "ROOTS", "Edit", "marks_of", "plan"]

ROOTS = ("text", "map", "array")
MARK = re.compile(r"<[a-z]+[.][0-9a-f]+[.][0-9]+>")
DELETE_SHARE = 0.3
MARKS_KEPT = 150  # in one root: above, more is deleted than written, or hours of it would make huge documents


@dataclass(frozen=True, slots=True)
class Edit:
    root: str
    mark: str
    deletes: tuple[str, ...]
    place: float
    """Where, from 0 to 1."""

    def make(self, crdt: Crdt) -> None:
        """Within a transaction."""
        if self.root == "map":
            entries: Map[float] = crdt.get("map", type=Map)
            entries[self.mark] = self.place
            for key in self.deletes:
                del entries[key]
        elif self.root == "array":
            rows: Array[str] = crdt.get("array", type=Array)
            for mark in self.deletes:
                del rows[[str(row) for row in rows].index(mark)]
            rows.insert(int(self.place * len(rows)), self.mark)
        else:
            text = crdt["text"]
            for mark in self.deletes:
                at = str(text).index(mark)  # all of it is ASCII: characters are bytes
                del text[at : at + len(mark)]
            ends = [0, *(found.end() for found in MARK.finditer(str(text)))]
            text.insert(ends[int(self.place * (len(ends) - 1))], self.mark)


def plan(crdt: Crdt, chance: random.Random, mark: str) -> Edit:
    root = chance.choice(ROOTS)
    here = sorted(marks_of(crdt, root))
    deletes: tuple[str, ...] = ()
    if here and (len(here) > MARKS_KEPT or chance.random() < DELETE_SHARE):
        deletes = tuple(chance.sample(here, min(len(here), 2 if len(here) > MARKS_KEPT else 1)))
    return Edit(root, mark, deletes, chance.random())


def marks_of(crdt: Crdt, root: str) -> list[str]:
    if root == "map":
        return list(crdt.get("map", type=Map).keys())
    if root == "array":
        return [str(row) for row in crdt.get("array", type=Array)]
    return MARK.findall(str(crdt["text"]))
