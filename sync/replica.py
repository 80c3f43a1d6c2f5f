"""One document's truth: the gate, early updates, and how far it has come in the log.

Room: edge, leader and client each hold a Replica per open document; it knows nothing of connections, shards or disks.
What it holds is `sync.content`'s, below it; folding a whole log is `sync.folding`'s, above it.

Invariants:
1. Only what the gate calls NEW reaches pycrdt; EARLY waits here, bounded, and is judged again when something was taken.
2. `clocks` are those of everything taken, applied or not: taking is cheap, applying happens in batches.
3. `version` covers every change of the document up to it: it passes a rejected one and never one that is set aside.
4. What is handed out as taken are the received bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from .clash import asked_for, overlaps, refuse_clash
from .content import Content
from .digest import encode_clocks
from .document import Document
from .errors import ClientIdClash, DocumentBroken, InvalidUpdate, LimitReached
from .ids import ConnId, DocId, Dot, DotSet, Version
from .limits import DOT_RANGES_MAX, EARLY_BYTES_MAX, EARLY_COUNT_MAX, NESTING_MAX
from .nesting import Nesting, PlacesWanted, refuse_depth
from .token import Token
from .validate import Shape

__all__ = ["Early", "Judgement", "Replica", "Taken", "Verdict", "covers"]


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


_NEW = Judgement(Verdict.NEW)
_SEEN = Judgement(Verdict.SEEN)
_TAKEN_SEEN = Taken(Verdict.SEEN)
_TAKEN_EARLY = Taken(Verdict.EARLY)


class Replica(Content):
    __slots__ = ("_guarded", "_held", "_passed", "dots", "early", "early_bytes", "read", "version")

    def __init__(
        self,
        doc: DocId,
        state: bytes | None = None,
        updates: Sequence[bytes] = (),
        version: Version | None = None,
        dots: DotSet | None = None,
        guarded: bool = False,
        document: Document | None = None,
        nesting: Nesting | None = None,
    ) -> None:
        """Of what is stored (`Content`). Raises DocumentBroken where pycrdt refuses it.

        `guarded`: what comes again is compared with what is here (`sync.clash`); `take` raises ClientIdClash.
        """
        super().__init__(doc, state, updates, document, nesting)
        self._guarded = guarded
        self.version = version
        self.read = version.seq if version else 0
        """Newest log sequence handled by `take_logged`: merged, set aside or refused."""
        self.dots = dots if dots is not None else DotSet()
        self.early: list[Early] = []
        self.early_bytes = 0
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

    def adopt(self, document: Document, update: bytes, shape: Shape, nesting: Nesting) -> bool:
        """The replica is empty, and becomes what was made of this elsewhere; False: it is not. Raises InvalidUpdate."""
        if self.clocks or self._unapplied or self.early or self._suspected:
            return False
        if nesting.too_deep:
            raise refuse_depth()
        self.clocks.update((client, following) for client, _, following in shape.brings)
        self._document, self._deleted = document, None
        self._named, self._places, self._since_places = nesting.named, nesting.places, None
        return True

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
        early = self._early_names() if self.hurried and self.early and self._lets_in(shape) else 0
        if shape.names or early:
            self._look_at_depth(update, shape.names, early)
        if self._suspected:
            self._brink.refuse(self.doc, update, shape)
        self._accept(update, shape)
        if not self.early:
            return Taken(Verdict.NEW, (update,))
        updates = [update]
        released, refused = self._release(updates)
        return Taken(Verdict.NEW, tuple(updates), "", released, refused)

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
                except PlacesWanted:  # they were found for the one that lets this in
                    refused.append((held, str(refuse_depth())))
                    continue
                released.append(held)
                if named is not None:
                    self._confirm(*named)
                if judgement.verdict is Verdict.NEW:
                    updates.append(held.update)
                    moved = True
        return tuple(released), tuple(refused)

    def _lets_in(self, shape: Shape) -> bool:
        """This may be what an early one waits for."""
        clocks, reach = self.clocks, {client: following for client, _, following in shape.brings}
        return any(
            all(max(clocks.get(client, 0), reach.get(client, 0)) >= clock for client, clock in held.missing)
            for held in self.early
        )

    def _early_names(self) -> int:
        return sum(held.shape.names for held in self.early)

    @property
    def nests(self) -> bool:
        """What names a type may have to be judged on where everything stands."""
        return self._named is None or self._depth_at_most() + self._early_names() > NESTING_MAX // 2

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
        self, prev: Version, version: Version, update: bytes, shape: Shape, now_ms: int, lacks: bool = False
    ) -> tuple[Taken, bool]:
        """Take a broadcast. The second value is True where a gap shows: ask for a sync.

        The update is taken where the gate lets it in, gap or not; the version moves only where nothing is missing.
        `lacks`: something of the broadcast is not in `update`, and not here either.
        """
        taken = self._take(update, shape, now_ms) if update else _TAKEN_SEEN
        self.unapplied_bytes += len(update)
        mine = self.version
        follows = prev.seq == 0 if mine is None else mine.epoch == prev.epoch and mine.seq >= prev.seq
        if lacks or taken.verdict is Verdict.EARLY or not follows:
            return taken, mine is None or not mine.covers(version)
        if mine is None or version.seq > mine.seq:
            self.version = version
        return taken, False


def covers(replica: Replica, token: Token) -> bool:
    """Whether this replica has seen what the token stands for: by version, or by the write's own dot."""
    if token.dot is not None and token.dot in replica.dots:
        return True
    return token.version is not None and replica.version is not None and replica.version.covers(token.version)
