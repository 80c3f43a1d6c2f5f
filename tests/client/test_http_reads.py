"""Reading own writes over plain HTTP and at the leader: it waits for this write, and an ETag never hides one."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

from client import Stage, connect
from sync.document import JsonValue
from sync.errors import NotYet
from tests.client.edge import running
from tests.processes import Cluster, Node, run_cli


class Answer(NamedTuple):
    status: int
    tag: str | None
    body: dict[str, JsonValue]


def get(edge: Node, doc: str, query: str = "", known: str = "") -> Answer:
    host, _, port = edge.listen.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        headers = {"If-None-Match": known} if known else {}
        connection.request("GET", f"/docs/{quote(doc, safe='')}{query}", headers=headers)
        response = connection.getresponse()
        data = response.read()
        return Answer(response.status, response.getheader("ETag"), json.loads(data) if data else {})
    finally:
        connection.close()


def test_the_version_is_the_etag_and_an_unmerged_edit_is_never_not_modified(
    cluster: Cluster, tmp_path: Path, doc: str
) -> None:
    edge = cluster["a"]

    async def test() -> None:
        async with connect(edge.ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc)
            plan.insert("body", 0, "first")
            await plan.confirmed(timeout=20)
            found = await asyncio.to_thread(get, edge, doc, f"?at_least={plan.token}&timeout=10")
            assert (found.status, found.tag) == (200, f'"{found.body["version"]}"')
            tag = found.tag or ""
            assert (await asyncio.to_thread(get, edge, doc, "", tag)) == (304, tag, {})
            assert (await asyncio.to_thread(get, edge, doc, "", f'"other", W/{tag}')).status == 304
            assert (await asyncio.to_thread(get, edge, doc, "", '"other"')).status == 200

            await asyncio.to_thread(edge.cut, 4)
            plan.delete("body", 0, 3)
            await plan.confirmed(Stage.EDGE, timeout=10)
            cut_off = await asyncio.to_thread(get, edge, doc, f"?at_least={plan.token}&timeout=10", tag)
            assert (cut_off.status, cut_off.tag) == (200, None)
            assert cut_off.body["content"] == {"body": {"kind": "text", "value": "st"}}

            await asyncio.to_thread(edge.wait_link, "up")
            await plan.confirmed(timeout=20)
            merged = await asyncio.to_thread(get, edge, doc, "", tag)
            assert merged.status == 200
            assert merged.tag not in (None, tag)

    running(test)


def test_http_waits_for_a_write_of_an_edge_that_is_cut_off_or_says_what_there_is(
    cluster: Cluster, tmp_path: Path, doc: str
) -> None:
    async def test() -> None:
        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc)
            plan.insert("body", 0, "before")
            await plan.confirmed(timeout=20)
            await asyncio.to_thread(cluster["a"].cut, 3)
            plan.delete("body", 0, 3)
            token = plan.token

            late = await asyncio.to_thread(get, cluster["b"], doc, f"?at_least={token}&timeout=0.3")
            assert (late.status, late.body["want"]) == (504, token)
            assert f"have {late.body['have']}, want {token}; retry" in str(late.body["error"])
            found = await asyncio.to_thread(get, cluster["b"], doc, f"?at_least={token}&timeout=20")
            assert found.status == 200
            assert found.body["content"] == {"body": {"kind": "text", "value": "ore"}}

    running(test)


def test_the_leader_is_read_and_waited_for(cluster: Cluster, tmp_path: Path, doc: str) -> None:
    at_leader = ("--leader", "--nats", cluster.nats.url, "--json")

    async def test() -> None:
        async with connect(cluster["a"].ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc)
            plan.insert("body", 0, "before")
            await plan.confirmed(timeout=20)
            await asyncio.to_thread(cluster["a"].cut, 5)
            plan.delete("body", 0, 3)
            wait = ("--at-least", plan.token, "--timeout")

            late = await asyncio.to_thread(run_cli, "doc", "cat", doc, *at_leader, *wait, "0.2")
            assert late.returncode == 1
            assert f"want {plan.token}; retry" in late.stderr
            found = await asyncio.to_thread(run_cli, "doc", "cat", doc, *at_leader, *wait, "20")
            assert json.loads(found.stdout)["content"] == {"body": {"kind": "text", "value": "ore"}}
            digest = await asyncio.to_thread(run_cli, "doc", "digest", doc, *at_leader)
            assert json.loads(digest.stdout)["digest"] == plan.document.digest()

    running(test)


@pytest.mark.parametrize(
    ("document", "token", "says"),
    [("client/nothing-there", None, "the leader has no such document"), ("x", "sk1.AAAA", "token")],
)
def test_what_the_leader_cannot_answer_is_one_line(
    cluster: Cluster, document: str, token: str | None, says: str
) -> None:
    flags = ("--at-least", token) if token is not None else ()
    done = run_cli("doc", "cat", document, "--leader", "--nats", cluster.nats.url, *flags)

    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_read_says_what_it_has_when_the_time_is_over(cluster: Cluster, tmp_path: Path, doc: str) -> None:
    async def test() -> None:
        async with (
            connect([], store=tmp_path / "ada.db") as ada,
            connect(cluster["b"].ws, store=tmp_path / "ben.db") as ben,
        ):
            mine = await ada.open(doc)
            mine.insert("body", 0, "x")
            with pytest.raises(NotYet, match=r"have .*, want [0-9a-f]+\.1; retry"):
                await ben.open(doc, at_least=mine.token, timeout=0.5)

    running(test)
