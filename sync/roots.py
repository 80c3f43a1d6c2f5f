"""What kinds of roots does a document have, and how deep does it nest? Read from its state's bytes.

Room: bytes in, names and kinds out; no pycrdt, which keeps no kinds: a root is what its first reader calls it. Nothing
is checked here: the bytes are a document's own state, or `sync.validate` has passed them.

A struct without origins names its parent: a root by name, a nested type by id. Every other struct has the parent of its
left neighbour, or of its right one. What such a struct holds tells what the parent is.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from .limits import CLIENT_ID_MAX, CLOCK_MAX, UPDATE_VALUES_MAX
from .validate import _content, _text, _text_units, _uint  # the same grammar, and it must not be written twice

__all__ = ["RootKind", "Roots", "find_roots"]


class RootKind(IntEnum):
    """Ordered by how much each tells: where two meet in one root, the smaller number wins."""

    TEXT = 1
    XML = 2
    MAP = 3
    ARRAY = 4
    UNKNOWN = 5
    """Everything in it was deleted, and nothing remembers what it was."""
    UNREADABLE = 6
    """An array within it holds text, by somebody's fault or wish: pycrdt would never end reading it."""

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Roots:
    kinds: dict[str, RootKind]
    """Sorted by name."""
    depth: int
    """Shared types within shared types, at the deepest; 0 where the roots hold none."""
    xml_within: bool
    """True where a map or an array holds XML."""


_Id = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Struct:
    clock: int
    following: int
    """Next clock after it."""
    tells: RootKind
    root: str | None
    """Name of the root it says it is in."""
    container: _Id | None
    """The nested type it says it is in."""
    neighbour: _Id | None
    """Says neither: it is where this one is."""
    nests: int
    """Which shared type it is itself, by Yjs' number; -1 where it is none."""
    letters: bool
    """It is a piece of text, a format or an embed."""

    @property
    def xml(self) -> bool:
        return self.nests in _XML_TYPES


_ARRAY_TYPE: Final = 0
_XML_TYPES: Final = (3, 4, 6)  # element, fragment, text
_GC: Final = 0
_SKIP: Final = 10


def find_roots(state: bytes) -> Roots:
    """Every root of a whole state, and what it holds. Walks the bytes once: about 1 us a struct."""
    structs = _read(state)
    kinds: dict[str, RootKind] = {}
    for of_client in structs.values():
        for struct in of_client:
            if struct.root is not None:
                kinds[struct.root] = min(struct.tells, kinds.get(struct.root, RootKind.UNKNOWN))
    places = _Places(structs)
    if RootKind.UNKNOWN in kinds.values():
        _ask_followers(kinds, structs, places)
    if RootKind.ARRAY in kinds.values() or any(s.nests == _ARRAY_TYPE for of in structs.values() for s in of):
        _find_letters_in_arrays(kinds, structs, places)
    return Roots({name: kinds[name] for name in sorted(kinds)}, places.depth(), places.xml_within(kinds))


def _ask_followers(kinds: dict[str, RootKind], structs: dict[int, list[_Struct]], places: _Places) -> None:
    """A root whose first pieces are all deleted: what came behind them tells."""
    open_roots = {name for name, kind in kinds.items() if kind is RootKind.UNKNOWN}
    for client in sorted(structs):
        for at, struct in enumerate(structs[client]):
            if struct.neighbour is None or struct.tells is RootKind.UNKNOWN:
                continue
            name = places.of(client, at).root
            if name is not None and name in open_roots:
                kinds[name] = min(struct.tells, kinds[name])


def _find_letters_in_arrays(kinds: dict[str, RootKind], structs: dict[int, list[_Struct]], places: _Places) -> None:
    """Reading text as an array never ends where it is not ASCII: a root is a text then, a nested array unreadable."""
    for client in sorted(structs):
        for at, struct in enumerate(structs[client]):
            if not struct.letters:
                continue
            place = places.of(client, at)
            if place.root is not None and kinds[place.root] is RootKind.ARRAY:
                kinds[place.root] = RootKind.TEXT
            elif place.container is not None and (name := places.root_of_array(place.container)) is not None:
                kinds[name] = RootKind.UNREADABLE


