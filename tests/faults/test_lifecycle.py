"""Beginning and ending: SIGTERM leaves nothing behind and loses nothing; what cannot begin says why in one line."""

from __future__ import annotations

import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.nats_server import find_nats_server
from tests.faults.words import Talk
from tests.peer import Peer
from tests.processes import Cluster, Node, run_cli, wait_for

STOP_S_MAX = 10.0
DOC = "notes/plan"


# --- ending -----------------------------------------------------------------------------------------------------------
def test_sigterm_in_the_middle_of_typing_keeps_everything_and_exits_with_status_0(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        with Talk(DOC, cluster["a"], cluster["b"]) as talk:
            talk.say(30)
            for edge in cluster.edges.values():
                began = time.monotonic()
                assert edge.stop(STOP_S_MAX) == 0
                assert time.monotonic() - began < STOP_S_MAX
                edge.start()
                talk.say(10)
            text = talk.agree(cluster)
            assert any(code == 1001 for code, _ in talk.peers[0].closes), talk.peers[0].closes  # "going away"
        assert cluster.leader is not None
        for node in (*cluster.edges.values(), cluster.leader, cluster.nats):
            assert node.stop(STOP_S_MAX) == 0, node
            assert "Traceback" not in node.errors()

        for node in (cluster.nats, cluster.leader, *cluster.edges.values()):
            node.start()
        with Peer(cluster["a"], DOC) as ada:
            ada.wait_text(text)


@pytest.mark.parametrize("nats", ["gone", "frozen"])
def test_sigterm_without_nats_keeps_what_was_acknowledged_for_later(tmp_path: Path, nats: str) -> None:
    with Cluster(tmp_path) as cluster:
        with Talk(DOC, cluster["a"]) as talk:
            if nats == "gone":
                cluster.nats.kill()
            else:
                cluster.nats.pause()
            talk.say(30)
            talk.peers[0].wait_acknowledged()
            text = talk.peers[0].read()

            assert cluster["a"].stop(STOP_S_MAX) == 0

        if nats == "gone":
            cluster.nats.start()
        else:
            cluster.nats.resume()
        cluster["a"].start()
        with Peer(cluster["b"], DOC) as ben:  # from the outbox that was left
            ben.wait_text(text, 30)
        cluster.settle(DOC)


def test_serve_runs_everything_in_one_process_and_ends_cleanly(tmp_path: Path) -> None:
    command = ["serve", "--data", str(tmp_path / "data"), "--listen", "{listen}", "--nats-listen", "127.0.0.1:0"]
    node = Node("serve", "serve", tmp_path, command)
    try:
        for text in ("", "one "):
            node.start()
            node.wait_link("up")
            with Peer(node, DOC) as ada:
                ada.wait_text(text)
                ada.append("one ")
                ada.wait_acknowledged()
            assert node.stop(STOP_S_MAX) == 0
            assert "Traceback" not in node.errors()
    finally:
        node.end()


def test_no_process_is_left_behind_when_serve_is_killed(tmp_path: Path) -> None:
    command = ["serve", "--data", str(tmp_path / "data"), "--listen", "{listen}", "--nats-listen", "127.0.0.1:0"]
    node = Node("serve", "serve", tmp_path, command)
    try:
        node.start()
        children = {
            int(child)
            for task in Path(f"/proc/{node.pid}/task").glob("*/children")
            for child in task.read_text().split()
        }
        assert len(children) == 1

        node.kill()

        wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10, "its nats-server is gone")
    finally:
        node.end()


