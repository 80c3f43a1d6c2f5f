"""JetStream forgets, all of it or the newest part: what was acknowledged is shipped again (law 5)."""

from __future__ import annotations

from pathlib import Path

from tests.faults.words import Talk
from tests.peer import Peer
from tests.processes import Cluster

DOC = "notes/plan"
CUT_S = 4


def epoch(cluster: Cluster) -> object:
    """Of the log that edge b speaks to."""
    return cluster["b"].status()["epoch"]


def test_a_log_that_vanished_while_an_edge_was_cut_off_comes_back_whole(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        talk.say(20)
        talk.agree(cluster)
        with Peer(cluster["a"], "closed/meanwhile") as cyd:  # nobody has it open when the log goes
            cyd.wait_synced()
            cyd.append("written once, long ago")
            cyd.wait_acknowledged()
        cluster.settle(verify=False)

        cluster["b"].cut(CUT_S)
        talk.say(20)
        before = epoch(cluster)
        cluster.nats.wipe()
        talk.say(20)
        cluster["b"].wait_link("up", CUT_S + 20)
        assert epoch(cluster) != before, "it is the same log: nothing was lost"
        talk.say(20)

        text = talk.agree(cluster)
        talk.agree_in_log(cluster, text)
        with Peer(cluster["fresh"], "closed/meanwhile") as reader:
            reader.wait_text("written once, long ago", 30)


def test_a_log_that_was_rolled_back_gets_what_it_forgot(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        talk.say(20)
        talk.agree(cluster)
        cluster.nats.keep_copy(tmp_path / "older")
        for edge in cluster.edges.values():
            edge.wait_link("up", 20)
        talk.say(20)
        with Peer(cluster["b"], "made/after-the-copy") as cyd:
            cyd.wait_synced()
            cyd.append("the older log never had me")
            cyd.wait_acknowledged()
        talk.agree(cluster)

        cluster["b"].cut(CUT_S)
        talk.say(10)
        cluster.nats.roll_back(tmp_path / "older")
        talk.say(10)
        cluster["b"].wait_link("up", CUT_S + 20)

        text = talk.agree(cluster)
        talk.agree_in_log(cluster, text)
        with Peer(cluster["fresh"], "made/after-the-copy") as reader:
            reader.wait_text("the older log never had me", 30)


def test_a_log_that_vanished_while_every_edge_was_down_comes_back_whole(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        with Talk(DOC, cluster["a"], cluster["b"]) as talk:
            talk.say(20)
            text = talk.agree(cluster)
        before = epoch(cluster)
        for edge in cluster.edges.values():
            assert edge.stop() == 0

        cluster.nats.wipe()
        for edge in cluster.edges.values():
            edge.start()
            edge.wait_link("up", 20)

        assert epoch(cluster) != before, "it is the same log: nothing was lost"
        cluster.settle(DOC)
        talk.agree_in_log(cluster, text)