class _Places:
    """Where each struct is: the struct that names the parent, found over neighbours and remembered."""

    __slots__ = ("_clocks", "_known", "_structs")

    def __init__(self, structs: dict[int, list[_Struct]]) -> None:
        self._structs = structs
        self._clocks = {client: [struct.clock for struct in of] for client, of in structs.items()}
        self._known: dict[_Id, _Struct] = {}

    def find(self, wanted: _Id) -> _Id | None:
        """(client, index) of the struct that holds this clock; None where it was collected."""
        client, clock = wanted
        at = bisect_right(self._clocks.get(client, ()), clock) - 1
        if at < 0 or clock >= self._structs[client][at].following:
            return None
        return client, at

    def of(self, client: int, at: int) -> _Struct:
        """The struct that names the parent of this one. A loop, since chains are as long as documents."""
        here: _Id | None = (client, at)
        path: list[_Id] = []
        walked: set[_Id] = set()  # neighbours in a circle would be a forged state: it ends where it began
        struct = self._structs[client][at]
        while here is not None and here not in walked:
            struct = self._known.get(here) or self._structs[here[0]][here[1]]
            if struct.neighbour is None:
                break
            path.append(here)
            walked.add(here)
            here = self.find(struct.neighbour)
        for passed in path:
            self._known[passed] = struct
        return struct

    def root_of_array(self, container: _Id) -> str | None:
        """Name of the root around this nested type, if that is an array."""
        here = self.find(container)
        if here is None or self._structs[here[0]][here[1]].nests != _ARRAY_TYPE:
            return None
        passed: set[_Id] = set()
        while here is not None and here not in passed:
            passed.add(here)
            place = self.of(*here)
            if place.root is not None:
                return place.root
            here = self.find(place.container) if place.container is not None else None
        return None

    def xml_within(self, kinds: dict[str, RootKind]) -> bool:
        for client, of_client in self._structs.items():
            for at, struct in enumerate(of_client):
                if struct.xml:
                    place = self.of(client, at)
                    if place.root is not None and kinds[place.root] in (RootKind.MAP, RootKind.ARRAY):
                        return True
                    outer = self.find(place.container) if place.container is not None else None
                    if outer is not None and not self._structs[outer[0]][outer[1]].xml:
                        return True
        return False

    def depth(self) -> int:
        """How many nested types are around the deepest, itself included."""
        depths: dict[_Id, int] = {}
        deepest = 0
        for client, of_client in self._structs.items():
            for at, struct in enumerate(of_client):
                if struct.nests >= 0 and (client, at) not in depths:
                    deepest = max(deepest, self._measure((client, at), depths))
        return deepest

    def _measure(self, start: _Id, depths: dict[_Id, int]) -> int:
        path: list[_Id] = []
        here: _Id | None = start
        while here is not None and here not in depths:
            path.append(here)
            depths[here] = 0  # a circle ends here
            container = self.of(*here).container
            here = self.find(container) if container is not None else None
        depth = depths[here] if here is not None else 0
        for passed in reversed(path):
            depth += 1
            depths[passed] = depth
        return depth


def _read(b: bytes) -> dict[int, list[_Struct]]:
    """Client -> its structs by clock, collected ones left out. Grammar: `sync.validate`."""
    structs: dict[int, list[_Struct]] = {}
    clients, i = _uint(b, 0, len(b))
    for _ in range(clients):
        count, i = _uint(b, i, len(b))
        client, i = _uint(b, i, CLIENT_ID_MAX)
        clock, i = _uint(b, i, CLOCK_MAX)
        of_client = structs.setdefault(client, [])
        for _ in range(count):
            info = b[i]
            i += 1
            if info in (_GC, _SKIP):
                length, i = _uint(b, i, CLOCK_MAX)
                clock += length
                continue
            root: str | None = None
            container: _Id | None = None
            neighbour: _Id | None = None
            if info & 0x80:
                neighbour, i = _id(b, i)
            if info & 0x40:
                right, i = _id(b, i)
                neighbour = neighbour or right
            if not info & 0xC0:
                named = b[i] == 1
                i += 1
                if named:
                    start = _uint(b, i, len(b))[1]
                    i = _text(b, i)
                    root = b[start:i].decode("utf-8")
                else:
                    container, i = _id(b, i)
                if info & 0x20:
                    i = _text(b, i)
            ref = info & 31
            nests = b[i] if ref == 7 else -1
            tells = RootKind.XML if nests in _XML_TYPES else _TELLS.get(ref, RootKind.ARRAY)
            letters = tells is RootKind.TEXT
            if info & 0x20:
                tells = RootKind.MAP
            if ref == 4:
                length, i = _text_units(b, i)
            else:
                length, i, _ = _content(b, i, ref, UPDATE_VALUES_MAX)
            of_client.append(_Struct(clock, clock + length, tells, root, container, neighbour, nests, letters))
            clock += length
    return structs


_TELLS: Final = {  # by number of content: deleted, string, embed, format
    1: RootKind.UNKNOWN,
    4: RootKind.TEXT,
    5: RootKind.TEXT,
    6: RootKind.TEXT,
}


def _id(b: bytes, i: int) -> tuple[_Id, int]:
    client, i = _uint(b, i, CLIENT_ID_MAX)
    clock, i = _uint(b, i, CLOCK_MAX)
    return (client, clock), i
