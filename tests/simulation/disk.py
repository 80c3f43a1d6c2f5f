"""An edge's disk: one queue, one thing at a time, a time for each; it can be full, lost, copied and put back.

Room: the store (`tests.memory_store`) and what the simulator wants to be true of it at every commit:

1. What is stored of a document never comes before what it depends on (law 3). A commit is one piece: its rows are
   there together, and are merged before they are applied.
2. A version never goes back within an epoch, nor to an older epoch.
3. A state that replaces rows holds all that they held.
4. Nothing is stored twice: an update row brings something (law 4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from sync.errors import StoreError
from sync.ids import DocId, Dot, Version
from sync.step import AppendUpdate, Compact, SetVersion, Write
from sync.validate import Shape
from tests.memory_store import MemoryStore

from .contents import Contents, fold_of, merged, shape_of
from .schedule import Action, Schedule

__all__ = ["Disk", "Image", "Violation"]


class Violation(AssertionError):
    """Something that must never be true was: the sentence says what, and where."""


@dataclass(slots=True)
class Image:
    """What a disk holds."""

    store: MemoryStore = field(default_factory=MemoryStore)
    contents: dict[DocId, Contents] = field(default_factory=dict)
    versions: dict[DocId, Version] = field(default_factory=dict)
    dots: set[tuple[DocId, Dot]] = field(default_factory=set)
    """Of every change that was ever committed here."""

    def holds(self, doc: DocId, shape: Shape) -> bool:
        """What was stored says so itself, or what pycrdt makes of it: to integrate is also to delete, children of what
        is deleted and values that lost a concurrent set of their key."""
        said = self.contents.get(doc, Contents())
        return said.holds(shape) or (said.brings_held(shape) and self.fold(doc).holds(shape))

    def fold(self, doc: DocId) -> Contents:
        stored = self.store.load(doc)
        if stored is None:
            return Contents()
        state = [] if stored.state is None else [stored.state]
        return Contents.of(fold_of([*state, *stored.updates]))

    def copy(self) -> Image:
        contents = {doc: held.copy() for doc, held in self.contents.items()}
        return Image(self.store.copy(), contents, dict(self.versions), set(self.dots))


class Disk:
    def __init__(self, name: str, schedule: Schedule, rng: Random) -> None:
        self.name = name
        self.image = Image()
        self.full = False
        self.watched = True
        """False: only what comes of it in the end is judged (for the mutation tests)."""
        self.commits = 0
        self._handed = 0
        self._failed_through = 0
        """Commits handed out up to this one fail: one before them did, and they build on it (`sync.step`)."""
        self._schedule = schedule
        self._rng = rng
        self._queue: deque[tuple[Action, Action]] = deque()
        self._run = 0

    @property
    def idle(self) -> bool:
        return not self._queue

    def submit(self, work: Action, done: Action) -> None:
        """`work` when its turn has come, then `done`: unless the process dies in between."""
        self._queue.append((work, done))
        if len(self._queue) == 1:
            self._next()

    def _next(self) -> None:
        run = self._run
        self._schedule.after(self._rng.randint(1, 8), lambda: self._perform(run))

    def _perform(self, run: int) -> None:
        if run != self._run:
            return
        work, done = self._queue[0]
        work()
        self._queue.popleft()
        if self._queue:
            self._next()
        done()

    def crash(self) -> None:
        """The process is gone. What was on its way to the disk is there or not; the process never hears of it."""
        for work, _ in list(self._queue)[: self._rng.choice((0, 0, 1, 2))]:
            work()
        self._queue.clear()
        self._run += 1

    def put(self, image: Image) -> None:
        """The disk is another one now: an older copy of itself, somebody else's, or empty."""
        self.image = image.copy()

    # --- what the process asks for -----------------------------------------------------------------------------------
    def commit(self, writes: Sequence[Write], done: Action, failed: Callable[[str], None]) -> None:
        outcome: list[str] = []
        self._handed += 1
        number = self._handed

        def work() -> None:
            try:
                if number <= self._failed_through:
                    raise StoreError("a commit before this one failed")
                self._commit(writes)
            except StoreError as error:
                self._failed_through = self._handed
                outcome.append(str(error))

        self.submit(work, lambda: failed(outcome[0]) if outcome else done())

    def _commit(self, writes: Sequence[Write]) -> None:
        if self.full:
            raise StoreError("disk full")
        self.image.store.commit(writes)
        self.commits += 1
        self._note_rows(writes)
        for at, write in enumerate(writes):
            self._check(write, writes[at + 1 :])

    def _note_rows(self, writes: Sequence[Write]) -> None:
        """Invariants 1 and 4."""
        rows: dict[DocId, list[AppendUpdate]] = {}
        for write in writes:
            if isinstance(write, AppendUpdate):
                if write.dot is not None:
                    self.image.dots.add((write.doc, write.dot))
                if not write.folded:
                    rows.setdefault(write.doc, []).append(write)
        compacted: set[DocId] = set()
        for write in writes:
            if isinstance(write, Compact):
                compacted.add(write.doc)
                held = self.image.contents.setdefault(write.doc, Contents())
                if not held.brings_held(shape_of(write.state)):  # the leader's, where nothing was here
                    held.add(shape_of(write.state))
        for doc, appended in rows.items():
            held = self.image.contents.setdefault(doc, Contents())
            for row in appended:
                behind_its_state = row.dot is None and doc in compacted  # stored since the state was taken
                if self.watched and not behind_its_state and held.holds(shape_of(row.update)):
                    raise Violation(f"{self.name}: {doc}: stores again what is there, as {row.dot}")
            shape = shape_of(merged(row.update for row in appended))  # two rows may each need a part of the other
            missing = held.early(shape)
            if missing and self.watched:
                raise Violation(f"{self.name}: {doc}: stored before what it depends on: {missing}")
            held.add(shape)

    def _check(self, write: Write, behind: Sequence[Write]) -> None:
        image = self.image
        match write:
            case AppendUpdate():
                if write.folded and not image.holds(write.doc, shape_of(write.update)) and self.watched:
                    raise Violation(f"{self.name}: {write.doc}: an outbox row called folded is not in the document")
            case SetVersion(doc, version, _):
                before = image.versions.get(doc)
                if before is not None and (version is None or version < before):
                    raise Violation(f"{self.name}: {doc}: version went back from {before} to {version}")
                if version is not None:
                    image.versions[doc] = version
            case Compact(doc, state):
                held = Contents()
                held.add(shape_of(state))
                for row in behind:  # stored since the state was taken, and once more with it
                    if isinstance(row, AppendUpdate) and row.doc == doc and not row.folded:
                        held.add(shape_of(row.update))
                lacking = held.lacks(image.contents.get(doc, Contents()))
                if lacking:
                    raise Violation(f"{self.name}: {doc}: compaction lost {lacking}")
