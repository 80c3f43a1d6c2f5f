"""NATS accounts: everything works, and an edge that turns against the others does them nothing. A real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

import client
from server.account_commands import make_accounts
from server.accounts import accounts_config
from server.bus import Bus, BusConfig
from server.record import KILLS
from server.streams import Layout
from sync.errors import ConfigError
from sync.ids import DocId
from sync.text import parse_dot
from tests.processes import NatsNode, Node, run_cli, wait_for
from tests.server.ear import Ear, up

DOC = "notes/plan"
LAYOUT = Layout("skerry")
QUIET_S = 0.5  # what is denied never comes: so long is waited for it


class Guarded(NatsNode):
    """`skerry nats --accounts`."""

    def __init__(self, directory: Path, accounts: Path) -> None:
        super().__init__("nats", directory, directory / "data")
        self._command += ["--accounts", str(accounts)]


class Sea:
    def __init__(self, directory: Path) -> None:
        self.keys = directory / "keys"
        accounts = make_accounts(self.keys, "skerry", ["leader"], ["operator"], ["a", "b"])
        self.nats = Guarded(directory / "nats", accounts)
        self.nats.start()
        self.leader = self._node(directory, "leader", "leader")
        self.a, self.b = (
            self._node(directory, "edge", name, "--data", str(directory / name), "--listen", "{listen}")
            for name in ("a", "b")
        )

    def key(self, name: str) -> str:
        return str(self.keys / f"{name}.nk")

    def _node(self, directory: Path, role: str, name: str, *more: str) -> Node:
        command = [role, "--name", name, "--nats", self.nats.url, "--nkey", self.key(name), *more]
        return Node(role, name, directory, command)

    def start(self) -> None:
        for node in (self.a, self.leader, self.b):  # an edge that comes first waits for the streams
            node.start()
        self.a.wait_link("up", 30)
        self.b.wait_link("up", 30)

    def end(self) -> None:
        for node in (self.a, self.b, self.leader, self.nats):
            node.end()

    def operator(self, *command: str) -> tuple[int, str]:
        done = run_cli(*command, "--nats", self.nats.url, "--nkey", self.key("operator"), "--json")
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sea(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sea]:
    sea = Sea(tmp_path_factory.mktemp("accounts"))
    try:
        sea.start()
        yield sea
    finally:
        sea.end()


async def write(sea: Sea, tmp_path: Path, text: str, doc: str = DOC) -> None:
    """At edge a, and read at edge b."""
    async with (
        client.connect(f"ws://{sea.a.listen}", store=tmp_path / "ada.db") as ada,
        client.connect(f"ws://{sea.b.listen}", store=tmp_path / "ben.db") as ben,
    ):
        plan, same = await ada.open(doc), await ben.open(doc)
        with plan.edit() as crdt:
            crdt["body"] += text
        await plan.confirmed(timeout=30)
        await same.reach(plan.token, 30)


def test_everything_works_for_those_who_may(sea: Sea, tmp_path: Path) -> None:
    asyncio.run(write(sea, tmp_path, "hello"))
    # Larger than a message: the object store, and answers in parts.
    asyncio.run(write(sea, tmp_path, "x" * 3_000_000, "notes/large"))

    code, said = sea.operator("verify")
    assert code == 0, said
    assert json.loads(said)["verdict"] == "EQUAL"
    code, said = sea.operator("status")
    names = {(node["role"], node["name"]) for node in json.loads(said)["nodes"]}
    assert names == {("edge", "a"), ("edge", "b"), ("leader", "leader")}
    assert "bus_permission" not in sea.a.errors() + sea.b.errors() + sea.leader.errors()


def test_presence_crosses(sea: Sea, tmp_path: Path) -> None:
    async def meet() -> None:
        async with (
            client.connect(f"ws://{sea.a.listen}", store=tmp_path / "ada.db") as ada,
            client.connect(f"ws://{sea.b.listen}", store=tmp_path / "ben.db") as ben,
        ):
            mine, theirs = await ada.open(DOC), await ben.open(DOC)
            await ada.connected(20)
            await ben.connected(20)
            mine.awareness.state = {"name": "Ada"}
            async with asyncio.timeout(20):
                while {"name": "Ada"} not in theirs.awareness.states.values():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # until she is seen, with a deadline

    asyncio.run(meet())


def test_an_edge_reads_what_leaders_have_died_of(sea: Sea) -> None:
    headers = {"Skerry-Dot": "7.1", "Skerry-Reason": KILLS, "Skerry-Version": "1-1"}

    async def read() -> None:
        async with user(sea, "leader") as hub:
            subject = LAYOUT.of("rejected", DocId("notes/deadly"))
            for more in ({}, {"Skerry-Dot": "7.2", "Skerry-Reason": "another"}, {"Skerry-Dot": "7.x"}):
                await hub.jetstream().publish(subject, b"", headers=headers | more)
        edge = Bus(BusConfig((sea.nats.url,), nkey=Path(sea.key("a")), name="a"), Ear())
        await edge.start()
        try:
            await up(edge)
            assert await edge.read_unsafe(DocId("notes/deadly")) == {parse_dot("7.1")}
        finally:
            await edge.stop()

    asyncio.run(read())


# --- an edge that turns against the others ----------------------------------------------------------------------------
@asynccontextmanager
async def user(sea: Sea, name: str) -> AsyncIterator[Client]:
    """A plain NATS client with the key of this user."""

    async def ignore(_: Exception) -> None:
        """What is denied is looked for in what happens."""

    found = await nats.connect(sea.nats.url, nkeys_seed=sea.key(name), error_cb=ignore)
    try:
        yield found
    finally:
        await found.close()


async def asked(rogue: Client, subject: str, body: object) -> dict[str, object] | None:
    """The server's answer; None: it never came so far."""
    try:
        answer = await rogue.request(subject, json.dumps(body).encode(), timeout=QUIET_S)
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        return None
    found: dict[str, object] = json.loads(answer.data)
    return found


