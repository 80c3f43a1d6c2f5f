"""Somebody has edited a stream: nodes that start then go on, wait, or end, as the promises ask (docs/operations.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.streams import SHARDS_DEFAULT, Layout
from tests.peer import Peer
from tests.processes import Cluster, Json, record, run_cli, wait_for

LOG = Layout("skerry").changes
DOC = "notes/plan"


def _append(cluster: Cluster, edge: str, text: str) -> None:
    with Peer(cluster[edge], DOC) as ada:
        ada.wait_synced()
        ada.append(text)
        ada.wait_acknowledged()


def _status(cluster: Cluster) -> dict[str, Json]:
    done = run_cli("status", "--nats", cluster.nats.url, "--json")
    assert done.returncode == 0, done.stderr
    return record(json.loads(done.stdout))


def test_nodes_that_start_beside_a_limit_on_the_log_go_on_and_say_so(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        _append(cluster, "a", "before ")
        cluster.settle(DOC)
        cluster.nats.stream(LOG, max_bytes=100_000_000)
        assert cluster.leader is not None
        for node in (cluster.leader, cluster["a"]):
            assert node.stop() == 0
            node.start()

        cluster["a"].wait_link("up")
        _append(cluster, "a", "after")
        cluster.settle(DOC)

        for node in (cluster.leader, cluster["a"]):
            assert f"streams_differ detail='{LOG}: max_bytes is 100000000, want -1'" in node.errors()
        shown = run_cli("status", "--nats", cluster.nats.url).stdout
        assert f"streams: {LOG}: max_bytes is 100000000, want -1; undo it with `nats stream edit`" in shown
        told = [f"{LOG}: max_bytes is 100000000, want -1"]
        wait_for(lambda: cluster["b"].status()["streams_differ"] == told, 30, "who runs since before has noticed too")
        nodes = {str(record(one)["name"]): record(one)["streams_differ"] for one in _list(_status(cluster)["nodes"])}
        assert (nodes["a"], nodes["b"]) == (told, told)
        cluster.nats.stream(LOG, max_bytes=-1)
        wait_for(lambda: cluster["a"].status()["streams_differ"] == [], 20, "undone, and noticed")
        assert _status(cluster)["streams_differ"] == []


def _list(value: Json) -> list[Json]:
    assert isinstance(value, list)
    return value


@pytest.mark.parametrize(
    ("edited", "undone", "why"),
    [
        ({"max_age": 3_600_000_000_000}, {"max_age": 0}, "what is acknowledged would go by its age"),
        (
            {"discard": "old", "max_msgs": 1_000},
            {"discard": "new", "max_msgs": -1},
            "a full stream would drop the oldest",
        ),
    ],
    ids=["age", "discard"],
)
def test_nodes_that_start_beside_a_log_that_would_forget_wait_and_serve_their_clients(
    tmp_path: Path, edited: dict[str, Json], undone: dict[str, Json], why: str
) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.settle()
        cluster.nats.stream(LOG, **edited)
        assert cluster.leader is not None
        for node in (cluster.leader, cluster["a"]):
            assert node.stop() == 0
            node.start()
        for node in (cluster.leader, cluster["a"]):
            wait_for(lambda: why in node.errors(), 20, f"{node} says what is wrong")  # noqa: B023

        _append(cluster, "a", "written meanwhile")

        assert cluster["a"].link() == "down"
        assert cluster["a"].outbox_count() > 0, "nothing goes into such a log"
        link = record(cluster["a"].status()["link"])
        assert why in str(link["reason"])
        assert "nats stream edit" in str(link["reason"])
        (difference, *_) = _list(_status(cluster)["streams_differ"])
        assert str(difference).startswith(f"{LOG}: ")
        assert cluster["a"].errors().count("streams_differ") == 1, "once, however often it tries"
        refused = run_cli("rejected", "ls", "--nats", cluster.nats.url)
        assert (refused.returncode, why in refused.stderr) == (1, True), "what may write does not begin"
        cluster.nats.stream(LOG, **undone)
        cluster["a"].wait_link("up")
        cluster.settle(DOC)
        with Peer(cluster["b"], DOC) as ben:
            ben.wait_text("written meanwhile", 20)
        assert cluster["a"].running
        assert cluster.leader.running


def test_nodes_that_run_notice_a_log_that_would_forget_and_wait(tmp_path: Path) -> None:
    why = "what is acknowledged would go by its age"
    with Cluster(tmp_path) as cluster:
        _append(cluster, "a", "before ")
        cluster.settle(DOC)
        assert cluster.leader is not None
        cluster.nats.stream(LOG, max_age=3_600_000_000_000, metadata={"skerry-shards": "0"})
        for node in (cluster.leader, cluster["a"], cluster["b"]):
            wait_for(lambda: why in node.errors(), 30, f"{node} says what is wrong")  # noqa: B023
        for edge in "ab":
            cluster[edge].wait_link("down")

        _append(cluster, "a", "meanwhile")

        assert cluster["a"].outbox_count() > 0, "nothing goes into such a log"
        cluster.nats.stream(LOG, max_age=0, metadata={"skerry-shards": str(SHARDS_DEFAULT)})
        cluster["a"].wait_link("up")
        cluster.settle(DOC)
        with Peer(cluster["b"], DOC) as ben:
            ben.wait_text("before meanwhile", 20)
        assert all(node.running for node in (cluster.leader, cluster["a"], cluster["b"]))


def test_a_node_that_asks_for_another_number_of_shards_ends(tmp_path: Path) -> None:
    """No edit of the stream can make it right: where a change is depends on the number."""
    with Cluster(tmp_path, ["a"]) as cluster:
        cluster["a"].wait_link("up")
        cluster.nats.stream(LOG, metadata={"skerry-shards": "0"})
        cluster["a"].kill()
        cluster["a"].spawn()

        assert cluster["a"].wait_end(20) == 1

        assert "want the number of shards" in cluster["a"].errors()
