"""A recorded editing history, typed by one client per author, while the world around them breaks.

Room: when an author may send what. An author types a transaction as soon as it has, over the network, everything that
the transaction refers to; so the authors wait for each other as people do, and go on alone while they are cut off.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.trace import Trace, authored_updates
from sync.document import Document, merge
from sync.validate import Shape, check_update
from tests.peer import Peer
from tests.processes import Node

__all__ = ["Author", "cast_of", "replay"]

BATCH = 25  # transactions of one author before the other has its turn
WAIT_S = 0.01
STALL_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Line:
    update: bytes
    shape: Shape


class Author:
    """One client, and what is left of its part."""

    def __init__(self, peer: Peer, lines: Sequence[Line]) -> None:
        self.peer = peer
        self.left = deque(lines)
        self.typed_count = 0

    def type(self, count: int) -> int:
        """Up to so many transactions whose causes are here; how many it were."""
        self.peer.pump()
        clocks = self.peer.clocks()
        own = self.peer.crdt.client_id
        typed = 0
        while self.left and typed < count and _fits(self.left[0].shape, clocks):
            line = self.left.popleft()
            self.peer.apply_own(line.update)
            for client, _, following in line.shape.brings:
                assert client == own, "an author types what it has made itself"
                clocks[own] = following
            typed += 1
        self.typed_count += typed
        return typed


def _fits(shape: Shape, clocks: dict[int, int]) -> bool:
    wanted = [*shape.needs, *((client, following) for client, _, following in shape.deletes)]
    return all(clocks.get(client, 0) >= following for client, following in wanted)


def cast_of(trace: Trace, edges: Sequence[Node], doc: str, count: int | None = None) -> tuple[list[Author], bytes]:
    """One author per edge, not yet typing, and the state that all of it leads to. `count`: only the first so many."""
    authored = [one for one in authored_updates(trace) if count is None or one.index < count]
    agents = sorted({one.agent for one in authored})
    assert len(agents) == len(edges), f"{len(agents)} authors, {len(edges)} edges"
    authors = [
        Author(
            Peer(edge, doc, client_id=agent + 1),
            [Line(one.update, check_update(one.update)) for one in authored if one.agent == agent],
        )
        for agent, edge in zip(agents, edges, strict=True)
    ]
    return authors, Document(merge([one.update for one in authored])).state()


def replay(authors: Sequence[Author], between: Callable[[int], None]) -> None:
    """Type everything, in turns. `between` is told how many transactions have been typed, and may break something."""
    moved = time.monotonic()
    while any(author.left for author in authors):
        typed = sum(author.type(BATCH) for author in authors)
        if typed:
            moved = time.monotonic()
        else:
            for author in authors:
                author.peer.pump(WAIT_S)
        between(sum(author.typed_count for author in authors))
        left = [(author.peer.edge, len(author.left), author.peer.clocks()) for author in authors]
        assert time.monotonic() - moved < STALL_S_MAX, f"nobody could type for {STALL_S_MAX:g} s: {left}"
