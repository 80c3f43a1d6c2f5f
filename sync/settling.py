"""What a leader has broadcast and the log does not know yet: events for programs, then acknowledgements.

Room: a part of the leader machine. Broadcasts go out at once and are what people wait for; events and acknowledgements
are gathered, since each is a message of its own whatever it holds.

Invariant: a change is acknowledged only after its event was emitted. A leader that dies in between leaves both to the
next one: an event may come twice, and none is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .change import Context
from .ids import DocId, Dot, DotSet, Version
from .limits import DOT_RANGES_MAX, EMITTED_DOCS_MAX, EVENT_CHANGES_MAX, SETTLE_MS, UNSETTLED_COUNT_MAX
from .step import Ack, Emit, LeaderEffect

__all__ = ["Settling"]


class Settling:
    __slots__ = ("_acks", "_count", "_emitted", "_since_ms", "_unemitted")

    def __init__(self) -> None:
        self._acks: dict[int, list[int]] = {}
        self._count = 0
        self._unemitted: dict[DocId, tuple[Version, list[tuple[Dot, Context]]]] = {}
        self._emitted: dict[DocId, DotSet] = {}
        """By this leader: each change's event is emitted once."""
        self._since_ms = -SETTLE_MS

    def __bool__(self) -> bool:
        return bool(self._acks or self._unemitted)

    def handled(self, shard: int, seq: int) -> None:
        """What became of this place of the log will have been broadcast, or refused, when `settle` is called."""
        self._acks.setdefault(shard, []).append(seq)
        self._count += 1

    def not_handled(self, shard: int, seqs: Iterable[int]) -> None:
        """After all: these are folded once more."""
        again = set(seqs)
        self._acks[shard] = [seq for seq in self._acks.get(shard, []) if seq not in again]

    def emit(self, doc: DocId, version: Version, contexts: Sequence[tuple[Dot, Context]]) -> None:
        """These changes are merged at `version`."""
        before = self._unemitted.get(doc)
        self._unemitted[doc] = (version, [*before[1], *contexts] if before is not None else list(contexts))

    def lost(self, shard: int) -> None:
        self._acks.pop(shard, None)

    def due(self, now_ms: int) -> bool:
        """At once where little happens."""
        return now_ms - self._since_ms >= SETTLE_MS or self._count >= UNSETTLED_COUNT_MAX

    def settle_when_due(self, now_ms: int, out: list[LeaderEffect]) -> None:
        if self.due(now_ms):
            out.extend(self.settle(now_ms))

    def settle(self, now_ms: int) -> list[Emit | Ack]:
        """Everything gathered. The invariant is in the order."""
        self._since_ms = now_ms
        effects: list[Emit | Ack] = []
        for doc, (version, contexts) in self._unemitted.items():
            fresh = self._fresh(doc, contexts)
            for at in range(0, len(fresh), EVENT_CHANGES_MAX):
                effects.append(Emit(doc, version, tuple(fresh[at : at + EVENT_CHANGES_MAX])))
        effects.extend(Ack(shard, tuple(seqs)) for shard, seqs in sorted(self._acks.items()) if seqs)
        self._unemitted.clear()
        self._acks.clear()
        self._count = 0
        return effects

    def _fresh(self, doc: DocId, contexts: Sequence[tuple[Dot, Context]]) -> list[tuple[Dot, Context]]:
        emitted = self._emitted.pop(doc, None) or DotSet()
        self._emitted[doc] = emitted
        fresh = []
        for dot, context in contexts:
            if dot not in emitted:
                emitted.add(dot)
                fresh.append((dot, context))
        emitted.trim(DOT_RANGES_MAX)
        if len(self._emitted) > EMITTED_DOCS_MAX:
            del self._emitted[next(iter(self._emitted))]
        return fresh
