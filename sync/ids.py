"""Names: document id, origin, dot, version; and a document id as a NATS subject token.

Room: pure values. Nothing here knows what a document holds or how a message travels.
"""

from __future__ import annotations

import unicodedata
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import NewType
from urllib.parse import quote, unquote

from .errors import InvalidDocumentId
from .limits import DOCUMENT_ID_BYTES_MAX

__all__ = [
    "ORIGIN_MAX",
    "ConnId",
    "DocId",
    "Dot",
    "DotSet",
    "Origin",
    "Version",
    "parse_document_id",
    "shard_of",
    "subject_token",
    "from_subject_token",
]

DocId = NewType("DocId", str)
"""A checked document id (`parse_document_id`)."""

Origin = NewType("Origin", int)
"""53 random bits, new at every start of an edge process; never stored for reuse."""

ConnId = NewType("ConnId", int)
"""One websocket connection of this process."""

ORIGIN_MAX = 2**53 - 1

_TOKENS_KEPT = 2_048


def parse_document_id(text: str) -> DocId:
    """Check a document id: UTF-8, 1-256 bytes, no control characters.

    Raises InvalidDocumentId naming what is wrong.
    """
    try:
        length = len(text.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidDocumentId("document id: not UTF-8; use well-formed text") from None
    if length == 0:
        raise InvalidDocumentId("document id: empty; put one into the path, as in ws://host:port/notes/plan")
    if length > DOCUMENT_ID_BYTES_MAX:
        raise InvalidDocumentId(f"document id: {length} bytes, at most {DOCUMENT_ID_BYTES_MAX}; choose a shorter one")
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise InvalidDocumentId(f"document id: control character U+{ord(character):04X} is not allowed; remove it")
    return DocId(text)


@lru_cache(maxsize=_TOKENS_KEPT)
def subject_token(doc: DocId) -> str:
    """The id as one NATS subject token: percent-encoded UTF-8, `/` kept readable, `.` `*` `>` and space encoded."""
    return quote(doc, safe="/").replace(".", "%2E").replace("~", "%7E")


@lru_cache(maxsize=_TOKENS_KEPT)  # each broadcast names its document so
def from_subject_token(token: str) -> DocId:
    """Inverse of `subject_token`. Raises InvalidDocumentId."""
    if len(token) > 3 * DOCUMENT_ID_BYTES_MAX:  # every byte percent-encoded: longer ones are not even decoded
        raise InvalidDocumentId(f"subject token of {len(token)} characters: no document id is so long")
    try:
        return parse_document_id(unquote(token, errors="strict"))
    except UnicodeDecodeError:
        raise InvalidDocumentId(f"subject token {token!r}: not percent-encoded UTF-8") from None


def shard_of(doc: DocId, shard_count: int) -> int:
    """The document's shard, 0 … shard_count-1: CRC-32 of the id's UTF-8, the same on every machine and version."""
    return zlib.crc32(doc.encode("utf-8")) % shard_count


@dataclass(frozen=True, slots=True, order=True)
class Dot:
    """The name of one change: `seq` counts 1, 2, 3 … per origin and document."""

    origin: Origin
    seq: int

    def __str__(self) -> str:
        return f"{self.origin:x}.{self.seq}"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Epoch (the log's identity, ns) and stream sequence of the newest change merged in. The broker orders.

    Versions of different epochs are not comparable by sequence; a larger epoch is a newer log.
    """

    epoch: int
    seq: int

    def covers(self, other: Version) -> bool:
        """True where a document at this version has everything up to `other`: the same log, and as far."""
        return self.epoch == other.epoch and self.seq >= other.seq

    def __str__(self) -> str:
        return f"{self.epoch:x}-{self.seq}"


class DotSet:
    """A set of dots, kept as disjoint ascending ranges per origin.

    Ranges because edges ship in order and gaps are rare: a year of one edge is one range.
    """

    __slots__ = ("_ranges",)

    def __init__(self, ranges: dict[Origin, tuple[tuple[int, int], ...]] | None = None) -> None:
        self._ranges: dict[Origin, list[tuple[int, int]]] = {o: list(r) for o, r in (ranges or {}).items()}

    def __contains__(self, dot: Dot) -> bool:
        return any(first <= dot.seq <= last for first, last in self._ranges.get(dot.origin, ()))

    def holds(self, origin: Origin, first: int, last: int) -> bool:
        """True where every dot of this range is in the set."""
        return any(low <= first and last <= high for low, high in self._ranges.get(origin, ()))

    def __len__(self) -> int:
        """How many ranges are held: what it costs, not how many dots."""
        return sum(map(len, self._ranges.values()))

    def count(self) -> int:
        """How many dots."""
        return sum(last - first + 1 for ranges in self._ranges.values() for first, last in ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DotSet) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]  # mutable

    def add(self, dot: Dot) -> None:
        self.add_range(dot.origin, dot.seq, dot.seq)

    def add_range(self, origin: Origin, first: int, last: int) -> None:
        ranges = self._ranges.setdefault(origin, [])
        if ranges and ranges[-1][1] + 1 == first:  # the ordinary case: the next one
            ranges[-1] = (ranges[-1][0], last)
            return
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*ranges, (first, last)]):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self._ranges[origin] = merged

    def discard(self, dot: Dot) -> None:
        ranges = self._ranges.get(dot.origin, [])
        for at, (first, last) in enumerate(ranges):
            if first <= dot.seq <= last:
                kept = [(first, dot.seq - 1)] if first < dot.seq else []
                kept += [(dot.seq + 1, last)] if dot.seq < last else []
                ranges[at : at + 1] = kept
                break
        if not ranges:
            self._ranges.pop(dot.origin, None)

    def dots(self) -> list[Dot]:
        """Every dot, sorted: for sets that are known to be small."""
        return [Dot(o, seq) for o, first, last in self.ranges() for seq in range(first, last + 1)]

    def trim(self, ranges_max: int) -> None:
        """Forget the shortest ranges beyond `ranges_max`: a forgotten dot costs repeated work, nothing else."""
        if len(self) > ranges_max:
            kept = sorted(self.ranges(), key=lambda r: r[2] - r[1], reverse=True)[:ranges_max]
            self._ranges = {}
            for origin, first, last in kept:
                self.add_range(origin, first, last)

    def update(self, other: DotSet) -> None:
        for origin, ranges in other._ranges.items():
            for first, last in ranges:
                self.add_range(origin, first, last)

    def intersection(self, other: DotSet) -> list[Dot]:
        """Dots of this set that are in `other` too, sorted; walks the ranges of both, not what lies between."""
        common: list[Dot] = []
        for origin in sorted(self._ranges.keys() & other._ranges.keys()):
            for first, last in self._ranges[origin]:
                for low, high in other._ranges[origin]:
                    common += [Dot(origin, seq) for seq in range(max(first, low), min(last, high) + 1)]
        return common

    def ranges(self) -> list[tuple[Origin, int, int]]:
        """(origin, first, last), sorted."""
        return [(o, first, last) for o in sorted(self._ranges) for first, last in self._ranges[o]]

    def copy(self) -> DotSet:
        copied = DotSet.__new__(DotSet)  # each commit keeps what its documents hold
        copied._ranges = {origin: ranges[:] for origin, ranges in self._ranges.items()}
        return copied

    def to_text(self) -> str:
        """`origin:first-last` in hexadecimal origin, comma-separated; empty for none. One header's value."""
        return ",".join(f"{o:x}:{first}-{last}" for o, first, last in self.ranges())

    @classmethod
    def from_text(cls, text: str) -> DotSet:
        """Inverse of `to_text`. Raises ValueError."""
        dots = cls()
        for part in text.split(",") if text else ():
            origin, _, bounds = part.partition(":")
            first, _, last = bounds.partition("-")
            low, high, of = int(first), int(last), int(origin, 16)
            if not (1 <= low <= high < 2**53 and 0 <= of <= ORIGIN_MAX):
                raise ValueError(f"dots: {part!r} is no range of dots")
            dots.add_range(Origin(of), low, high)
        return dots
