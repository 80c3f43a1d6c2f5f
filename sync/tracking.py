"""Whose edit is how safe, and who waits for what: the edge's memory for clients of the extension (docs/protocol.md).

Room: one document's bookkeeping. Dots in, dots per connection out; it sends nothing and knows no clock but the one it
is given. A stock client has no dots and never appears here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .change import Context
from .ids import ConnId, DocId, Dot
from .limits import EARLY_COUNT_MAX, REJECTED_COUNT_MAX
from .token import Token

__all__ = ["PerConn", "Rejections", "Tracking", "Waiter"]

PerConn = dict[ConnId, list[Dot]]


@dataclass(frozen=True, slots=True)
class Waiter:
    """A client that waits until the document has come as far as a token."""

    conn: ConnId
    number: int
    token: Token
    until_ms: int


class Tracking:
    __slots__ = ("_by_change", "_early", "_on_disk", "_unmerged", "conns", "placed", "waiters")

    def __init__(self) -> None:
        self.conns: dict[ConnId, bool] = {}
        """Connections that speak the extension, and whether their question what they lack was answered: before that,
        nothing may be said to them of what "was sent"."""
        self.waiters: list[Waiter] = []
        self._early: dict[bytes, tuple[Dot, Context]] = {}
        self._by_change: dict[Dot, list[tuple[ConnId, Dot]]] = {}
        self._on_disk: list[tuple[ConnId, Dot]] = []
        """Repeats whose content may still be on its way to the disk."""
        self._unmerged: list[tuple[ConnId, Dot]] = []
        """Repeats whose content may still be in the outbox, under another dot."""
        self.placed: set[Dot] = set()
        """Changes whose place the leader has passed without naming them: merged, or refused in a broadcast that was
        lost, or before the snapshot that it began with. Nobody is told until they are named, or all is equal."""

    def set_aside(self, update: bytes, dot: Dot, context: Context) -> None:
        """The gate called this edit early; remember its name and its context until it is let in."""
        if len(self._early) < EARLY_COUNT_MAX:
            self._early[update] = (dot, context)

    def let_in(self, update: bytes) -> tuple[Dot, Context] | None:
        return self._early.pop(update, None) if self._early else None

    def flushed(self, change: Dot, edits: Iterable[tuple[ConnId, Dot]]) -> None:
        """These edits are within the edge's own change `change`."""
        kept = list(edits)
        if kept:
            self._by_change[change] = kept

    def repeated(self, conn: ConnId, dot: Dot) -> None:
        """This edit's content is in already."""
        self._on_disk.append((conn, dot))
        self._unmerged.append((conn, dot))

    def edits_of(self, changes: Iterable[Dot]) -> PerConn:
        """The edits within these changes, by connection."""
        return _by_conn(edit for change in changes for edit in self._by_change.get(change, ()))

    def merged(self, changes: Sequence[Dot]) -> PerConn:
        """As `edits_of`, and forget them."""
        self.placed.difference_update(changes)
        return _by_conn(edit for change in changes for edit in self._by_change.pop(change, ()))

    def refused(self, changes: Sequence[Dot]) -> PerConn:
        """As `merged`, with the repeats of the same edits: they are not to be told merged either.

        What other repeats are in is not known where the edge has restarted since: they are forgotten, and sent again by
        their clients when the document has given way.
        """
        self.placed.difference_update(changes)
        edits = [edit for change in changes for edit in self._by_change.pop(change, ())]
        names = {dot for _, dot in edits}
        edits += [edit for edit in self._unmerged if edit[1] in names]
        self._unmerged, self._on_disk = [], []
        return _by_conn(dict.fromkeys(edits))

    def quiet_on_disk(self) -> PerConn:
        """Nothing of the document is on its way to the disk: repeats that are on it for sure."""
        done, self._on_disk = self._on_disk, []
        return _by_conn(done)

    def outbox_empty(self) -> PerConn:
        """The outbox is empty: repeats that the leader has merged for sure."""
        done, self._unmerged = self._unmerged, []
        return _by_conn(done)

    def joined(self, conn: ConnId) -> None:
        self.conns[conn] = False

    def answered(self, conn: ConnId) -> bool:
        """It was sent what it lacks. False: it does not speak the extension."""
        if conn not in self.conns:
            return False
        self.conns[conn] = True
        return True

    def informed(self) -> tuple[ConnId, ...]:
        """Who may be told of what was sent."""
        return tuple(conn for conn, answered in self.conns.items() if answered)

    def left(self, conn: ConnId) -> None:
        """The connection is gone; whoever comes back asks again by repeating."""
        self.conns.pop(conn, None)
        self.waiters = [waiter for waiter in self.waiters if waiter.conn != conn]
        self._on_disk = [edit for edit in self._on_disk if edit[0] != conn]
        self._unmerged = [edit for edit in self._unmerged if edit[0] != conn]

    @property
    def waits_for_disk(self) -> bool:
        return bool(self._on_disk)

    @property
    def busy(self) -> bool:
        return bool(self._on_disk or self._unmerged)


def _by_conn(edits: Iterable[tuple[ConnId, Dot]]) -> PerConn:
    found: PerConn = {}
    for conn, dot in edits:
        found.setdefault(conn, []).append(dot)
    return found


class Rejections:
    """Edits that the leader has refused, of all documents, bounded: who was away when it was told repeats them, and
    must not hear that they are merged."""

    __slots__ = ("_reasons",)

    def __init__(self) -> None:
        self._reasons: dict[tuple[DocId, Dot], str] = {}

    def add(self, doc: DocId, dots: Iterable[Dot], reason: str) -> None:
        self._reasons.update(((doc, dot), reason) for dot in dots)
        while len(self._reasons) > REJECTED_COUNT_MAX:
            del self._reasons[next(iter(self._reasons))]

    def of(self, doc: DocId, dot: Dot) -> str | None:
        return self._reasons.get((doc, dot))
