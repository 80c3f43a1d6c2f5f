"""A cloned client on real edges: refused by name, kept aside, and everybody is equal."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pycrdt
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from sync import wire
from sync.closing import CLOSE_CLIENT_ID
from sync.document import Document
from tests.peer import Peer
from tests.processes import Cluster, Node, run_cli, wait_for

DOC = "notes/plan"
ID = 4_242


def _typed(text: str) -> bytes:
    doc: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc(client_id=ID)
    doc.get("text", type=pycrdt.Text).insert(0, text)
    return doc.get_update()


async def _said(edge: Node, *updates: bytes) -> tuple[int | None, str | None]:
    """Send these over one connection each, in order; how the last one was closed, if it was within a time."""
    for update in updates:
        async with connect(f"{edge.ws}/{DOC}") as socket:
            await socket.send(wire.encode(wire.Update(update)))
            try:
                async with asyncio.timeout(2.0):
                    while True:
                        message = wire.decode_frame(await socket.recv(decode=False))
                        if isinstance(message, wire.Update) and message.update == update:
                            break
            except TimeoutError:
                pass
            except ConnectionClosed:
                return socket.close_code, socket.close_reason
    return None, None


def test_a_second_writer_of_one_client_id_is_refused_and_a_repeat_is_not(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Peer(cluster["b"], DOC) as ben:
        ben.wait_synced()

        repeated = asyncio.run(_said(cluster["a"], _typed("from ada"), _typed("from ada")))
        code, reason = asyncio.run(_said(cluster["a"], _typed("not from ada")))
        ben.wait_text("from ada", 20)
        cluster.settle(DOC)

        assert repeated == (None, None)
        assert code == CLOSE_CLIENT_ID
        assert f"client {ID} has written something else" in str(reason)
        assert "client_id_clash" in cluster["a"].errors()


def test_a_clone_behind_a_cut_link_is_named_by_the_leader_kept_aside_and_all_become_equal(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        with Peer(cluster["a"], DOC) as ada:
            ada.wait_synced()
            cluster["b"].wait_link("up")
        cluster["b"].cut(6)
        asyncio.run(_said(cluster["a"], _typed("from ada")))
        asyncio.run(_said(cluster["b"], _typed("from the clone, at length")))
        with Peer(cluster["b"], DOC) as cyd:
            cyd.wait_synced()
            cyd.append("cyd")
            cyd.wait_acknowledged()
        cluster["b"].wait_link("up", 30)
        # Who is connected before that keeps the clone's view, as its client has it, until it is loaded again.
        wait_for(lambda: "document_replaced" in cluster["b"].errors(), 30, cluster["b"].last_lines)

        with Peer(cluster["b"], DOC) as reader:

            def arrived() -> bool:
                reader.pump(0.05)
                return "from ada" in reader.read() and "cyd" in reader.read()

            wait_for(arrived, 40, lambda: f"{reader.read()!r}\n{cluster['b'].last_lines()}")
            text = reader.read()
        cluster.settle(DOC)

        assert "from the" not in text
        assert cluster.leader is not None
        assert "client_id_clash" in cluster.leader.errors()
        assert "document_gives_way" in cluster["b"].errors()
        assert "document_replaced" in cluster["b"].errors()
        refused = json.loads(run_cli("rejected", "ls", "--nats", cluster.nats.url, "--json").stdout)
        kept = json.loads(run_cli("rejected", "ls", "--data", str(tmp_path / "b-data"), "--json").stdout)
        out = str(tmp_path / "update")
        shown = run_cli("rejected", "show", kept[0]["name"], "--data", str(tmp_path / "b-data"), "--out", out)
        released = run_cli("rejected", "release", refused[0]["name"], "--nats", cluster.nats.url, "--json")

        assert [(one["doc"], one["edge"]) for one in refused] == [(DOC, "b")]
        assert "client 4242" in refused[0]["reason"]
        assert shown.returncode == 0, shown.stderr
        assert "from the clone" in Document((tmp_path / "update").read_bytes()).text("text")
        assert "version" in json.loads(released.stdout)
