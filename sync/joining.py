"""Rows of the outbox that go out together: a run of them is one change.

Room: changes in, fewer changes out, and the memory of which rows are within which. It sends nothing, and knows neither
link nor disk: rows stay on the disk as they are until the leader has merged them.

A change costs 600 bytes of headers, a place in the log and a turn of everybody who reads it; a day of typing offline
is thousands of rows of 30 bytes.

Invariants:
1. A run is of one document, in the order of its rows, with none of that document left out between them: a row left
   out may need the first and be needed by the last, and then neither it nor the run could ever be merged.
2. A run says one context: rows of different actors, causes or actions are different changes for everybody who reads
   them. Its time is its last row's.
3. A run has a name of its own and covers the names of its rows, and what they covered: each of them can be in the log
   already, or come again, and is known.
4. A name stands for the same bytes for ever: rows that are joined otherwise the next time get another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from .change import Change, Context
from .document import merge
from .ids import DocId, Dot, DotSet, Version
from .limits import DOT_RANGES_MAX, RUN_BYTES_MAX, RUN_COVERS_MAX
from .runs import join_runs
from .validate import check_update

__all__ = ["Fate", "Runs", "join", "runs_of"]

_TYPED_BYTES_MAX = 256  # longer updates are no typing of `join_runs`; reading them would only take time


class Fate(Enum):
    """Of a row that was read from the outbox."""

    OUT = "goes out"
    ALONE = "goes out, and by itself"
    STAYS = "the log has it, or it is on its way"


class _Open:
    """A document's last run, while more may come to it."""

    __slots__ = ("covers", "run", "said", "size")  # `covers`: of the rows and of what they covered

    def __init__(self, first: Change) -> None:
        self.run = [first]
        self.said = _said(first.context)
        self.size = len(first.update)
        self.covers = first.covers.copy()
        self.covers.add(first.dot)

    def takes(self, change: Change) -> bool:
        """False: it begins another run, and nothing more comes to this one."""
        self.size += len(change.update)
        self.covers.add(change.dot)
        self.covers.update(change.covers)
        if self.size > RUN_BYTES_MAX or len(self.covers) > min(RUN_COVERS_MAX, DOT_RANGES_MAX):
            return False
        if _said(change.context) != self.said:
            return False
        self.run.append(change)
        return True


def runs_of(rows: Iterable[tuple[Change, Fate]]) -> list[list[Change]]:
    """What goes out, by what may be one change; of a document in the order of its rows. Invariants 1 and 2."""
    found: list[list[Change]] = []
    open_: dict[DocId, _Open] = {}
    for change, fate in rows:
        last = open_.get(change.doc)
        if fate is Fate.OUT and last is not None and last.takes(change):
            continue
        open_.pop(change.doc, None)
        if fate is Fate.STAYS:
            continue
        new = _Open(change)
        found.append(new.run)
        if fate is Fate.OUT:
            open_[change.doc] = new
    return found


def join(run: Sequence[Change], name: Dot) -> Change:
    """The run as one change. Raises DocumentBroken where pycrdt cannot merge it. Invariant 3."""
    covers = DotSet()
    for change in run:
        covers.add(change.dot)
        covers.update(change.covers)
    typed = [
        (change.update, check_update(change.update) if len(change.update) <= _TYPED_BYTES_MAX else None)
        for change in run
    ]
    return Change(run[-1].doc, name, merge(join_runs(typed)), run[-1].context, covers)


def _said(context: Context) -> tuple[str, ...]:
    return context.edge, context.actor, context.causation, context.correlation


class Runs:
    """Which rows are within which run, until the last of them has left the outbox."""

    __slots__ = ("_places", "_rows", "_run_of", "_sizes")

    def __init__(self) -> None:
        self._rows: dict[DocId, dict[Dot, dict[Dot, None]]] = {}
        self._run_of: dict[tuple[DocId, Dot], Dot] = {}
        self._sizes: dict[tuple[DocId, Dot], int] = {}
        self._places: dict[tuple[DocId, Dot], Version] = {}

    def known(self, doc: DocId, rows: Sequence[Dot]) -> Dot | None:
        """The run that is exactly these rows. Invariant 4."""
        run = self._run_of.get((doc, rows[0]))
        if run is None or self._sizes[doc, run] != len(rows):
            return None
        return run if list(self._rows[doc][run]) == list(rows) else None

    def add(self, doc: DocId, run: Dot, rows: Sequence[Dot]) -> None:
        for row in rows:
            self.gone(doc, row)
            self._run_of[doc, row] = run
        self._rows.setdefault(doc, {})[run] = dict.fromkeys(rows)
        self._sizes[doc, run] = len(rows)

    def placed(self, doc: DocId, run: Dot, version: Version) -> bool:
        """The log has it at this place. False where it is no run."""
        if (doc, run) not in self._sizes:
            return False
        self._places[doc, run] = version
        return True

    def place(self, doc: DocId, row: Dot) -> Version | None:
        """Where the log has the run that this row is within; None where it is within none, or was not told."""
        return self._places.get((doc, self.run_of(doc, row)))

    def of(self, doc: DocId) -> list[Dot]:
        """Names of this document's runs."""
        return list(self._rows.get(doc, ()))

    def run_of(self, doc: DocId, row: Dot) -> Dot:
        """Under which name this row goes out: its run's, or its own."""
        return self._run_of.get((doc, row), row)

    def rows(self, doc: DocId, dot: Dot) -> tuple[Dot, ...]:
        """The rows within this run that are in the outbox; of what is no run, itself."""
        return tuple(self._rows.get(doc, {}).get(dot, (dot,)))

    def gone(self, doc: DocId, row: Dot) -> Dot | None:
        """The row has left the outbox, or its run. Returns the name under which nothing of it is on its way any more:
        its own, or its run's with the last of its rows."""
        run = self._run_of.pop((doc, row), None)
        if run is None:
            return row
        rows = self._rows[doc][run]
        del rows[row]
        return None if rows else self.forget(doc, run)

    def forget(self, doc: DocId, run: Dot) -> Dot:
        """Its rows are by themselves again."""
        for row in self._rows[doc].pop(run):
            del self._run_of[doc, row]
        if not self._rows[doc]:
            del self._rows[doc]
        del self._sizes[doc, run]
        self._places.pop((doc, run), None)
        return run
