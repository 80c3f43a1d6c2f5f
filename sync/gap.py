"""What an early change holds back in a lane: its version, and with that what is merged beyond it.

Room: a part of the leader machine, one document's. It sends nothing: what it knows, others say.

Invariant: while the version is held, what is merged beyond it is broadcast at that version and kept; the broadcast that
moves the version on brings all of it, with its dots.
"""

from __future__ import annotations

from collections.abc import Sequence

from .change import LogEntry, Logged, RepairAsk
from .document import merge
from .ids import DocId, Dot, DotSet
from .limits import EARLY_MS_MAX, LOAN_BYTES, REPAIR_MS
from .replica import Replica, Taken

__all__ = ["Gap"]


class Gap:
    __slots__ = ("_asked_ms", "_beyond", "_beyond_bytes", "_beyond_dots", "_held", "_since_ms")

    def __init__(self) -> None:
        self._held: dict[int, Logged] = {}
        """Set aside by the gate, by place in the log."""
        self._beyond: list[bytes] = []
        self._beyond_dots = DotSet()
        self._beyond_bytes = 0
        self._since_ms: int | None = None
        self._asked_ms = -REPAIR_MS

    # --- what is set aside -------------------------------------------------------------------------------------------
    def set_aside(self, entry: Logged) -> None:
        self._held[entry.version.seq] = entry

    def holds(self, seq: int) -> bool:
        return seq in self._held

    def let_in(self, taken: Taken) -> list[Logged]:
        """What was set aside, and this has released."""
        return [self._held.pop(early.seq) for early in taken.released if early.seq in self._held]

    def refused(self, taken: Taken) -> list[tuple[Logged, str]]:
        """What was set aside and cannot be, now that its turn has come; and why."""
        return [
            (self._held.pop(early.seq), why)
            for early, why in taken.refused
            if early.seq is not None and early.seq in self._held
        ]

    # --- what is merged beyond it ------------------------------------------------------------------------------------
    @property
    def has_beyond(self) -> bool:
        return bool(self._beyond)

    def bring(self, updates: Sequence[bytes], dots: DotSet) -> bytes | None:
        """All that was broadcast beyond it, with these updates, in one; its dots go into `dots`.

        None: to merge it would hold the loop. Raises DocumentBroken.
        """
        update = merge([*self._beyond, *updates]) if self._beyond_bytes <= LOAN_BYTES else None
        dots.update(self._beyond_dots)
        return update

    def widen(self, updates: Sequence[bytes], dots: Sequence[Dot], now_ms: int) -> None:
        """These are broadcast at the held version."""
        self._keep(updates, dots)
        if self._since_ms is None:
            self._since_ms = now_ms

    def close(self) -> None:
        """The version is held no more."""
        self._beyond.clear()
        self._beyond_bytes = 0
        self._beyond_dots = DotSet()
        self._since_ms = None

    def forget(self) -> None:
        """The replica is read from the log again."""
        self.close()
        self._held.clear()

    def found(self, replica: Replica, entries: Sequence[LogEntry], now_ms: int) -> None:
        """A load has come across a gap: what is set aside, and what was broadcast at the held version before it."""
        self._since_ms = now_ms
        held = replica.version.seq if replica.version else 0
        for entry in entries:
            if entry.version.seq <= held or not isinstance(entry, Logged):
                continue
            if entry.change.dot in replica.dots:
                self._keep([entry.change.update], [entry.change.dot])
            else:
                self.set_aside(entry)

    def _keep(self, updates: Sequence[bytes], dots: Sequence[Dot]) -> None:
        self._beyond.extend(updates)
        self._beyond_bytes += sum(map(len, updates))
        for dot in dots:
            self._beyond_dots.add(dot)

    # --- repair ------------------------------------------------------------------------------------------------------
    def repair_ask(self, doc: DocId, replica: Replica, now_ms: int) -> RepairAsk | None:
        """What an early change waits for, where it has waited too long and nobody was asked just now."""
        since_ms = self._since_ms if self._since_ms is not None else now_ms
        if now_ms - since_ms < EARLY_MS_MAX or now_ms - self._asked_ms < REPAIR_MS:
            return None
        self._asked_ms = now_ms
        missing: dict[int, int] = {}
        for early in replica.early:
            for client, clock in early.missing:
                if clock > replica.clocks.get(client, 0):
                    missing[client] = max(clock, missing.get(client, 0))
        return RepairAsk(doc, replica.state_vector(), tuple(sorted(missing.items())))
