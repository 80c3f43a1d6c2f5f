"""What has to be edited for one value to become another: texts as insertions and deletions, lists as runs.

Room: plain values in, steps out. Each step is counted in what the one before it has left, so that they can be made in
their order. What stays the same is never touched: that is what concurrent typing survives by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

__all__ = ["Splice", "list_splices", "text_splices"]

_WORDS_MAX: Final = 4_000  # compared word by word: SequenceMatcher is quadratic where words repeat
_WORD: Final = re.compile(r"\w+|\s|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Splice:
    """At `position`, take away so many and put `inserted` there: a piece of text by characters, or new items."""

    position: int
    deleted: int
    inserted: str


def text_splices(old: str, new: str) -> list[Splice]:
    """Lines first, then words within lines that differ; the last place first. Positions are code points."""
    found: list[Splice] = []
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    starts = _starts(before)
    for tag, a, b, c, d in SequenceMatcher(None, before, after).get_opcodes():
        if tag != "equal":
            found += _words(starts[a], "".join(before[a:b]), "".join(after[c:d]))
    found.reverse()
    return found


def _words(at: int, old: str, new: str) -> list[Splice]:
    head = _common(old, new)
    old, new, at = old[head:], new[head:], at + head
    tail = _common(old[::-1], new[::-1])
    old, new = old[: len(old) - tail], new[: len(new) - tail]
    before, after = _WORD.findall(old), _WORD.findall(new)
    if not before or not after or max(len(before), len(after)) > _WORDS_MAX:
        return [Splice(at, len(old), new)] if old or new else []
    starts = _starts(before)
    return [
        Splice(at + starts[a], starts[b] - starts[a], "".join(after[c:d]))
        for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        if tag != "equal"
    ]


def _common(old: str, new: str) -> int:
    """Length of what both begin with."""
    low, high = 0, min(len(old), len(new))
    while low < high:  # bisection: a comparison of slices is fast, one of characters is not
        middle = (low + high + 1) // 2
        if old[low:middle] == new[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _starts(pieces: Sequence[str]) -> list[int]:
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    return starts


def list_splices(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """(first, next) of `old` becomes (first, next) of `new`, the last place first. Items are compared as texts."""
    found = [(a, b, c, d) for tag, a, b, c, d in SequenceMatcher(None, old, new).get_opcodes() if tag != "equal"]
    found.reverse()
    return found
