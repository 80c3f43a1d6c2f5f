"""Who asks a lane what it lacks, and the answers: what an asker lacks, how far the lane is, and its digest.

Room: a part of the leader machine, one document's. When it may be answered is `sync.lane`'s.

Many ask the same at once, and a difference or a digest may take a while to make: each is made once.
"""

from __future__ import annotations

from .change import SyncAnswer, SyncAsk
from .ids import DotSet, Version
from .replica import Replica

__all__ = ["Asked"]

_REJECTED_RANGES_MAX = 40  # in an answer they are a header: a reader that knows none of them would misread a part


class Asked:
    __slots__ = ("_difference", "_digest", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[SyncAsk, str]] = []
        """With whom to answer."""
        self._difference: tuple[tuple[int, bytes], bytes] | None = None
        """(place in the log, state vector) and what such an asker lacks. Until the next tick."""
        self._digest: tuple[Version, str] | None = None

    def answer(self, ask: SyncAsk, replica: Replica, rejected: DotSet, reason: str, epoch: int) -> SyncAnswer:
        """Raises DocumentBroken."""
        known = (replica.read, ask.state_vector)
        if self._difference is None or self._difference[0] != known:
            self._difference = (known, replica.diff(ask.state_vector))
        update, mine = self._difference[1], replica.state_vector()
        digest = "" if replica.gap else self.digest_of(replica)
        version, dots, refused = replica.version or Version(epoch, 0), replica.dots.copy(), rejected.copy()
        refused.trim(_REJECTED_RANGES_MAX)
        return SyncAnswer(ask.doc, ask.ask, update, mine, version, dots, digest, refused, reason)

    def digest_of(self, replica: Replica) -> str:
        """Of a replica without a gap. Raises DocumentBroken."""
        version = replica.version
        assert version is not None
        if self._digest is None or self._digest[0] != version:
            self._digest = (version, replica.digest())
        return self._digest[1]

    def knows_digest(self, replica: Replica) -> bool:
        return self._digest is not None and self._digest[0] == replica.version

    def learn_digest(self, replica: Replica, digest: str) -> None:
        """It was made elsewhere."""
        if digest and replica.version is not None:
            self._digest = (replica.version, digest)

    def changed(self) -> None:
        """The document is another one now."""
        self._digest = None

    def forget_difference(self) -> None:
        self._difference = None

    def forget(self) -> None:
        """The replica is read from the log again. Who waits, waits on."""
        self._digest = None
        self._difference = None
