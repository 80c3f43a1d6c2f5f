"""What a connection, a document and an edge take: real sockets, small numbers; the reason reaches who is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

import client
from server import reads, websocket
from server.allowance import Allowance, Rates
from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import Channel, Gateway
from server.large import _Waiting
from server.watchdog import Watchdog
from sync import extension, wire
from sync.closing import CLOSE_LIMIT
from sync.document import Document
from sync.ids import DocId, parse_document_id
from sync.limits import LOADING_FRAMES_MAX, PENDING_BYTES_MAX, WAITING_BYTES_HELD
from sync.ports import StoredDocument

DEADLINE_S = 20.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def an_edge(tmp_path: Path, **flags: object) -> AsyncIterator[tuple[str, EdgeDaemon]]:
    config = load_config(
        {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",), "name": "a", **flags}, None
    )
    daemon = EdgeDaemon(config)
    gateway = Gateway(daemon, ("127.0.0.1", 0))
    host, port = await gateway.start()
    await daemon.start()
    try:
        yield f"{host}:{port}", daemon
    finally:
        await gateway.stop()
        await daemon.stop(1.0)


async def next_message(socket: ClientConnection, kind: type[Any]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            message = wire.decode_frame(await socket.recv(decode=False))
            if isinstance(message, kind):
                return message


async def heard_until_closed(socket: ClientConnection) -> tuple[list[wire.Message], int | None, str]:
    heard = []
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionClosed):
            while True:
                heard.append(wire.decode_frame(await socket.recv(decode=False)))
    return heard, socket.close_code, socket.close_reason or ""


async def until(condition: Any, what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert condition(), what


class Typist:
    """A document of its own, and one update a letter."""

    def __init__(self) -> None:
        self._document = Document()
        self._length = 0

    def type(self, text: str) -> bytes:
        update = self._document.edit_text("text", self._length, 0, text)
        self._length += len(text)
        return wire.encode(wire.Update(update))


# --- a connection -----------------------------------------------------------------------------------------------------
def test_a_burst_passes_a_flood_waits_and_a_pause_fills_the_allowance_again() -> None:
    allowance = Allowance(Rates(10, 100, 1000, 10_000, flood_s_max=5), 0)

    assert allowance.spend(100, 10_000, 0) == 0
    assert allowance.spend(5, 0, 0) == pytest.approx(0.5)
    assert allowance.spend(0, 3000, 0) == pytest.approx(3.0)
    now = 3.0
    while now < 8:  # it goes on as fast as it is let
        assert not allowance.floods(now) or now > 5
        now += max(0.1, allowance.spend(1, 1000, now))
    assert allowance.floods(now)
    assert allowance.spend(0, 0, now + 100) == 0
    assert not allowance.floods(now + 100)


async def test_who_sends_too_much_is_slowed_down_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    rest = websocket.Socket._rest

    def noted(socket: websocket.Socket, seconds: float) -> None:
        rests.append(seconds)
        rest(socket, seconds)

    monkeypatch.setattr(websocket.Socket, "_rest", noted)
    ada = Typist()
    async with (
        an_edge(tmp_path, client_messages_per_s=100) as (address, daemon),
        connect(f"ws://{address}/d") as socket,
        connect(f"ws://{address}/other") as other,
    ):
        for _ in range(1_050):  # a burst of a thousand, and half a second's worth
            await socket.send(ada.type("x"))
        await until(lambda: rests, "it is slowed down")
        assert 0 < max(rests) <= 0.6
        ben = Typist().type("y")
        await other.send(ben)  # the others are served meanwhile
        await next_message(other, wire.Update)
        for _ in range(10):
            await socket.send(ada.type("x"))
        async with asyncio.timeout(DEADLINE_S):
            while True:
                reading = await reads.read(daemon, parse_document_id("d"), contents=True)
                if reading is not None and reading.contents == {"text": {"kind": "text", "value": "x" * 1_060}}:
                    break
                await asyncio.sleep(0.05)
        await socket.ping()


# --- while a document is loaded ---------------------------------------------------------------------------------------
@contextlib.contextmanager
def a_load_that_waits(daemon: EdgeDaemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The store answers when the event is set."""
    gate, load = threading.Event(), daemon.store.load

    def waiting(doc: DocId) -> StoredDocument | None:
        assert gate.wait(DEADLINE_S)
        return load(doc)

    monkeypatch.setattr(daemon.store, "load", waiting)
    try:
        yield gate
    finally:
        gate.set()