CHANGES = LAYOUT.changes


@pytest.mark.parametrize(
    ("api", "body"),
    [
        (f"STREAM.PURGE.{CHANGES}", {}),
        (f"STREAM.DELETE.{CHANGES}", {}),
        (f"STREAM.MSG.DELETE.{CHANGES}", {"seq": 1}),
        (f"STREAM.UPDATE.{CHANGES}", {"name": CHANGES, "subjects": ["skerry.changes.*.*"], "max_msgs": 1}),
        (f"STREAM.SNAPSHOT.{CHANGES}", {"deliver_subject": "x"}),
        ("STREAM.CREATE.MINE", {"name": "MINE", "subjects": ["mine"], "mirror": {"name": CHANGES}}),
        (f"STREAM.PURGE.{LAYOUT.snapshots}", {}),
        (f"STREAM.DELETE.OBJ_{LAYOUT.objects}", {}),
        (f"STREAM.PURGE.KV_{LAYOUT.leaders}", {}),
        (f"CONSUMER.DELETE.{CHANGES}.leader-0", {}),
        (f"CONSUMER.CREATE.{CHANGES}.mine", {"stream_name": CHANGES, "config": {"name": "mine"}}),
        (f"CONSUMER.MSG.NEXT.{CHANGES}.leader-0", {"batch": 1000}),
    ],
)
def test_an_edge_cannot_touch_the_streams(sea: Sea, tmp_path: Path, api: str, body: dict[str, object]) -> None:
    asyncio.run(write(sea, tmp_path, "kept"))

    async def attempt() -> None:
        async with user(sea, "a") as rogue, user(sea, "leader") as leader:
            before = await asked(leader, f"$JS.API.STREAM.INFO.{CHANGES}", {})
            assert await asked(rogue, f"$JS.API.{api}", body) is None
            after = await asked(leader, f"$JS.API.STREAM.INFO.{CHANGES}", {})
            assert before is not None
            assert after is not None
            assert (after["config"], after["created"]) == (before["config"], before["created"])
            assert after["state"]["first_seq"] == before["state"]["first_seq"]  # type: ignore[index]
            assert after["state"]["messages"] >= before["state"]["messages"]  # type: ignore[index]

    asyncio.run(attempt())


def test_nor_can_the_leader_delete_from_the_log(sea: Sea) -> None:
    async def attempt() -> None:
        async with user(sea, "leader") as leader:
            for api in (f"STREAM.PURGE.{CHANGES}", f"STREAM.DELETE.{CHANGES}", f"STREAM.MSG.DELETE.{CHANGES}"):
                assert await asked(leader, f"$JS.API.{api}", {}) is None

    asyncio.run(attempt())


TOKEN = "notes/plan"
LEADERS_OWN = [
    f"skerry.merged.{TOKEN}",
    "skerry.beacon.0",
    f"skerry.repair.{TOKEN}",
    f"skerry.snapshots.{TOKEN}",
    f"skerry.rejected.{TOKEN}",
    f"skerry.events.{TOKEN}",
    "skerry.ask",
    f"$KV.{LAYOUT.leaders}.0",
]


