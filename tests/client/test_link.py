"""The link against an edge that does what the test says: coming back, failing over, roaming, what is said when."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from websockets.asyncio.server import serve

from client import Change, InvalidAddress, Offline, Online, ReadOnly, Refused, Session, Stage, Unreachable, connect
from sync import extension, wire
from sync.change import Context
from sync.errors import NotYet
from sync.ids import DocId, Dot, Origin, Version
from sync.token import Token, decode_token, encode_token
from tests.client.edge import LOCAL, FakeEdge, running, until

PLAN = DocId("notes/plan")


def session_at(tmp_path: Path, *edges: FakeEdge, store: str = "notes.db", silence_s: float = 10.0) -> Session:
    return connect([edge.address for edge in edges], store=tmp_path / store, actor="ada", silence_s=silence_s)


def test_edits_made_offline_are_sent_in_order_and_confirmed(tmp_path: Path) -> None:
    async def test() -> None:
        async with connect([], store=tmp_path / "notes.db") as session:
            plan = await session.open(PLAN)
            for word in ("one ", "two ", "three "):
                plan.insert("body", len(plan.text("body")), word, correlation=word.strip())

        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            events = session.events()
            plan = await session.open(PLAN)
            await plan.confirmed(timeout=5)

            assert edge.text(PLAN) == "one two three "
            assert [edit.correlation for edit in edge.edits] == ["one", "two", "three"]
            assert [dot.seq for dot in edge.dots] == [1, 2, 3]
            assert edge.early == []
            assert plan.status.edits == ()
            assert await anext(events) == Online(edge.address, "harbour")
            assert (session.edge, session.address, session.why_offline) == ("harbour", edge.address, "")
            assert decode_token(plan.token, "skerry", PLAN).version == Version(1, 3)

    running(test)


def test_edits_of_a_document_that_nobody_opens_are_sent_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with connect([], store=tmp_path / "notes.db") as session:
            (await session.open(PLAN)).insert("body", 0, "left behind")

        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            await until(lambda: edge.text(PLAN) == "left behind", "sent")
            await until(lambda: not session.store.unmerged_documents(), "merged")
            await until(lambda: not session._documents, "closed again")

    running(test)


def test_an_edit_is_sent_again_with_its_name_until_it_is_merged(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            edge.stage = Stage.EDGE
            plan = await session.open(PLAN)
            plan.insert("body", 0, "x")
            await plan.confirmed(Stage.EDGE, timeout=5)
            with pytest.raises(NotYet):
                await plan.confirmed(timeout=0.05)

            edge.stage = Stage.MERGED
            await edge.drop()
            await plan.confirmed(timeout=5)

            assert len(edge.dots) == 2
            assert len(set(edge.dots)) == 1
            assert edge.text(PLAN) == "x"

    running(test)


def test_a_client_that_comes_back_after_a_crash_of_the_edge_brings_what_the_edge_lost(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            await until(lambda: session.online)
            await edge.type(PLAN, "theirs ")
            await until(lambda: plan.text("body") == "theirs ")
            plan.insert("body", 7, "merged")
            await plan.confirmed(timeout=5)

            edge.docs.clear()
            await edge.drop()
            await until(lambda: edge.text(PLAN) == "theirs merged", "brought back")

            edge.docs.clear()  # and with an edit that depends on what was lost
            edge.stage = None
            plan.insert("body", 13, "!")
            await edge.drop()
            edge.stage = Stage.MERGED
            await plan.confirmed(timeout=5)
            assert edge.text(PLAN) == "theirs merged!"
            await until(lambda: edge.replica(PLAN).digest() == plan.replica.digest(), "equal, deletions too")

    running(test)


def test_nothing_is_sent_early_where_the_edge_lacks_what_an_edit_needs(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            FakeEdge("a").serving() as one,
            FakeEdge("b").serving() as other,
            session_at(tmp_path, one) as session,
        ):
            plan = await session.open(PLAN)
            await until(lambda: session.online)
            await one.type(PLAN, "only here ")
            await until(lambda: plan.text("body"))
            one.stage = None
            for at in range(20):
                plan.insert("body", 4, f"{at} ")
            plan.delete("body", 0, 3)

            await session.roam(other.address)
            await plan.confirmed(timeout=5)

            assert other.early == []
            assert len(other.dots) == 21
            assert other.text(PLAN) == plan.text("body")
            assert session.edge == "b"

    running(test)


def test_others_changes_and_their_contexts_arrive(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            changes = plan.changes()
            await until(lambda: edge.opened)
            await edge.type(PLAN, "hello")
            context = Context("harbour", "ben", "1.1", "trip-42", 5)
            await edge.say_all(PLAN, extension.Changed(((Dot(Origin(1), 2), context),)))

            content, said = await anext(changes), await anext(changes)

            assert content.update
            assert plan.text("body") == "hello"
            assert said == Change(PLAN, b"", ((Dot(Origin(1), 2), context),))
            token = encode_token(Token("skerry", PLAN, None, Dot(Origin(1), 2)))
            await plan.read(at_least=token, timeout=0)

        async with connect([], store=tmp_path / "notes.db") as session:
            assert (await session.open(PLAN)).text("body") == "hello"

    running(test)


def test_a_read_waits_for_the_edge_to_say_that_it_has_come_so_far(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge:
            async with session_at(tmp_path, edge) as session:
                plan = await session.open(PLAN)
                wanted = encode_token(Token("skerry", PLAN, None, Dot(Origin(9), 1)))
                with pytest.raises(NotYet, match=r"have no version, want 9\.1"):
                    await plan.read(at_least=wanted, timeout=0.1)
                reading = asyncio.create_task(plan.read(at_least=wanted, timeout=5))
                await until(lambda: sum(isinstance(m, extension.Await) for m in edge.came) > 2, "asked again")
                await edge.drop()
                edge.replica(PLAN).dots.add(Dot(Origin(9), 1))
                await reading

                later = encode_token(Token("skerry", PLAN, Version(1, 7), None))
                reading = asyncio.create_task(plan.read(at_least=later, timeout=5))
                await until(lambda: session.online)
                await edge.say_all(PLAN, extension.At(Version(1, 6)))
                await edge.say_all(PLAN, extension.At(Version(1, 7)))
                await reading
                assert plan.version == Version(1, 7)

            async with connect([], store=tmp_path / "notes.db") as session:
                plan = await session.open(PLAN, at_least=later, timeout=0)
                assert plan.token == later

    running(test)


def test_the_next_address_is_taken_when_an_edge_dies_and_when_it_says_good_bye(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge("b").serving() as other:
            async with FakeEdge("a").serving() as one:
                session = session_at(tmp_path, one, other)
                await session.start()
                events = session.events()
                plan = await session.open(PLAN)
                await session.connected(5)
                assert session.edge == "a"
                await one.close(1001, "the edge is shutting down")
                await until(lambda: session.edge == "b", "failed over")
                assert await anext(events) == Online(one.address, "a")
                offline = await anext(events)
                assert isinstance(offline, Offline)
                assert "1001 the edge is shutting down" in offline.reason
                plan.insert("body", 0, "x")
                await plan.confirmed(timeout=5)
            await session.close()
            assert other.text(PLAN) == "x"

    running(test)


def test_an_edge_that_falls_silent_is_left(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes on what the edge says, until it is told to be silent."""
        there, back = await asyncio.open_connection(LOCAL, behind)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                if not cut.is_set():
                    sink.write(data)

        with contextlib.suppress(OSError):
            await asyncio.gather(pump(reader, back), pump(there, writer))
        back.close()
        writer.close()

    behind = 0
    cut = asyncio.Event()

    async def test() -> None:
        nonlocal behind
        async with FakeEdge("a").serving() as one, FakeEdge("b").serving() as other:
            behind = one.port
            proxy = await asyncio.start_server(silent, LOCAL, 0)
            address = f"ws://{LOCAL}:{proxy.sockets[0].getsockname()[1]}"
            async with connect([address, other.address], store=tmp_path / "notes.db", silence_s=0.3) as session:
                await session.connected(5)
                assert session.edge == "a"
                cut.set()
                await until(lambda: session.edge == "b", "left")
            proxy.close()

    running(test)


