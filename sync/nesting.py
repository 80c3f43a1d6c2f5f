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
from typing import Final, NamedTuple

from .errors import InvalidUpdate
from .limits import CLIENT_ID_MAX, CLOCK_MAX, NESTING_MAX, UPDATE_VALUES_MAX
from .validate import _content, _text, _text_units, _uint  # the same grammar, and it must not be written twice

__all__ = ["Places", "named_at_most", "refuse_depth"]

_Id = tuple[int, int]
_GC: Final = 0
_SKIP: Final = 10
_NAMES: Final = [bytes((keyed | content, 0)) for keyed in (0, 0x20) for content in range(1, 10)]
_NOWHERE: Final[tuple[_Id, ...]] = ()


class _Struct(NamedTuple):
    clock: int
    following: int
    beside: tuple[_Id, ...]
    """Neighbours, or the type that it names."""
    deeper: int
    """1 where it names a type."""


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
        structs = _read(update)
        deepest = max((depth for placed in self._placed(structs).values() for _, _, depth in placed), default=0)
        for client, own in structs.items():
            end = self._ends.get(client, 0)
            for struct in own:
                if struct.following <= end:
                    deepest = max(deepest, self._depth(client, struct.clock, None))
        return deepest

    def add(self, update: bytes) -> None:
        """The document has taken it."""
        for client, placed in self._placed(_read(update)).items():
            starts, depths = self._starts.setdefault(client, []), self._depths.setdefault(client, [])
            for start, following, depth in placed:
                if (depths[-1] if depths else 0) != depth:
                    starts.append(start)
                    depths.append(depth)
                self._ends[client] = following

    def _placed(self, structs: dict[int, list[_Struct]]) -> dict[int, list[tuple[int, int, int]]]:
        """Per client (clock, next clock, depth) of what is not here yet, in the order in which it can be taken."""
        placed: dict[int, list[tuple[int, int, int]]] = {client: [] for client in structs}
        done = dict.fromkeys(structs, 0)
        for client in structs:
            waiting = {client: CLOCK_MAX}  # up to which clock; each one because of the one before it
            while waiting:
                here, until = next(reversed(waiting.items()))
                first = self._place(here, until, structs, placed, done)
                if first is None:
                    del waiting[here]
                elif first[0] in waiting:
                    raise InvalidUpdate("structs that wait for each other; refused, nothing was applied")
                else:
                    waiting[first[0]] = first[1]
        return placed

    def _place(
        self,
        here: int,
        until: int,
        structs: dict[int, list[_Struct]],
        placed: dict[int, list[tuple[int, int, int]]],
        done: dict[int, int],
    ) -> _Id | None:
        """Place this client's structs up to a clock: what has to come first, or None when that is done."""
        end = self._ends.get(here, 0)
        own = structs[here]
        for at in range(done[here], len(own)):
            struct = own[at]
            if struct.following <= end:
                continue
            if struct.clock > until:
                done[here] = at
                return None
            depth = 0
            for of, clock in struct.beside:
                others = structs.get(of)
                if others is not None and of != here and done[of] < len(others) and clock >= others[done[of]].clock:
                    done[here] = at
                    return of, clock
                depth = max(depth, self._depth(of, clock, placed.get(of)))
            placed[here].append((max(struct.clock, end), struct.following, depth + struct.deeper))
        done[here] = len(own)
        return None

    def _depth(self, client: int, clock: int, placed: list[tuple[int, int, int]] | None) -> int:
        if placed and clock >= placed[0][0]:
            return placed[bisect_right(placed, (clock, CLOCK_MAX + 1, 0)) - 1][2]
        at = bisect_right(self._starts.get(client, ()), clock) - 1
        return self._depths[client][at] if at >= 0 else 0


def _read(b: bytes) -> dict[int, list[_Struct]]:
    """Client -> its structs in order. The update has been checked."""
    structs: dict[int, list[_Struct]] = {}
    size = len(b)
    clients, i = _uint(b, 0, size)
    for _ in range(clients):
        count, i = _uint(b, i, size)
        client, i = _uint(b, i, CLIENT_ID_MAX)
        clock, i = _uint(b, i, CLOCK_MAX)
        own = structs.setdefault(client, [])
        for _ in range(count):
            info = b[i]
            i += 1
            if info in (_GC, _SKIP):
                length, i = _uint(b, i, CLOCK_MAX)
                if info == _GC:
                    own.append(_Struct(clock, clock + length, _NOWHERE, 0))
                clock += length
                continue
            beside: tuple[_Id, ...] = _NOWHERE
            deeper = 0
            if info & 0x80:
                of, i = _uint(b, i, CLIENT_ID_MAX)
                at, i = _uint(b, i, CLOCK_MAX)
                beside = ((of, at),)
            if info & 0x40:
                of, i = _uint(b, i, CLIENT_ID_MAX)
                at, i = _uint(b, i, CLOCK_MAX)
                beside = (*beside, (of, at))
            if not info & 0xC0:
                deeper = 1 - b[i]
                if deeper:
                    of, i = _uint(b, i + 1, CLIENT_ID_MAX)
                    at, i = _uint(b, i, CLOCK_MAX)
                    beside = ((of, at),)
                else:
                    i = _text(b, i + 1)
                if info & 0x20:
                    i = _text(b, i)
            if info & 31 == 4:
                length, i = _text_units(b, i)
            else:
                length, i, _ = _content(b, i, info & 31, UPDATE_VALUES_MAX)
            own.append(_Struct(clock, clock + length, beside, deeper))
            clock += length
    return structs