# --- not beginning ----------------------------------------------------------------------------------------------------
def refused(*command: str, served: bool = False) -> str:
    """Run a daemon that must not start; the one line it leaves on standard error besides its log.

    `served`: it may have been ready until then; an edge serves before it has met NATS.
    """
    done = run_cli(*command, deadline_s=30)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert served or "ready" not in done.stdout
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("skerry: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def edge_command(data: Path, *, listen: str = "127.0.0.1:0", nats: str = "nats://127.0.0.1:9") -> tuple[str, ...]:
    return ("edge", "--name", "x", "--data", str(data), "--listen", listen, "--nats", nats)


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with taken_port() as port:
        assert f"127.0.0.1:{port}" in refused(*edge_command(tmp_path / "edge", listen=f"127.0.0.1:{port}"))
        assert f"{port}" in refused("nats", "--data", str(tmp_path / "nats"), "--listen", f"127.0.0.1:{port}")
        serve = ("serve", "--data", str(tmp_path / "serve"), "--listen", f"127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in refused(*serve, "--nats-listen", "127.0.0.1:0")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The file of an edge that has run, with a document in it."""
    data = tmp_path / "data"
    edge = Node("edge", "x", tmp_path, edge_command(data, listen="{listen}"))
    try:
        edge.start()
        with Peer(edge, DOC) as ada:
            ada.append("here " * 10_000)
            ada.wait_acknowledged()
        assert edge.stop() == 0
    finally:
        edge.end()
    return data / "edge.db"


def test_a_store_that_is_no_store_is_set_aside_as_it_is_and_the_edge_starts(store: Path) -> None:
    store.write_bytes(b"this is not a database\n" * 1_000)
    was = store.read_bytes()
    edge = Node("edge", "x", store.parent.parent, edge_command(store.parent, listen="{listen}"))
    try:
        edge.start()

        (aside,) = [path for path in store.parent.glob("edge.db.damaged-*") if not path.name.endswith(("-wal", "-shm"))]
        assert aside.read_bytes() == was
        assert aside.name in edge.errors()
    finally:
        edge.end()


def test_a_store_of_a_newer_format_is_one_line_and_left_as_it_is(store: Path) -> None:
    with sqlite3.connect(store) as database:
        (format_,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {format_ + 1}")
    database.close()
    was = store.read_bytes()

    line = refused(*edge_command(store.parent))

    assert str(format_ + 1) in line
    assert store.read_bytes() == was


def test_a_store_that_another_edge_has_open_is_one_line(store: Path) -> None:
    first = Node("edge", "first", store.parent.parent, edge_command(store.parent, listen="{listen}"))
    try:
        first.start()

        assert str(store) in refused(*edge_command(store.parent))

        with Peer(first, DOC) as ada:
            ada.wait_text("here " * 10_000)
    finally:
        first.end()


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")

    assert str(blocked) in refused(*edge_command(blocked / "data"))


def test_wrong_credentials_are_one_line(tmp_path: Path) -> None:
    """A server that asks for a user and gets none, or a wrong one."""
    log = tmp_path / "nats.log"
    with taken_port() as port:
        pass
    with open(log, "wb") as out:
        server = subprocess.Popen(
            [str(find_nats_server()), "-a", "127.0.0.1", "-p", str(port), "--user", "ada", "--pass", "right", "-js"],
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: "Server is ready" in log.read_text(), 10, lambda: log.read_text()[-500:])
        for url in (f"nats://127.0.0.1:{port}", f"nats://ada:wrong@127.0.0.1:{port}"):
            line = refused(*edge_command(tmp_path / "edge", nats=url), served=True)
            assert "credentials" in line or "uthoriz" in line, line
            assert "wrong" not in line, "a password in an error"
            refused("leader", "--nats", url, served=True)

        right = Node(
            "edge",
            "right",
            tmp_path,
            edge_command(tmp_path / "right", listen="{listen}", nats=f"nats://ada:right@127.0.0.1:{port}"),
        )
        try:
            right.start()
            right.wait_link("up")
            assert "right@" not in right.errors() + right.http("/status")[1].decode(), "a password in a log"
        finally:
            right.end()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def test_all_mistakes_of_a_configuration_are_said_together(tmp_path: Path) -> None:
    done = run_cli("edge", "--data", str(tmp_path), "--listen", "nowhere", "--nats", "http://x", "--name", "a b")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for mistake in ("listen", "nats", "name"):
        assert mistake in done.stderr, done.stderr


# --- on the same machine ----------------------------------------------------------------------------------------------
def test_an_edge_with_a_copy_of_anothers_disk_neither_loses_nor_repeats(tmp_path: Path) -> None:
    """A cloned machine: same store, same documents, a new origin."""
    with Cluster(tmp_path, ["a"]) as cluster, Talk(DOC, cluster["a"]) as talk:
        talk.say(20)
        talk.agree(cluster)
        assert cluster["a"].stop() == 0
        shutil.copytree(tmp_path / "a-data", tmp_path / "b-data")
        cluster["a"].start()
        cluster.add_edge("b").wait_link("up")

        with Talk(DOC, cluster["b"]) as other:
            for _ in range(10):
                talk.say()
                other.say()
            talk.said += other.said
            other.said = talk.said
            talk.agree(cluster)
            other.check(other.peers[0].read(), "the client of the clone")


def test_an_operator_may_cut_from_the_same_machine_only_by_asking_properly(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a"], leader=False) as cluster:
        for order in ({"op": "cut"}, {"op": "cut", "seconds": -1}, {"op": "cut", "seconds": "x"}, {"op": "no"}, {}):
            answer = cluster["a"].operate(**order)
            assert answer["ok"] is False
            assert answer["error"]
        assert cluster["a"].link() == "up"
        with Peer(cluster["a"], DOC) as stranger:  # a client like any other: what it says is no order
            stranger.wait_synced()
            stranger.send(b'{"op":"cut","seconds":5}')
            stranger.wait(lambda: [code for code, _ in stranger.closes] == [4400], 5, "closed")
        assert cluster["a"].link() == "up"
