"""Who may, at a real edge behind a real socket: stock frames, the extension, plain HTTP, operators, pages, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin as PageOrigin
from websockets.typing import Subprotocol

import client
from server import gateway as gateway_module
from server.admission import CLOSE_EXPIRED, CLOSE_FORBIDDEN, CLOSE_NO_TOKEN, CLOSE_REVOKED, revoke
from server.auth import Rule, make_key, make_token, parse_keys
from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import OPERATOR, Gateway
from sync import extension, wire
from sync.closing import CLOSE_BAD_FRAME
from sync.document import Document
from sync.ids import Dot, Origin, parse_document_id
from sync.limits import UNADMITTED_FRAME_BYTES_MAX

PLAN = parse_document_id("notes/plan")
DEADLINE_S = 10.0
SIGNS, VERIFIES = make_key("EdDSA", "first")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def token(
    *, write: str = "", read: str = "", subject: str = "ada", seconds: float = 3600, operator: bool = False
) -> str:
    key = parse_keys(json.dumps(SIGNS).encode(), private=True).all[0]
    rules = [Rule(write, "write")] if write else []
    rules += [Rule(read, "read")] if read else []
    return make_token(key, subject, rules, time.time(), seconds, operator=operator)


@asynccontextmanager
async def an_edge(tmp_path: Path, **flags: object) -> AsyncIterator[str]:
    """`host:port` of an edge that asks for tokens, and whose NATS never answers."""
    keys = tmp_path / "keys.json"
    if not keys.exists():
        keys.write_text(json.dumps({"keys": [VERIFIES]}))
    config = load_config(
        {
            "data": tmp_path,
            "listen": "127.0.0.1:0",
            "nats": ("nats://127.0.0.1:1",),
            "name": "a",
            "auth_keys": keys,
            **flags,
        },
        None,
    )
    daemon = EdgeDaemon(config)
    gateway = Gateway(daemon, ("127.0.0.1", 0))
    host, port = await gateway.start()
    await daemon.start()
    try:
        yield f"{host}:{port}"
    finally:
        await gateway.stop()
        await daemon.stop(1.0)


async def next_message(socket: ClientConnection, kind: type[Any]) -> Any:
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


async def heard_until_closed(socket: ClientConnection) -> tuple[list[wire.Message], int | None, str | None]:
    heard = []
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionClosed):
            while True:
                heard.append(wire.decode_frame(await socket.recv(decode=False)))
    return heard, socket.close_code, socket.close_reason


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


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# --- the three ways in ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", ["query", "header", "first message"])
async def test_a_token_opens_a_document_for_a_stock_client(tmp_path: Path, way: str) -> None:
    text = token(write="notes/*")
    query = f"?token={text}" if way == "query" else ""
    headers = bearer(text) if way == "header" else None
    async with (
        an_edge(tmp_path) as address,
        connect(f"ws://{address}/notes/plan{query}", additional_headers=headers) as ada,
    ):
        if way == "first message":
            await ada.send(wire.encode(wire.Authenticate(text)))
        update = typed("hello")
        await ada.send(wire.encode(wire.Update(update)))

        assert (await next_message(ada, wire.Update)).update == update


@pytest.mark.parametrize("way", ["header", "first message"])
async def test_a_token_opens_the_extension(tmp_path: Path, way: str) -> None:
    text = token(write="notes/*")
    headers = bearer(text) if way == "header" else None
    async with (
        an_edge(tmp_path) as address,
        connect(f"ws://{address}/", additional_headers=headers, subprotocols=[Subprotocol(wire.SUBPROTOCOL)]) as ada,
    ):
        if way == "first message":
            await ada.send(extension.on_channel(0, wire.encode(wire.Authenticate(text))))
        await next_on_channel(ada, extension.Hello)
        await ada.send(extension.on_channel(1, extension.encode(extension.Open(PLAN))))
        edit = extension.Edit(Dot(Origin(9), 1), "", "", "", typed("x"))
        await ada.send(extension.on_channel(1, extension.encode(edit)))

        assert (await next_on_channel(ada, extension.Safe))[0] == 1


# --- and the ways that are none ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("nonsense", CLOSE_NO_TOKEN, "no JWT"),
        ("", CLOSE_NO_TOKEN, "no token"),
        (token(write="*", seconds=-60), CLOSE_NO_TOKEN, "expired"),
        (token(write="other/*"), CLOSE_FORBIDDEN, "does not grant"),
    ],
    ids=["nonsense", "empty", "expired", "another document"],
)
async def test_a_bad_token_is_told_so_in_words_and_by_a_code(tmp_path: Path, text: str, code: int, said: str) -> None:
    async with an_edge(tmp_path) as address, connect(f"ws://{address}/notes/plan?token={text}") as ada:
        heard, found, reason = await heard_until_closed(ada)

    assert found == code
    assert said in (reason or "")
    (denied,) = heard
    assert isinstance(denied, wire.PermissionDenied)
    assert said in denied.reason


@pytest.mark.parametrize(
    "first",
    [wire.encode(wire.Update(typed("mine"))), wire.encode(wire.SyncStep1(b"\x00")), b"", b"\xff", b"\x02\x01\x05x"],
    ids=["update", "step 1", "empty", "no message", "cut short"],
)
async def test_whatever_comes_before_a_token_ends_the_connection_and_changes_nothing(
    tmp_path: Path, first: bytes
) -> None:
    async with an_edge(tmp_path) as address:
        async with connect(f"ws://{address}/notes/plan") as ada:
            with contextlib.suppress(ConnectionClosed):
                await ada.send(first)
                await ada.send(wire.encode(wire.Authenticate(token(write="*"))))
                await ada.send(wire.encode(wire.Update(typed("mine"))))
            _, code, _ = await heard_until_closed(ada)
        _, _, found = await asyncio.to_thread(get, address, "/docs", **bearer(token(read="*")))

    assert code == CLOSE_NO_TOKEN
    assert found["docs"] == []


async def test_before_its_token_nobody_may_send_much(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address, connect(f"ws://{address}/notes/plan") as ada:
        with contextlib.suppress(ConnectionClosed):
            await ada.send(b"\x02\x01" + b"x" * UNADMITTED_FRAME_BYTES_MAX)
        _, code, _ = await heard_until_closed(ada)
    assert code == 1009

    async with an_edge(tmp_path) as address, connect(f"ws://{address}/notes/plan?token={token(write='*')}") as ada:
        large = typed("x" * 4 * UNADMITTED_FRAME_BYTES_MAX)
        await ada.send(wire.encode(wire.Update(large)))
        assert (await next_message(ada, wire.Update)).update == large


async def test_who_sends_no_token_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "ADMIT_MS_MAX", 100)
    async with an_edge(tmp_path) as address, connect(f"ws://{address}/notes/plan") as ada:
        _, code, reason = await heard_until_closed(ada)

    assert (code, "within 0.1 s" in (reason or "")) == (CLOSE_NO_TOKEN, True)


# --- reading only -----------------------------------------------------------------------------------------------------
async def test_a_reader_sees_and_does_not_write(tmp_path: Path) -> None:
    async with (
        an_edge(tmp_path) as address,
        connect(f"ws://{address}/notes/plan?token={token(read='notes/*')}") as ben,
        connect(f"ws://{address}/notes/plan?token={token(write='notes/*')}") as ada,
    ):
        await ben.send(wire.encode(wire.Update(typed("mine"))))
        denied = await next_message(ben, wire.PermissionDenied)
        assert "read-only" in denied.reason

        update = typed("hello")
        await ada.send(wire.encode(wire.Update(update)))
        assert (await next_message(ben, wire.Update)).update == update
        _, _, found = await asyncio.to_thread(get, address, "/docs/notes%2Fplan", **bearer(token(read="*")))
        assert found["content"]["text"]["value"] == "hello"


async def test_a_channel_that_is_not_granted_is_closed_alone(tmp_path: Path) -> None:
    headers = bearer(token(read="notes/*"))
    async with (
        an_edge(tmp_path) as address,
        connect(f"ws://{address}/", additional_headers=headers, subprotocols=[Subprotocol(wire.SUBPROTOCOL)]) as ada,
    ):
        await ada.send(extension.on_channel(1, extension.encode(extension.Open(parse_document_id("secret")))))
        channel, closing = await next_on_channel(ada, extension.CloseChannel)
        assert (channel, closing.code) == (1, CLOSE_FORBIDDEN)

        await ada.send(extension.on_channel(2, extension.encode(extension.Open(PLAN))))
        edit = extension.Edit(Dot(Origin(9), 1), "", "", "", typed("x"))
        await ada.send(extension.on_channel(2, extension.encode(edit)))
        channel, _ = await next_on_channel(ada, wire.PermissionDenied)
        assert channel == 2


# --- what ends --------------------------------------------------------------------------------------------------------
async def test_a_live_connection_ends_with_its_token(tmp_path: Path) -> None:
    short = token(write="*", seconds=4)  # longer than a slow machine needs to connect; the end is waited for
    async with an_edge(tmp_path) as address, connect(f"ws://{address}/notes/plan?token={short}") as ada:
        _, code, reason = await heard_until_closed(ada)

    assert (code, "expired" in (reason or "")) == (CLOSE_EXPIRED, True)


async def test_a_live_connection_ends_when_its_token_or_key_is_taken_back(tmp_path: Path) -> None:
    async with (
        an_edge(tmp_path) as address,
        connect(f"ws://{address}/notes/plan?token={token(write='*')}") as ada,
        connect(f"ws://{address}/notes/plan?token={token(write='*', subject='ben')}") as ben,
    ):
        revoke(tmp_path / "revoked.jsonl", {"sub": "ada"})
        _, code, _ = await heard_until_closed(ada)
        assert code == CLOSE_REVOKED
        await ben.send(wire.encode(wire.Update(typed("still here"))))
        await next_message(ben, wire.Update)

        (tmp_path / "keys.json").write_text(json.dumps({"keys": [make_key("EdDSA", "second")[1]]}))
        _, code, _ = await heard_until_closed(ben)
        assert code == CLOSE_REVOKED


# --- plain HTTP -------------------------------------------------------------------------------------------------------
async def test_plain_gets_ask_for_a_token_too(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address:
        for doc in ("notes/plan", "secret/plan"):
            async with connect(f"ws://{address}/{doc}?token={token(write='*')}") as ada:
                await ada.send(wire.encode(wire.Update(typed(doc))))
                await next_message(ada, wire.Update)

        def ask(path: str, text: str | None = None) -> tuple[int, dict[str, str], dict[str, Any]]:
            return get(address, path, **({} if text is None else bearer(text)))

        mine = token(read="notes/*")
        for path in ("/status", "/docs", "/docs/notes%2Fplan", "/anything"):
            status, headers, body = await asyncio.to_thread(ask, path)
            assert (status, headers["WWW-Authenticate"], "token" in body["error"]) == (401, "Bearer", True)
        assert (await asyncio.to_thread(ask, "/healthz"))[0] == 200
        assert (await asyncio.to_thread(ask, "/docs/notes%2Fplan", mine))[0] == 200
        assert (await asyncio.to_thread(ask, f"/docs/notes%2Fplan?token={mine}"))[0] == 200
        assert (await asyncio.to_thread(ask, "/docs/secret%2Fplan", mine))[0] == 403
        assert (await asyncio.to_thread(ask, "/docs/unknown", mine))[0] == 403
        assert (await asyncio.to_thread(ask, "/docs", mine))[2] == {"docs": ["notes/plan"]}
        named = json.dumps((await asyncio.to_thread(ask, "/status", mine))[2])
        assert "notes/plan" in named
        assert "secret" not in named


# --- pages ------------------------------------------------------------------------------------------------------------
async def test_a_page_of_a_foreign_origin_is_turned_away(tmp_path: Path) -> None:
    url = f"/notes/plan?token={token(write='*')}"
    async with an_edge(tmp_path, origin=("https://app.example",)) as address:
        for origin in ("https://evil.example", "null"):
            with pytest.raises(InvalidStatus) as caught:
                await connect(f"ws://{address}{url}", origin=PageOrigin(origin))
            assert caught.value.response.status_code == 403
            assert b"--origin" in (caught.value.response.body or b"")
        async with connect(f"ws://{address}{url}", origin=PageOrigin("https://app.example")) as ada:
            await next_message(ada, wire.SyncStep1)

        status, headers, _ = await asyncio.to_thread(get, address, "/docs" + url[11:], Origin="https://evil.example")
        assert (status, "Access-Control-Allow-Origin" in headers) == (403, False)
        status, headers, _ = await asyncio.to_thread(get, address, "/docs" + url[11:], Origin="https://app.example")
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "https://app.example")


# --- operators --------------------------------------------------------------------------------------------------------
async def test_operating_needs_a_grant_of_its_own(tmp_path: Path) -> None:
    async with an_edge(tmp_path) as address:
        for text, code in ((token(write="*"), CLOSE_FORBIDDEN), (token(operator=True), None)):
            async with connect(f"ws://{address}/?token={text}", subprotocols=[OPERATOR]) as operator:
                if code is None:
                    await operator.send('{"op": "cut", "seconds": 1}')
                    assert json.loads(await operator.recv()) == {"ok": True}
                else:
                    _, found, _ = await heard_until_closed(operator)
                    assert found == code


# --- behind a proxy ---------------------------------------------------------------------------------------------------
async def test_who_comes_through_a_proxy_from_elsewhere_is_asked_who_they_are(tmp_path: Path) -> None:
    """By address everybody comes from this machine then, as its owner does."""
    far, near = {"X-Forwarded-For": "192.0.2.60"}, {"X-Forwarded-For": "127.0.0.1"}
    async with an_edge(tmp_path, auth_keys=None) as address:
        for url in (f"ws://{address}/notes/plan", f"ws://{address}/"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(url, additional_headers=far, subprotocols=[OPERATOR] if url.endswith("/") else None)
            assert refused.value.response.status_code == 403
            assert b"--auth-keys" in refused.value.response.body
        status, _, body = await asyncio.to_thread(get, address, "/docs", **far)
        assert (status, "--auth-keys" in body["error"]) == (403, True)
        async with connect(f"ws://{address}/notes/plan", additional_headers=near) as ada:
            await ada.send(wire.encode(wire.SyncStep1(b"\x00")))
            assert await ada.recv()
    async with (
        an_edge(tmp_path, auth_keys=None, insecure=True) as address,
        connect(f"ws://{address}/notes/plan", additional_headers=far) as ada,
    ):
        await ada.send(wire.encode(wire.SyncStep1(b"\x00")))
        assert await ada.recv()


async def test_nobody_operates_an_edge_through_a_proxy_from_elsewhere(tmp_path: Path) -> None:
    text = token(operator=True)
    async with (
        an_edge(tmp_path) as address,
        connect(
            f"ws://{address}/?token={text}", subprotocols=[OPERATOR], additional_headers={"Forwarded": "for=192.0.2.60"}
        ) as operator,
    ):
        _, code, reason = await heard_until_closed(operator)
        assert code == CLOSE_BAD_FRAME
        assert reason is not None
        assert "own machine" in reason


# --- the Python client ------------------------------------------------------------------------------------------------
async def test_the_client_shows_its_token_and_asks_for_it_again(tmp_path: Path) -> None:
    """Expired at first: it is told, works on offline, and comes in with the next one."""
    asked: list[None] = []

    async def fresh() -> str:
        asked.append(None)
        return token(write="*", seconds=-60 if len(asked) == 1 else 3600)

    async with (
        an_edge(tmp_path) as address,
        client.connect(f"ws://{address}", store=tmp_path / "ada.db", token=fresh) as session,
    ):
        events = session.events()
        plan = await session.open("notes/plan")
        with plan.edit() as crdt:
            crdt["body"] += "offline already"
        async with asyncio.timeout(DEADLINE_S):
            denied = None
            async for event in events:
                denied = event if isinstance(event, client.Denied) else denied
                if isinstance(event, client.Online):
                    break
        assert denied is not None
        assert (denied.code, "expired" in denied.reason) == (CLOSE_NO_TOKEN, True)
        await plan.confirmed(stage=client.Stage.EDGE, timeout=DEADLINE_S)
    assert len(asked) >= 2


async def test_a_client_that_may_only_read_is_told_and_keeps_its_edit(tmp_path: Path) -> None:
    async with (
        an_edge(tmp_path) as address,
        client.connect(f"ws://{address}", store=tmp_path / "ben.db", token=token(read="*")) as session,
    ):
        plan = await session.open("notes/plan")
        with plan.edit() as crdt:
            crdt["body"] += "mine"
        async with asyncio.timeout(DEADLINE_S):
            while not plan.denied:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # until the edge has answered, with a deadline
        with pytest.raises(client.ReadOnly, match="read-only"), plan.edit() as crdt:
            crdt["body"] += "more"
        assert len(plan.status.edits) == 1
        _, _, found = await asyncio.to_thread(get, address, "/docs", **bearer(token(read="*")))
        assert found["docs"] == []


# --- TLS --------------------------------------------------------------------------------------------------------------
async def test_websockets_and_http_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "cert.pem", append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = {"listen_tls_cert": tmp_path / "cert.pem", "listen_tls_key": tmp_path / "key.pem"}

    async with an_edge(tmp_path, **files) as address:
        async with connect(f"wss://{address}/d", ssl=trusting, additional_headers=bearer(token(write="*"))) as ada:
            large = typed("x" * 300_000)
            await ada.send(wire.encode(wire.Update(large)))
            assert (await next_message(ada, wire.Update)).update == large
        request = urllib.request.Request(f"https://{address}/docs/d", headers=bearer(token(read="*")))
        found = await asyncio.to_thread(
            lambda: json.load(urllib.request.urlopen(request, timeout=DEADLINE_S, context=trusting))
        )
        assert found["content"]["text"]["value"] == "x" * 300_000

        async def serial() -> object:
            async with connect(f"wss://{address}/d", ssl=trusting, additional_headers=bearer(token(read="*"))) as ada:
                return ada.transport.get_extra_info("ssl_object").getpeercert()["serialNumber"]

        before = await serial()
        # Another certificate of the same authority: read when the file changes, without a restart.
        other = authority.issue_cert("127.0.0.1", common_name="renewed")
        other.private_key_pem.write_to_path(tmp_path / "key.pem")
        (tmp_path / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in other.cert_chain_pems))
        async with asyncio.timeout(DEADLINE_S):
            while await serial() == before:  # noqa: ASYNC110 - a connection a time, until the file was read
                await asyncio.sleep(0.2)
