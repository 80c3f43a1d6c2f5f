"""What a document holds: its clocks, its CRDT, and what was taken and waits to be applied to it.

Room: the lower half of `sync.replica`. Everything here was let in already: by the gate above it, or as what is stored.

Invariants:
1. `clocks` are those of everything accepted, applied or not: accepting is cheap, applying happens in batches.
2. What pycrdt is about to do with bytes is on record while it does it (`sync.brink`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .brink import Doing, present
from .clash import probing
from .deleted import Deleted
from .digest import digest_of_snapshot, encode_clocks
from .document import Document
from .errors import DocumentBroken, InvalidUpdate
from .ids import DocId
from .limits import NESTING_MAX, SLICE_BYTES
from .loading import apply_in_order, document_of
from .nesting import Nesting, Places, PlacesWanted, named_at_most, nesting_of, refuse_depth
from .slices import cut, wants_cutting
from .splits import Into
from .validate import Shape, check_update

__all__ = ["Captured", "Content"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Captured:
    """A document's state, and what it has to load to."""

    doc: DocId
    state: bytes
    snapshot: bytes

    def verify(self) -> None:
        """Raises InvalidUpdate, or DocumentBroken where it does not load to the same document. Pure."""
        check_update(self.state)
        if document_of(self.state, ()).digest() != digest_of_snapshot(self.snapshot):
            raise DocumentBroken(f"{self.doc}: its state does not load to the same digest; nothing is replaced")


