"""Stock Yjs under Node, two edges, a leader and a real nats-server: started once per worker, checked in the end."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.interop.agent import Agent, Editor, need_node
from tests.processes import Cluster, Json, record, wait_for

__all__ = ["Same"]

Same = Callable[..., dict[str, Json]]
"""same(editor, editor, …): wait until they read the same and both edges hold the same; what they read."""


EMPTY: dict[str, Json] = {"text": [], "map": {}, "array": [], "xml": ""}
"""What an editor reads in roots that nobody has touched."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """After all tests every document must be EQUAL everywhere, and no node may have died or logged an error."""
    need_node()
    with Cluster(tmp_path_factory.mktemp("interop")) as cluster:
        yield cluster
        assert all(node.running for node in cluster.nodes()), [repr(node) for node in cluster.nodes()]
        cluster.settle()
        for node in cluster.nodes():
            node.check_log()


@pytest.fixture(scope="session")
def node_process() -> Iterator[Agent]:
    need_node()
    with Agent() as agent:
        yield agent


@pytest.fixture
def agent(node_process: Agent) -> Iterator[Agent]:
    """Closes its editors after each test. Stock code must have had nothing to complain about."""
    yield node_process
    assert node_process.close_all() == []


@pytest.fixture
def doc(request: pytest.FixtureRequest) -> str:
    """A document of this test alone."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"interop/{name[:80]}-{zlib.crc32(request.node.nodeid.encode()):08x}"


def plain(delta: Json, root: str) -> Json:
    """What the edge's JSON says of a root: a text without formats and embeds, all else as the editor shows it."""
    if root != "text":
        return delta
    assert isinstance(delta, list)
    pieces = [record(piece)["insert"] for piece in delta]
    return "".join(piece for piece in pieces if isinstance(piece, str))


@pytest.fixture
def same(cluster: Cluster, doc: str) -> Same:
    def check(*editors: Editor, at: str = doc) -> dict[str, Json]:
        def equal() -> list[dict[str, Json]]:
            read = [editor.json for editor in editors]
            return read if all(one == read[0] for one in read) else []

        read = wait_for(equal, 20, lambda: "editors equal: " + " | ".join(f"{one.name} {one.json}" for one in editors))
        cluster.settle(at, verify=False)
        assert not any(editor.read("pending") for editor in editors), "an editor waits for what never came"
        assert [editor.json for editor in editors] == read, "it went on changing"
        for edge in cluster.edges.values():
            content = record(edge.document(at)["content"])
            assert {root: record(content[root])["value"] if root in content else None for root in EMPTY} == {
                root: plain(read[0][root], root) if root in content else None for root in EMPTY
            }
            assert all(read[0][root] == EMPTY[root] for root in EMPTY if root not in content)
        return read[0]

    return check