async def test_who_sends_much_while_a_document_is_loaded_is_not_read_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, doc = Typist(), parse_document_id("d")
    frames = [ada.type("x") for _ in range(LOADING_FRAMES_MAX)]
    whole = {"text": {"kind": "text", "value": "x" * len(frames)}}
    async with an_edge(tmp_path) as (address, daemon):
        with a_load_that_waits(daemon, monkeypatch) as gate:
            async with connect(f"ws://{address}/d", ping_interval=None) as socket:
                for frame in frames:
                    await socket.send(frame)
                await until(lambda: daemon.machine.hosted[doc].paused, "it is not read")
                assert len(daemon.machine.hosted[doc].queued) < LOADING_FRAMES_MAX / 2
                gate.set()
                async with asyncio.timeout(DEADLINE_S):
                    while True:
                        reading = await reads.read(daemon, doc, contents=True)
                        if reading is not None and reading.contents == whole:
                            break
                        await asyncio.sleep(0.05)
                assert socket.close_code is None


async def test_who_sends_40_mib_while_a_document_is_loaded_is_not_read_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pasted, count = "x" * 1024 * 1024, 40
    ada, ben = Typist(), Typist()
    frames = [ada.type(pasted) for _ in range(count)]
    assert sum(map(len, frames)) > PENDING_BYTES_MAX
    doc, other = parse_document_id("d"), parse_document_id("other")

    async def send_all(socket: ClientConnection) -> None:
        for frame in frames:
            await socket.send(extension.on_channel(1, frame))
        await socket.send(extension.on_channel(2, ben.type("y")))

    async def reads_as(asked: DocId, length: int) -> None:
        while True:
            reading = await reads.read(daemon, asked, contents=True)
            if reading is not None and reading.contents is not None and "text" in reading.contents:
                value = reading.contents["text"]
                if isinstance(value, dict) and len(str(value["value"])) == length:
                    return
            await asyncio.sleep(0.05)

    async with an_edge(tmp_path) as (address, daemon):
        with a_load_that_waits(daemon, monkeypatch) as gate:
            async with connect(
                f"ws://{address}/", subprotocols=[Subprotocol(wire.SUBPROTOCOL)], ping_interval=None, max_size=None
            ) as socket:
                for number, name in ((1, doc), (2, other)):
                    await socket.send(extension.on_channel(number, extension.encode(extension.Open(name))))
                sending = asyncio.create_task(send_all(socket))
                await until(lambda: sending.done() or any(each.paused for each in waiting(daemon)), "it is not read")
                assert not sending.done()
                assert sum(each.bytes for each in waiting(daemon)) < 4 * WAITING_BYTES_HELD
                with monkeypatch.context() as context:
                    context.setattr(websocket, "PING_S", 0.0)
                    context.setattr(websocket, "SILENCE_S", 0.0)
                    for each in waiting(daemon):
                        assert isinstance(each.paused, Channel)
                        each.paused._client._socket.tick()  # who is not read is not silent
                gate.set()
                async with asyncio.timeout(2 * DEADLINE_S):
                    await sending
                    await reads_as(doc, count * len(pasted))
                    await reads_as(other, 1)
                assert socket.close_code is None
                assert not waiting(daemon)


def waiting(daemon: EdgeDaemon) -> list[_Waiting]:
    return list(daemon._large._waiting.values())


async def test_a_document_that_ends_while_it_is_paused_leaves_the_others_of_its_connection_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.hosted.LOADING_FRAMES_MAX", 150)
    ada, ben = Typist(), Typist()
    async with an_edge(tmp_path) as (address, daemon):
        with a_load_that_waits(daemon, monkeypatch) as gate:
            async with connect(f"ws://{address}/", subprotocols=[Subprotocol(wire.SUBPROTOCOL)]) as socket:
                for number, name in ((1, "full"), (2, "other")):
                    opening = extension.Open(parse_document_id(name))
                    await socket.send(extension.on_channel(number, extension.encode(opening)))
                await asyncio.gather(*(socket.send(extension.on_channel(1, ada.type("x"))) for _ in range(200)))
                await until(lambda: len(daemon.connections) == 1, "one document is closed")
                await socket.send(extension.on_channel(2, ben.type("y")))
                await until(lambda: daemon.machine.hosted[parse_document_id("other")].queued, "the other is read")
                gate.set()


