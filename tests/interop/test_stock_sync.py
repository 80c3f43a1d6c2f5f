"""How stock providers and edges find each other: joining, "synced", being offline, large pastes, names of documents."""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import pytest

from tests.interop.agent import Agent, need_node
from tests.interop.conftest import Same
from tests.peer import Peer
from tests.processes import Cluster, Json, record, wait_for

PASTE_PIECE = "0123456789abcdé "  # 17 bytes of UTF-8 in 16 UTF-16 units
PASTE_TIMES = 5_000_000 // 17 + 1


def test_synced_is_said_when_the_content_is_there(agent: Agent, cluster: Cluster, doc: str) -> None:
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    assert ada.read("events") == [{"synced": True, "length": 0}]
    ada.insert(0, "all of it")

    ben = agent.open("ben", cluster["a"], doc).wait_synced()

    assert ben.read("events") == [{"synced": True, "length": 9}]
    assert ben.text == "all of it"


def test_an_edge_that_never_saw_the_document_gives_its_content_before_it_says_synced(
    agent: Agent, cluster: Cluster, doc: str, same: Same
) -> None:
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    ada.insert(0, "written at the other edge")
    wait_for(lambda: cluster["a"].digest(doc) and cluster["a"].document(doc)["version"], 15, "the leader has it")
    assert doc not in str(cluster["b"].status()["documents"])  # asking for it would bring it

    ben = agent.open("ben", cluster["b"], doc).wait_synced()

    assert ben.read("events") == [{"synced": True, "length": 25}]
    same(ada, ben)


def test_edits_made_offline_on_both_sides_come_together(agent: Agent, cluster: Cluster, doc: str, same: Same) -> None:
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    ben = agent.open("ben", cluster["b"], doc).wait_synced()
    ada.insert(0, "shared ")
    ben.until_same(ada)

    ada.disconnect()
    ben.disconnect()
    ada.type("from ada ")
    ada.delete(0, 1)
    ada.insert(0, "S")
    ben.type("from ben ")
    ben.edit(["set", ["map"], "ben", True])
    ada.connect()
    ben.connect()

    read = same(ada, ben)
    assert read["map"] == {"ben": True}
    assert ada.text in ("Shared from ada from ben ", "Shared from ben from ada ")


def test_an_editor_that_was_never_online_brings_what_it_wrote(
    agent: Agent, cluster: Cluster, doc: str, same: Same
) -> None:
    ada = agent.open("ada", cluster["a"], doc, connect=False)
    ada.insert(0, "in the train")
    ada.edit(["insert", ["array"], 0, [1, 2, 3]], ["delete", ["array"], 1, 1])

    ada.connect()
    ben = agent.open("ben", cluster["b"], doc)
    ben.until("text", "in the train")

    assert same(ada, ben)["array"] == [1, 3]


def test_a_socket_that_breaks_in_the_middle_of_typing_loses_nothing(
    agent: Agent, cluster: Cluster, doc: str, same: Same
) -> None:
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    ben = agent.open("ben", cluster["b"], doc).wait_synced()

    for _ in range(5):
        ada.type("0123456789")
        ada.drop()
        ada.type("abcdefghij")

    ada.until("connected", True)
    same(ada, ben)
    assert ben.text == "0123456789abcdefghij" * 5
    closes = ada.read("closes")
    assert isinstance(closes, list)
    assert len(closes) >= 1


def test_an_editor_roams_from_one_edge_to_the_other(agent: Agent, cluster: Cluster, doc: str, same: Same) -> None:
    ben = agent.open("ben", cluster["b"], doc).wait_synced()
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    ada.insert(0, "begun at a, ")
    ben.until("text", "begun at a, ")
    ada.close()

    again = agent.open("ada", cluster["b"], doc).wait_synced()
    again.append("continued at b")

    late = agent.open("cyd", cluster["a"], doc)
    late.until("text", "begun at a, continued at b")
    same(ben, again, late)


