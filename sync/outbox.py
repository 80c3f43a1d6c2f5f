"""The link and the outbox: the half of an edge that knows what of its own has yet to reach the log and the leader.

Room: rows of the outbox from the commit to the leader's merge, and the link that comes and goes. What the leader says
otherwise is `sync.following`'s, which is built on this; what is on its way right now is `sync.shipping`'s.

Invariants:
1. A change is published only when it is committed (law 2).
2. An outbox row stays until the leader has merged it: it is dropped by its dot, or by a version that covers its place.
3. What heals a log is good for the link over which the log was found to lack it. It names all that its edge held as
   covered, and holds the difference alone: where the log loses more meanwhile, it would vouch for what went with that.
   The document has its content, so its row is dropped, and the document is compared anew.
4. While documents have yet to be compared with a log that is not the one this edge knew, it is not believed that the
   log has what an earlier link was told: it may have been lost under the same epoch.
5. Rows that waited go out joined (`sync.joining`). Where the leader refuses a run, each of its rows is judged by
   itself: what is wrong with one harms none of the others. A refusal names the run alone, so the disk does not say that
   the log has its rows, and its place alone does not end them before the leader was asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import limits
from .catchup import Catchup
from .change import Change
from .company import Out
from .errors import DocumentBroken, InvalidUpdate
from .extension import Stage
from .hosted import Hosted
from .ids import DocId, Dot, DotSet, Origin, Version
from .joining import Fate, Runs, join, runs_of
from .ports import OutboxRow
from .serving import Serving
from .shipping import Shipping
from .step import Commit, DropOutbox, ListDocuments, MarkShipped

__all__ = ["Outbox"]


class Outbox:
    def __init__(self, name: str, origin: Origin, namespace: str) -> None:
        self.epoch = 0
        """Of the newest log this process has met; 0 before the first link."""
        self.witness: tuple[Version, DocId, Dot] | None = None
        """The newest message that this edge knows to be in the log: shows a log that was rolled back."""
        self.shipping = Shipping()
        self._serving = Serving(name, origin, namespace)
        self._catchup = Catchup()
        self._shipped: dict[DocId, list[tuple[Dot, Version]]] = {}
        """What the log has acknowledged since the last flush."""
        self._marking: dict[DocId, list[tuple[Dot, Version]]] = {}
        """And before it: most of that is merged by now, and need not be written down."""
        self._runs = Runs()
        self._apart: set[DocId] = set()
        """Documents of which the leader has refused a run: their rows go out by themselves while this link lasts."""
        self._voided: set[tuple[DocId, Dot]] = set()
        """Rows that Invariant 3 dropped since the link came: the commit that brings one to the disk may end later."""
        self._gone: set[tuple[DocId, Dot]] = set()
        """Rows that were dropped, while the disk, or what was read from it before, may name them still. Learned from
        there, one would wait for ever: it can be merged no more."""
        self._dropping: list[tuple[DocId, Dot]] = []
        self._dropped: dict[int, list[tuple[DocId, Dot]]] = {}
        """By the commit that takes them from the disk."""
        self._late: list[tuple[int, list[tuple[DocId, Dot]]]] = []
        """Off the disk, and the newest read that was asked for before."""
        self._answered = 0
        """The newest read that has come back."""

    def _mark_shipped(self) -> None:
        """What the log had acknowledged when the last commit was made goes to the disk with the next one."""
        marking, self._marking, self._shipped = self._marking, self._shipped, {}
        for doc, shipped in marking.items():
            host = self._serving.hosted.get(doc)
            waiting = tuple((dot, at) for dot, at in shipped if host is None or dot in host.acked)
            if waiting:  # else they have been merged meanwhile, and leave the outbox with the same commit
                self._serving.writing.add(MarkShipped(doc, waiting))

    def _committed(self, ticket: int, now_ms: int, out: Out) -> None:
        """Invariants 1 and 3."""
        changes = self._serving.committed(ticket, now_ms, out)
        dropped = self._dropped.pop(ticket, None)
        if dropped:
            self._late.append((self.shipping.read_number, dropped))
            self._forget_gone()
        if self._voided:
            changes = [change for change in changes if (change.doc, change.dot) not in self._voided]
        out.extend(self.shipping.committed(changes))

    def _flushed(self, commit: Commit | None) -> None:
        """What was dropped until now leaves the disk with this commit."""
        if commit is not None and self._dropping:
            self._dropped[commit.ticket], self._dropping = self._dropping, []

    def _commit_failed(self, ticket: int, now_ms: int, reason: str, out: Out) -> None:
        """Rows that were to leave the disk are on it still, and so are those that were to leave it with the next
        commit: what waits of these documents is thrown away. They are learned, and read, once more."""
        failed = set(self._serving.commit_failed(ticket, now_ms, reason, out))
        for doc in sorted(failed):
            self._catchup.want(doc, now_ms + limits.HEAL_PAUSE_MS)  # from the log, or to heal it: not there
        stay = [*self._dropped.pop(ticket, ()), *(row for row in self._dropping if row[0] in failed)]
        if stay:
            self._dropping = [row for row in self._dropping if row[0] not in failed]
            self._gone.difference_update(stay)
            out.extend(self.shipping.again())

    def _forget_gone(self) -> None:
        """Reads come back in order. A document that is being loaded may be read as it was before the commit."""
        hosted = self._serving.hosted
        late, self._late = self._late, []
        for asked, rows in late:
            if asked > self._answered or any(doc in hosted and hosted[doc].loading for doc, _ in rows):
                self._late.append((asked, rows))
            else:
                self._gone.difference_update(rows)

    # --- the link ----------------------------------------------------------------------------------------------------
    def _link_up(self, epoch: int, intact: bool, now_ms: int, out: Out) -> None:
        """`intact` False: it is not the log that this edge knew, or it lost its tail."""
        anew = not intact or self.epoch not in (0, epoch)
        self.epoch = epoch
        self._serving.link(True)
        self._catchup.link_changed()
        if anew:
            self.witness = None
            self._catchup.sweeping = True
        if self._catchup.sweeping:
            out.append(ListDocuments(in_log=False))
        self._voided.clear()
        self._apart.clear()
        for doc, dot in self._serving.writing.forget_heals():
            self._void(doc, dot)
        for host in self._serving.hosted.values():
            host.acked.clear()
            host.told = host.line = None
            host.heals = host.heal_after_ms = 0
            host.suspect = bool(len(host.unmerged))
            host.failures = 0
            self._catchup.want(host.doc, now_ms)
            self._serving.company.announce_presence(host, out)
        out.extend(self.shipping.link_up())

    def _link_down(self, out: Out) -> None:
        """Clients notice nothing; a first open that waited for the leader waits no longer."""
        self.shipping.link_down()
        self._serving.link(False)
        self._catchup.link_changed()
        for host in self._serving.hosted.values():
            host.line = None
            if host.ready_by_ms is not None:
                self._serving.become_ready(host, out)

    # --- rows on their way -------------------------------------------------------------------------------------------
    def _outbox_read(self, read: int, rows: Sequence[OutboxRow], now_ms: int, out: Out) -> None:
        found = [(row.change, self._fate(row, now_ms, out)) for row in rows]
        self._answered = max(self._answered, read)
        if self._late:
            self._forget_gone()
        runs, last = runs_of(found), rows[-1].row if rows else None
        if len(runs) > self.shipping.room_count:  # the others are read again when there is room
            count = max(1, self.shipping.room_count)
            runs, last = runs_of(found[:count]), rows[count - 1].row
        out.extend(self.shipping.rows(read, last, [change for run in runs for change in self._joined(run)]))

    def _fate(self, row: OutboxRow, now_ms: int, out: Out) -> Fate:
        doc, dot = row.change.doc, row.change.dot
        host = self._serving.host(doc, now_ms, out)
        if host.replica is None:
            self._catchup.want(doc, now_ms)
        if row.heals and not self._serving.writing.heals(doc, dot):
            self._void(doc, dot)
        if (doc, dot) in self._gone:
            return Fate.STAYS
        self._learn_outbox(host, ((dot, row.shipped or self._runs.place(doc, dot)),))
        if dot in host.acked and row.shipped is not None:
            self._witnessed(row.shipped, doc, dot)  # the stored witness may be older: it says less of the log's tail
        if dot in host.acked or self.shipping.carries(doc, self._runs.run_of(doc, dot)):
            return Fate.STAYS
        return Fate.ALONE if row.heals or doc in self._apart else Fate.OUT

    def _joined(self, run: list[Change]) -> list[Change]:
        """As one change, where it is more than one and pycrdt can merge them."""
        if len(run) == 1:
            return run
        doc, rows = run[0].doc, [change.dot for change in run]
        known = self._runs.known(doc, rows)
        try:
            change = join(run, known or self._serving.writing.next_dot(doc))
        except (DocumentBroken, InvalidUpdate):
            return run
        if known is None:
            self._runs.add(doc, change.dot, rows)
        return [change]

    def _published(self, doc: DocId, dot: Dot, version: Version, now_ms: int, out: Out) -> None:
        """The log acknowledged a change at this place, which is of this link's epoch."""
        self._witnessed(version, doc, dot)
        out.extend(self.shipping.published(doc, dot))
        host = self._serving.hosted.get(doc)
        rows = [row for row in self._runs.rows(doc, dot) if host is not None and row in host.unmerged]
        if host is not None and rows:
            mine = host.replica.version if host.replica is not None else None
            self._serving.telling.tell_safe(host, Stage.LOG, host.tracking.edits_of(rows), version, out)
            passed = mine is not None and mine.covers(version)
            if passed:
                self._catchup.want(doc, now_ms)
            if self._runs.placed(doc, dot, version):
                host.acked.update(dict.fromkeys(rows, version))
            elif passed:
                self._drop(host, (), rows, now_ms, out)
            else:
                host.acked[dot] = version
                self._shipped.setdefault(doc, []).append((dot, version))

    def _learn_outbox(self, host: Hosted, outbox: Sequence[tuple[Dot, Version | None]]) -> None:
        """Invariant 4."""
        host.suspect = host.suspect or bool(outbox)
        for dot, shipped in outbox:
            if (host.doc, dot) in self._gone:
                continue
            host.unmerged.add(dot)
            if shipped is not None and shipped.epoch == self.epoch and not self._catchup.sweeping:
                host.acked.setdefault(dot, shipped)

    def _void(self, doc: DocId, dot: Dot) -> None:
        """Invariant 3."""
        self._voided.add((doc, dot))
        self._leave((doc, dot))
        self._serving.writing.add(DropOutbox(doc, (dot,)))
        host = self._serving.hosted.get(doc)
        if host is not None:
            host.unmerged.discard(dot)

    def _witnessed(self, version: Version, doc: DocId, dot: Dot) -> None:
        """This change stands at this place of the log."""
        known = self.witness
        if known is None or known[0].epoch != version.epoch or version.seq > known[0].seq:
            self.witness = (version, doc, dot)

    def _leave(self, *rows: tuple[DocId, Dot]) -> None:
        self._gone.update(rows)
        self._dropping.extend(rows)

    # --- rows that are done ------------------------------------------------------------------------------------------
    def _confirm(self, host: Hosted, dots: DotSet, version: Version, now_ms: int, out: Out, *, answered: bool) -> None:
        """The leader has come this far: what of the outbox is merged now? Invariant 2.

        `answered`: it was asked, and has said what it refused.
        """
        if host.tracking.placed:
            self._tell_merged(host, [dot for dot in sorted(host.tracking.placed) if dot in dots], out)
        if not len(host.unmerged):
            return
        named = host.unmerged.intersection(dots)
        placed = [dot for dot, at in host.acked.items() if version.covers(at) and dot not in dots]
        if placed and not answered and any(self._runs.run_of(host.doc, dot) != dot for dot in placed):
            placed = [dot for dot in placed if self._runs.run_of(host.doc, dot) == dot]  # Invariant 5: ask first
            self._catchup.want(host.doc, now_ms)
        if named or placed:
            self._drop(host, named, placed, now_ms, out)

    def _drop(self, host: Hosted, named: Sequence[Dot], placed: Sequence[Dot], now_ms: int, out: Out) -> None:
        """`placed`: the leader has passed their place, and did not say what became of them."""
        dots = (*named, *placed)
        for dot in dots:
            host.unmerged.discard(dot)
            host.acked.pop(dot, None)
            self._serving.writing.healed(host.doc, dot)
            gone = self._runs.gone(host.doc, dot)
            if gone is not None:
                out.extend(self.shipping.published(host.doc, gone))
        self._leave(*((host.doc, dot) for dot in dots))
        self._serving.writing.add(DropOutbox(host.doc, dots))
        host.tracking.placed.update(placed)
        self._tell_merged(host, named, out)
        if host.compare and not len(host.unmerged):
            host.compare = False
            urgent = host.heals or host.tracking.placed or self._catchup.sweeps(host.doc)
            host.compare_ms = now_ms if urgent else now_ms + limits.COMPARE_MS
            self._catchup.want(host.doc, host.compare_ms)

    def _tell_merged(self, host: Hosted, changes: Sequence[Dot], out: Out) -> None:
        """To whom these changes, and what has been repeated since, are due."""
        version = host.replica.version if host.replica is not None else None
        self._serving.telling.tell_safe(host, Stage.MERGED, host.tracking.merged(changes), version, out)
        self._serving.telling.tell_when_merged(host, out)

    def _refused_runs(self, host: Hosted, rejected: DotSet, merged: DotSet, out: Out) -> list[Dot]:
        """Invariant 5. Returns the rows of runs that the leader has taken in part: under clocks that others used."""
        refused: list[Dot] = []
        for run in self._runs.of(host.doc):
            if run not in rejected:
                continue
            rows = self._runs.rows(host.doc, run)
            if run in merged:
                refused.extend(rows)
                continue
            self._runs.forget(host.doc, run)
            self._apart.add(host.doc)
            for row in rows:
                host.acked.pop(row, None)
            out.extend(self.shipping.published(host.doc, run))
            out.extend(self.shipping.again())
        return refused
