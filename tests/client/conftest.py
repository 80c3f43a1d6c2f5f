"""Two real edges, a leader and a nats-server, started once per worker."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import pytest

from tests.processes import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """After all tests no node may have logged an error."""
    with Cluster(tmp_path_factory.mktemp("client")) as cluster:
        yield cluster
        for node in cluster.nodes():
            node.check_log()


@pytest.fixture
def doc(request: pytest.FixtureRequest) -> str:
    """A document of this test alone."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"client/{name[:80]}-{zlib.crc32(request.node.nodeid.encode()):08x}"
