"""The client and its commands at an edge that asks who comes: what may only be read, and what may not be at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Denied, ReadOnly, ReadOnlyHere, Refused, connect
from tests.client.edge import running, until
from tests.client.test_cli import Skerry, editor, skerry
from tests.processes import Cluster, Node, record, run_cli

__all__ = ["skerry"]  # the fixture

DOC = "team/plan"


class Guarded:
    """An edge with keys, and tokens for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        keys = ["--private", str(directory / "signer.json"), "--keys", str(directory / "keys.json")]
        assert run_cli("token", "key", *keys).returncode == 0
        self.writer = self.token("--write", "*")
        self.reader = self.token("--read", "team/*")
        self.gone = self.token("--write", "*", "--for", "1s")
        self.edge: Node

    def token(self, *grant: str) -> str:
        made = run_cli("token", "make", "--key", str(self.directory / "signer.json"), "--sub", "ada", *grant)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    made = Guarded(directory)
    with Cluster(directory, []) as cluster:
        command = ["edge", "--name", "guarded", "--data", str(directory / "data"), "--listen", "{listen}"]
        command += ["--nats", cluster.nats.url, "--auth-keys", str(directory / "keys.json")]
        made.edge = Node("edge", "guarded", directory, command)
        made.edge.start()
        try:
            yield made
        finally:
            made.edge.end()


def test_who_may_only_read_is_told_before_editing(guarded: Guarded, tmp_path: Path) -> None:
    async def test() -> None:
        async with connect(guarded.edge.ws, store=tmp_path / "ada.db", token=guarded.writer) as session:
            mine = await session.open(f"{DOC}-1")
            mine.insert("body", 0, "for all to read")
            await mine.confirmed(timeout=20)
        async with connect(guarded.edge.ws, store=tmp_path / "ben.db", token=guarded.reader) as session:
            plan = await session.open(f"{DOC}-1")
            await plan.synced(timeout=10)
            with pytest.raises(ReadOnly, match=r"read-only \(this token may not change this document\)"):
                plan.insert("body", 0, "x")
            with pytest.raises(ReadOnly), plan.edit() as crdt:
                crdt["body"] += "x"
            assert plan.text("body") == "for all to read"
            assert plan.status.edits == ()

    running(test)


def test_an_edit_made_before_it_was_known_is_told_and_goes_with_a_token_that_may(
    guarded: Guarded, tmp_path: Path
) -> None:
    async def test() -> None:
        async with connect([], store=tmp_path / "ben.db", token=guarded.reader) as session:
            plan = await session.open(f"{DOC}-2")
            plan.insert("body", 0, "made offline")
            events = plan.events()
            waiting = asyncio.create_task(plan.confirmed(timeout=20))
            session.addresses = (guarded.edge.ws,)
            with pytest.raises(ReadOnly, match="1 edits stay in the store"):
                await waiting
            while not isinstance(event := await anext(events), ReadOnlyHere):
                pass
            assert event.doc == plan.doc
            with pytest.raises(ReadOnly):
                await plan.confirmed(timeout=1)
        async with connect(guarded.edge.ws, store=tmp_path / "ben.db", token=guarded.writer) as session:
            plan = await session.open(f"{DOC}-2")
            await plan.confirmed(timeout=20)
            plan.insert("body", 0, "and edited again, ")
            await plan.confirmed(timeout=20)
            assert plan.denied == ""

    running(test)


def test_what_a_token_does_not_grant_or_does_not_hold_is_told(guarded: Guarded, tmp_path: Path) -> None:
    async def test() -> None:
        async with connect(guarded.edge.ws, store=tmp_path / "ben.db", token=guarded.reader) as session:
            events = session.events()
            await session.open("private/diary")
            while not isinstance(event := await anext(events), Refused):
                pass
            assert (event.doc, event.code) == ("private/diary", 4403)
        async with connect(guarded.edge.ws, store=tmp_path / "ben.db", token=guarded.gone) as session:
            events = session.events()
            while not isinstance(denied := await anext(events), Denied):
                pass
            assert denied.code in (4401, 4419)
            await until(lambda: "closed (44" in session.why_offline)

    running(test)


def test_the_command_says_that_it_is_read_only(
    guarded: Guarded, tmp_path: Path, skerry: Skerry, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge, doc = ("--edge", guarded.edge.ws), f"{DOC}-3"
    assert skerry("set", doc, "/body", '"as it was"', *edge, "--token", guarded.writer).status == 0

    done = skerry("set", doc, "/body", '"x"', *edge, "--token", guarded.reader)

    why = f"skerry: {doc}: read-only (this token may not change this document); edit another document\n"
    assert done == (1, "", why)
    assert skerry("set", doc, "/body", "--delete", *edge).err == why  # SKERRY_TOKEN is still set
    assert skerry("edit", doc, *edge, stdin=b"x").err == why
    kept = skerry("set", doc, "/body", '"x"', *edge, "--offline", tmp_path / "ben.db")
    assert (kept.status, kept.err) == (1, why)
    assert skerry("get", doc, "/body", *edge).out == "as it was\n"
    monkeypatch.setenv("EDITOR", editor(tmp_path, "path.write_text('an hour of typing')"))
    lost = skerry("edit", doc, *edge)
    assert lost.status == 1
    assert lost.err == why  # before the editor is opened


def test_the_command_says_who_may_not_come_in(guarded: Guarded, skerry: Skerry) -> None:
    edge = ("--edge", guarded.edge.ws)
    nobody = skerry("get", DOC, *edge)
    late = skerry("get", DOC, *edge, "--token", guarded.gone)
    foreign = skerry("get", "private/diary", *edge, "--token", guarded.reader)
    listed = skerry("export", "--match", "*", "--to", "nowhere", *edge, "--token", guarded.gone)

    assert (nobody.status, late.status, foreign.status, listed.status) == (1, 1, 1, 1)
    assert "(4401)" in nobody.err
    assert "show a token that holds with --token" in nobody.err
    assert "show a token that holds with --token" in late.err
    assert "this token does not grant this document" in foreign.err
    assert "(4403)" in foreign.err
    assert all(done.err.count("\n") == 1 for done in (nobody, late, foreign, listed))


def test_a_document_that_may_be_read_is_there(guarded: Guarded, skerry: Skerry) -> None:
    edge = ("--edge", guarded.edge.ws)
    skerry("set", f"{DOC}-4", "/text", '"x"', *edge, "--token", guarded.writer)

    assert record(skerry("get", f"{DOC}-4", *edge, "--token", guarded.reader).json) == {"text": "x"}