class Content:
    __slots__ = (
        "_brink",
        "_confirmed",
        "_deleted",
        "_document",
        "_doubted",
        "_named",
        "_places",
        "_since_places",
        "_suspected",
        "_unapplied",
        "_unplaceable",
        "_waiting_bytes",
        "clocks",
        "doc",
        "hurried",
        "unapplied_bytes",
    )

    def __init__(
        self,
        doc: DocId,
        state: bytes | None,
        updates: Sequence[bytes],
        document: Document | None,
        nesting: Nesting | None,
    ) -> None:
        """From what is stored: trusted bytes in commit order. Raises DocumentBroken where pycrdt refuses them.

        `document`, `nesting`: what was made of them elsewhere (`document_of`, `nesting_of`); this one's from now on.
        """
        self.doc = doc
        self._brink = present()
        self._suspected = self._brink.suspects(doc)
        self._brink.enter(doc, Doing.LOAD)
        try:
            self._document = document_of(state, updates) if document is None else document
        finally:
            self._brink.leave()
        self.clocks = self._document.clocks()
        self._unapplied: list[bytes] = []
        self._waiting_bytes = 0
        """Of what waits to be applied, but for keystrokes."""
        self.unapplied_bytes = 0
        """Of broadcasts, since something was applied: whoever only listens has to call `materialise` now and then."""
        self._deleted: Deleted | None = None
        self._named: int | None = None if self.clocks else 0
        """Structs that named a type as their parent: at most so many. None: what was loaded was not looked at."""
        self._places: Places | None = None
        self._since_places: list[bytes] | None = None
        """Taken since a thread began to find them."""
        self._unplaceable = False
        """A thread could not."""
        self._doubted: set[int] = set()
        """Hashes of updates that wait until they are found: by what was known they were too deep, or it was not."""
        self._confirmed: set[int] = set()
        """They were found for these."""
        self.hurried = False
        """`PlacesWanted` is raised where everybody would wait until they are found."""
        if nesting is not None:
            self._named, self._places = nesting.named, nesting.places

    # --- what is let in ----------------------------------------------------------------------------------------------
    def _accept(self, update: bytes, shape: Shape) -> None:
        """Raises InvalidUpdate where its structs wait for each other; then nothing has changed."""
        clocks = self.clocks
        pieces = cut(update, clocks) if wants_cutting(update, shape) else None
        if self._places is not None:
            self._places.add(update)
        self._waiting_bytes += len(update)
        for client, _, following in shape.brings:
            if following > clocks.get(client, 0):
                clocks[client] = following
        if shape.deletes and self._deleted is not None:
            for client, first, following in shape.deletes:
                self._deleted.add(client, first, following)
        if shape.names and self._named is not None:
            self._named += shape.names
        if pieces is None:
            self._unapplied.append(update)
        else:
            self._unapplied += pieces
        if self._since_places is not None:
            self._since_places.append(update)
        if self._suspected:
            self._apply_alone(update, shape)

    def _apply_alone(self, update: bytes, shape: Shape) -> None:
        """A batch has ended the process: one by one, and read too, since some kill only then. Text alone cannot."""
        waiting = self._unapplied
        try:
            self.materialise()
            if shape.typed is None:
                self._brink.enter(self.doc, Doing.APPLY, (update,))
                self._document.state()
                self._document.digest()
                self._brink.leave()
        except DocumentBroken:
            self._unapplied = waiting  # whoever materialises next meets it again, and deals with it

    def _look_at_depth(self, update: bytes, names: int, early: int = 0) -> None:
        """Raises InvalidUpdate (`sync.nesting`), or PlacesWanted. `early`: so many are named by what it may let in."""
        if self._places is None and self._named is None:
            state = self._peek()
            if state is None:
                return
            self._named = named_at_most(state)
        if self._depth_at_most() + names + early <= NESTING_MAX:
            return
        if self._places is not None and not early and self._places.deepest(update) <= NESTING_MAX:
            return
        if self.hurried and not self._unplaceable:
            self._look_at_found(update)
            return
        state = self._peek()
        if state is None:
            return
        self._places = Places(state)
        if self._places.deepest(update) > NESTING_MAX:
            raise refuse_depth()

    def _look_at_found(self, update: bytes) -> None:
        """Raises PlacesWanted where they were not found for this update, and then InvalidUpdate."""
        if self._places is None or hash(update) not in self._confirmed:
            self._doubted.add(hash(update))
            raise PlacesWanted
        if self._places.deepest(update) > NESTING_MAX:
            raise refuse_depth()

    def _depth_at_most(self) -> int:
        return self._places.depth if self._places is not None else self._named or 0

    def check_depth(self, update: bytes, shape: Shape) -> None:
        """What `take` would refuse, also where the CRDT has it already: a client's own edit. Raises InvalidUpdate."""
        if shape.names:
            self._look_at_depth(update, shape.names)

    def _peek(self) -> bytes | None:
        """The whole state; None where pycrdt breaks, which is dealt with by whoever materialises next."""
        updates = self._unapplied
        try:
            return self._read(Document.state)
        except DocumentBroken:
            self._unapplied = updates
            return None

    # --- the CRDT ----------------------------------------------------------------------------------------------------
    def materialise(self) -> Document:
        """Apply what was taken, in one piece. Raises DocumentBroken: then discard the replica."""
        if self._unapplied:
            updates, self._unapplied, self.unapplied_bytes = self._unapplied, [], 0
            self._waiting_bytes = 0
            self._brink.enter(self.doc, Doing.APPLY, updates)
            try:
                apply_in_order(self._document, updates)
            finally:
                self._brink.leave()
        return self._document

    def watched(self, updates: Sequence[bytes], work: Callable[[], _T]) -> _T:
        """Do what pycrdt does with these before they are applied: merge them. On record meanwhile."""
        self._brink.enter(self.doc, Doing.APPLY, updates)
        try:
            return work()
        finally:
            self._brink.leave()

    def _read(self, read: Callable[[Document], _T]) -> _T:
        document = self.materialise()
        self._brink.enter(self.doc, Doing.READ)
        try:
            return read(document)
        finally:
            self._brink.leave()

    def joined(self, updates: Sequence[bytes], whole: bytes) -> None:
        """`whole` is these updates in one: where they are all that waits to be applied, it is applied instead.

        Not where they are many: in one piece they would cost pycrdt more (`sync.slices`).
        """
        if len(whole) <= SLICE_BYTES and self._unapplied == updates:
            self._unapplied = [whole]

    @property
    def held_bytes(self) -> int:
        """Of the document, at most: it grows with what is taken, until all of it is asked for, as compacting does."""
        return self._document.applied_bytes + self._waiting_bytes

    def into(self) -> Into:
        """As it is now, for a thread."""
        return Into(self.held_bytes, self.clocks.copy())

    @property
    def unapplied_count(self) -> int:
        return len(self._unapplied)

    def state_vector(self) -> bytes:
        return self.materialise().state_vector()

    def probe(self, shared: dict[int, int]) -> bytes:
        """A state vector that asks for the last of what is shared as well (`sync.clash`)."""
        return encode_clocks(probing(self.clocks, shared))

    def diff(self, state_vector: bytes) -> bytes:
        return self._read(lambda document: document.diff(state_vector))

    def digest(self) -> str:
        return self._read(Document.digest)

    def capture(self) -> Captured:
        """The whole state as it is now, not yet verified. Raises DocumentBroken."""
        document = self.materialise()
        if document.clocks() != {client: clock for client, clock in self.clocks.items() if clock}:
            raise DocumentBroken(f"{self.doc}: pycrdt holds other clocks than were taken; rebuild it")
        return Captured(self.doc, self._read(Document.state), self._read(Document.snapshot))

    def verified_state(self) -> bytes:
        """The whole state, after a fresh document has loaded it and has the same digest.

        Raises DocumentBroken where it does not, and InvalidUpdate: nothing may be replaced by it.
        """
        captured = self.capture()
        self._read(lambda _: captured.verify())
        return captured.state

    def know_deletions(self) -> None:
        """Before an update is taken in pieces: what its first ones delete unsaid, is said by its last ones for others.

        Yrs deletes a value when another one is put for it, and not everywhere: seen here as deleted already, the range
        would be kept from the disk and from clients (simulator, seed 3194).
        """
        self._known_deletions()

    def _known_deletions(self) -> Deleted:
        if self._deleted is None:
            self._deleted = Deleted(self._read(Document.snapshot))
        return self._deleted

    def prepare(self) -> None:
        """Read now what the first deletion and the next nested type would wait for: a second of a large document."""
        if (self._named is None or self.wants_places) and (state := self._peek()) is not None:
            named = named_at_most(state) if self._named is None else self._named
            nesting = nesting_of(named, lambda: state)
            self._named, self._places = nesting.named, nesting.places
        self.know_deletions()

    @property
    def wants_places(self) -> bool:
        """Where everything stands will have to be known soon, and is not: `prepare` where it holds nobody up."""
        known = self._places is not None or self._unplaceable
        return not known and self._named is not None and self._named > NESTING_MAX // 2

    def begin_places(self, wanted: bool = False) -> bytes | None:
        """The state to find them in, in a thread; None where nobody has to, or does already. Then `end_places`.

        `wanted`: by `PlacesWanted`, whatever is known. Raises DocumentBroken then.
        """
        if self._since_places is not None or not (wanted or self.wants_places):
            return None
        state = self._read(Document.state) if wanted else self._peek()
        if state is not None:
            self._since_places = []
        return state

    def end_places(self, places: Places | None) -> None:
        """None: the state could not be read; whoever needs them next finds out why."""
        since, self._since_places = self._since_places, None
        self._confirmed, self._doubted = self._doubted, set()
        if since is None:
            return  # adopted meanwhile
        if places is not None:
            try:
                for update in since:
                    places.add(update)
            except InvalidUpdate:
                places = None
        self._places, self._unplaceable = places, places is None

    def look_at_deletions_again(self) -> None:
        """What was applied may have deleted what no range has named yet."""
        self._deleted = None

    def _deleted_already(self, shape: Shape) -> bool:
        return self._known_deletions().holds(shape.deletes)
