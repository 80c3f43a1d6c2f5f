"""What it costs Yrs to cut a long struct in two: both halves are copied.

A deletion within a text and whatever is put into it cut a struct. Text that was typed in small pieces is one struct to
Yrs, so nobody knows how long they are: here a client's clocks count as one struct, as far as an update has not cut it.
10 MB cost 4 to 8 ms each time where memory is fresh, 250 ranges in one call 0.7 to 2 s. And where there are many
pieces already, the list of them is moved for each new one: 700,000 pieces (6 MB) cost 0.2 ms.

Room: numbers about a document that is not read. What is found is what it costs at most.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import limits
from .limits import CLOCK_MAX

__all__ = ["Into", "Splits", "at_once_bytes"]

_UNIT_BYTES = 3  # of UTF-8 in a UTF-16 code unit, at most
_LISTED = 40  # of a document's bytes one part: as long takes the list of its pieces


@dataclass(frozen=True, slots=True)
class Into:
    """The document that an update is for."""

    bytes: int = 0
    """At most so many: what was stored, loaded and taken."""
    clocks: Mapping[int, int] = field(default_factory=dict)
    """Client -> next clock."""


def at_once_bytes(document_bytes: int) -> int:
    """A shorter update is taken as it comes; a longer one is looked at first, which a keystroke never is."""
    few = document_bytes > limits.SPLIT_DOCUMENT_BYTES
    return min(limits.SPLIT_FRAME_BYTES, limits.LARGE_FRAME_BYTES) if few else limits.LARGE_FRAME_BYTES


class Splits:
    """Where the structs of a document are cut while an update is taken."""

    __slots__ = ("_bytes", "_ends", "_points")

    def __init__(self, into: Into, update_bytes: int) -> None:
        self._bytes = into.bytes + update_bytes
        self._ends = dict(into.clocks)
        self._points: dict[int, array[int]] = {}

    @property
    def counts(self) -> bool:
        """False for a small document: it costs nothing worth counting."""
        return self._bytes > limits.SPLIT_DOCUMENT_BYTES

    def end(self, client: int) -> int:
        return self._ends.get(client, 0)

    def grow(self, client: int, following: int) -> None:
        """A struct of the update is in."""
        if following > self._ends.get(client, 0):
            self._ends[client] = following

    def cut(self, client: int, clock: int) -> int:
        """Between this clock and the one before it. Bytes that are copied for it, or take as long, at most."""
        end = self._ends.get(client, 0)
        if clock >= end:
            return 0  # nothing is behind it
        listed = self._bytes // _LISTED
        points = self._points.get(client)
        if points is None:
            points = self._points[client] = array("I", (0, CLOCK_MAX))
        at = bisect_left(points, clock)
        if points[at] == clock:
            return 0
        width = min(points[at], end) - points[at - 1]
        if width <= limits.SPLIT_UNITS:
            return listed
        points.insert(at, clock)
        return listed + min(self._bytes, width * _UNIT_BYTES)
