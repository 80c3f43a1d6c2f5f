"""The client against real edges, a real leader and a real log: the laws that a program relies on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Change, connect
from sync.errors import NotYet
from tests.client.edge import running, until
from tests.interop.agent import Agent, need_node
from tests.processes import ROOT, Cluster, Node, record, wait_for

EDITS = 10_000

AUTHOR = """
import asyncio, sys
from client import connect

async def main(address: str, store: str, doc: str, count: int) -> None:
    async with connect(address, store=store) as session:
        plan = await session.open(doc)
        with plan.edit() as crdt:
            crdt["body"] += "0\\n"
        await plan.confirmed(timeout=30)
        session.addresses = ()
        for at in range(1, count):
            with plan.edit(correlation=f"edit {at}") as crdt:
                crdt["body"] += f"{at}\\n"
        print(count, flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
"""


def body(edge: Node, doc: str) -> str:
    content = record(record(edge.document(doc)["content"])["body"])
    value = content["value"]
    assert isinstance(value, str)
    return value


def test_ten_thousand_edits_offline_survive_sigkill_and_reach_another_edge(
    cluster: Cluster, tmp_path: Path, doc: str
) -> None:
    store = tmp_path / "notes.db"
    arguments = [cluster["a"].ws, str(store), doc, str(EDITS)]
    child = subprocess.Popen([sys.executable, "-c", AUTHOR, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == f"{EDITS}\n"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()

    async def test() -> float:
        async with connect(cluster["b"].ws, store=store) as session:
            plan = await session.open(doc)
            began = time.monotonic()
            assert len(plan.status.edits) == EDITS - 1
            await plan.confirmed(timeout=60)
            return time.monotonic() - began

    assert running(test, 90) < 60
    cluster.settle(doc)
    for edge in (cluster["a"], cluster["b"]):
        assert body(edge, doc).splitlines() == [str(at) for at in range(EDITS)]


def test_a_client_that_roams_while_both_links_flap_converges_and_repeats_nothing(
    cluster: Cluster, tmp_path: Path, doc: str
) -> None:
    edges = (cluster["a"], cluster["b"])

    async def flap(ends: float) -> None:
        at = 0
        while time.monotonic() < ends:
            await asyncio.to_thread(edges[at % 2].cut, 0.7)
            at += 1
            await asyncio.sleep(0.5)

    async def roamer(ends: float) -> tuple[int, str]:
        async with connect([edge.ws for edge in edges], store=tmp_path / "roamer.db", actor="ada") as session:
            plan = await session.open(doc)
            at, moved = 0, time.monotonic()
            while time.monotonic() < ends:
                with plan.edit(correlation=f"word {at}") as crdt:
                    crdt["body"] += f"a{at} "
                at += 1
                if time.monotonic() - moved > 1:
                    moved = time.monotonic()
                    await session.roam(edges[at % 2].ws)
                await asyncio.sleep(0.02)
            await plan.confirmed(timeout=45)
            return at, plan.token

    async def test() -> None:
        ends = time.monotonic() + 12
        async with connect(edges[1].ws, store=tmp_path / "ben.db", actor="ben") as session:
            theirs = await session.open(doc)
            moving = asyncio.gather(roamer(ends), flap(ends))
            at = 0
            while time.monotonic() < ends:
                with theirs.edit() as crdt:
                    crdt["body"] += f"b{at} "
                at += 1
                await asyncio.sleep(0.05)
            (count, token), _ = await moving
            await theirs.confirmed(timeout=45)
            await theirs.reach(token, 30)
            words = theirs.text("body").split()
            assert [word for word in words if word[0] == "a"] == [f"a{n}" for n in range(count)]
            assert [word for word in words if word[0] == "b"] == [f"b{n}" for n in range(at)]
            assert count > 50

    running(test, 120)
    cluster.settle(doc)


@pytest.mark.parametrize("deletion", [False, True])
def test_a_write_at_an_edge_that_is_cut_off_is_read_elsewhere_soon_after_its_return(
    cluster: Cluster, tmp_path: Path, doc: str, deletion: bool
) -> None:
    async def test() -> None:
        async with (
            connect(cluster["a"].ws, store=tmp_path / "ada.db") as ada,
            connect(cluster["b"].ws, store=tmp_path / "ben.db") as ben,
        ):
            mine, theirs = await ada.open(doc), await ben.open(doc)
            mine.insert("body", 0, "before")
            await mine.confirmed(timeout=15)
            await theirs.reach(mine.token, 15)
            await asyncio.to_thread(cluster["a"].cut, 4)
            if deletion:
                mine.delete("body", 0, 3)
            else:
                mine.insert("body", 6, " and after")
            token = mine.token
            with pytest.raises(NotYet):
                await theirs.reach(token, 1)
            assert theirs.text("body") == "before"

            reading = asyncio.create_task(theirs.read(at_least=token, timeout=20))
            await asyncio.to_thread(cluster["a"].wait_link, "up")
            back = time.monotonic()
            found = record((await reading)["body"])

            assert found["value"] == ("ore" if deletion else "before and after")
            assert time.monotonic() - back < 1  # docs/decisions.md, 58

    running(test)


def test_an_edge_that_is_killed_under_a_typing_client_loses_nothing(cluster: Cluster, tmp_path: Path, doc: str) -> None:
    async def test() -> None:
        async with connect([cluster["a"].ws, cluster["b"].ws], store=tmp_path / "ada.db") as session:
            plan = await session.open(doc)
            await session.connected(10)
            for at in range(300):
                with plan.edit() as crdt:
                    crdt["body"] += f"{at} "
                if at == 150:
                    cluster["a"].kill()
                await asyncio.sleep(0.002)
            await until(lambda: session.edge == "b", "failed over", 15)
            await asyncio.to_thread(cluster["a"].restart)
            await plan.confirmed(timeout=30)
            assert plan.text("body").split() == [str(at) for at in range(300)]

    running(test, 90)
    cluster.settle(doc)
    for edge in (cluster["a"], cluster["b"]):
        assert body(edge, doc).split() == [str(at) for at in range(300)]


def test_who_reads_a_document_over_http_finds_it_fresh_where_nobody_has_it_open(
    cluster: Cluster, tmp_path: Path, doc: str
) -> None:
    """At an edge where it was never, and at one where it has lain on the disk since before the others wrote on."""

    async def write(edge: Node, text: str) -> None:
        async with connect(edge.ws, store=tmp_path / "ada.db") as session:
            plan = await session.open(doc)
            with plan.edit() as crdt:
                crdt["body"] += text
            await plan.confirmed(timeout=30)

    running(lambda: write(cluster["b"], "one"))
    assert body(cluster["a"], doc) == "one"  # the first question brings it

    cluster["a"].restart()  # what is in memory is kept up to date; now nothing is
    cluster["a"].wait_link("up")
    running(lambda: write(cluster["b"], " two"))
    wait_for(lambda: body(cluster["a"], doc) == "one two", 20, "what was written meanwhile, at a")


def test_who_why_and_what_for_reach_a_client_at_another_edge(cluster: Cluster, tmp_path: Path, doc: str) -> None:
    async def test() -> None:
        async with (
            connect(cluster["a"].ws, store=tmp_path / "ada.db", actor="ada") as ada,
            connect(cluster["b"].ws, store=tmp_path / "ben.db", actor="ben") as ben,
        ):
            mine, theirs = await ada.open(doc), await ben.open(doc)
            mine.insert("body", 0, "first")
            await mine.confirmed(timeout=15)
            await theirs.reach(mine.token, 15)
            changes = theirs.changes()
            cause = mine.token
            mine.insert("body", 5, ", second", correlation="trip-42", causation=cause)
            seen: list[Change] = []
            while not any(change.contexts for change in seen):
                seen.append(await anext(changes))
            ((dot, context),) = seen[-1].contexts
            assert (context.edge, context.actor, context.correlation) == ("a", "ada", "trip-42")
            assert context.causation == cause
            assert dot.seq == 2

    running(test)


@pytest.fixture
def agent() -> Iterator[Agent]:
    need_node()
    with Agent() as agent:
        yield agent
        assert agent.close_all() == []


def test_a_stock_editor_and_a_python_client_both_edit_offline_and_come_back(
    cluster: Cluster, agent: Agent, tmp_path: Path, doc: str
) -> None:
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    ada.insert(0, "shared ")

    async def test() -> str:
        async with connect(cluster["b"].ws, store=tmp_path / "ben.db", actor="ben") as session:
            plan = await session.open(doc)
            await until(lambda: plan.text("text") == "shared ", "synced", 20)
            session.addresses = ()
            await asyncio.to_thread(ada.disconnect)
            plan.insert("text", 7, "from ben 🏝 ")
            plan.delete("text", 0, 1)
            await asyncio.to_thread(ada.type, "from ada ")
            session.addresses = (cluster["b"].ws,)
            await asyncio.to_thread(ada.connect)
            await plan.confirmed(timeout=20)
            await until(lambda: "from ada" in plan.text("text"), "ada's words", 20)
            await asyncio.to_thread(ada.until, "text", plan.text("text"))
            return plan.text("text")

    assert running(test) in ("hared from ada from ben 🏝 ", "hared from ben 🏝 from ada ")
    cluster.settle(doc, verify=False)