async def test_who_floods_on_is_closed_and_told_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Allowance, "floods", lambda *_: True)
    ada = Typist()
    async with an_edge(tmp_path, client_messages_per_s=1) as (address, _), connect(f"ws://{address}/d") as socket:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(50):
                await socket.send(ada.type("x"))
        _, code, reason = await heard_until_closed(socket)

    assert (code, "retry after 30 s" in reason) == (CLOSE_LIMIT, True)


async def test_one_document_too_many_on_a_connection_closes_its_channel_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.gateway.CHANNELS_MAX", 1)
    async with (
        an_edge(tmp_path) as (address, _),
        connect(f"ws://{address}/", subprotocols=[Subprotocol(wire.SUBPROTOCOL)]) as ada,
    ):
        for number in (1, 2):
            opening = extension.Open(parse_document_id(f"d{number}"))
            await ada.send(extension.on_channel(number, extension.encode(opening)))
        async with asyncio.timeout(DEADLINE_S):
            while True:
                channel, inner = extension.decode_channel(await ada.recv(decode=False))
                message = extension.decode(inner)
                if isinstance(message, extension.CloseChannel):
                    break
        assert (channel, message.code, "channels: 2" in message.reason) == (2, CLOSE_LIMIT, True)
        await ada.ping()


# --- an edge ----------------------------------------------------------------------------------------------------------
async def test_one_connection_too_many_is_told_so_before_it_is_one(tmp_path: Path) -> None:
    async with an_edge(tmp_path, connections_max=2) as (address, _):
        async with connect(f"ws://{address}/d"), connect(f"ws://{address}/d"):
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"ws://{address}/d")
            response = caught.value.response
            assert (response.status_code, response.headers["Retry-After"]) == (503, "30")
            assert b"connections: 2 are open" in (response.body or b"")
        async with connect(f"ws://{address}/d") as socket:
            await next_message(socket, wire.SyncStep1)


async def test_one_client_too_many_on_a_document_is_refused_and_others_are_open(tmp_path: Path) -> None:
    async with (
        an_edge(tmp_path, document_clients_max=1) as (address, _),
        connect(f"ws://{address}/d") as first,
        connect(f"ws://{address}/d") as second,
        connect(f"ws://{address}/other") as other,
    ):
        _, code, reason = await heard_until_closed(second)
        assert (code, "document_clients: 2" in reason, "retry after" in reason) == (CLOSE_LIMIT, True, True)
        await next_message(first, wire.SyncStep1)
        await next_message(other, wire.SyncStep1)


async def test_documents_that_nobody_uses_leave_memory_first_and_then_no_more_are_opened(tmp_path: Path) -> None:
    async with an_edge(tmp_path, documents_bytes_max=50_000) as (address, daemon):
        for name in ("old", "older"):
            async with connect(f"ws://{address}/{name}") as socket:
                await socket.send(Typist().type("x" * 40_000))
                await next_message(socket, wire.Update)
        # Long before DOCUMENT_IDLE_MS: the outbox keeps a record of them, without the document.
        await until(lambda: sum(h.replica is not None for h in daemon.machine.hosted.values()) <= 1, "one has left")

        async with connect(f"ws://{address}/old") as ada, connect(f"ws://{address}/older") as ben:
            await next_message(ada, wire.SyncStep1)
            await next_message(ben, wire.SyncStep1)
            await until(lambda: daemon.machine.pressure.documents_bytes > 50_000, "both are in use")
            async with connect(f"ws://{address}/new") as cyd:
                _, code, reason = await heard_until_closed(cyd)
            assert (code, "documents_bytes" in reason) == (CLOSE_LIMIT, True)


