"""Has the world settled? Where not, in words: who, which document, what differs.

Room: comparing what the parts hold. Cheap differences first, because the world asks every second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sync.document import Document
from sync.folding import fold_log
from sync.replica import Replica

if TYPE_CHECKING:
    from sync.ids import DocId

    from .edges import EdgeNode
    from .world import World

__all__ = ["differences"]

QUEUES = ("queued", "asked", "pending", "echo", "suspects", "repairs", "early_asked")
"""Of a hosted document: empty when nothing is on its way."""


def differences(world: World) -> list[str]:
    """Empty where every editor, edge, leader and the log itself hold the same, and nothing is on its way."""
    found = [words for node in world.edges for words in _of_edge(node)]
    found += [
        f"{editor.name} ({editor.doc}) has no connection"
        for editor in world.editors
        if editor.alive and editor.conn is None
    ]
    if found:
        return found
    for doc in world.docs:
        found += _of_document(world, doc)
    return found


def _of_edge(node: EdgeNode) -> list[str]:
    edge = node.edge
    if edge is None or not node.uplink.linked:
        return [f"{node.name} has no link"]
    found = []
    totals = node.disk.image.store.outbox_totals()
    if totals.count:
        rows = node.disk.image.store.outbox(0, 3, 1 << 20)
        some = ", ".join(f"{row.change.doc} {row.change.dot} shipped {row.shipped}" for row in rows)
        found.append(f"{node.name}: {totals.count} changes in its outbox ({some})")
    if edge.shipping.inflight_count:
        found.append(f"{node.name}: {edge.shipping.inflight_count} changes on their way")
    if edge.sweeping:
        found.append(f"{node.name} still compares its documents with the log")
    for doc in sorted(edge.hosted):
        host = edge.hosted[doc]
        left = [name for name in QUEUES if getattr(host, name)]
        if left:
            found.append(f"{node.name}: {doc}: {', '.join(left)} not empty")
        if host.replica is not None and host.replica.early:
            found.append(f"{node.name}: {doc}: waits for {host.replica.early[0].missing}")
    return found


def _of_document(world: World, doc: DocId) -> list[str]:
    digests: dict[str, tuple[str, str]] = {}
    leader = world.leader_of(doc)
    machine = leader.leader if leader is not None else None
    if machine is None:
        return [f"{doc}: nobody leads it"]
    lane = machine.lanes.get(doc)
    if lane is not None and lane.replica is not None:
        if lane.replica.gap and not _orphans(world, doc, lane.replica):
            return [f"{doc}: the leader is at {lane.replica.version} and waits for {lane.replica.early[0].missing}"]
        digests["the leader"] = lane.replica.digest(), str(lane.replica.version)
    epoch = world.log.epoch
    digests["the log"] = _folded(fold_log(doc, *world.read_log(doc, epoch, None), epoch, world.now_ms))
    for node in world.edges:
        stored = node.disk.image.store.load(doc)
        if stored is not None:
            digests[f"{node.name} on disk"] = _folded(
                Replica(doc, stored.state, stored.updates, stored.version, stored.dots)
            )
        else:
            digests[f"{node.name} on disk"] = Document().digest(), "nothing"
        assert node.edge is not None
        host = node.edge.hosted.get(doc)
        if host is not None and host.replica is not None:
            digests[f"{node.name} in memory"] = _folded(host.replica)
    for editor in world.editors:
        if editor.alive and editor.doc == doc:
            if editor.replica.early and not _orphans(world, doc, editor.replica):
                return [f"{doc}: {editor.name} waits for {editor.replica.early[0].missing}"]
            at = editor.conn.node.name if editor.conn is not None else "offline"
            digests[f"{editor.name} at {at}"] = editor.replica.digest(), "no version"
    wanted = digests["the log"][0]
    apart = [f"{who} at {version}" for who, (digest, version) in digests.items() if digest != wanted]
    if apart:
        return [f"{doc}: not as the log at {digests['the log'][1]}: {', '.join(apart)}"]
    return []


def _orphans(world: World, doc: DocId, replica: Replica) -> bool:
    """What the early changes wait for was lost with every disk that held it: nobody can close this gap."""
    disks = [node.disk.image.contents[doc] for node in world.edges if doc in node.disk.image.contents]
    return world.lossy and all(
        any(max((held.clocks.get(client, 0) for held in disks), default=0) < clock for client, clock in early.missing)
        for early in replica.early
    )


def _folded(replica: Replica) -> tuple[str, str]:
    return replica.digest(), str(replica.version)
