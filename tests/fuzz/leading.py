"""A leader that is given an update by the log: what its loop does of it, and what it hands out to a thread."""

from __future__ import annotations

from functools import lru_cache

from sync.change import Change, Context, Logged, Snapshot, SyncAsk
from sync.document import Document
from sync.ids import DocId, Dot, DotSet, Origin, Version
from sync.leader import Delivery, Leader, LeaderSettings, LeaderStep
from sync.limits import BEACON_MS, SNAPSHOT_CHANGES
from sync.step import Elsewhere, LoadLogged, Reject, Report
from tests.fuzz.judging import elsewhere, turn

__all__ = ["lead"]

_EPOCH = 7


@lru_cache(maxsize=1)
def _snapshot(doc: DocId, base: bytes) -> Snapshot:
    return Snapshot(doc, Version(_EPOCH, 1), base, DotSet(), Document(base).digest())


class _Lead:
    def __init__(self, doc: DocId, base: bytes) -> None:
        self.leader = Leader(LeaderSettings("leader", Origin(9)))
        self.snapshot = _snapshot(doc, base)
        self.said: list[str] = []
        self.leader.gained(0, _EPOCH, 0)

    def do(self, step: LeaderStep) -> None:
        turn()
        for effect in step.now:
            match effect:
                case LoadLogged(doc):
                    self.do(self.leader.logged(doc, self.snapshot, (), 0))
                case Elsewhere(work):
                    with elsewhere():
                        found = work.run()
                    self.do(self.leader.worked(work, found, 0))
                case Reject(_, reason):
                    self.said.append(reason)
                case Report(event):
                    self.said.append(event)


def lead(doc: DocId, base: bytes, update: bytes) -> list[str]:
    """It is delivered, asked for, told of in a beacon and kept in a snapshot; what was refused is returned."""
    with elsewhere():
        lead = _Lead(doc, base)
        lead.do(lead.leader.sync_asked(SyncAsk(doc, 1, b"\0", None), 0, "reply", 0))
    change = Change(doc, Dot(Origin(1), 1), update, Context(edge="a"))
    lead.do(lead.leader.delivered(0, [Delivery(Logged(change, Version(_EPOCH, 2)), 1)], 0))
    lead.do(lead.leader.sync_asked(SyncAsk(doc, 2, b"\0", None), 0, "reply", 0))
    lead.do(lead.leader.tick(BEACON_MS))
    lane = lead.leader.lanes[doc]
    lane.snapshots.changes = SNAPSHOT_CHANGES
    more = Change(doc, Dot(Origin(1), 2), b"\1\1\x5b\0\4\1\1q\1x\0", Context(edge="a"))
    lead.do(lead.leader.delivered(0, [Delivery(Logged(more, Version(_EPOCH, 3)), 2)], 0))
    return lead.said
