"""SIGKILL of every process while two authors replay a recorded history: nothing is lost, and all end equal."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from server.trace import TRACE_ROOT, read_trace
from sync.document import Document
from tests.faults.authors import cast_of, replay
from tests.peer import Peer
from tests.processes import Cluster, Node, record, wait_for

DOC = "notes/friends"
SEEDS = [int(seed) for seed in os.environ.get("SKERRY_KILL_SEEDS", "1").split(",")]
SHORT_COUNT = 6_000  # transactions; the whole history takes half a minute longer
KILLS_EACH = 2
KILLS_EACH_LONG = 8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_replay_survives_the_death_of_every_process(tmp_path: Path, traces: Path, long: bool, seed: int) -> None:
    trace = read_trace(traces / "friendsforever.json.gz")
    chance = random.Random(seed)
    with Cluster(tmp_path) as cluster:
        assert cluster.leader is not None
        victims: list[Node] = [cluster.nats, cluster.leader, cluster["a"], cluster["b"]]
        turns = victims * (KILLS_EACH_LONG if long else KILLS_EACH)
        chance.shuffle(turns)
        count = len(trace.transactions) if long else SHORT_COUNT
        moments = sorted(chance.sample(range(count // 50, count - count // 50), len(turns)))
        plan = list(zip(moments, turns, strict=True))
        authors, state = cast_of(trace, [cluster["a"], cluster["b"]], DOC, count)
        wanted = Document(state)
        text, digest = wanted.text(TRACE_ROOT), wanted.digest()
        assert text == trace.end or not long

        def kill_on_time(typed: int) -> None:
            while plan and plan[0][0] <= typed:
                _, victim = plan.pop(0)
                if not victim.ready_line:
                    victim.wait_ready()
                victim.kill()
                victim.spawn()

        try:
            replay(authors, kill_on_time)
            assert not plan
            for victim in victims:
                victim.wait_ready()
            wait_for(
                lambda: all(author.peer.acknowledged_digest() == digest for author in authors),
                60,
                lambda: f"everything acknowledged: {[author.peer.told() for author in authors]}",
            )
            assert [author.peer.read() for author in authors] == [text] * 2
            cluster.settle(DOC, deadline_s=60)
        finally:
            for author in authors:
                author.peer.close()

        for edge in cluster.edges.values():
            assert record(record(edge.document(DOC)["content"])[TRACE_ROOT])["value"] == text
            assert edge.digest(DOC) == digest

        # What the log alone knows: a new leader and an edge without a past.
        for edge in cluster.edges.values():
            edge.kill()
        cluster.leader.restart()
        fresh = cluster.add_edge("fresh")
        fresh.wait_link("up")
        with Peer(fresh, DOC) as cyd:
            cyd.wait_text(text, 60)
        assert fresh.digest(DOC) == digest


@pytest.mark.parametrize("linked", [True, False], ids=["with a link", "cut off"])
def test_what_an_edge_echoed_outlives_the_edge_and_its_client(tmp_path: Path, linked: bool) -> None:
    with Cluster(tmp_path, ["a"]) as cluster:
        edge = cluster["a"]
        if not linked:
            cluster.nats.stop()
        written = ""
        for round_ in range(3):
            with Peer(edge, DOC) as ada:
                ada.wait_text(written)
                for number in range(20):
                    ada.append(f"{round_}.{number} ")
                own = ada.crdt.client_id
                ada.wait_echoed(1)

                edge.kill()

                ada.pump(0.2)
                echoed = ada.echoed_clock
            edge.start()
            with Peer(edge, DOC) as ben:
                ben.wait_synced()
                written = ben.read()
                assert ben.clocks().get(own, 0) >= echoed
        if not linked:
            cluster.nats.start()
        cluster.settle(DOC)