# --- a document -------------------------------------------------------------------------------------------------------
async def test_a_document_that_is_full_takes_deletions_and_refuses_more_in_words(tmp_path: Path) -> None:
    document = Document()
    async with an_edge(tmp_path, document_bytes_max=1_000) as (address, daemon):
        async with connect(f"ws://{address}/d") as socket:
            await socket.send(wire.encode(wire.Update(document.edit_text("text", 0, 0, "x" * 900))))
            await next_message(socket, wire.Update)
            await socket.send(wire.encode(wire.Update(document.edit_text("text", 0, 800, ""))))
            await next_message(socket, wire.Update)
            await socket.send(wire.encode(wire.Update(document.edit_text("text", 0, 0, "y" * 900))))
            heard, code, reason = await heard_until_closed(socket)
        reading = await reads.read(daemon, parse_document_id("d"), contents=True)

    (denied,) = [message for message in heard if isinstance(message, wire.PermissionDenied)]
    assert (code, "document_bytes" in reason, "document_bytes" in denied.reason) == (CLOSE_LIMIT, True, True)
    assert reading is not None
    assert reading.contents is not None
    assert reading.contents["text"]["value"] == "x" * 100  # type: ignore[index,call-overload]


# --- the outbox -------------------------------------------------------------------------------------------------------
async def test_an_outbox_that_is_full_warns_and_refuses_new_edits_and_never_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ada = Typist()
    async with an_edge(tmp_path, outbox_count_max=2) as (address, daemon):
        async with connect(f"ws://{address}/d") as socket:
            for _ in range(2):
                await socket.send(ada.type("x"))
                await next_message(socket, wire.Update)
            await until(lambda: daemon.machine.pressure.outbox_full is not None, "it is full")
            await socket.send(ada.type("y"))
            heard, code, reason = await heard_until_closed(socket)
        (denied,) = [message for message in heard if isinstance(message, wire.PermissionDenied)]
        assert (code, "outbox_count" in reason) == (CLOSE_LIMIT, True)
        assert "retry after" in denied.reason
        assert "outbox_full" in caplog.text

        # What is here already is no new edit: readers stay.
        async with connect(f"ws://{address}/d") as reader:
            step1 = await next_message(reader, wire.SyncStep1)
            await reader.send(wire.encode(wire.SyncStep1(b"\x00")))
            step2 = await next_message(reader, wire.SyncStep2)
            await reader.send(wire.encode(step2))
            await reader.send(wire.encode(wire.QueryAwareness()))
            await reader.ping()
            assert step1 is not None

        # The Python client keeps its edit, is told, and tries again.
        async with client.connect(f"ws://{address}", store=tmp_path / "ben.db") as session:
            events = session.events()
            plan = await session.open("d")
            with plan.edit() as crdt:
                crdt["body"] += "kept"
            async with asyncio.timeout(DEADLINE_S):
                refused = [event async for event in _until_refused(events)][-1]
            assert (refused.code, "outbox_count" in refused.reason) == (CLOSE_LIMIT, True)
            assert len(plan.status.edits) == 1


async def _until_refused(events: AsyncIterator[client.Event]) -> AsyncIterator[client.Refused]:
    async for event in events:
        if isinstance(event, client.Refused):
            yield event
            return


# --- the loop ---------------------------------------------------------------------------------------------------------
def a_heavy_thing(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        sum(range(1000))


async def test_what_holds_the_event_loop_is_counted_and_named(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as (address, daemon):
        before = daemon.watchdog.count
        await asyncio.sleep(0.2)  # a beat has been seen
        a_heavy_thing(0.8)
        await until(lambda: daemon.watchdog.count > before, "it is counted")

        def status() -> dict[str, Any]:
            found: dict[str, Any] = json.load(urllib.request.urlopen(f"http://{address}/status", timeout=DEADLINE_S))
            return found

        stalls = (await asyncio.to_thread(status))["stalls"]

    assert stalls["longest_ms"] >= 500
    assert any("a_heavy_thing" in stall["where"] for stall in stalls["last"])


async def test_a_quiet_loop_is_not_accused() -> None:
    watchdog = Watchdog(stall_ms=5_000)
    watchdog.start()
    await asyncio.sleep(0.3)
    watchdog.stop()

    assert watchdog.status() == {"count": 0, "longest_ms": 0, "last": []}