def test_the_link_comes_back_for_ever_and_offline_is_told_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge:
            port = edge.port
            session = session_at(tmp_path, edge)
        await session.start()
        events = session.events()
        plan = await session.open(PLAN)
        plan.insert("body", 0, "x")
        with pytest.raises(Unreachable, match="no edge within"):
            await session.connected(0.5)
        async with edge.serving(port):
            await plan.confirmed(timeout=10)
        await session.close()
        seen = [type(event).__name__ async for event in events]
        assert seen.count("Online") == 1
        assert seen[0] == "Safer"
        assert 1 <= seen.count("Offline") <= 2

    running(test)


def test_addresses_can_be_changed_while_the_session_runs(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            FakeEdge("a").serving() as one,
            FakeEdge("b").serving() as other,
            connect([], store=tmp_path / "notes.db") as session,
        ):
            session.addresses = (one.address,)
            await session.connected(5)
            session.addresses = (one.address, other.address)
            assert session.edge == "a"
            session.addresses = (other.address,)
            await until(lambda: session.edge == "b", "moved")
            with pytest.raises(InvalidAddress):
                session.addresses = ("nonsense",)
            assert session.addresses == (other.address,)

    running(test)


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        ({"namespace": "tide"}, "connect with namespace='tide'"),
        ({"subprotocols": None}, "does not speak skerry.v1"),
    ],
)
def test_what_is_no_edge_of_ours_is_said_in_a_line(tmp_path: Path, edge: dict[str, object], why: str) -> None:
    async def test() -> None:
        wrong = FakeEdge()
        for name, value in edge.items():
            setattr(wrong, name, value)
        async with wrong.serving(), session_at(tmp_path, wrong) as session:
            with pytest.raises(Unreachable, match=why):
                await session.connected(0.5)
            assert why in session.why_offline
            assert not wrong.opened

    running(test)


