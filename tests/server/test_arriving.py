"""A large broadcast in a real daemon: read in another thread, and no turn of the loop takes more than a piece."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from server.config import load_config
from server.edge import EdgeDaemon
from sync import validate
from sync.change import Merged, SyncAnswer, SyncAsk
from sync.edge import Edge, EdgeStep
from sync.ids import DocId, DotSet, Origin, Version
from sync.limits import LARGE_FRAME_BYTES, SLICE_STRUCTS
from sync.nesting import Places, places_of
from sync.replica import Replica
from tests.sync.stage import Ada, frame
from tests.sync.test_nesting import as_deep_as_may_be
from tests.sync.test_slices import letters

DEADLINE_S = 10.0
COUNT = 20 * SLICE_STRUCTS
EPOCH = 7
PLAN = DocId("notes/plan")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_loop_goes_on_while_a_large_broadcast_is_looked_at_and_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[str, object] = {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",)}
    daemon = EdgeDaemon(load_config(flags, None))
    await daemon.start()
    try:
        daemon.touched(PLAN)
        await until(lambda: daemon.machine.hosted[PLAN].replica is not None)
        daemon.link_up(EPOCH, True)
        replica = daemon.machine.hosted[PLAN].replica
        assert replica is not None
        on_the_loop, beside = list[int](), list[int]()
        loops_thread = threading.get_ident()

        def check(update: bytes) -> validate.Shape:
            (on_the_loop if threading.get_ident() == loops_thread else beside).append(len(update))
            return validate.check_update(update)

        monkeypatch.setattr("sync.following.check_update", check)
        monkeypatch.setattr("sync.taking.check_update", check)
        monkeypatch.setattr("sync.arriving.check_update", check)
        turns: list[int] = []
        take_on = Edge.take_on

        def counted(edge: Edge, doc: DocId, number: int, now_ms: int) -> EdgeStep:
            turns.append(sum(replica.clocks.values()))
            return take_on(edge, doc, number, now_ms)

        monkeypatch.setattr(Edge, "take_on", counted)
        others = 0
        update = letters(COUNT)

        daemon.merged(Merged(PLAN, Version(EPOCH, 0), Version(EPOCH, 1), update, DotSet({Origin(5): ((1, 1),)})))
        async with asyncio.timeout(DEADLINE_S):
            while replica.version != Version(EPOCH, 1):
                others += 1
                await asyncio.sleep(0)

        assert beside == [len(update)]
        assert all(size <= LARGE_FRAME_BYTES for size in on_the_loop)
        taken = [after - before for before, after in zip(turns, [*turns[1:], COUNT], strict=True)]
        assert sum(taken) == COUNT
        assert max(taken) <= SLICE_STRUCTS
        assert others >= len(turns), "somebody else had a word between any two pieces"
    finally:
        await daemon.stop(1.0)


async def test_a_large_frame_among_those_of_one_read_is_looked_at_beside_the_loop_too(tmp_path: Path) -> None:
    flags: dict[str, object] = {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",)}
    daemon = EdgeDaemon(load_config(flags, None))
    await daemon.start()
    try:
        conn = daemon.opened(Deaf(), PLAN)
        await until(lambda: daemon.machine.hosted[PLAN].replica is not None)
        replica = daemon.machine.hosted[PLAN].replica
        assert replica is not None
        large = frame(letters(1_000))
        assert LARGE_FRAME_BYTES < len(large) < 16 * 1024

        daemon.received_all(conn, [large, frame(Ada(9).type("a"))])

        assert replica.clocks == {}, "both wait, the second behind the first"
        await until(lambda: replica.clocks == {1: 1_000, 9: 1})
    finally:
        await daemon.stop(1.0)


async def test_an_answer_that_nests_deeply_waits_in_pieces_until_it_is_found_where_everything_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags: dict[str, object] = {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",)}
    daemon = EdgeDaemon(load_config(flags, None))
    levels = as_deep_as_may_be()
    leader = Replica(PLAN)
    for update in levels:
        leader.take(update, validate.check_update(update), 0)
    asked, threads = list[int](), list[int]()

    async def answered(ask: SyncAsk, shard: int) -> SyncAnswer:
        asked.append(ask.ask)
        if len(asked) > 1:  # its own edits are on their way: it asks again, and the first answer has to do
            await asyncio.Event().wait()
        state = leader.materialise().state()
        return SyncAnswer(PLAN, ask.ask, state, leader.state_vector(), Version(EPOCH, 9), DotSet(), "", DotSet())

    def found(state: bytes) -> Places | None:
        threads.append(threading.get_ident())
        return places_of(state)

    monkeypatch.setattr(daemon.bus, "ask_sync", answered)
    monkeypatch.setattr("server.edge.places_of", found)
    monkeypatch.setattr("sync.content.Places", None)  # nobody finds it on the loop
    await daemon.start()
    try:
        conn = daemon.opened(Deaf(), PLAN)
        for update in levels[:10]:
            daemon.received(conn, frame(update))
        await until(lambda: daemon.machine.replica_of(conn) is not None)
        replica = daemon.machine.replica_of(conn)
        assert replica is not None
        daemon.link_up(EPOCH, True)

        await until(lambda: replica.clocks == leader.clocks)

        assert len(threads) == 1
        assert threads[0] != threading.get_ident()
        await until(lambda: replica.version == Version(EPOCH, 9))
    finally:
        await daemon.stop(1.0)


class Deaf:
    """A connection that reads nothing."""

    def send(self, frame: bytes) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not met():  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.005)
