"""A real edge behind a real socket, without NATS: stock frames, the extension, plain HTTP, the operator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import CLOSE_BAD_PATH, OPERATOR, Gateway
from sync import extension, wire
from sync.closing import CLOSE_BAD_FRAME, CLOSE_BAD_UPDATE
from sync.document import Document
from sync.ids import Dot, Origin, parse_document_id
from sync.token import Token, encode_token

PLAN = parse_document_id("notes/plan")
DEADLINE_S = 10.0

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def an_edge(tmp_path: Path) -> AsyncIterator[str]:
    """`host:port` of an edge whose NATS never answers."""
    flags: dict[str, object] = {"data": tmp_path, "listen": "127.0.0.1:0", "nats": ("nats://127.0.0.1:1",), "name": "a"}
    daemon = EdgeDaemon(load_config(flags, None))
    gateway = Gateway(daemon, ("127.0.0.1", 0))
    host, port = await gateway.start()
    await daemon.start()
    try:
        yield f"{host}:{port}"
    finally:
        await gateway.stop()
        await daemon.stop(1.0)


async def next_message(socket: ClientConnection, kind: type[Any]) -> Any:
    """The next message of this kind; others are passed."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            message = wire.decode_frame(await socket.recv(decode=False))
            if isinstance(message, kind):
                return message


async def next_on_channel(socket: ClientConnection, kind: type[Any]) -> tuple[int, Any]:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            channel, inner = extension.decode_channel(await socket.recv(decode=False))
            message = extension.decode(inner)
            if isinstance(message, kind):
                return channel, message


async def closed_with(socket: ClientConnection) -> tuple[int | None, str | None]:
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code, socket.close_reason