@pytest.mark.parametrize("first", [b"\x00\x03", b"\x00", b"", b"\x01\x6c\x01\x00\x00", b"\xff" * 20])
def test_an_edge_that_greets_with_nonsense_is_left(tmp_path: Path, first: bytes) -> None:
    async def test() -> None:
        wrong = FakeEdge()
        wrong.greets = False
        async with wrong.serving(), session_at(tmp_path, wrong) as session:
            await until(lambda: wrong.connections)
            await wrong.connections[0].send(first)
            await until(lambda: len(wrong.connections) > 1, "left and tried again")
            assert not session.online

    running(test)


@pytest.mark.parametrize(
    "inner",
    [
        b"\x00\x02\x03\x01\x01\x01",
        b"\x68",
        b"\x6c\x01\x00\x00",
        b"\x67\x09\x00\x00\x00",
        b"\x00\x00\x05\xff\xff\xff\xff\x0f",
    ],
)
def test_bad_bytes_of_an_edge_end_the_connection_and_touch_nothing(tmp_path: Path, inner: bytes) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            plan.insert("body", 0, "mine")
            await plan.confirmed(timeout=5)
            socket, number, _ = edge.opened[-1]
            await socket.send(extension.on_channel(number, inner))
            await until(lambda: len(edge.opened) > 1, "connected again")

            assert plan.text("body") == edge.text(PLAN) == "mine"

    running(test)


def test_a_refused_document_is_tried_again_and_the_others_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            edge.refuse[PLAN] = (4429, "too many; connect again later")
            plan, other = await session.open(PLAN), await session.open("notes/other")
            events = plan.events()
            plan.insert("body", 0, "x")
            other.insert("body", 0, "y")
            await other.confirmed(timeout=5)
            while not isinstance(event := await anext(events), Refused):
                pass
            assert event == Refused(PLAN, 4429, "too many; connect again later")
            edge.refuse.clear()
            await plan.confirmed(timeout=10)
            assert session.online
            assert len(edge.connections) == 1

    running(test)


