"""A real nats-server for the tests of the daemons: one per module, and one of its own where a test breaks it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.nats_server import NatsServer


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Shared by a module's tests: each uses a namespace of its own (`namespace`)."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def make_nats(tmp_path: Path) -> Iterator[Callable[[], NatsServer]]:
    """Servers of one test, not started; each has its own directory and is killed in the end."""
    made: list[NatsServer] = []

    def make() -> NatsServer:
        made.append(NatsServer(tmp_path / f"nats{len(made)}"))
        return made[-1]

    yield make
    for server in made:
        server.kill()
