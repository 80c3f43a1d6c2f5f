"""Names, tokens and texts never reach a log. Real processes, all of their log, at the most talkative level."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

import client
from server.auth import Rule, make_key, make_token, parse_keys
from server.log import named, report, scrubbed, without_subjects
from sync import wire
from sync.document import Document
from sync.ids import parse_document_id
from sync.step import Report
from tests.processes import NatsNode, Node

DOC = "geheim/Übernahme der Schröder.AG"
TEXT = "kaufpreis-77-millionen"
SUBJECT = "zacharias.quint@example.org"
KID = "schluessel-kid-4711"


async def visit(edge: str, good: str, bad: str) -> None:
    """Everything that an edge could be tempted to mention: refusals, bad bytes, foreign pages, edits, presence."""
    path = quote(DOC, safe="")
    for query, origin in ((f"?token={bad}", None), (f"?token={good}", "https://boese.example"), ("", None)):
        try:
            async with connect(f"ws://{edge}/{path}{query}", origin=Origin(origin) if origin else None) as socket:
                await socket.send(wire.encode(wire.Authenticate(bad)))
                while True:
                    await socket.recv()
        except (ConnectionClosed, InvalidStatus):
            pass
    update = Document().edit_text("text", 0, 0, TEXT)
    for frame in (wire.encode(wire.Update(update))[:-1], wire.encode(wire.Update(update + b"\x01")), TEXT.encode()):
        async with connect(f"ws://{edge}/{path}?token={good}") as socket:
            await socket.send(frame)
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await socket.recv()


def test_a_run_with_distinctive_names_leaves_none_of_them_in_a_log(tmp_path: Path) -> None:
    signs, verifies = make_key("EdDSA", KID)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [verifies]}))
    key = parse_keys(json.dumps(signs).encode(), private=True).all[0]
    good = make_token(key, SUBJECT, (Rule("geheim/*", "write"),), time.time(), 3600)
    bad = make_token(key, SUBJECT, (Rule("geheim/*", "write"),), time.time(), -10)
    nats = NatsNode("nats", tmp_path / "nats", tmp_path / "data")
    nodes: list[Node] = [nats]
    try:
        nats.start()
        talkative = ["--nats", nats.url, "--log-level", "debug"]
        nodes.append(Node("leader", "leader", tmp_path / "leader", ["leader", "--name", "leader", *talkative]))
        for name in ("a", "b"):
            data = ["--data", str(tmp_path / name), "--listen", "{listen}", "--auth-keys", str(tmp_path / "keys.json")]
            nodes.append(Node("edge", name, tmp_path / name, ["edge", "--name", name, *data, *talkative]))
        for node in nodes[1:]:
            node.start()

        async def work() -> None:
            async with (
                client.connect(f"ws://{nodes[2].listen}", store=tmp_path / "ada.db", token=good) as ada,
                client.connect(f"ws://{nodes[3].listen}", store=tmp_path / "ben.db", token=good) as ben,
            ):
                plan, same = await ada.open(DOC), await ben.open(DOC)
                with plan.edit(actor=SUBJECT, correlation=TEXT) as crdt:
                    crdt["body"] += TEXT
                await plan.confirmed(timeout=30)
                await same.reach(plan.token, 30)
                await visit(nodes[2].listen, good, bad)

        asyncio.run(work())
        nats.stop()
        nats.start()  # a link that is lost and found again is talked about
        nodes[2].restart()
        asyncio.run(visit(nodes[2].listen, good, bad))
    finally:
        for node in reversed(nodes):
            node.end()

    logs = "".join(node.errors() for node in nodes)
    assert "client_refused" in logs
    assert "client_closed" in logs
    secrets = [DOC, quote(DOC, safe=""), quote(DOC), "bernahme", "Schr", TEXT, SUBJECT, "zacharias", KID]
    secrets += [part for text in (good, bad) for part in text.split(".")[1:]]
    told = [line for line in logs.splitlines() if any(secret in line for secret in secrets)]
    assert told == []


def test_a_document_has_the_same_digits_in_every_log() -> None:
    doc = parse_document_id("notes/plan.txt")

    assert named(doc) == named(parse_document_id("notes/plan.txt"))
    assert (named(doc)[0], len(named(doc))) == ("#", 9)
    assert scrubbed("notes/plan.txt: have 1; notes/plan%2Etxt too, notes/plan.txtx not", doc) == (
        f"{named(doc)}: have 1; {named(doc)} too, notes/plan.txtx not"
    )
    assert scrubbed("a letter", parse_document_id("a")) == f"{named(parse_document_id('a'))} letter"


def test_what_a_machine_reports_names_no_document(caplog: pytest.LogCaptureFixture) -> None:
    doc = parse_document_id(DOC)
    report(logging.getLogger("skerry.test"), Report("update_refused", doc, f"{DOC}: an update broke it"))

    assert caplog.messages == [f"update_refused doc={named(doc)} detail='{named(doc)}: an update broke it'"]


def test_subjects_in_errors_of_nats_lose_their_documents() -> None:
    doc = parse_document_id("notes/plan.txt")
    said = "nats: permissions violation for publish to 'skerry.merged.notes/plan%2Etxt'"

    assert without_subjects(said) == f"nats: permissions violation for publish to 'skerry.merged.{named(doc)}'"
    assert (
        without_subjects("skerry.changes.3.notes/plan%2Etxt: no answer") == f"skerry.changes.3.{named(doc)}: no answer"
    )
    assert without_subjects("skerry.sync.3: no answer") == "skerry.sync.3: no answer"
    assert "plan" not in without_subjects("skerry.events.%zzplan")
