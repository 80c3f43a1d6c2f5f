"""A node that dies of an input dies of it twice at most, and serves on: edges and leaders, on real processes."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

from server.record import KILLS
from sync.closing import CLOSE_BAD_UPDATE
from sync.document import Document
from tests.faults.mortal import PROGRAM
from tests.peer import Peer
from tests.processes import Cluster, Node, run_cli, wait_for

DEATHS_MAX = 2
DOC = "notes/plan"
OTHER = "notes/other"


def deaths_until(node: Node, condition: Callable[[], object], what: str, deadline_s: float = 60.0) -> int:
    """Start the node whenever it has died, as a supervisor does; how often that was."""
    deaths = 0

    def met() -> object:
        nonlocal deaths
        if not node.running:
            deaths += 1
            assert deaths <= DEATHS_MAX, f"{node} died {deaths} times\n{node.last_lines()}"
            node.start()
        return condition()

    wait_for(met, deadline_s, what)
    return deaths


def mortal(node: Node | None) -> Node:
    """The same node, from now on a program that dies of certain texts."""
    assert node is not None
    node.stop()
    node.program = PROGRAM
    node.start()
    return node


def aside(node: Node, directory: Path) -> list[dict[str, str]]:
    done = run_cli("rejected", "ls", "--json", "--data", str(directory / f"{node.name}-data"))
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def test_an_edge_dies_twice_of_a_clients_update_and_then_refuses_it_to_that_client_alone(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a"], leader=False) as cluster:
        edge = mortal(cluster["a"])
        with Peer(edge, DOC) as ada, Peer(edge, DOC) as ben:
            ada.wait_synced()
            ben.wait_synced()
            ben.append("good ")  # in the same flush, perhaps
            ada.append("kills-edge ")

            deaths = deaths_until(edge, lambda: refused(ada), "Ada is refused")

            assert deaths == DEATHS_MAX
            ben.append("and on ")
            ben.wait_acknowledged()
            assert ada.text is not None
        with Peer(edge, DOC) as cyd:
            cyd.wait_synced()
            assert set(cyd.read().split()) == {"good", "and", "on"}
        (kept,) = aside(edge, tmp_path)
        assert (kept["doc"], kept["reason"]) == (DOC, KILLS)


def seen(peer: Peer) -> Peer:
    peer.pump()
    return peer


def refused(peer: Peer) -> bool:
    return any(code == CLOSE_BAD_UPDATE and "ended a node twice" in reason for code, reason in seen(peer).closes)


def test_an_edge_dies_twice_of_a_stored_document_and_then_has_it_from_the_leader(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a"]) as cluster:
        edge = cluster["a"]
        with Peer(edge, DOC) as ada, Peer(edge, OTHER) as ben:
            for peer, text in ((ada, "kills-edge "), (ben, "good ")):
                peer.wait_synced()
                peer.append(text)
                peer.wait_acknowledged()
        cluster.settle()
        mortal(edge)

        with Peer(edge, DOC), Peer(edge, OTHER) as ben:
            deaths = deaths_until(
                edge, lambda: "answer_refused" in edge.errors(), "the leader's, which holds the same, is refused"
            )
            wait_for(lambda: seen(ben).synced, 20, "the other one is served")
            assert ben.read() == "good "

        assert deaths == DEATHS_MAX  # of the stored one, and of the same from the leader; a child died in between
        assert {kept["doc"] for kept in aside(edge, tmp_path)} == {DOC}


def test_a_stored_document_that_kills_is_had_from_the_leader_where_that_one_is_sound(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a"]) as cluster:
        edge = cluster["a"]
        with Peer(edge, DOC) as ada:
            ada.wait_synced()
            ada.append("good ")
            ada.wait_acknowledged()
        cluster.settle()
        edge.stop()
        spoil(tmp_path / "a-data" / "edge.db")
        edge.program = PROGRAM
        edge.start()

        with Peer(edge, DOC) as ben:
            deaths = deaths_until(edge, lambda: seen(ben).read() == "good ", "Ben reads the leader's")
            ben.append("on ")
            ben.wait_acknowledged()

        assert deaths == 1
        assert {kept["doc"] for kept in aside(edge, tmp_path)} == {DOC}


def spoil(store: Path) -> None:
    """A row more, of another client, as no leader has it."""
    document = Document(client_id=77)
    update = document.edit_text("text", 0, 0, "kills-edge")
    with contextlib.closing(sqlite3.connect(store)) as disk, disk:
        disk.execute("INSERT INTO changes(document, folded, bytes) SELECT key, 0, ? FROM documents", (update,))


def test_an_edge_dies_twice_of_what_comes_from_the_leader_and_serves_its_other_documents(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a", "b"]) as cluster:
        edge = mortal(cluster["b"])
        edge.wait_link("up")
        with Peer(edge, DOC) as cyd, Peer(cluster["a"], DOC) as ada, Peer(cluster["a"], OTHER) as ben:
            for peer in (cyd, ada, ben):
                peer.wait_synced()
            ben.append("good ")
            ada.append("kills-edge ")
            ada.wait_acknowledged()

            deaths = deaths_until(edge, lambda: aside(edge, tmp_path), "it is aside")

            assert deaths == DEATHS_MAX
            with Peer(edge, OTHER) as dan:
                wait_for(lambda: seen(dan).read() == "good ", 20, "the other document is whole")
            with Peer(edge, DOC) as eve:
                eve.wait_synced()
                eve.append("here ")
                eve.wait_acknowledged()
            assert edge.running


def test_a_leader_dies_twice_of_a_change_and_then_every_leader_refuses_it(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a", "b"]) as cluster:
        leader = mortal(cluster.leader)
        with Peer(cluster["a"], DOC) as ada, Peer(cluster["a"], OTHER) as ben:
            ada.wait_synced()
            ben.wait_synced()
            ada.append("kills-leader ")
            ada.wait_acknowledged()
            ben.append("good ")
            ben.wait_acknowledged()

            deaths = deaths_until(leader, lambda: rejected(cluster), "the change is rejected")

            assert deaths == DEATHS_MAX
            (one,) = rejected(cluster)
            assert (one["doc"], one["edge"]) == (DOC, "a")
            assert KILLS in one["reason"]
        cluster.settle()
        leader.stop()
        second = cluster.add_leader("second")  # with no record of its own
        try:
            mortal(second)
            cluster.settle(OTHER)  # it leads
            with Peer(cluster["b"], DOC) as cyd:
                cyd.wait_synced()
                cyd.append("on ")
                cyd.wait_acknowledged()
                wait_for(lambda: cluster["b"].outbox_count() == 0, 30, "the second leader has merged it")
            assert second.running
        finally:
            second.end()


def test_an_edge_without_a_leader_passes_over_what_leaders_died_of(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a", "b"]) as cluster:
        leader = mortal(cluster.leader)
        with Peer(cluster["a"], DOC) as ada:
            ada.wait_synced()
            ada.append("good ")
            ada.wait_acknowledged()
            wait_for(lambda: cluster["a"].outbox_count() == 0, 30, "the leader has merged it")
            ada.append("kills-leader ")
            ada.wait_acknowledged()
            deaths_until(leader, lambda: rejected(cluster), "the change is rejected")
        leader.stop()

        with Peer(cluster["b"], DOC) as ben:
            wait_for(lambda: seen(ben).read(), 30, "an edge that nobody answers reads the log itself")
            assert ben.read() == "good "


def rejected(cluster: Cluster) -> list[dict[str, str]]:
    done = run_cli("rejected", "ls", "--json", "--nats", cluster.nats.url)
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