def get(address: str, path: str, **headers: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
            return response.status, dict(response.headers), json.load(response)
    except urllib.error.HTTPError as error:
        body = error.read()
        return error.code, dict(error.headers), json.loads(body) if body else {}


def typed(text: str) -> bytes:
    return Document().edit_text("text", 0, 0, text)


async def send_on(socket: ClientConnection, channel: int, message: extension.Message | wire.Message) -> None:
    await socket.send(extension.on_channel(channel, extension.encode(message)))


def extended(address: str) -> connect:
    return connect(f"ws://{address}/", subprotocols=[Subprotocol(wire.SUBPROTOCOL)], compression=None)


async def test_a_stock_client_sees_its_own_update_and_so_does_the_other(tmp_path: Path) -> None:
    async with (
        an_edge(tmp_path) as address,
        connect(f"ws://{address}/notes/plan") as ada,
        connect(f"ws://{address}/notes%2Fplan") as ben,
    ):
        update = typed("hello")
        await ada.send(wire.encode(wire.Update(update)))

        assert (await next_message(ada, wire.Update)).update == update
        assert (await next_message(ben, wire.Update)).update == update


async def test_what_was_echoed_is_there_after_a_restart(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address, connect(f"ws://{address}/notes/plan") as ada:
        await ada.send(wire.encode(wire.Update(typed("kept"))))
        await next_message(ada, wire.Update)

    async with an_edge(tmp_path) as address:
        status, _, found = await asyncio.to_thread(get, address, "/docs/notes%2Fplan")

    assert (status, found["content"]["text"]["value"], found["outbox"]) == (200, "kept", 1)


@pytest.mark.parametrize(
    ("path", "data", "code", "said"),
    [
        ("/", b"", CLOSE_BAD_PATH, "empty"),
        ("/%00", b"", CLOSE_BAD_PATH, "control character"),
        ("/%ff", b"", CLOSE_BAD_PATH, "UTF-8"),
        ("/" + "x" * 257, b"", CLOSE_BAD_PATH, "257 bytes"),
        ("/d", b"\x63", CLOSE_BAD_FRAME, "unknown message type"),
        ("/d", b"\x00\x02\x7f\x00", CLOSE_BAD_FRAME, "claimed"),
        ("/d", wire.encode(wire.Update(b"\x01\x01\x01\x00\x2c")), CLOSE_BAD_UPDATE, "no update"),
        ("/d", wire.encode(wire.SyncStep1(b"\x80\x80\x80\x80\x01")), CLOSE_BAD_UPDATE, "268435456"),
        ("/d", "text", CLOSE_BAD_FRAME, "frame"),
    ],
)
async def test_bad_input_closes_its_connection_with_a_code_and_a_reason(
    tmp_path: Path, path: str, data: bytes | str, code: int, said: str
) -> None:
    async with an_edge(tmp_path) as address, connect(f"ws://{address}/d") as other:
        async with connect(f"ws://{address}{path}") as bad:
            with contextlib.suppress(ConnectionClosed):
                await bad.send(data)
            found_code, reason = await closed_with(bad)

        assert found_code == code
        assert said in (reason or "")
        await other.send(wire.encode(wire.Update(typed("still here"))))
        await next_message(other, wire.Update)


async def test_many_documents_share_one_connection_of_the_extension(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address, extended(address) as ada:
        _, hello = await next_on_channel(ada, extension.Hello)
        assert (hello.namespace, hello.edge) == ("skerry", "a")
        other = parse_document_id("other")
        await send_on(ada, 1, extension.Open(PLAN))
        await send_on(ada, 2, extension.Open(other))

        await send_on(ada, 2, extension.Edit(Dot(Origin(9), 1), "ada", "", "trip", typed("two")))
        channel, safe = await next_on_channel(ada, extension.Safe)

        assert (channel, safe.stage, safe.dots) == (2, extension.Stage.EDGE, (Dot(Origin(9), 1),))
        _, _, found = await asyncio.to_thread(get, address, "/docs")
        assert found["docs"] == ["other"]


async def test_an_edit_that_is_sent_again_takes_effect_once_and_is_safe_again(tmp_path: Path) -> None:
    edit = extension.Edit(Dot(Origin(9), 1), "", "", "", typed("once"))
    async with an_edge(tmp_path) as address:
        for _ in range(2):
            async with extended(address) as ada:
                await send_on(ada, 1, extension.Open(PLAN))
                await send_on(ada, 1, edit)
                _, safe = await next_on_channel(ada, extension.Safe)
                assert safe == extension.Safe(extension.Stage.EDGE, (Dot(Origin(9), 1),), None)
        _, _, found = await asyncio.to_thread(get, address, "/docs/notes%2Fplan")

    assert found["outbox"] == 1
    assert found["content"]["text"]["value"] == "once"


async def test_bad_bytes_on_a_channel_close_that_channel_alone(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address, extended(address) as ada:
        await send_on(ada, 1, extension.Open(PLAN))
        await send_on(ada, 2, extension.Open(parse_document_id("other")))

        await ada.send(extension.on_channel(1, b"\x63"))
        channel, closing = await next_on_channel(ada, extension.CloseChannel)
        await send_on(ada, 2, extension.Edit(Dot(Origin(9), 1), "", "", "", typed("alive")))

        assert (channel, closing.code) == (1, CLOSE_BAD_FRAME)
        assert (await next_on_channel(ada, extension.Safe))[0] == 2


async def test_the_context_of_an_edit_reaches_the_others(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address, extended(address) as ada, extended(address) as ben:
        for socket in (ada, ben):
            await send_on(socket, 1, extension.Open(PLAN))
            await next_on_channel(socket, wire.SyncStep1)
            await send_on(socket, 1, wire.SyncStep1(b"\x00"))
            await next_on_channel(socket, wire.SyncStep2)

        await send_on(ada, 1, extension.Edit(Dot(Origin(9), 1), "ada", "cause", "trip-42", typed("x")))
        _, changed = await next_on_channel(ben, extension.Changed)

        context = changed.changes[0][1]
        assert (context.actor, context.causation, context.correlation, context.edge) == ("ada", "cause", "trip-42", "a")


async def test_get_waits_for_the_write_that_a_token_stands_for(tmp_path: Path) -> None:
    dot = Dot(Origin(9), 1)
    token = encode_token(Token("skerry", PLAN, None, dot))
    async with an_edge(tmp_path) as address, extended(address) as ada:
        early = await asyncio.to_thread(get, address, f"/docs/notes%2Fplan?at_least={token}&timeout=0")
        waiting = asyncio.create_task(
            asyncio.to_thread(get, address, f"/docs/notes%2Fplan?at_least={token}&timeout={DEADLINE_S}")
        )
        await send_on(ada, 1, extension.Open(PLAN))
        await send_on(ada, 1, extension.Edit(dot, "", "", "", typed("mine")))
        status, _, found = await waiting

    assert early[0] == 504
    assert (early[2]["want"], early[2]["have"]) == (token, "nothing")
    assert (status, found["content"]["text"]["value"]) == (200, "mine")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/healthz", 200, "edge"),
        ("/status", 200, "outbox"),
        ("/nothing", 404, "there is GET"),
        ("/docs/unknown", 404, "no such document"),
        ("/docs/%01", 400, "control character"),
        ("/docs/d?at_least=sk1.xx", 400, "token"),
        ("/docs/d?at_least=" + encode_token(Token("other", PLAN, None, Dot(Origin(1), 1))), 400, "token"),
        ("/docs/d?at_least=x&timeout=never", 400, "timeout"),
    ],
)
async def test_plain_get_is_answered_with_json(tmp_path: Path, path: str, status: int, said: str) -> None:
    async with an_edge(tmp_path) as address:
        found_status, headers, body = await asyncio.to_thread(get, address, path)

    assert found_status == status
    assert headers["Content-Type"].startswith("application/json")
    assert said in json.dumps(body)


async def test_the_operator_on_the_same_machine_cuts_the_link(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address:
        async with connect(f"ws://{address}/", subprotocols=[OPERATOR]) as operator:
            await operator.send('{"op": "cut", "seconds": 60}')
            assert json.loads(await operator.recv()) == {"ok": True}
            await operator.send("{}")
            assert json.loads(await operator.recv())["ok"] is False
        _, _, found = await asyncio.to_thread(get, address, "/status")

    assert found["link"]["state"] == "cut"


async def test_what_a_client_sends_just_before_it_closes_is_kept(tmp_path: Path) -> None:
    """A page that is left: the last update and the farewell come in one piece."""
    update = typed("the last words of a page that is left " * 5)
    async with an_edge(tmp_path) as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /notes%2Fplan HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)  # the edge has read the document: its step 1
        goodbye = Frame(Opcode.CLOSE, b"\x03\xe9").serialize(mask=True)
        writer.write(Frame(Opcode.BINARY, wire.encode(wire.Update(update))).serialize(mask=True) + goodbye)
        async with asyncio.timeout(DEADLINE_S):
            await reader.read()
        writer.close()
        found: dict[str, Any] = {}
        async with asyncio.timeout(DEADLINE_S):
            while "content" not in found:
                _, _, found = await asyncio.to_thread(get, address, "/docs/notes%2Fplan")

    assert found["content"]["text"]["value"].startswith("the last words")


@pytest.mark.parametrize("name", ["Upgrade", "Origin", "Authorization", "Host"])
async def test_a_request_that_says_two_things_is_refused(tmp_path: Path, name: str) -> None:
    async with an_edge(tmp_path) as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /x HTTP/1.1\r\nHost: a\r\n{name}: a\r\n{name}: b\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")
