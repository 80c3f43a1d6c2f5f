"""What a lane has folded since its last broadcast, and the message that it becomes.

Room: a part of the leader machine, one document's. It sends nothing, and knows of the log only what was folded.

Invariants:
1. A broadcast starts from the version at which the one before it has left the edges.
2. It says of a change that it is merged, or refused, when its bytes are in it or were in an earlier one: what the gate
   sets aside is not spoken of (`sync.gap`).
"""

from __future__ import annotations

from collections.abc import Sequence

from .change import Context, LogEntry, Logged, Merged
from .document import merge
from .gap import Gap
from .ids import DocId, Dot, DotSet, Version
from .limits import DOT_RANGES_MAX
from .replica import Replica, Taken, Verdict

__all__ = ["Unsent"]


class Unsent:
    __slots__ = ("_dots", "_rejected", "contexts", "entries", "sent", "updates")

    def __init__(self) -> None:
        self.sent: Version | None = None
        """Where the last broadcast left the edges."""
        self.entries: list[LogEntry] = []
        """All of them: folded again, one by one, if pycrdt breaks over them."""
        self.updates: list[bytes] = []
        """What of them was merged."""
        self.contexts: list[tuple[Dot, Context]] = []
        self._dots = DotSet()
        self._rejected = DotSet()

    def note(self, entry: Logged, taken: Taken, let_in: Sequence[Logged]) -> None:
        """It is merged; `let_in`: with what it released."""
        self.updates.extend(taken.updates)
        for logged in (entry, *let_in):
            self._dots.add(logged.change.dot)
            self._dots.update(logged.change.covers)
        brought = [entry] if taken.verdict is Verdict.NEW else []
        brought += [logged for logged in let_in if logged.change.update in taken.updates]
        self.contexts.extend((logged.change.dot, logged.change.context) for logged in brought)

    def refuse(self, dot: Dot) -> None:
        self._rejected.add(dot)

    def message(self, doc: DocId, replica: Replica, gap: Gap, reason: str, now_ms: int) -> Merged | None:
        """One for all of it; None where it has nothing to say. `reason`: why the newest was refused.

        Raises DocumentBroken.
        """
        version, prev, dots = replica.version, self.sent, self._dots
        assert version is not None
        assert prev is not None
        update: bytes | None = b""
        if self.updates:
            update = replica.watched(self.updates, lambda: merge(self.updates))
        if gap.has_beyond and version != prev:
            update = gap.bring(self.updates, dots)
        if replica.gap:
            gap.widen(self.updates, dots.dots(), now_ms)
        else:
            gap.close()
        for named in (dots, self._rejected):
            named.trim(DOT_RANGES_MAX)  # what is forgotten here is confirmed by its place in the log
        if version == prev and not update and not len(dots):
            return None
        said = tuple(
            (dot, context)
            for dot, context in self.contexts
            if context.actor or context.causation or context.correlation
        )
        why = reason if len(self._rejected) else ""
        return Merged(doc, prev, version, update or b"", dots, self._rejected, update is None, said, why)

    def clear(self) -> None:
        """It was broadcast, or will be folded again."""
        self.entries = []
        self.updates = []
        self.contexts = []
        self._dots = DotSet()
        self._rejected = DotSet()
