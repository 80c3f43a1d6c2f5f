"""The calibration: the same people and the same network, on pycrdt with and without a gate; no edge, no leader.

Room: does this simulator see what it was built for? On bare pycrdt, updates applied as they come, it must find lost
operations (facts 1.1); behind the gate it must find none.
"""

from __future__ import annotations

from random import Random

from sync.document import Crdt
from sync.ids import DocId
from sync.replica import Replica

from .contents import Contents, fold_of, shape_of
from .edits import random_edit
from .network import Link, Network
from .schedule import Schedule

__all__ = ["lost_operations"]


class _Peer:
    """Edits, tells everybody, and applies what it is told."""

    def __init__(self, number: int, gate: bool) -> None:
        self.crdt = Crdt(client_id=number + 1)
        self.link = Link(f"peer-{number}")
        self.replica = Replica(DocId("bare")) if gate else None
        if self.replica is not None:
            self.replica.materialise().crdt = self.crdt

    def take(self, update: bytes, now_ms: int) -> None:
        if self.replica is None:
            self.crdt.apply_update(update)
        else:
            self.replica.take(update, shape_of(update), now_ms)
            self.replica.materialise()


def lost_operations(seed: int, gate: bool) -> str:
    """In words, what a peer lacks after everything has arrived; empty where nothing."""
    rng = Random(seed)
    schedule = Schedule()
    network = Network(schedule, rng, delay_ms_max=400, loss=0.0, repeat=0.1)
    peers = [_Peer(number, gate) for number in range(rng.randint(2, 4))]
    history: list[bytes] = []

    def tell(update: bytes, to: _Peer) -> None:
        network.core_deliver(to.link, lambda: to.take(update, schedule.now_ms))

    def edit(peer: _Peer) -> None:
        made: list[bytes] = []
        subscription = peer.crdt.observe(lambda event: made.append(event.update))
        random_edit(rng, peer.crdt)
        peer.crdt.unobserve(subscription)
        for update in made:
            peer.take(update, schedule.now_ms)
            history.append(update)
            for other in peers:
                if other is not peer:
                    tell(update, other)

    for _ in range(60):
        peer = rng.choice(peers)
        schedule.after(rng.randint(0, 3_000), lambda peer=peer: edit(peer))  # type: ignore[misc]
    schedule.run(10_000)
    whole = Contents.of(fold_of(history))
    lacking = (Contents.of(peer.crdt).lacks(whole) for peer in peers)
    return next((words for words in lacking if words), "")