def test_several_documents_at_once_stay_apart(agent: Agent, cluster: Cluster, doc: str, same: Same) -> None:
    docs = [f"{doc}/{number}" for number in range(12)]
    adas = [agent.open(f"ada{at}", cluster["a"], one) for at, one in enumerate(docs)]
    bens = [agent.open(f"ben{at}", cluster["b"], one) for at, one in enumerate(docs)]

    for at, (ada, ben) in enumerate(zip(adas, bens, strict=True)):
        ada.insert(0, f"ada {at} ")
        ben.edit(["set", ["map"], "n", at])

    for at, (one, ada, ben) in enumerate(zip(docs, adas, bens, strict=True)):
        assert same(ada, ben, at=one) | {"array": [], "xml": ""} == {
            "text": [{"insert": f"ada {at} "}],
            "map": {"n": at},
            "array": [],
            "xml": "",
        }


def test_several_editors_at_one_edge_see_each_other_and_the_other_edge(
    agent: Agent, cluster: Cluster, doc: str, same: Same
) -> None:
    here = [agent.open(f"here{at}", cluster["a"], doc).wait_synced() for at in range(4)]
    there = [agent.open(f"there{at}", cluster["b"], doc).wait_synced() for at in range(4)]

    for at, editor in enumerate([*here, *there]):
        editor.insert(0, f"[{at}]")

    same(*here, *there)
    assert sorted(here[0].text.removeprefix("[").removesuffix("]").split("][")) == [str(at) for at in range(8)]


# --- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "notes/2026/plan.md",
        "über/日本語/\N{GRINNING FACE}",
        "100%",
        "*.>",
        "a?b#c",
        "a..b",
        "$SYS.REQ",
        "~tilde'quote\"",
        "x" * 256,
    ],
)
def test_any_name_that_is_allowed_works_across_edges(agent: Agent, cluster: Cluster, same: Same, name: str) -> None:
    ada = agent.open("ada", cluster["a"], name).wait_synced()
    ada.insert(0, f"this is {name}")

    ben = agent.open("ben", cluster["b"], name)
    ben.until("text", f"this is {name}")

    same(ada, ben, at=name)
    assert cluster["b"].document(name)["doc"] == name


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty"),
        ("x" * 257, "257 bytes"),
        ("%C3%BC" * 129, "258 bytes"),
        ("a%07b", "control character"),
        ("a%00b", "control character"),
        ("a%FFb", "UTF-8"),
        ("%ED%A0%80", "UTF-8"),
    ],
)
def test_a_bad_name_is_closed_for_good_with_its_reason(agent: Agent, cluster: Cluster, path: str, why: str) -> None:
    ada = agent.open("ada", cluster["a"], path, raw=True)

    def closes() -> list[Json]:
        found = ada.read("closes")
        assert isinstance(found, list)
        return found

    (close,) = wait_for(closes, 10, "closed")
    assert record(close)["code"] == 4404
    assert why in str(record(close)["reason"])
    assert ada.read("connected") is False
    assert ada.read("events") == []


# --- size -------------------------------------------------------------------------------------------------------------
def stream_bytes(url: str, stream: str) -> int:
    async def ask() -> int:
        client = await nats.connect(url)
        try:
            info = await client.jetstream().stream_info(stream)
            return int(info.state.bytes)
        finally:
            await client.close()

    return asyncio.run(ask())


def test_a_paste_of_five_megabytes_arrives_and_is_in_the_log(agent: Agent, tmp_path: Path) -> None:
    need_node()
    with Cluster(tmp_path) as cluster:
        ada = agent.open("ada", cluster["a"], "paste").wait_synced()
        ben = agent.open("ben", cluster["b"], "paste").wait_synced()
        ada.insert(0, "[]")
        ben.until("text", "[]")

        assert ada.paste(1, PASTE_PIECE, PASTE_TIMES) >= 5_000_000
        ada.append(" and on")

        ben.until("hash", ada.read("hash"), ms=30_000)
        cluster.settle("paste")
        assert stream_bytes(cluster.nats.url, "OBJ_skerry_objects") > 5_000_000
        assert stream_bytes(cluster.nats.url, "SKERRY_CHANGES") < 1_000_000

        # What a new leader and a new edge know, they know from the log alone.
        ada.close()
        ben.close()
        for node in (cluster["a"], cluster["b"]):
            assert node.stop() == 0
        assert cluster.leader is not None
        cluster.leader.restart()
        fresh = cluster.add_edge("fresh")
        fresh.wait_link("up")
        with Peer(fresh, "paste") as cyd:
            text = f"[{PASTE_PIECE * PASTE_TIMES}] and on"
            cyd.wait(lambda: len(str(cyd.text)) == len(text), 40, "the whole paste")
            assert cyd.read() == text
