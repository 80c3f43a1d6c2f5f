"""What of an edge is on its way to the disk: rows that wait for the next commit, and the changes they become.

Room: a part of `sync.serving`. It gives dots to changes and knows what a commit holds; it tells nobody anything.

1. A row's dot is given only to a change whose bytes are there already. One that no row carries would stay in the outbox
   for ever.
2. What the log has already (content, versions, what became of the outbox) may wait for a commit that somebody else
   needs, and becomes one row a document then: lost, it comes again. What somebody waits for is `urgent`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from .change import Change, Context
from .document import merge
from .errors import DocumentBroken
from .hosted import Flushed, Hosted, Pending
from .ids import DocId, Dot, DotSet, Origin
from .limits import DOT_RANGES_MAX
from .runs import join_runs
from .step import AppendUpdate, Commit, SetVersion, Write

__all__ = ["Writing"]

Group = tuple[Context, list[Pending], bytes]
"""What one context's updates are, merged."""

_context_of = attrgetter("context")
_COVERS_RANGES_MAX = 200  # they are one NATS header; a forgotten dot costs repeated work, nothing else


class Writing:
    __slots__ = (
        "_again",
        "_from_log",
        "_heals",
        "_name",
        "_origin",
        "_seqs",
        "_ticket",
        "_versions",
        "_waiting",
        "_writes",
        "urgent",
    )

    def __init__(self, name: str, origin: Origin) -> None:
        self._name = name
        self._origin = origin
        self._writes: list[Write] = []
        self._from_log: dict[DocId, list[bytes]] = {}
        self._versions: dict[DocId, Hosted] = {}
        self.urgent = False
        """Somebody waits for what waits here. Invariant 2."""
        self._waiting: set[DocId] = set()
        self._again: list[tuple[DocId, bytes]] = []
        self._heals: dict[tuple[DocId, Dot], None] = {}
        """Rows that `ship_again` became, while they are in the outbox and the link is the one they were made for."""
        self._ticket = 0
        self._seqs: dict[DocId, int] = {}
        """Newest dot per document written in this process's life. It outlives the document's stay in memory: a dot that
        named two changes would make the second a repeat, and nobody would merge it."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def holds(self, doc: DocId) -> bool:
        """True while something of this document waits for the next commit."""
        return doc in self._waiting

    def ships_again(self, doc: DocId) -> bool:
        return any(waiting == doc for waiting, _ in self._again)

    def add(self, write: Write) -> None:
        self._writes.append(write)
        self._waiting.add(write.doc)

    def add_from_log(self, doc: DocId, update: bytes) -> None:
        """Content that came from the log. Invariant 2."""
        self._from_log.setdefault(doc, []).append(update)
        self._waiting.add(doc)

    def add_version(self, host: Hosted) -> None:
        """How far the document is when the commit is made. Invariant 2."""
        self._versions[host.doc] = host
        self._waiting.add(host.doc)

    def ship_again(self, host: Hosted, update: bytes) -> None:
        """Content that the document has already goes out as a change of its own with the next commit."""
        self._again.append((host.doc, update))
        self._waiting.add(host.doc)
        self.urgent = True

    def heals(self, doc: DocId, dot: Dot) -> bool:
        """Whether this row was made to heal the log that the link leads to now."""
        return (doc, dot) in self._heals

    def healed(self, doc: DocId, dot: Dot) -> None:
        """It is in the outbox no more."""
        self._heals.pop((doc, dot), None)

    def forget_heals(self) -> list[tuple[DocId, Dot]]:
        """The link is another one: what was found lacking was compared with what may be gone. Returns their rows."""
        found, self._heals, self._again = list(self._heals), {}, []
        self._waiting = {write.doc for write in self._writes} | self._from_log.keys() | self._versions.keys()
        return found

    def merged(self, host: Hosted) -> tuple[list[Group], bytes]:
        """Everything pending, one update per context, and all of it as one update. Raises DocumentBroken."""
        groups: list[Group] = []
        for context, together in groupby(host.pending, key=_context_of):
            group = list(together)
            groups.append((context, group, merge(join_runs((one.update, one.shape) for one in group))))
        return groups, merge([update for _, _, update in groups])

    def changes_of(self, host: Hosted, groups: Sequence[Group], wall_ms: int) -> tuple[Change, ...]:
        """One change per group, each a row of the next commit."""
        changes: list[Change] = []
        for context, group, update in groups:
            stamped = Context(context.edge, context.actor, context.causation, context.correlation, wall_ms)
            change = Change(host.doc, self._dot_of_row(host), update, stamped, _edits(host, group))
            host.tracking.flushed(change.dot, ((one.conn, one.dot) for one in group if one.dot is not None))
            self.add(AppendUpdate(host.doc, update, change.dot, stamped, change.covers))
            _count_row(host, update)
            changes.append(change)
        return tuple(changes)

    def changes_again(self, hosted: Mapping[DocId, Hosted], wall_ms: int, flushed: dict[DocId, Flushed]) -> None:
        """What `ship_again` left, into `flushed`."""
        again, self._again = self._again, []
        for doc, update in again:
            host = hosted.get(doc)
            if host is None or host.replica is None:
                continue
            covers = host.replica.dots.copy()
            covers.trim(min(_COVERS_RANGES_MAX, DOT_RANGES_MAX))
            context = Context(edge=self._name, time_ms=wall_ms)
            change = Change(doc, self._dot_of_row(host), update, context, covers)
            self._heals[doc, change.dot] = None
            self.add(AppendUpdate(doc, update, change.dot, context, covers, folded=True, heals=True))
            before = flushed.get(doc, Flushed(doc, (), (), b""))
            flushed[doc] = Flushed(doc, (*before.changes, change), before.writers, before.frame)

    def drop(self, doc: DocId) -> list[Dot]:
        """A commit of this document failed: rows that wait build on what is not there. None of them was told safe.

        Returns the names of those that will not be."""
        gone = [
            write.dot
            for write in self._writes
            if write.doc == doc and isinstance(write, AppendUpdate) and write.dot is not None
        ]
        self._writes = [write for write in self._writes if write.doc != doc]
        self._from_log.pop(doc, None)
        self._versions.pop(doc, None)
        self._again = [again for again in self._again if again[0] != doc]
        self._waiting.discard(doc)
        return gone

    def gather(self, hosted: Mapping[DocId, Hosted]) -> list[DocId]:
        """What came from the log becomes rows too. Returns the documents of which rows wait."""
        for doc, updates in self._from_log.items():
            host = hosted.get(doc)
            for update in _in_one(updates):
                self._writes.append(AppendUpdate(doc, update))
                if host is not None:
                    _count_row(host, update)
        self._from_log.clear()
        for doc, host in self._versions.items():
            if host.replica is not None:  # else it is read from the disk again, and asked for from there
                self._writes.append(SetVersion(doc, host.replica.version, host.replica.dots.copy()))
        self._versions.clear()
        return list(dict.fromkeys(write.doc for write in self._writes))

    def commit(self) -> Commit | None:
        """Everything that was gathered, as one transaction; None where nothing was."""
        self._waiting.clear()
        self.urgent = False
        if not self._writes:
            return None
        self._ticket += 1
        commit = Commit(self._ticket, tuple(self._writes))
        self._writes = []
        return commit

    def next_dot(self, doc: DocId) -> Dot:
        """A name that was never given."""
        seq = self._seqs.get(doc, 0) + 1
        self._seqs[doc] = seq
        return Dot(self._origin, seq)

    def _dot_of_row(self, host: Hosted) -> Dot:
        assert host.replica is not None
        dot = self.next_dot(host.doc)
        host.unmerged.add(dot)
        host.replica.dots.add(dot)
        return dot


def _count_row(host: Hosted, update: bytes) -> None:
    host.rows += 1
    host.row_bytes += len(update)
    if host.compaction is not None:
        host.compaction.rows.append(update)


def _in_one(updates: list[bytes]) -> list[bytes]:
    try:
        return [merge(updates)]
    except DocumentBroken:
        return updates


def _edits(host: Hosted, group: Sequence[Pending]) -> DotSet:
    """The names of these edits: the change covers them, and every replica that has it holds them."""
    assert host.replica is not None
    covers = DotSet()
    for pending in group:
        if pending.dot is not None:
            covers.add(pending.dot)
            host.replica.dots.add(pending.dot)
    return covers
