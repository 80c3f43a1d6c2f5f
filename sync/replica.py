"""One document's truth: clocks, gate, apply, version, early updates.

Room: edge, leader and client each hold a Replica per open document; it knows nothing of connections, shards or disks.

Invariants:
1. Only what the gate calls NEW reaches pycrdt; EARLY waits here, bounded, and is judged again when something was taken.
2. `clocks` are those of everything taken, applied or not: taking is cheap, applying happens in batches.
3. `version` covers every change of the document up to it: it passes a rejected one and never one that is set aside.
4. What is handed out as taken are the received bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from .brink import Doing, present
from .change import LogEntry, Logged, Snapshot
from .clash import asked_for, overlaps, probing, refuse_clash
from .digest import Ranges, digest_of_snapshot, encode_clocks
from .document import Document
from .errors import ClientIdClash, DocumentBroken, InvalidUpdate, LimitReached
from .ids import ConnId, DocId, Dot, DotSet, Version
from .limits import DOT_RANGES_MAX, EARLY_BYTES_MAX, EARLY_COUNT_MAX, NESTING_MAX, SLICE_BYTES
from .loading import apply_in_order, document_of
from .nesting import Places, named_at_most, refuse_depth
from .slices import cut, wants_cutting
from .token import Token
from .validate import Shape, check_update

__all__ = [
    "Early",
    "covers",
    "document_of",
    "fold_entries",
    "fold_entry",
    "fold_log",
    "Judgement",
    "Replica",
    "Taken",
    "Verdict",
]


class Verdict(Enum):
    SEEN = "seen"
    NEW = "new"
    EARLY = "early"


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    missing: tuple[tuple[int, int], ...] = ()
    """EARLY: (client, next clock) that the replica must reach first."""


class Early(NamedTuple):
    """An update that waits for what it depends on, and where it came from: a client, or a place in the log."""

    update: bytes
    shape: Shape
    since_ms: int
    conn: ConnId | None = None
    seq: int | None = None
    missing: tuple[tuple[int, int], ...] = ()


class Taken(NamedTuple):
    """What became of one update: its own verdict, and every update that was taken (itself first, then early ones)."""

    verdict: Verdict
    updates: tuple[bytes, ...] = ()
    clash: str = ""
    """Why only a part of it was taken: the log has other content under its first clocks."""
    released: tuple[Early, ...] = ()
    """Early ones that this one let in; their bytes are within `updates` where they were NEW."""
    refused: tuple[tuple[Early, str], ...] = ()
    """Early ones whose turn came and that cannot be, and why: their senders have to be told."""


_T = TypeVar("_T")
_NEW = Judgement(Verdict.NEW)
_SEEN = Judgement(Verdict.SEEN)
_TAKEN_SEEN = Taken(Verdict.SEEN)
_TAKEN_EARLY = Taken(Verdict.EARLY)
_NO_SPANS: Sequence[tuple[int, int]] = ()
_NONE_PASSED: Mapping[int, str] = MappingProxyType({})


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


class Replica:
    __slots__ = (
        "_brink",
        "_deleted",
        "_document",
        "_guarded",
        "_held",
        "_named",
        "_passed",
        "_places",
        "_suspected",
        "_unapplied",
        "clocks",
        "doc",
        "dots",
        "early",
        "early_bytes",
        "read",
        "unapplied_bytes",
        "version",
    )

    def __init__(
        self,
        doc: DocId,
        state: bytes | None = None,
        updates: Sequence[bytes] = (),
        version: Version | None = None,
        dots: DotSet | None = None,
        guarded: bool = False,
        document: Document | None = None,
    ) -> None:
        """From what is stored: trusted bytes in commit order. Raises DocumentBroken where pycrdt refuses them.

        `document`: what `document_of` made of them, elsewhere; it is this replica's from now on.

        `guarded`: what comes again is compared with what is here (`sync.clash`); `take` raises ClientIdClash.
        """
        self.doc = doc
        self._guarded = guarded
        self.version = version
        self.read = version.seq if version else 0
        """Newest log sequence handled by `take_logged`: merged, set aside or refused."""
        self.dots = dots if dots is not None else DotSet()
        self.early: list[Early] = []
        self.early_bytes = 0
        self._brink = present()
        self._suspected = self._brink.suspects(doc)
        self._brink.enter(doc, Doing.LOAD)
        try:
            self._document = document_of(state, updates) if document is None else document
        finally:
            self._brink.leave()
        self.clocks = self._document.clocks()
        self._unapplied: list[bytes] = []
        self.unapplied_bytes = 0
        """Of broadcasts, since something was applied: whoever only listens has to call `materialise` now and then."""
        self._deleted: Ranges | None = None
        self._named: int | None = None if self.clocks else 0
        """Structs that named a type as their parent: at most so many. None: what was loaded was not looked at."""
        self._places: Places | None = None
        self._held: dict[int, tuple[Sequence[Dot], DotSet]] = {}
        self._passed: list[int] = []

    # --- the gate ----------------------------------------------------------------------------------------------------
    def judge(self, shape: Shape) -> Judgement:
        """Compare what an update brings and needs with the clocks (law 3)."""
        clocks = self.clocks
        if shape.typed is not None and not shape.needs:  # a keystroke
            client, first, following = shape.brings[0]
            known = clocks.get(client, 0)
            if first <= known:
                return _NEW if following > known else _SEEN
        reach: dict[int, int] = {}
        missing: list[tuple[int, int]] = []
        for client, first, following in shape.brings:
            have = reach.get(client)
            if have is None:
                have = clocks.get(client, 0)
            if first > have:
                missing.append((client, first))
            elif following > have:
                reach[client] = following
        for client, following in shape.needs:
            if clocks.get(client, 0) < following and reach.get(client, 0) < following:
                missing.append((client, following))
        lacking: dict[int, int] = {}  # a megabyte may delete half a million ranges of one client: one number of it
        for client, _, following in shape.deletes:
            if following > lacking.get(client, 0):
                lacking[client] = following
        for client, following in lacking.items():
            if clocks.get(client, 0) < following and reach.get(client, 0) < following:
                missing.append((client, following))
        if missing:
            return Judgement(Verdict.EARLY, tuple(missing))
        if reach:
            return _NEW
        if shape.deletes and not self._deleted_already(shape):
            return _NEW
        return _SEEN

    def take(self, update: bytes, shape: Shape, now_ms: int, conn: ConnId | None = None) -> Taken:
        """Judge an update and take it, or set it aside. Raises LimitReached where too much waits already."""
        if shape.typed is not None and not (shape.needs or shape.names or self.early or self._suspected):
            client, first, following = shape.brings[0]
            if self.clocks.get(client, 0) == first:  # the next keystroke: all that `_take` would say of it
                self.clocks[client] = following
                self._unapplied.append(update)
                return Taken(Verdict.NEW, (update,))
        return self._take(update, shape, now_ms, conn)

    def _take(
        self, update: bytes, shape: Shape, now_ms: int, conn: ConnId | None = None, seq: int | None = None
    ) -> Taken:
        judgement = self.judge(shape)
        if self._guarded and judgement.verdict is not Verdict.EARLY:
            self._compare(update, shape)
        if judgement.verdict is Verdict.SEEN:
            return _TAKEN_SEEN
        if judgement.verdict is Verdict.EARLY:
            self._set_aside(Early(update, shape, now_ms, conn, seq, judgement.missing))
            return _TAKEN_EARLY
        if shape.names:
            self._look_at_depth(update, shape.names)
        if self._suspected:
            self._brink.refuse(self.doc, update, shape)
        self._accept(update, shape)
        if not self.early:
            return Taken(Verdict.NEW, (update,))
        updates = [update]
        released, refused = self._release(updates)
        return Taken(Verdict.NEW, tuple(updates), "", released, refused)

    def _look_at_depth(self, update: bytes, names: int) -> None:
        """Raises InvalidUpdate (`sync.nesting`)."""
        if self._places is None:
            if self._named is None:
                state = self._peek()
                if state is None:
                    return
                self._named = named_at_most(state)
            if self._named + names <= NESTING_MAX:
                return
        elif self._places.deepest(update) <= NESTING_MAX:
            return
        state = self._peek()
        if state is None:
            return
        self._places = Places(state)
        if self._places.deepest(update) > NESTING_MAX:
            raise refuse_depth()

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

    def _compare(self, update: bytes, shape: Shape) -> None:
        """Raises ClientIdClash."""
        window = overlaps(shape, self.clocks)
        if not window:
            return
        updates = self._unapplied
        try:
            own = self.diff(encode_clocks(asked_for(window, self.clocks)))
        except DocumentBroken:
            self._unapplied = updates  # told where it is dealt with: by whoever materialises next
            return
        refuse_clash(update, own, window, self.clocks)

    def _take_rest(self, update: bytes, shape: Shape, clash: str) -> Taken:
        """Two writers of one client id: under each clock the first content in the log counts, as it does for Yrs.

        What comes behind stays, since others may have built on it; Invariant 4 ends here, or every reader of what is
        passed on would meet the clash again. Raises DocumentBroken.
        """
        if self.judge(shape).verdict is Verdict.SEEN:
            return Taken(Verdict.SEEN, clash=clash)
        before = self.state_vector()
        self.check_depth(update, shape)
        self._brink.refuse(self.doc, update, shape)
        self._accept(update, shape)
        updates = [self.diff(before)]
        released, refused = self._release(updates)
        return Taken(Verdict.NEW, tuple(updates), clash, released, refused)

    def _accept(self, update: bytes, shape: Shape) -> None:
        """Raises InvalidUpdate where its structs wait for each other; then nothing has changed."""
        clocks = self.clocks
        pieces = cut(update, clocks) if wants_cutting(shape) else None
        for client, _, following in shape.brings:
            if following > clocks.get(client, 0):
                clocks[client] = following
        if shape.deletes and self._deleted is not None:
            for client, first, following in shape.deletes:
                _add_range(self._deleted.setdefault(client, []), first, following)
        if shape.names and self._named is not None:
            self._named += shape.names
        if pieces is None:
            self._unapplied.append(update)
        else:
            self._unapplied += pieces
        if self._places is not None:
            self._places.add(update)
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

    def _set_aside(self, arrival: Early) -> None:
        if any(held.update == arrival.update and held.seq == arrival.seq for held in self.early):
            return
        if len(self.early) >= EARLY_COUNT_MAX:
            raise LimitReached("early_count", len(self.early) + 1, EARLY_COUNT_MAX, "send what comes before them")
        if self.early_bytes + len(arrival.update) > EARLY_BYTES_MAX:
            size = self.early_bytes + len(arrival.update)
            raise LimitReached("early_bytes", size, EARLY_BYTES_MAX, "send what comes before them")
        self.early.append(arrival)
        self.early_bytes += len(arrival.update)

    def _release(self, updates: list[bytes]) -> tuple[tuple[Early, ...], tuple[tuple[Early, str], ...]]:
        """Judge the early ones again until nothing moves: who came in, and who cannot. Invariant 1."""
        released: list[Early] = []
        refused: list[tuple[Early, str]] = []
        moved = True
        while moved:
            moved = False
            for held in list(self.early):
                judgement = self.judge(held.shape)
                if judgement.verdict is Verdict.EARLY:
                    continue
                self.early.remove(held)
                self.early_bytes -= len(held.update)
                named = self._held.pop(held.seq) if held.seq is not None else None
                try:
                    if judgement.verdict is Verdict.NEW:
                        self.check_depth(held.update, held.shape)
                        self._brink.refuse(self.doc, held.update, held.shape)
                        self._accept(held.update, held.shape)
                except InvalidUpdate as error:
                    refused.append((held, str(error)))
                    continue
                released.append(held)
                if named is not None:
                    self._confirm(*named)
                if judgement.verdict is Verdict.NEW:
                    updates.append(held.update)
                    moved = True
        return tuple(released), tuple(refused)

    def drop_early(self, held: Early) -> None:
        """Give one up: its sender has to be told."""
        if held in self.early:
            self.early.remove(held)
            self.early_bytes -= len(held.update)

    # --- the fold over the log ---------------------------------------------------------------------------------------
    def take_logged(
        self, version: Version, dots: Sequence[Dot], covers: DotSet, update: bytes, shape: Shape, now_ms: int
    ) -> Taken:
        """Take the change at this place of the log; places ascend. Raises LimitReached: then `pass_over` it."""
        try:
            taken = self._take(update, shape, now_ms, None, version.seq)
        except ClientIdClash as error:
            taken = self._take_rest(update, shape, str(error))
        if taken.verdict is Verdict.EARLY:
            self._held[version.seq] = (dots, covers)
        else:
            self._confirm(dots, covers)
        self._move(version)
        return taken

    def pass_over(self, version: Version) -> Taken:
        """The message at this place is a repeat, or was refused. Invariant 3."""
        self._move(version)
        return Taken(Verdict.SEEN)

    def _move(self, version: Version) -> None:
        assert version.seq > self.read, "the log is folded in order"
        self.read = version.seq
        if not self._held:
            self._passed.clear()
            self.version = version
            return
        self._passed.append(version.seq)
        at = bisect_right(self._passed, min(self._held) - 1)
        if at:
            self.version = Version(version.epoch, self._passed[at - 1])

    def hold_dots(self, dots: DotSet) -> None:
        """The content of these changes is in."""
        self.dots.update(dots)
        self.dots.trim(DOT_RANGES_MAX)

    def _confirm(self, dots: Sequence[Dot], covers: DotSet) -> None:
        for dot in dots:
            self.dots.add(dot)
        self.hold_dots(covers)

    @property
    def gap(self) -> bool:
        """True while a change of the log is set aside: no snapshot, no digest to compare."""
        return bool(self._held)

    # --- what the leader says ----------------------------------------------------------------------------------------
    def take_merged(
        self, prev: Version, version: Version, update: bytes, shape: Shape, now_ms: int
    ) -> tuple[Taken, bool]:
        """Take a broadcast. The second value is True where a gap shows: ask for a sync.

        The update is taken where the gate lets it in, gap or not; the version moves only where nothing is missing.
        """
        taken = self._take(update, shape, now_ms) if update else _TAKEN_SEEN
        self.unapplied_bytes += len(update)
        mine = self.version
        follows = prev.seq == 0 if mine is None else mine.epoch == prev.epoch and mine.seq >= prev.seq
        if taken.verdict is Verdict.EARLY or not follows:
            return taken, mine is None or not mine.covers(version)
        if mine is None or version.seq > mine.seq:
            self.version = version
        return taken, False

    # --- the CRDT ----------------------------------------------------------------------------------------------------
    def materialise(self) -> Document:
        """Apply what was taken, in one piece. Raises DocumentBroken: then discard the replica."""
        if self._unapplied:
            updates, self._unapplied, self.unapplied_bytes = self._unapplied, [], 0
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
        """The whole state, after a fresh document has loaded it and has the same digest (DESIGN.md section 4).

        Raises DocumentBroken where it does not, and InvalidUpdate: nothing may be replaced by it.
        """
        captured = self.capture()
        self._read(lambda _: captured.verify())
        return captured.state

    def _deleted_already(self, shape: Shape) -> bool:
        if self._deleted is None:
            self._deleted = self._read(Document.deleted)
        deleted = self._deleted
        of, spans, at = -1, _NO_SPANS, 0
        for client, first, following in shape.deletes:
            if client != of:
                of, spans, at = client, deleted.get(client, _NO_SPANS), 0
            if at < len(spans) and spans[at][0] <= first and following <= spans[at][1]:  # they mostly ascend alike
                at += 1
                continue
            at = bisect_right(spans, (first, 1 << 62)) - 1
            if at < 0 or following > spans[at][1]:
                return False
            at += 1
        return True


def _add_range(spans: list[tuple[int, int]], first: int, following: int) -> None:
    """Keep `spans` ascending, disjoint and non-adjacent."""
    at = bisect_right(spans, (first, 1 << 62))
    if at and spans[at - 1][1] >= first:
        at -= 1
        first = spans[at][0]
        following = max(following, spans[at][1])
    end = at
    while end < len(spans) and spans[end][0] <= following:
        following = max(following, spans[end][1])
        end += 1
    spans[at:end] = [(first, following)]


def covers(replica: Replica, token: Token) -> bool:
    """Whether this replica has seen what the token stands for: by version, or by the write's own dot."""
    if token.dot is not None and token.dot in replica.dots:
        return True
    return token.version is not None and replica.version is not None and replica.version.covers(token.version)