def test_an_edge_that_denies_makes_a_document_read_only(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            await until(lambda: edge.opened)
            await edge.say_all(PLAN, wire.PermissionDenied("for readers"))
            await until(lambda: plan.denied)
            with pytest.raises(ReadOnly, match="for readers"):
                plan.insert("body", 0, "x")
            await edge.type(PLAN, "still read")
            await until(lambda: plan.text("body") == "still read")

    running(test)


def test_what_comes_while_an_edit_is_made_waits_for_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan, other = await session.open(PLAN), await session.open(DocId("other"))
            await until(lambda: len(edge.opened) == 2)
            with plan.edit() as crdt:
                crdt["body"] += "mine "
                await edge.type(PLAN, "theirs ")
                await edge.type("other", "behind it on the same connection")
                await until(
                    lambda: other.text("body") != ""
                )  # so what is for the plan is here too, and must not be seen
                assert str(crdt["body"]) == "mine "
            await plan.confirmed(timeout=5)
            await until(lambda: sorted(plan.text("body").split()) == ["mine", "theirs"])
            assert len(edge.edits) == 1
            await until(lambda: edge.text(PLAN) == plan.text("body"))
            assert b"theirs" not in edge.edits[0].update

    running(test)


def test_an_update_that_comes_early_waits_and_the_gap_is_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            await until(lambda: edge.opened)
            kept, edge.opened = edge.opened, []
            await edge.type(PLAN, "lost ")  # on its way to nobody
            edge.opened = kept
            await edge.type(PLAN, "early")
            await until(lambda: plan.replica.early, "set aside")
            assert plan.text("body") == ""
            await until(lambda: plan.text("body") == "lost early", "asked for")

    running(test)


def test_presence_goes_both_ways_and_ends_with_the_link(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            await until(lambda: edge.opened)
            changed: list[dict[int, object]] = []
            plan.awareness.observe(lambda news: changed.append(dict(news)))
            plan.awareness.state = {"name": "ada"}
            await until(lambda: any(isinstance(m, wire.AwarenessUpdate) for m in edge.came), "told")
            await edge.say_all(PLAN, wire.AwarenessUpdate(b"\x01\x05\x01\x0e" + b'{"name":"ben"}'))
            await until(lambda: 5 in plan.awareness.states)
            assert plan.awareness.states == {5: {"name": "ben"}, plan.client_id: {"name": "ada"}}
            session.addresses = ()
            await until(lambda: changed == [{5: {"name": "ben"}}, {5: None}], "gone with the link")

    running(test)


def test_a_document_that_is_closed_says_good_bye_and_can_be_opened_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plan = await session.open(PLAN)
            await until(lambda: edge.opened)
            await plan.close()
            await until(lambda: any(isinstance(m, extension.CloseChannel) for m in edge.came), "good-bye")
            again = await session.open(PLAN)
            again.insert("body", 0, "x")
            await again.confirmed(timeout=5)
            assert again is not plan
            assert len({number for _, number, _ in edge.opened}) == 2

    running(test)


def test_many_documents_share_one_connection(tmp_path: Path) -> None:
    async def test() -> None:
        async with FakeEdge().serving() as edge, session_at(tmp_path, edge) as session:
            plans = [await session.open(f"notes/{at}") for at in range(50)]
            for plan in plans:
                plan.insert("body", 0, plan.doc)
            await asyncio.gather(*[plan.confirmed(timeout=10) for plan in plans])
            assert len(edge.connections) == 1
            assert all(edge.text(plan.doc) == plan.doc for plan in plans)

    running(test)


def test_roaming_between_edges_while_typing_loses_and_repeats_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            FakeEdge("a").serving() as one,
            FakeEdge("b").serving() as other,
            session_at(tmp_path, one, other) as session,
        ):
            plan = await session.open(PLAN)
            for at in range(200):
                plan.insert("body", len(plan.text("body")), f"{at} ")
                if at % 20 == 10:
                    await session.roam((one, other)[at // 20 % 2].address)
                if at % 17 == 3:
                    await one.drop()
                await asyncio.sleep(0.003)
            await plan.confirmed(timeout=20)
            last = session.edge
            for edge in (one, other):
                await session.roam(edge.address)
                await session.connected(10)
                await until(lambda edge=edge: edge.text(PLAN) == plan.text("body"), f"{edge.name}, after {last}")  # type: ignore[misc]
            assert plan.text("body").split() == [str(at) for at in range(200)]
            assert one.early == other.early == []

    running(test)


def test_a_stranger_on_the_port_is_no_edge(tmp_path: Path) -> None:
    async def test() -> None:
        async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\r\n")
            await writer.drain()
            writer.close()

        stranger = await asyncio.start_server(shout, LOCAL, 0)
        address = f"ws://{LOCAL}:{stranger.sockets[0].getsockname()[1]}"
        async with connect(address, store=tmp_path / "notes.db") as session:
            with pytest.raises(Unreachable, match="work on offline"):
                await session.connected(0.5)
            assert session.why_offline.startswith(address)
        stranger.close()

    running(test)


def test_text_frames_are_no_messages(tmp_path: Path) -> None:
    async def test() -> None:
        async def talk(socket: object) -> None:
            await socket.send("hello")  # type: ignore[attr-defined]
            await socket.wait_closed()  # type: ignore[attr-defined]

        async with serve(talk, LOCAL, 0, subprotocols=FakeEdge().subprotocols) as server:
            address = f"ws://{LOCAL}:{next(iter(server.sockets)).getsockname()[1]}"
            async with connect(address, store=tmp_path / "notes.db") as session:
                with pytest.raises(Unreachable):
                    await session.connected(0.5)

    running(test)
