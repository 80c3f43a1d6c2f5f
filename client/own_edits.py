"""The edits that this store has made in one document: their names, how safe each is, and whether one was refused.

Room: dots and stages. No update, no CRDT, no store: it says what is not stored of it yet (`progressed`, `refused`).

Invariants:
1. A dot names one edit for ever: sessions have origins of their own, and a number is used when its edit is stored.
2. An edit only becomes safer. It is unmerged until the leader has merged it, or refused it.
3. Once one was refused, the document is parked, also after a restart, until others' content has taken its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from sync.extension import Stage
from sync.ids import Dot, DotSet, Origin, Version

from .store import REJECTED_MAX, Parked, Progress, Rejection, StoredDocument

__all__ = ["OwnEdits"]


class OwnEdits:
    def __init__(self, origin: Origin, stored: StoredDocument | None) -> None:
        """`origin`: the session's."""
        self.unmerged: dict[Dot, Progress] = {progress.dot: progress for progress in stored.edits} if stored else {}
        """Oldest first."""
        self.rejections = [*stored.rejected] if stored else []
        self.parked: Parked | None = stored.parked if stored else None
        """Why nothing is written here; None where it is."""
        self._origin = origin
        self._all = stored.dots if stored else DotSet()
        # Invariant 1: the document may have been open in this session before.
        self._count = max((last for each, _, last in self._all.ranges() if each == origin), default=0)
        self._last = stored.last.dot if stored and stored.last else None
        self._last_version = stored.last.version if stored and stored.last else None
        self._progressed: dict[Dot, Progress] = {}
        self._refused: list[Rejection] = []

    # --- what becomes of them ----------------------------------------------------------------------------------------
    @property
    def next(self) -> Dot:
        """What the next one will be called."""
        return Dot(self._origin, self._count + 1)

    def made(self, now_ms: int) -> Dot:
        """The next one is stored. Invariant 1."""
        dot = self.next
        self._count += 1
        self._all.add(dot)
        self._last, self._last_version = dot, None
        self.unmerged[dot] = Progress(dot, Stage.DISK, now_ms, None)
        return dot

    def safe(self, stage: Stage, dots: Sequence[Dot], version: Version | None, now_ms: int) -> list[Dot]:
        """Those of them that are safer than before."""
        moved: list[Dot] = []
        for dot in dots:
            before = self.unmerged.get(dot)
            if before is None or before.stage >= stage:
                continue
            progress = Progress(dot, stage, now_ms, version or before.version)
            self._progressed[dot] = progress
            moved.append(dot)
            if stage is Stage.MERGED:
                del self.unmerged[dot]
            else:
                self.unmerged[dot] = progress
            if dot == self._last:
                self._last_version = progress.version
        return moved

    def refuse(self, dots: Sequence[Dot], reason: str, now_ms: int) -> list[Dot]:
        """Those of them that were not merged. They are not sent again."""
        refused = [Rejection(dot, reason, now_ms) for dot in dots if dot in self.unmerged]
        self._refused += refused
        self._give_up(refused)
        return [each.dot for each in refused]

    def replaced(self, lost: Sequence[Rejection]) -> None:
        """What others have has taken the document's place, without these, and it is stored. Invariant 3."""
        self._give_up(lost)
        self.stored()
        self.parked = None

    def _give_up(self, refused: Sequence[Rejection]) -> None:
        for each in refused:
            del self.unmerged[each.dot]
            self._progressed.pop(each.dot, None)
        self.rejections += refused
        del self.rejections[:-REJECTED_MAX]

    @property
    def sends(self) -> bool:
        """There are some that the leader may yet merge."""
        return bool(self.unmerged) and self.parked is None

    # --- what is not stored yet --------------------------------------------------------------------------------------
    @property
    def progressed(self) -> tuple[Progress, ...]:
        return tuple(self._progressed.values())

    @property
    def refused(self) -> tuple[Rejection, ...]:
        return tuple(self._refused)

    def stored(self) -> None:
        self._progressed = {}
        self._refused = []

    # --- reading one's own writes ------------------------------------------------------------------------------------
    @property
    def newest(self) -> tuple[Dot | None, Version | None]:
        """What a token is made of: the last one, and where the log has it, once known. No dot: there is none."""
        last = self._last if self._last not in self._gone() else None
        return (last, self._last_version) if last is not None else (None, None)

    def has(self, dot: Dot) -> bool:
        """It was made here, and is read here."""
        return dot in self._all and dot not in self._gone()

    def _gone(self) -> set[Dot]:
        """Nobody will ever read these, not even here."""
        return {each.dot for each in self.rejections} if self.parked is None else set()
