"""Core NATS and the questions to the leader: who gets what, through the codecs, over ways that lose and repeat.

Room: subjects as sets of receivers. Every message is headers and bytes on its way (`sync.headers`), so that what the
codecs cannot carry is found here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sync.change import Beacon, Merged, RepairAsk, SyncAnswer
from sync.headers import (
    decode_beacon,
    decode_merged,
    decode_repair,
    decode_sync_answer,
    decode_sync_ask,
    encode_beacon,
    encode_merged,
    encode_repair,
    encode_sync_answer,
)
from sync.ids import DocId, shard_of

from .schedule import Action

if TYPE_CHECKING:
    from .edges import EdgeNode
    from .leaders import LeaderNode
    from .world import World

__all__ = ["Bus"]

Headers = dict[str, str]


class Bus:
    def __init__(self, world: World) -> None:
        self.world = world

    # --- from a leader to the edges ----------------------------------------------------------------------------------
    def broadcast(self, leader: LeaderNode, merged: Merged) -> None:
        headers, payload = encode_merged(merged)
        doc = merged.doc

        def arrived() -> None:
            for node in self.world.edges:
                if doc in node.follows or (node.edge is not None and node.edge.pinned(doc)):
                    self._tell_merged(node, doc, headers, payload)

        self.world.network.core_send(leader.uplink.link, arrived)

    def _tell_merged(self, node: EdgeNode, doc: DocId, headers: Headers, payload: bytes) -> None:
        action = node.uplink.in_session(lambda: node.merged(decode_merged(doc, headers, payload)))
        self.world.network.core_deliver(node.uplink.link, action)

    def beacon(self, leader: LeaderNode, beacon: Beacon) -> None:
        headers, payload = encode_beacon(beacon)
        self._to_all(leader, lambda node: node.beacon(decode_beacon(headers, payload)))

    def repair(self, leader: LeaderNode, ask: RepairAsk) -> None:
        headers, payload = encode_repair(ask)
        self._to_all(leader, lambda node: node.repair_asked(decode_repair(ask.doc, headers, payload)))

    def _to_all(self, leader: LeaderNode, tell: Callable[[EdgeNode], None]) -> None:
        network = self.world.network

        def to(node: EdgeNode) -> None:
            network.core_deliver(node.uplink.link, node.uplink.in_session(lambda: tell(node)))

        def arrived() -> None:
            for node in self.world.edges:
                to(node)

        network.core_send(leader.uplink.link, arrived)

    # --- between edges -----------------------------------------------------------------------------------------------
    def presence(self, sender: EdgeNode, doc: DocId, payload: bytes) -> None:
        network = self.world.network

        def to(node: EdgeNode) -> None:
            network.core_deliver(node.uplink.link, node.uplink.in_session(lambda: node.presence(doc, payload)))

        def arrived() -> None:
            for node in self.world.edges:
                if node is not sender and doc in node.follows:
                    to(node)

        network.core_send(sender.uplink.link, arrived)

    # --- question and answer -----------------------------------------------------------------------------------------
    def ask(self, node: EdgeNode, headers: Headers, payload: bytes, failed: Action) -> None:
        """To one of those who listen for this shard; where nobody does, the server says so at once."""
        world = self.world

        def arrived() -> None:
            ask = decode_sync_ask(headers, payload)
            shard = shard_of(ask.doc, world.shard_count)
            listening = [leader for leader in world.leaders if leader.leads(shard)]
            if not listening:
                world.network.core_deliver(node.uplink.link, failed)
                return
            leader = world.rng.choice(listening)
            reply = world.inbox(node)
            asked = leader.uplink.in_session(lambda: leader.asked(ask, shard, reply))
            world.network.core_deliver(leader.uplink.link, asked)

        world.network.core_send(node.uplink.link, arrived)

    def answer(self, leader: LeaderNode, reply: str, answer: SyncAnswer) -> None:
        headers, payload = encode_sync_answer(answer)
        node, current = self.world.owner_of(reply)

        def arrived() -> None:
            told = current(lambda: node.answered(decode_sync_answer(headers, payload)))
            self.world.network.core_deliver(node.uplink.link, told)

        self.world.network.core_send(leader.uplink.link, arrived)