def fold_log(
    doc: DocId,
    snapshot: Snapshot | None,
    entries: Sequence[LogEntry],
    epoch: int,
    now_ms: int,
    refused: list[tuple[LogEntry, str]] | None = None,
) -> Replica:
    """The document as the log has it: its snapshot, where it is of this epoch, and the changes after it in order.

    Whoever folds the same log gets the same replica at the same version. A change that cannot be is passed, and goes
    into `refused` with the reason. Raises DocumentBroken.
    """
    if snapshot is not None and snapshot.version.epoch == epoch:
        replica = Replica(doc, snapshot.state, (), snapshot.version, snapshot.dots.copy(), guarded=True)
    else:
        replica = Replica(doc, version=Version(epoch, 0), guarded=True)
    fold_entries(replica, entries, now_ms, refused if refused is not None else [])
    replica.materialise()
    return replica


def fold_entries(
    replica: Replica,
    entries: Sequence[LogEntry],
    now_ms: int,
    refused: list[tuple[LogEntry, str]],
    passed: Mapping[int, str] = _NONE_PASSED,
) -> None:
    """Fold what is behind the replica's place, in order; `passed`: places of the log that are refused, and why."""
    by_seq: dict[int, LogEntry] = {}
    for entry in entries:
        seq = entry.version.seq
        if seq <= replica.read:
            continue
        by_seq[seq] = entry
        if seq in passed:
            taken, reason = replica.pass_over(entry.version), passed[seq]
        else:
            taken, reason = fold_entry(replica, entry, now_ms)
        if reason:
            refused.append((entry, reason))
        refused += [(by_seq[early.seq], why) for early, why in taken.refused if early.seq in by_seq]


def fold_entry(replica: Replica, entry: LogEntry, now_ms: int) -> tuple[Taken, str]:
    """Fold one message of the log; the second value is why it was refused, or empty."""
    if isinstance(entry, Logged):
        change = entry.change
        try:
            shape = check_update(change.update)
            if change.dot in replica.dots and all(replica.dots.holds(*span) for span in change.covers.ranges()):
                return replica.pass_over(entry.version), ""
            return replica.take_logged(entry.version, (change.dot,), change.covers, change.update, shape, now_ms), ""
        except (InvalidUpdate, LimitReached) as error:
            reason = str(error)
    else:
        reason = entry.reason
    return replica.pass_over(entry.version), reason
