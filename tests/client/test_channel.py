"""What is believed of an edge before it has said what a document lacks."""

from __future__ import annotations

from pathlib import Path

from client import connect
from client.channel import Channel
from sync import extension, wire
from sync.change import Context
from sync.ids import Dot, Origin, Version
from sync.token import Token, encode_token
from tests.client.edge import running

DOC = "notes/plan"


def test_how_far_a_document_is_counts_behind_the_edges_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with connect("ws://127.0.0.1:1", store=tmp_path / "ada.db") as session:
            plan = await session.open(DOC)
            channel = Channel(1, plan)
            dot, version = Dot(Origin(7), 1), Version(5, 9)
            said: list[extension.Message] = [extension.At(version), extension.Changed(((dot, Context("b", "ben")),))]

            for message in said:
                channel.receive(extension.encode(message), 0)
            assert plan.version is None
            assert dot not in plan.replica.dots

            channel.receive(wire.encode(wire.SyncStep2(b"\x00\x00")), 0)
            for message in said:
                channel.receive(extension.encode(message), 0)
            assert plan.version == version
            await plan.reach(encode_token(Token("skerry", plan.doc, None, dot)), 0)

    running(test)
