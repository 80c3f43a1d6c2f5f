"""How it goes, and is it equal: what a node says of itself, and what an operator makes of all their answers.

Room: plain values for JSON. Tables are `server.cli`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from sync.errors import BusError, InvalidDocumentId, SkerryError
from sync.ids import DocId, parse_document_id, shard_of

from . import reads
from .bus import Bus, JsonObject
from .clock import wall_ms
from .edge import EdgeDaemon
from .leader import LeaderDaemon
from .salvage import set_aside_of
from .streams import api, place_of

__all__ = ["Comparison", "answer_as_edge", "answer_as_leader", "compare_all", "edge_status", "leader_status"]

DOCS_LISTED_MAX = 1_000  # in one status or listing; more are asked for page by page
DIGESTS_AT_ONCE = 50
LEADER = "leader"
QUIET_S = 1.0  # how long nobody has to answer before a question to everybody is over

Verdict = Literal["EQUAL", "BEHIND", "DIVERGED"]


def edge_status(daemon: EdgeDaemon, may_read: Callable[[DocId], bool] = lambda _: True) -> dict[str, object]:
    """`may_read`: which documents are named."""
    totals = daemon.store.outbox_totals()
    state = daemon.bus.state
    hosted = daemon.machine.hosted
    return {
        "role": "edge",
        "name": daemon.config.name,
        "namespace": daemon.config.namespace,
        "started_ms": daemon.started_ms,
        "link": {"state": state.state, "reason": state.reason, "since_ms": state.since_ms},
        "streams_differ": list(daemon.bus.differs),
        "epoch": f"{daemon.machine.epoch:x}" if daemon.machine.epoch else None,
        "sweeping": daemon.machine.sweeping,
        "outbox": {
            "count": totals.count,
            "bytes": totals.bytes,
            "oldest_age_ms": wall_ms() - totals.oldest_ms if totals.oldest_ms is not None else None,
            "inflight": daemon.machine.shipping.inflight_count,
            "full": daemon.machine.pressure.outbox_full is not None,
        },
        "stalls": daemon.watchdog.status(),
        "documents_bytes": daemon.machine.pressure.documents_bytes,
        "clients": len(daemon.connections),
        "slow_readers": {"now": len(daemon.readers), "brought_up_to_date": daemon.readers.caught_up_count},
        "documents": [
            {
                "doc": doc,
                "version": str(host.replica.version) if host.replica and host.replica.version else None,
                "clients": len(host.conns),
                "present": len(host.presence),
                "early": len(host.replica.early) if host.replica else 0,
                "unmerged": host.unmerged.count(),
            }
            for doc, host in [one for one in sorted(hosted.items()) if may_read(one[0])][:DOCS_LISTED_MAX]
        ],
        "documents_in_memory": len(hosted),
        "store_bytes": daemon.store.size_bytes(),
        "store_set_aside": set_aside_of(daemon.store),
    }


async def leader_status(daemon: LeaderDaemon) -> dict[str, object]:
    machine = daemon.machine
    shards: list[dict[str, object]] = []
    for shard in machine.shards:
        shards.append({"shard": shard, **await _consumer_place(daemon.bus, shard)})
    return {
        "role": "leader",
        "name": daemon.name,
        "namespace": daemon.config.namespace,
        "link": {"state": daemon.bus.state.state, "reason": daemon.bus.state.reason},
        "streams_differ": list(daemon.bus.differs),
        "epoch": f"{machine.epoch:x}" if machine.epoch else None,
        "shards": shards,
        "merged": machine.merged_count,
        "rejected": machine.rejected_count,
        "documents_in_memory": len(machine.lanes),
        "gaps": [str(lane.doc) for lane in machine.lanes.values() if lane.replica is not None and lane.replica.gap],
    }


async def _consumer_place(bus: Bus, shard: int) -> dict[str, object]:
    """What of the shard's log is not yet merged, as the server counts it."""
    try:
        session = bus.session()
        info = await api(session.link, f"CONSUMER.INFO.{session.layout.changes}.leader-{shard}")
    except BusError as error:
        return {"error": str(error)}
    return {
        "lag": info.get("num_pending"),
        "unacknowledged": info.get("num_ack_pending"),
        "acknowledged_seq": place_of(info, "ack_floor")[0],
    }