@pytest.mark.parametrize("subject", LEADERS_OWN)
@pytest.mark.parametrize("way", ["publish", "reply of a direct get", "reply of a get", "reply of a publish"])
def test_an_edge_cannot_speak_as_the_leader(sea: Sea, tmp_path: Path, subject: str, way: str) -> None:
    """Not by publishing, and not by having the server send what it has stored: the reply of a question is a subject."""
    asyncio.run(write(sea, tmp_path, "x"))

    async def attempt() -> None:
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        async with user(sea, "a") as rogue, user(sea, "b") as other, user(sea, "leader") as hub:
            for ear in (other, hub):
                await ear.subscribe(subject, cb=hear)
                await ear.flush()
            match way:
                case "publish":
                    await rogue.publish(subject, b"forged")
                case "reply of a direct get":
                    body = json.dumps({"seq": 1}).encode()
                    await rogue.publish(f"$JS.API.DIRECT.GET.{CHANGES}", body, reply=subject)
                case "reply of a get":
                    body = json.dumps({"seq": 1}).encode()
                    await rogue.publish(f"$JS.API.STREAM.MSG.GET.{CHANGES}", body, reply=subject)
                case _:
                    await rogue.publish("skerry.changes.0.notes/other", b"\x00\x00", reply=subject)
            await rogue.flush()
            await asyncio.sleep(QUIET_S)
            forged = [
                message
                for message in heard
                if message.data == b"forged"
                or b'"stream"' in message.data
                or b"io.nats" in message.data
                or (message.headers or {}).get("Nats-Stream")
            ]
            assert forged == []

    asyncio.run(attempt())


def test_an_edge_hears_neither_questions_nor_answers_of_others(sea: Sea) -> None:
    async def attempt() -> None:
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        async with user(sea, "a") as rogue, user(sea, "b") as other:
            for subject in ("skerry.sync.*", "skerry.stamp", "skerry.answer.*", "_INBOX.>", "skerry.changes.>"):
                await rogue.subscribe(subject, cb=hear)
            await rogue.flush()
            await other.publish("skerry.sync.0", b"?", reply="_INBOX.b")
            await other.publish("skerry.answer.x", b"!")
            await other.publish("_INBOX.b", b"secret")
            await other.flush()
            await asyncio.sleep(QUIET_S)
        # What it hears on the way are its own edge's answers: an account is an edge's own.
        assert [message for message in heard if message.data in (b"?", b"!", b"secret")] == []

    asyncio.run(attempt())


def test_without_a_key_nobody_comes_in(sea: Sea) -> None:
    done = run_cli("status", "--nats", sea.nats.url, "--json")

    assert done.returncode == 1
    assert "refuses these credentials" in done.stderr


def test_a_log_that_was_rolled_back_is_marked_by_the_leader_for_an_edge(tmp_path: Path) -> None:
    """The edge notices, and may not mark it itself."""
    sea = Sea(tmp_path)
    try:
        sea.start()
        asyncio.run(write(sea, tmp_path, "before "))
        epoch = str(sea.a.status()["epoch"])
        sea.nats.keep_copy(tmp_path / "copy")
        for node in (sea.a, sea.b):
            node.wait_link("up", 30)
        asyncio.run(write(sea, tmp_path, "after"))
        sea.leader.stop()  # it knows nothing of the log's past when it starts again
        sea.nats.roll_back(tmp_path / "copy")
        sea.leader.start()

        wait_for(lambda: sea.a.status()["epoch"] not in (epoch, None), 60, lambda: sea.a.last_lines(30))
        wait_for(lambda: sea.operator("verify")[0] == 0, 60, lambda: sea.operator("verify")[1])
        assert sea.b.document(DOC)["content"]["body"]["value"] == "before after"  # type: ignore[index,call-overload]
        assert "log_rolled_back" in sea.a.errors() + sea.b.errors()
    finally:
        sea.end()


# --- the configuration ------------------------------------------------------------------------------------------------
def test_an_edge_is_added_and_the_keys_of_the_others_stay(tmp_path: Path) -> None:
    make_accounts(tmp_path, "skerry", ["leader"], ["operator"], ["a"])
    before = (tmp_path / "a.nk").read_bytes()

    path = make_accounts(tmp_path, "skerry", ["leader"], ["operator"], ["a", "b"])

    assert (tmp_path / "a.nk").read_bytes() == before
    assert "skerry_edge_b" in path.read_text()
    assert (tmp_path / "b.nk").stat().st_mode & 0o077 == 0
    assert before not in path.read_bytes(), "seeds stay out of the server's configuration"


@pytest.mark.parametrize("name", ["", "a b", "a.b", "../a", 'a"', "ä"])
def test_names_that_would_break_the_configuration_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a user"):
        make_accounts(tmp_path, "skerry", ["leader"], [], [name])
    with pytest.raises(ConfigError, match="no name for a user"):
        accounts_config("skerry", {}, {}, {name: "U"})


def test_a_server_that_others_reach_does_not_start_unasked(tmp_path: Path) -> None:
    ended = run_cli("nats", "--data", str(tmp_path), "--listen", "0.0.0.0:0")

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "--accounts" in line
