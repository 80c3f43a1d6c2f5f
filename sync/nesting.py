"""How deep do shared types stand within shared types, in the whole document? Bounded before pycrdt sees an update.

Room: bytes in, a verdict out; no pycrdt, which recurses over such types: 31,000 levels, made by however many updates,
end the process at a deletion, 10,000 at a reading, and no exception says so.

A struct stands in a root, in a type that it names by id, or where its left or right neighbour stands. So only structs
that name a parent by id lead deeper. `Shape.names` counts them: as long as a document has had no more than NESTING_MAX,
none can stand deeper, and nothing else is asked. Beyond that, `Places` knows where everything stands.

The verdict is a function of the document's own state and the update, whoever asks and whatever was kept since: what was
deleted meanwhile stands at the top in a state, and may be remembered deeper, so a refusal is always judged on `Places`
of the present state. Two leaders refuse the same changes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import InvalidUpdate
from .limits import CLOCK_MAX, NESTING_MAX
from .structs import NOBODY, Structs, in_order, read_structs

__all__ = ["Nesting", "Places", "PlacesWanted", "named_at_most", "nesting_of", "places_of", "refuse_depth"]

_NAMES: Final = bytes(0 if byte == 0 else 1 if byte & ~0x20 in range(1, 10) else 2 for byte in range(256))
"""A struct without origins, and the 0 that says "a parent by id" behind it."""
_PART: Final = 1 << 18  # bytes, gone through while nobody else runs: 0.4 ms
_Placed = dict[int, list[tuple[int, int, int]]]
"""Client -> (clock, next clock, depth)."""


def named_at_most(state: bytes) -> int:
    """How many structs of a state name a parent by id; more where other bytes look like one. 1.5 ms a MB."""
    parts = range(0, len(state), _PART)
    return sum(state[at : at + _PART + 1].translate(_NAMES).count(b"\1\0") for at in parts)


def refuse_depth() -> InvalidUpdate:
    return InvalidUpdate(
        f"shared types nested deeper than {NESTING_MAX}, with what the document holds; refused, nothing was applied"
    )


class PlacesWanted(Exception):
    """Where everything stands has to be found first, which takes a second: nothing has changed, ask again then."""


class Places:
    """How deep each clock of a document stands: 0 in a root. Neighbouring clocks of one depth are one entry."""

    __slots__ = ("_depths", "_ends", "_starts", "depth")

    def __init__(self, state: bytes) -> None:
        self._starts: dict[int, array[int]] = {}
        self._depths: dict[int, array[int]] = {}
        self._ends: dict[int, int] = {}
        self.depth = 0
        """Of what stands deepest."""
        self.add(state)

    def deepest(self, update: bytes) -> int:
        """How deep the deepest of this update stands, or would stand. Raises InvalidUpdate."""
        structs, _ = read_structs(update)
        deepest = max((depth for placed in self._placed(structs).values() for _, _, depth in placed), default=0)
        for client, own in structs.items():
            end = self._ends.get(client, 0)
            for clock, following in zip(own.clocks, own.followings, strict=True):
                if following <= end:
                    deepest = max(deepest, self._depth(client, clock, None))
        return deepest

    def add(self, update: bytes) -> None:
        """The document has taken it."""
        for client, placed in self._placed(read_structs(update)[0]).items():
            starts, depths = self._starts.setdefault(client, array("I")), self._depths.setdefault(client, array("I"))
            for start, following, depth in placed:
                if (depths[-1] if depths else 0) != depth:
                    starts.append(start)
                    depths.append(depth)
                    self.depth = max(self.depth, depth)
                self._ends[client] = following

    def _placed(self, structs: Mapping[int, Structs]) -> _Placed:
        """What is not here yet, in the order in which it can be taken."""
        placed: _Placed = {client: [] for client in structs}
        for client, at in in_order(structs, self._ends):
            own = structs[client]
            before = placed[client]
            left, right = own.left[at], own.right[at]
            if left == client and right == NOBODY and before and own.left_at[at] >= before[-1][0]:
                depth = before[-1][2]  # as most do: behind what was just placed
            else:
                depth = 0 if left == NOBODY else self._depth(left, own.left_at[at], placed.get(left))
                if right != NOBODY:
                    depth = max(depth, self._depth(right, own.right_at[at], placed.get(right)))
            begin, depth = max(own.clocks[at], self._ends.get(client, 0)), depth + own.deeper[at]
            if before and before[-1][1:] == (begin, depth):  # goes on as deep: one entry
                before[-1] = (before[-1][0], own.followings[at], depth)
            else:
                before.append((begin, own.followings[at], depth))
        return placed

    def _depth(self, client: int, clock: int, placed: list[tuple[int, int, int]] | None) -> int:
        if placed and clock >= placed[0][0]:
            return placed[bisect_right(placed, (clock, CLOCK_MAX + 1, 0)) - 1][2]
        at = bisect_right(self._starts.get(client, ()), clock) - 1
        return self._depths[client][at] if at >= 0 else 0


@dataclass(frozen=True, slots=True)
class Nesting:
    """What is known of a document's depth before anybody asks: found out in a thread."""

    named: int
    """At most so many structs name a type as their parent."""
    places: Places | None
    """Where they come near to NESTING_MAX: 0.3 s of Python for 80,000 structs. Its owner moves it on."""

    @property
    def too_deep(self) -> bool:
        return self.places is not None and self.places.depth > NESTING_MAX


def nesting_of(named: int, state: Callable[[], bytes]) -> Nesting:
    """Of a document with this whole state; `named`: see `Nesting`. Half of what may be leaves room to grow."""
    if named <= NESTING_MAX // 2:
        return Nesting(named, None)
    return Nesting(named, places_of(state()))


def places_of(state: bytes) -> Places | None:
    """For a thread. None where a version that refused less has stored it."""
    try:
        return Places(state)
    except InvalidUpdate:
        return None
