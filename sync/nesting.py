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

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from .errors import InvalidUpdate
from .limits import CLOCK_MAX, NESTING_MAX
from .structs import Structs, in_order, read_structs

__all__ = ["Places", "named_at_most", "refuse_depth"]

_NAMES: Final = [bytes((keyed | content, 0)) for keyed in (0, 0x20) for content in range(1, 10)]
_Placed = dict[int, list[tuple[int, int, int]]]
"""Client -> (clock, next clock, depth)."""


def named_at_most(state: bytes) -> int:
    """How many structs of a state name a parent by id; more where other bytes look like one. 5 ms a MB."""
    return sum(map(state.count, _NAMES))


def refuse_depth() -> InvalidUpdate:
    return InvalidUpdate(
        f"shared types nested deeper than {NESTING_MAX}, with what the document holds; refused, nothing was applied"
    )


class Places:
    """How deep each clock of a document stands: 0 in a root. Neighbouring clocks of one depth are one entry."""

    __slots__ = ("_depths", "_ends", "_starts")

    def __init__(self, state: bytes) -> None:
        self._starts: dict[int, list[int]] = {}
        self._depths: dict[int, list[int]] = {}
        self._ends: dict[int, int] = {}
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
            starts, depths = self._starts.setdefault(client, []), self._depths.setdefault(client, [])
            for start, following, depth in placed:
                if (depths[-1] if depths else 0) != depth:
                    starts.append(start)
                    depths.append(depth)
                self._ends[client] = following

    def _placed(self, structs: Mapping[int, Structs]) -> _Placed:
        """What is not here yet, in the order in which it can be taken."""
        placed: _Placed = {client: [] for client in structs}
        for client, at in in_order(structs, self._ends):
            own = structs[client]
            depth = max((self._depth(of, clock, placed.get(of)) for of, clock in own.beside(at)), default=0)
            begin, depth = max(own.clocks[at], self._ends.get(client, 0)), depth + own.deeper[at]
            before = placed[client]
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
