"""How safe somebody's edits are, and who made what: what an edge tells those who asked to hear it.

Room: a part of the lower half of an edge. It sends and decides nothing about documents; what is known of an edit's way
is `sync.tracking`'s, what the messages mean is in docs/protocol.md.

Invariants:
1. Nobody is told that something is safe on the disk while it is pending or waits for a commit (law 2).
2. What is said of what "was sent" stands behind it on the connection: it waits where that waits, and who has not been
   answered what it lacks is not told. Else a reader would be sure of a write that it has not read.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import extension
from .change import Context
from .company import Out, fan_out
from .hosted import Held, Hosted
from .ids import ConnId, DocId, Dot, Version
from .replica import covers
from .step import Send
from .tracking import PerConn, Rejections, Waiter
from .writing import Writing

__all__ = ["Telling"]


class Telling:
    __slots__ = ("_rejections", "_writing")

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._rejections = Rejections()

    def settled(self, host: Hosted) -> bool:
        """Nothing of this document is on its way from here to the log."""
        return not (len(host.unmerged) or host.pending or self._writing.ships_again(host.doc))

    def echo_when_safe(self, host: Hosted, out: Out) -> None:
        if not (host.echo or host.tracking.waits_for_disk) or host.commits or host.pending:
            return
        if self._writing.holds(host.doc):
            self._writing.urgent = True
            return
        if host.echo:
            out.extend(Send((conn,), frame) for conn, frame in host.echo if conn in host.conns)
            host.echo.clear()
        if host.tracking.waits_for_disk:
            self.tell_safe(host, extension.Stage.EDGE, host.tracking.quiet_on_disk(), None, out)

    def tell_safe(
        self, host: Hosted, stage: extension.Stage, edits: PerConn, version: Version | None, out: Out
    ) -> None:
        """How safe the edits of these connections are now."""
        for conn, dots in edits.items():
            if conn in host.conns:
                out.append(Send((conn,), extension.encode(extension.Safe(stage, tuple(dots), version))))

    def tell_rejected(self, host: Hosted, edits: PerConn, reason: str, out: Out) -> None:
        """Nobody merges these."""
        for conn, dots in edits.items():
            self._rejections.add(host.doc, dots, reason)
            if conn in host.conns:
                out.append(Send((conn,), extension.encode(extension.Rejected(tuple(dots), reason))))

    def rejection_of(self, doc: DocId, dot: Dot) -> str | None:
        """Why nobody merges this, where it was told."""
        return self._rejections.of(doc, dot)

    def tell_when_merged(self, host: Hosted, out: Out) -> None:
        """Repeats are merged for sure when nothing of the document waits for the leader."""
        if not host.tracking.busy or host.replace or host.tracking.placed or not self.settled(host):
            return  # a document that gives way to the leader's holds what the leader has refused
        if host.replica is not None and host.replica.version is not None:
            version = host.replica.version
            self.tell_safe(host, extension.Stage.MERGED, host.tracking.outbox_empty(), version, out)

    def tell_contexts(
        self, host: Hosted, contexts: Sequence[tuple[Dot, Context]], besides: Sequence[ConnId], out: Out
    ) -> None:
        """Who, why and when, to those who asked to hear it; only where somebody said something."""
        said = tuple(
            (dot, context) for dot, context in contexts if context.actor or context.causation or context.correlation
        )
        if said and host.tracking.conns:
            self._claim(host, Held(extension.encode(extension.Changed(said)), True, besides), out)

    def tell_version(self, host: Hosted, version: Version, out: Out) -> None:
        """Everything up to here was sent."""
        if host.tracking.conns:
            self._claim(host, Held(extension.encode(extension.At(version)), True), out)

    def _claim(self, host: Hosted, claim: Held, out: Out) -> None:
        """Invariant 2."""
        if host.held is not None or host.pending:
            (host.claims if host.held is None else host.held).append(claim)
            return
        conns = tuple(conn for conn in host.tracking.informed() if conn not in claim.besides)
        if conns:
            out.append(Send(conns, claim.frame))

    def claim_now(self, host: Hosted, out: Out) -> None:
        """What was pending has been sent, or will be by a commit."""
        claims, host.claims = host.claims, []
        for claim in claims:
            self._claim(host, claim, out)

    def release_held(self, host: Hosted, out: Out) -> None:
        """The flush that it waited for is on the disk, and was sent."""
        held, host.held = host.held or [], None
        for each in held:
            if each.claim:
                self._claim(host, each, out)
            else:
                fan_out(host, each.frame, (), out)

    def look_at_waiters(self, host: Hosted, now_ms: int, out: Out) -> None:
        """Who has waited long enough, one way or the other. Invariant 2."""
        waiting: list[Waiter] = []
        replica = host.replica
        for waiter in host.tracking.waiters:
            told = host.told_all and host.tracking.conns.get(waiter.conn, False)
            reached = told and replica is not None and covers(replica, waiter.token)
            if not reached and now_ms < waiter.until_ms:
                waiting.append(waiter)
                continue
            version = replica.version if replica is not None else None
            answer = extension.Reached(waiter.number, reached, str(version) if version is not None else "nothing")
            out.append(Send((waiter.conn,), extension.encode(answer)))
        host.tracking.waiters = waiting
