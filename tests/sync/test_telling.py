"""What is said of what "was sent" stands behind it: else a reader is sure of a write that it has not read."""

from __future__ import annotations

from dataclasses import dataclass, field

from sync import extension, wire
from sync.edge import EdgeStep
from sync.extension import At, Await, Changed, Edit, Reached
from sync.ids import ConnId, Dot, Origin
from sync.step import EdgeEffect, Send, Step
from sync.token import Token, encode_token
from tests.sync.stage import PLAN, Ada, Island, Sea, frame

NAMED = Dot(Origin(50), 1)


@dataclass
class Watched(Island):
    """An edge whose clients speak the extension: what each was sent, in order, by name; content as its text."""

    seen: dict[int, list[object]] = field(default_factory=dict)

    def do(self, step: EdgeStep) -> None:
        rest: list[EdgeEffect] = []
        for effect in step.now:
            if isinstance(effect, Send):
                for conn in effect.conns:
                    self.seen.setdefault(conn, []).append(_name(effect.frame))
            else:
                rest.append(effect)
        super().do(Step(tuple(rest), step.commit))

    def enter(self, conn: int) -> None:
        self.do(self.edge.opened(ConnId(conn), PLAN, self.now, extended=True))

    def ask(self, conn: int) -> None:
        self.send(conn, wire.encode(wire.SyncStep1(b"\x00")))

    def edit(self, conn: int, update: bytes, number: int = NAMED.seq) -> None:
        self.send(conn, extension.encode(Edit(Dot(NAMED.origin, number), "ada", "", "why", update)))

    def said(self, conn: int) -> list[object]:
        """Content, and what is said of it."""
        return [each for each in self.seen.get(conn, []) if each is not None]


def _name(data: bytes) -> object:
    message = extension.decode(data)
    match message:
        case wire.Update(update) | wire.SyncStep2(update):
            ada = Ada(1)
            ada.crdt.apply_update(update)
            return str(ada.text)
        case At() | Changed():
            return type(message)
        case Reached(_, reached, _):
            return (Reached, reached)
        case _:
            return None


def _broadcast(sea: Sea, near: Island, far: Island) -> None:
    """What `near` wrote is merged, and the broadcast is the first that `far` hears of it."""
    near.commit()
    for change in near.published:
        sea.chair.deliver(sea.log.append(change).seq)
    near.published.clear()
    for merged in sea.chair.said:
        far.do(far.edge.merged(merged, far.now))
    sea.chair.said.clear()


def test_a_document_that_is_not_ready_has_no_version_yet() -> None:
    """It was never here, the leader has been asked, and the broadcast of the first edit comes before the answer."""
    near, far, ada = Watched("a", 1), Watched("b", 2), Ada(9)
    sea = Sea(near, far)
    near.enter(1)
    near.ask(1)
    sea.settle()
    far.enter(2)
    far.ask(2)
    assert far.said(2) == []
    near.edit(1, ada.type("here"))
    _broadcast(sea, near, far)

    assert far.said(2) == []
    sea.settle()
    assert far.said(2) == ["here", At]


def test_who_has_not_asked_yet_is_told_nothing_of_what_was_sent() -> None:
    island, ada = Watched("a", 1), Ada(9)
    sea = Sea(island)
    island.enter(1)
    island.ask(1)
    island.edit(1, ada.type("here"))
    sea.settle()
    island.enter(2)
    island.edit(1, ada.type(" and there"), 2)
    sea.settle()

    assert At not in island.said(2)
    assert Changed not in island.said(2)
    island.ask(2)
    assert island.said(2)[-2:] == ["here and there", At]


def test_it_waits_with_what_waits_for_a_commit() -> None:
    """A step 2 may hold what others made: it is sent when it is on the disk, and what is said of it behind it."""
    near, far, ada, ben = Watched("a", 1), Watched("b", 2), Ada(9), Ada(8)
    sea = Sea(near, far)
    for island, conn in ((near, 1), (far, 2)):
        island.enter(conn)
        island.ask(conn)
    sea.settle()
    far.enter(3)
    far.send(3, wire.encode(wire.SyncStep2(ben.type("ben "))))
    far.flush()
    before = len(far.said(2))
    near.edit(1, ada.type("ada "))
    _broadcast(sea, near, far)
    far.send(2, extension.encode(Await(1, encode_token(Token("skerry", PLAN, None, NAMED)), 1000)))

    assert far.said(2)[before:] == []
    far.commit()
    assert far.said(2)[before:] == ["ben ", "ada ", Changed, At, (Reached, True)]


def test_who_waits_is_not_told_before_it_was_sent_what_the_others_write() -> None:
    island, ada = Watched("a", 1), Ada(9)
    sea = Sea(island)
    for conn in (1, 2):
        island.enter(conn)
        island.ask(conn)
    sea.settle()
    update = ada.type("here")
    island.send(1, frame(update))
    island.edit(1, update)
    before = len(island.said(2))
    island.send(2, extension.encode(Await(1, encode_token(Token("skerry", PLAN, None, NAMED)), 1000)))

    assert (Reached, True) not in island.said(2)
    island.flush()
    assert [each for each in island.said(2)[before:] if each is not Changed] == ["here", (Reached, True)]
