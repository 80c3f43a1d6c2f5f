"""A replay's clients against small edges made here: what they send, wait for, send again, carry, and say in the end."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from server import replay_client
from server.gateway import OPERATOR
from server.replay import ReplayOptions, ReplayResult, add_arguments, replay, run
from server.trace import read_trace
from sync import wire
from sync.document import Document
from sync.errors import SkerryError
from sync.ids import parse_document_id
from sync.replica import Replica, Verdict
from sync.validate import check_update
from tests.traces import made_trace, write_trace

DOC = parse_document_id("replay/ours")


class Island:
    """An edge for one document, with a memory for a disk: fans out, echoes, tells the other islands while linked."""

    def __init__(self) -> None:
        self.replica = Replica(DOC)
        self.others: list[Island] = []
        self.linked = True
        self.outbox: list[bytes] = []
        self.operations: list[object] = []
        self.cuttable = True
        self.drops_after: int | None = None
        """Ends every connection without an echo when so many more updates have come."""
        self.forgets = False
        """... and all that it had, too."""
        self.early = 0
        self.paths: set[str] = set()
        self._clients: set[ServerConnection] = set()
        self._server: Server | None = None

    async def start(self) -> str:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            select_subprotocol=lambda _, offered: OPERATOR if OPERATOR in offered else None,
            compression=None,
            close_timeout=1,
        )
        return f"ws://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, client: ServerConnection) -> None:
        if client.subprotocol == OPERATOR:
            await self._operate(client)
            return
        assert client.request is not None
        self.paths.add(client.request.path)
        self._clients.add(client)
        try:
            await client.send(wire.encode(wire.SyncStep1(self.replica.state_vector())))
            async for frame in client:
                assert isinstance(frame, bytes)
                await self._received(client, wire.decode_frame(frame))
        finally:
            self._clients.discard(client)

    async def _operate(self, client: ServerConnection) -> None:
        async for text in client:
            wish = json.loads(text)
            if not self.cuttable:
                await client.send('{"ok": false, "error": "no"}')
                continue
            self.operations.append(wish)
            self.linked = False
            await client.send('{"ok": true}')
            await asyncio.sleep(wish["seconds"])
            await self.join()

    async def join(self) -> None:
        self.linked = True
        waiting, self.outbox = self.outbox, []
        for update in waiting:
            await self._ship(update)
        for other in self.others:
            await self.take(other.replica.diff(self.replica.state_vector()))

    async def _received(self, client: ServerConnection, message: wire.Message) -> None:
        match message:
            case wire.SyncStep1(state_vector):
                await client.send(wire.encode(wire.SyncStep2(self.replica.diff(state_vector))))
            case wire.SyncStep2(update):
                await self._brought(client, update)
            case wire.Update(update):
                if self.drops_after is not None:
                    self.drops_after -= 1
                    if self.drops_after <= 0:
                        self.drops_after = None
                        if self.forgets:
                            self.replica = Replica(DOC)
                        for each in list(self._clients):
                            each.transport.abort()
                        return
                await self._brought(client, update)
                await client.send(wire.encode(wire.Update(update)))
            case _:
                raise AssertionError(message)

    async def _brought(self, client: ServerConnection, update: bytes) -> None:
        if await self.take(update, besides=client):
            await self._ship(update)

    async def _ship(self, update: bytes) -> None:
        if not (self.linked and all(other.linked for other in self.others)):
            self.outbox.append(update)
            return
        for other in self.others:
            await other.take(update)

    async def take(self, update: bytes, besides: ServerConnection | None = None) -> bool:
        taken = self.replica.take(update, check_update(update), 0)
        self.early += taken.verdict is Verdict.EARLY
        for part in taken.updates:
            for client in [each for each in self._clients if each is not besides]:
                await client.send(wire.encode(wire.Update(part)))
        return taken.verdict is Verdict.NEW


@asynccontextmanager
async def _archipelago(count: int) -> AsyncIterator[tuple[list[Island], tuple[str, ...]]]:
    islands = [Island() for _ in range(count)]
    for island in islands:
        island.others = [other for other in islands if other is not island]
    edges = tuple([await island.start() for island in islands])
    try:
        yield islands, edges
    finally:
        for island in islands:
            await island.stop()


def _options(path: Path, edges: tuple[str, ...], **more: float | None) -> ReplayOptions:
    return ReplayOptions(
        path, edges, DOC, cut_s=more.get("cut_s"), rate=more.get("rate"), wait_s=more.get("wait_s") or 20.0
    )


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "ours.json.gz", made_trace(3, agents=2, count=200))


def test_every_edge_ends_at_the_traces_last_text(trace: Path) -> None:
    async def play() -> tuple[ReplayResult, list[Island]]:
        async with _archipelago(3) as (islands, edges):
            return await replay(_options(trace, edges)), islands

    result, islands = asyncio.run(play())

    assert result.ok
    assert [edge.content_ok for edge in result.edges] == [True] * 3
    assert (result.updates, result.resent, result.reconnects, result.lost_acknowledged) == (200, 0, 0, 0)
    assert result.everywhere_s is not None
    assert {island.replica.materialise().text("text") for island in islands} == {read_trace(trace).end}
    assert {island.replica.digest() for island in islands} == {edge.digest for edge in result.edges}
    assert {path for island in islands for path in island.paths} == {"/replay%2Fours"}


def test_no_edge_is_sent_an_update_before_its_cause(trace: Path) -> None:
    async def play() -> list[Island]:
        async with _archipelago(2) as (islands, edges):
            assert (await replay(_options(trace, edges))).ok
            return islands

    assert [island.early for island in asyncio.run(play())] == [0, 0]


def test_what_was_not_acknowledged_when_a_connection_fell_is_sent_again(trace: Path) -> None:
    async def play() -> ReplayResult:
        async with _archipelago(2) as (islands, edges):
            islands[0].drops_after = 20
            return await replay(_options(trace, edges))

    result = asyncio.run(play())

    assert result.ok
    assert result.reconnects >= 2  # the author's and the reader's
    assert result.resent >= 1
    assert result.lost_acknowledged == 0


def test_an_edge_that_forgot_what_it_acknowledged_is_told_again_and_counted(trace: Path) -> None:
    async def play() -> ReplayResult:
        async with _archipelago(2) as (islands, edges):
            islands[0].drops_after, islands[0].forgets = 30, True
            return await replay(_options(trace, edges))

    result = asyncio.run(play())

    assert result.ok
    assert result.lost_acknowledged > 0


def test_a_cut_is_asked_of_the_second_edge_and_both_go_on(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_client, "CARRY_S", 0.05)

    async def play() -> tuple[ReplayResult, list[Island]]:
        async with _archipelago(2) as (islands, edges):
            return await replay(_options(trace, edges, cut_s=1.0, rate=400.0)), islands

    result, islands = asyncio.run(play())

    assert result.ok
    assert [island.operations for island in islands] == [[], [{"op": "cut", "seconds": 1.0}]]
    assert result.carried > 0
    assert result.everywhere_s is not None
    assert result.everywhere_s >= 1


def test_a_document_that_held_something_else_is_not_equal(trace: Path) -> None:
    async def play() -> ReplayResult:
        async with _archipelago(1) as (islands, edges):
            await islands[0].take(Document(client_id=99).edit_text("text", 0, 0, "before"))
            return await replay(_options(trace, edges, wait_s=1.0))

    result = asyncio.run(play())

    assert not result.ok
    assert [edge.content_ok for edge in result.edges] == [False]


def test_edges_that_never_hear_of_each_other_are_not_equal(trace: Path) -> None:
    async def play() -> ReplayResult:
        async with _archipelago(2) as (islands, edges):
            for island in islands:
                island.others = []
            return await replay(_options(trace, edges, wait_s=1.0))

    result = asyncio.run(play())

    assert not result.ok
    assert result.everywhere_s is None or not all(edge.content_ok for edge in result.edges)


def test_a_rate_is_kept(trace: Path) -> None:
    async def play() -> ReplayResult:
        async with _archipelago(1) as (_, edges):
            return await replay(_options(trace, edges, rate=200.0))

    assert asyncio.run(play()).echoed_s >= 199 / 200


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_edge_that_never_answered_is_an_error_with_its_name(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_client, "FIRST_CONTACT_S_MAX", 0.2)
    edge = f"ws://127.0.0.1:{_free_port()}"

    with pytest.raises(SkerryError, match=rf"^{edge}: .*; is an edge running there\?$"):
        asyncio.run(replay(_options(trace, (edge,))))


def test_an_edge_that_refuses_what_clients_send_ends_the_replay(trace: Path) -> None:
    async def refuse(client: ServerConnection) -> None:
        await client.close(4422, "not liked")

    async def play() -> None:
        async with serve(refuse, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await replay(_options(trace, (f"ws://127.0.0.1:{port}",)))

    with pytest.raises(SkerryError, match=r"closed by the edge \(4422 not liked\)"):
        asyncio.run(play())


def test_an_edge_that_would_not_be_cut_ends_the_replay(trace: Path) -> None:
    async def play() -> None:
        async with _archipelago(2) as (islands, edges):
            islands[1].cuttable = False
            await replay(_options(trace, edges, cut_s=1.0))

    with pytest.raises(SkerryError, match="would not be cut"):
        asyncio.run(play())


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"cut_s": 1.0}, "give two --edges"), ({"rate": -1.0}, "--rate -1"), ({"cut_s": -1.0}, "--cut -1")],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(more: dict[str, float], reason: str) -> None:
    with pytest.raises(SkerryError, match=reason):
        asyncio.run(replay(_options(Path("nowhere"), ("ws://127.0.0.1:1",), **more)))


# --- the command ------------------------------------------------------------------------------------------------------
def _command(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def _run_beside(island: Island, *words: str) -> int:
    """The command in a thread, the island in this loop."""

    async def play() -> int:
        edge = await island.start()
        try:
            arguments = _command(*words, "--edges", edge.removeprefix("ws://"), "--wait", "2", "--doc", DOC)
            return await asyncio.to_thread(run, arguments)
        finally:
            await island.stop()

    return asyncio.run(play())


def test_the_command_prints_one_json_object_and_exits_with_0_where_all_is_equal(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_beside(Island(), str(trace), "--json") == 0

    printed = json.loads(capsys.readouterr().out)
    assert (printed["ok"], printed["doc"], printed["updates"]) == (True, DOC, 200)
    assert printed["edges"][0]["content_ok"] is True


def test_the_command_prints_a_table_and_exits_with_1_where_something_differs(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    island = Island()
    before = Document(client_id=99).edit_text("text", 0, 0, "before")
    island.replica.take(before, check_update(before), 0)

    assert _run_beside(island, str(trace)) == 1

    printed = capsys.readouterr().out
    assert "differs" in printed
    assert "NOT EQUAL" in printed


def test_an_address_without_sense_is_refused() -> None:
    with pytest.raises(SkerryError, match="no address of an edge"):
        run(_command("t.json", "--edges", "ftp://x"))