# --- questions to everybody -------------------------------------------------------------------------------------------
async def answer_as_edge(daemon: EdgeDaemon, question: JsonObject) -> JsonObject | None:
    match question.get("op"):
        case "status":
            return edge_status(daemon)
        case "documents":
            after = str(question.get("after", ""))
            docs = [doc for doc in await daemon.documents() if doc > after]
            return _page("edge", daemon.config.name, docs)
        case "digests":
            found: dict[str, object] = {}
            for doc in _docs(question):
                reading = await reads.read(daemon, doc, contents=False)
                if reading is not None:
                    version = str(reading.version) if reading.version is not None else None
                    found[doc] = {"version": version, "digest": reading.digest, "outbox": reading.outbox_count}
            return {"role": "edge", "name": daemon.config.name, "digests": found}
    return None


async def answer_as_leader(daemon: LeaderDaemon, question: JsonObject) -> JsonObject | None:
    match question.get("op"):
        case "status":
            return await leader_status(daemon)
        case "documents":
            after = str(question.get("after", ""))
            docs = [doc for doc in await daemon.bus.documents() if doc > after]
            return _page("leader", daemon.name, docs)
        case "digests":
            docs = [doc for doc in _docs(question) if shard_of(doc, daemon.bus.shards or 1) in daemon.machine.shards]
            states = await asyncio.gather(*(daemon.state_of(doc) for doc in docs))
            found = {
                doc: {"version": str(state.version), "digest": state.digest, "outbox": 0}
                for doc, state in zip(docs, states, strict=True)
                if state is not None
            }
            return {"role": "leader", "name": daemon.name, "digests": found}
    return None


def _page(role: str, name: str, docs: list[DocId]) -> JsonObject:
    return {"role": role, "name": name, "docs": docs[:DOCS_LISTED_MAX], "more": len(docs) > DOCS_LISTED_MAX}


def _docs(question: JsonObject) -> list[DocId]:
    asked = question.get("docs")
    docs: list[DocId] = []
    for text in asked[:DIGESTS_AT_ONCE] if isinstance(asked, list) else ():
        try:
            docs.append(parse_document_id(str(text)))
        except InvalidDocumentId:
            continue
    return docs


# --- verify -----------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Comparison:
    """Every document's state at every node that answered."""

    documents: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    """document -> node (`leader` or the edge's name) -> {version, digest, outbox}"""
    nodes: set[str] = field(default_factory=set)

    def verdict_of(self, doc: str) -> Verdict:
        """EQUAL: the leader and every node that has it hold the same. DIVERGED: two nodes at one version, with nothing
        on its way, do not. BEHIND: not there yet, or no leader has answered for it."""
        states = list(self.documents[doc].values())
        if not states:
            return "BEHIND"  # nobody has it
        if len({str(state["digest"]) for state in states}) == 1:
            return "EQUAL" if LEADER in self.documents[doc] else "BEHIND"
        if any(state["outbox"] for state in states) or len({str(state["version"]) for state in states}) > 1:
            return "BEHIND"
        return "DIVERGED"

    @property
    def verdict(self) -> Verdict:
        found = {self.verdict_of(doc) for doc in self.documents}
        return "DIVERGED" if "DIVERGED" in found else "BEHIND" if "BEHIND" in found else "EQUAL"


async def list_all(bus: Bus) -> list[str]:
    """Every document that the log or any edge has."""
    docs: set[str] = set()
    after = ""
    while True:
        answers = await bus.ask_all({"op": "documents", "after": after}, QUIET_S)
        if not answers:
            raise SkerryError("no node answered; is a leader or an edge linked to this NATS?")
        last = ""
        for answer in answers:
            page = answer.get("docs")
            if isinstance(page, list):
                docs.update(map(str, page))
                if answer.get("more") and page:
                    last = min(last, str(page[-1])) if last else str(page[-1])
        if not last:
            return sorted(docs)
        after = last


async def compare_all(bus: Bus, docs: Iterable[str], progress: Callable[[int], None]) -> Comparison:
    """Ask every node for the digests of these documents. Raises BusError."""
    comparison = Comparison()
    wanted = list(docs)
    for doc in wanted:
        comparison.documents[doc] = {}
    for at in range(0, len(wanted), DIGESTS_AT_ONCE):
        part = wanted[at : at + DIGESTS_AT_ONCE]
        for answer in await bus.ask_all({"op": "digests", "docs": part}, QUIET_S):
            node = LEADER if answer.get("role") == "leader" else str(answer.get("name"))
            comparison.nodes.add(node)
            digests = answer.get("digests")
            for doc, state in digests.items() if isinstance(digests, dict) else ():
                comparison.documents.setdefault(doc, {})[node] = state
        progress(len(part))
    return comparison
