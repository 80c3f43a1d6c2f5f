"""The leader daemon: what is large is done in a thread, and its loop leads on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.bus import Bus
from server.config import load_config
from server.leader import TURN_BYTES, LeaderDaemon, portions
from server.log_reader import Delivered
from server.nats_server import NatsServer
from sync import content, folding
from sync.change import Logged, Merged, SyncAsk
from sync.document import Document
from sync.ids import DocId, Version
from sync.validate import Shape, check_update
from tests.sync.stage import Ada
from tests.sync.test_slices import letters

from .ear import Ear, change, published, running, until

LARGE = letters(3_000, client=5)
EVERYTHING = b"\x00"


class Gate:
    """Stands in for the check of updates: a large one waits in it until the story lets it go on."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.opened = threading.Event()
        self.threads: list[str] = []

    def check(self, update: bytes) -> Shape:
        if len(update) >= len(LARGE):
            self.threads.append(threading.current_thread().name)
            self.waiting.set()
            assert self.opened.wait(30), "the loop itself waits here: nobody is left to open"
        return check_update(update)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(folding, "check_update", made.check)
    monkeypatch.setattr(content, "check_update", made.check)
    return made


@asynccontextmanager
async def leading(nats: NatsServer, namespace: str, directory: Path) -> AsyncIterator[tuple[LeaderDaemon, Bus, Ear]]:
    """A leader of one shard, and an edge's bus that hears it."""
    flags = {"data": directory, "nats": [nats.url], "namespace": namespace, "name": "leader", "development": True}
    ear = Ear()
    async with running(nats.url, namespace, ear=ear, shards=1) as bus:
        daemon = LeaderDaemon(load_config(flags, None))
        await daemon.start()
        try:
            await until(lambda: daemon.machine.shards == [0], "the leader leads")
            for doc in ("large", "other"):
                bus.follow(DocId(doc))
            yield daemon, bus, ear
        finally:
            await daemon.stop(1.0)


def heard(ear: Ear, doc: str) -> Callable[[], bool]:
    return lambda: any(isinstance(each, Merged) and each.doc == doc and bool(each.update) for each in ear.heard)


def test_while_a_large_change_is_checked_other_documents_are_merged_and_the_shard_is_kept(
    nats: NatsServer, namespace: str, tmp_path: Path, gate: Gate
) -> None:
    async def run() -> None:
        async with leading(nats, namespace, tmp_path) as (daemon, bus, ear):
            await published(bus, change("large", 1, Ada(1).type("a")))
            await until(heard(ear, "large"), "the small change is merged")
            ear.heard.clear()

            await published(bus, change("large", 2, LARGE))
            await until(gate.waiting.is_set, "the large change is being checked")
            held = await daemon.lease.owners()
            await published(bus, change("other", 1, Ada(2).type("b")))
            await until(heard(ear, "other"), "another document is merged")
            answer = await bus.ask_sync(SyncAsk(DocId("other"), 1, EVERYTHING, None), 0)

            assert held == {0: "leader"}
            assert Document(answer.update).text("text") == "b"
            assert not heard(ear, "large")()
            gate.opened.set()
            await until(heard(ear, "large"), "the large change is merged")
            assert set(gate.threads) == {"skerry-fold_0"}

    try:
        asyncio.run(run())
    finally:
        gate.opened.set()


def test_while_a_cold_leader_makes_a_large_document_it_answers_for_others(
    nats: NatsServer, namespace: str, tmp_path: Path, gate: Gate
) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=1) as before:
            await published(before, change("large", 1, LARGE), change("other", 1, Ada(2).type("b")))
        async with leading(nats, namespace, tmp_path) as (_, bus, _):
            await until(gate.waiting.is_set, "the large document is being made")
            answer = await bus.ask_sync(SyncAsk(DocId("other"), 1, EVERYTHING, None), 0)

            assert Document(answer.update).text("text") == "b"
            gate.opened.set()
            answer = await bus.ask_sync(SyncAsk(DocId("large"), 2, EVERYTHING, None), 0)
            assert Document(answer.update).digest() == answer.digest == Document(LARGE).digest()
            assert set(gate.threads) == {"skerry-fold_0"}

    try:
        asyncio.run(run())
    finally:
        gate.opened.set()


def test_a_leader_whose_thread_fails_ends_instead_of_leaving_a_document_behind(
    nats: NatsServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(update: bytes) -> Shape:
        raise AssertionError("a fault of ours")

    async def run() -> None:
        async with leading(nats, namespace, tmp_path) as (daemon, bus, _):
            monkeypatch.setattr(folding, "check_update", failing)
            await published(bus, change("large", 1, LARGE))
            with pytest.raises(AssertionError, match="a fault of ours"):
                await asyncio.wait_for(daemon.tasks.died, 20)

    asyncio.run(run())


def test_a_turn_of_the_loop_takes_so_many_bytes_in_the_order_of_the_log() -> None:
    sizes = [10] * 3 + [TURN_BYTES + 1] + [TURN_BYTES // 3] * 7 + [10] * 400
    delivered = [
        Delivered(Logged(change("large", seq, b"x" * size), Version(1, seq)), seq, seq, False)
        for seq, size in enumerate(sizes, 1)
    ]

    turns = list(portions(delivered))

    assert [one for turn in turns for one in turn] == delivered
    assert [len(turn) for turn in turns] == [4, 4, 4, 399]
    assert list(portions([])) == []
