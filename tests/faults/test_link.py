"""The way to NATS is frozen, cut, or was never there: local first, and equal when it is back."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path

import pytest

from server.edge import STORE
from server.trace import TRACE_ROOT, read_trace
from tests.faults.words import Talk
from tests.peer import Peer
from tests.processes import Cluster, Node, as_int, record, run_cli, wait_for

FROZEN_S = 12.0
FROZEN_S_LONG = 60.0
BACK_S_MAX = 15.0
CUT_S = 4
DOC = "notes/plan"


def test_a_frozen_nats_server_stops_nobody_and_the_link_is_back_soon_after(tmp_path: Path, long: bool) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        talk.say(5)
        frozen_s = FROZEN_S_LONG if long else FROZEN_S

        cluster.nats.pause()
        try:
            ends = time.monotonic() + frozen_s
            talk.say(5)
            for peer in talk.peers:
                peer.wait_acknowledged(3)  # on the disk of its own edge, whatever NATS does
            while time.monotonic() < ends:
                talk.say()
            states = {edge.name: edge.link() for edge in cluster.edges.values()}
        finally:
            cluster.nats.resume()

        assert states == {"a": "down", "b": "down"}, "nobody noticed that NATS does not answer"
        took = [edge.wait_link("up", BACK_S_MAX) for edge in cluster.edges.values()]
        assert max(took) < BACK_S_MAX
        text = talk.agree(cluster)
        talk.agree_in_log(cluster, text)


def test_an_edge_that_is_cut_off_says_so_and_heals(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        talk.say(5)
        talk.agree(cluster)

        cluster["b"].cut(CUT_S)
        cluster["b"].wait_link("cut", 5)
        talk.say(20)
        wait_for(lambda: cluster["a"].outbox_count() == 0, 10, "a, which has its link, ships")
        assert cluster["b"].outbox_count() > 0
        alone = cluster["b"].digest(DOC)
        assert alone != cluster["a"].digest(DOC)

        cluster["b"].wait_link("up", CUT_S + 10)
        talk.agree(cluster)


def test_many_short_cuts_of_both_edges_lose_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        for _ in range(4):
            for edge in cluster.edges.values():
                edge.cut(0.5)
                talk.say(10)
                talk.say_until_up(edge, 15)

        talk.agree(cluster)


def test_a_replay_with_the_link_cut_in_the_middle_ends_as_the_authors_did(tmp_path: Path, traces: Path) -> None:
    path = traces / "friendsforever.json.gz"
    wanted = read_trace(path).end
    with Cluster(tmp_path) as cluster:
        done = run_cli(
            *("replay", str(path), "--edges", cluster["a"].ws, cluster["b"].ws, "--cut", str(CUT_S), "--json"),
            deadline_s=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told = record(json.loads(done.stdout))
        assert any(" link_cut " in edge.errors() for edge in cluster.edges.values()), "no link was cut"
        doc = str(told["doc"])

        fresh = cluster.add_edge("fresh")
        fresh.wait_link("up")
        with Peer(fresh, doc) as cyd:
            cyd.wait_text(wanted, 30)
        cluster.settle(doc)
        for edge in cluster.edges.values():
            assert record(record(edge.document(doc)["content"])[TRACE_ROOT])["value"] == wanted


def test_an_edge_without_nats_serves_at_once_says_so_and_heals(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a", "b"]) as cluster:
        for node in reversed(cluster.nodes()):
            node.kill()
        began = time.monotonic()
        for edge in cluster.edges.values():
            edge.start()
        assert time.monotonic() - began < 10

        for edge in cluster.edges.values():
            link = record(edge.status()["link"])
            assert link["state"] == "down"
            assert link["reason"]
            assert edge.http("/healthz")[0] == 200
        with Talk(DOC, cluster["a"], cluster["a"], cluster["b"]) as talk:
            talk.say(20)
            for peer in talk.peers:
                peer.wait_acknowledged(5)
            assert as_int(record(cluster["a"].status()["outbox"])["count"]) > 0

            cluster.nats.start()
            assert cluster.leader is not None
            cluster.leader.start()
            for edge in cluster.edges.values():
                edge.wait_link("up")
            talk.agree(cluster)


def test_edges_go_on_without_a_leader_and_are_merged_when_one_comes(tmp_path: Path) -> None:
    with Cluster(tmp_path, leader=False) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        talk.say(10)
        for peer in talk.peers:
            peer.wait_acknowledged(5)

        cluster.leader = cluster.add_leader()
        cluster.leader.wait_ready()

        talk.agree(cluster)


@pytest.mark.parametrize("gone", ["kill", "stop"])
def test_a_second_leader_takes_over(tmp_path: Path, gone: str) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        first = cluster.leader
        assert first is not None
        talk.say(10)
        talk.agree(cluster)
        second: Node = cluster.add_leader("second")
        second.wait_ready()
        cluster.leader = second
        try:
            if gone == "kill":
                first.kill()
            else:
                assert first.stop() == 0
            talk.say(10)

            talk.agree(cluster)
        finally:
            first.end()


def on_disk(store: Path) -> set[str]:
    """Documents of which there are rows."""
    with contextlib.closing(sqlite3.connect(store)) as disk:
        rows = disk.execute(
            "SELECT DISTINCT doc FROM documents JOIN changes ON document = key UNION "
            "SELECT doc FROM documents JOIN states ON document = key"
        )
        return {str(doc) for (doc,) in rows}


def test_a_pinned_document_can_be_opened_offline_at_an_edge_that_never_had_a_client_for_it(tmp_path: Path) -> None:
    with Cluster(tmp_path, pins={"b": ["notes/*", "exact"]}) as cluster:
        texts = {doc: f"this is {doc}" for doc in ("notes/one", "notes/two/deep", "exact", "other")}
        for doc, text in texts.items():
            with Peer(cluster["a"], doc) as ada:
                ada.wait_synced()
                ada.append(text)
                ada.wait_acknowledged()
        pinned = [doc for doc in texts if doc != "other"]
        wanted = {doc: cluster["a"].digest(doc) for doc in pinned}
        assert None not in wanted.values()
        wait_for(lambda: {doc: cluster["b"].digest(doc) for doc in pinned} == wanted, 15, "b has what is pinned there")
        store = tmp_path / "b-data" / STORE  # what came from the log alone is there a little later
        wait_for(lambda: on_disk(store).issuperset(pinned), 15, "b has it on its disk")

        cluster.nats.kill()
        cluster["a"].kill()
        cluster["b"].restart()

        for doc in pinned:
            with Peer(cluster["b"], doc) as ben:
                ben.wait_synced(5)
                assert ben.read() == texts[doc]
                ben.append(" and more")
                ben.wait_acknowledged(5)
        assert cluster["b"].digest("other") is None
