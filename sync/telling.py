"""How safe somebody's edits are, and who made what: what an edge tells those who asked to hear it.

Room: the part of serving between presence and documents. It sends and decides nothing about documents; what is known of
an edit's way is `sync.tracking`'s, what the messages mean is in docs/protocol.md.

Invariant: nobody is told that something is safe on the disk while it is pending or waits for a commit (law 2).
"""

from __future__ import annotations

from collections.abc import Sequence

from . import extension
from .change import Context
from .company import Company, Out
from .hosted import Hosted
from .ids import ConnId, Dot, Version
from .step import Send
from .tracking import PerConn, Rejections
from .writing import Writing

__all__ = ["Telling"]


class Telling(Company):
    def __init__(self, writing: Writing) -> None:
        super().__init__()
        self.writing = writing
        self._rejections = Rejections()

    def settled(self, host: Hosted) -> bool:
        """Nothing of this document is on its way from here to the log."""
        return not (len(host.unmerged) or host.pending or self.writing.ships_again(host.doc))

    def _echo_when_safe(self, host: Hosted, out: Out) -> None:
        if not (host.echo or host.tracking.waits_for_disk) or host.commits or host.pending:
            return
        if self.writing.holds(host.doc):
            self.writing.urgent = True
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
        conns = tuple(conn for conn in host.tracking.conns if conn not in besides)
        said = tuple(
            (dot, context) for dot, context in contexts if context.actor or context.causation or context.correlation
        )
        if conns and said:
            out.append(Send(conns, extension.encode(extension.Changed(said))))
