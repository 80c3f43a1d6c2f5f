"""The next Yjs, @y/y 14 with @y/websocket 4, on the same port and documents: prereleases, as npm has them.

Such an editor knows by the echo which of its edits a server has: content that comes back is confirmed (agent-14.mjs).
An edge echoes behind its commit (law 2), so "confirmed" means "on disk".
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.agent import YJS_14, Agent, Edit, Editor, need_node
from tests.peer import Peer
from tests.processes import Cluster, Json, record, wait_for


@pytest.fixture(scope="module")
def next_process() -> Iterator[Agent]:
    need_node()
    with Agent(YJS_14) as agent:
        yield agent


@pytest.fixture
def next_agent(next_process: Agent) -> Iterator[Agent]:
    yield next_process
    assert next_process.close_all() == []


def edit(editor: Editor, *edits: Edit) -> bool:
    """Whether anything of the editor's was unconfirmed right behind it."""
    return editor.edit(*edits) is True


def until_text(editor: Editor, *others: Editor) -> str:
    """When all show the same; what they show."""
    texts = wait_for(
        lambda: texts if len(texts := {each.text for each in (editor, *others)}) == 1 else set(), 20, "one text"
    )
    return next(iter(texts))


def test_an_edit_is_unconfirmed_until_its_echo_and_confirmed_by_it(
    next_agent: Agent, cluster: Cluster, doc: str
) -> None:
    ada = next_agent.open("ada", cluster["a"], doc).wait_synced()
    assert ada.read("statuses") == ["connected"]  # "connecting" was said before anybody could listen

    assert edit(ada, ["insert", ["text"], 0, "Pack the tent."])
    ada.until("unconfirmed", False)
    assert edit(ada, ["delete", ["text"], 0, 5])
    ada.until("unconfirmed", False)
    assert edit(ada, ["format", ["text"], 0, 3, {"bold": True}], ["set", ["map"], "k", [1, "x"]])
    ada.until("unconfirmed", False)

    assert ada.read("closes") == []
    content = record(cluster["a"].document(doc)["content"])
    assert record(content["text"])["value"] == "the tent."


def test_typing_that_the_edge_has_joined_is_confirmed_to_the_last_letter(
    next_agent: Agent, cluster: Cluster, doc: str
) -> None:
    ada = next_agent.open("ada", cluster["a"], doc).wait_synced()
    letters: list[Edit] = [["append", ["text"], letter] for letter in "the quick brown fox"]

    ada.edit(*letters, apart=True)
    ada.until("unconfirmed", False)

    assert record(record(cluster["a"].document(doc)["content"])["text"])["value"] == "the quick brown fox"


def test_versions_13_and_14_and_python_edit_one_document_also_offline_and_come_together(
    next_agent: Agent, agent: Agent, cluster: Cluster, doc: str
) -> None:
    ada = next_agent.open("ada", cluster["a"], doc).wait_synced()
    ben = agent.open("ben", cluster["b"], doc).wait_synced()
    edit(ada, ["insert", ["text"], 0, "shared "], ["insert", ["array"], 0, [1, "x"]])
    ben.until("text", "shared ")

    ada.disconnect()
    ben.disconnect()
    assert edit(ada, ["append", ["text"], "from ada "], ["delete", ["text"], 0, 1], ["insert", ["text"], 0, "S"])
    edit(ada, ["set", ["map"], "ada", True], ["append", ["array"], ["ada"]])
    ben.type("from ben ")
    ben.edit(["set", ["map"], "ben", True], ["delete", ["array"], 0, 1])
    assert ada.read("unconfirmed") is True
    ada.connect()
    ben.connect()

    ada.until("unconfirmed", False)
    ada.until("map", {"ada": True, "ben": True})
    ada.until("array", ["x", "ada"])
    ben.until("at", {"ada": True, "ben": True}, ["map"])
    ben.until("at", ["x", "ada"], ["array"])
    text = until_text(ada, ben)
    assert text.startswith("Shared ")
    assert "from ada " in text
    assert "from ben " in text
    assert not ada.read("pending")
    assert not ben.read("pending")
    with Peer(cluster["b"], doc) as cyd:
        cyd.wait_text(text, 20)
    cluster.settle(doc)


def test_a_socket_that_breaks_comes_back_and_what_was_written_meanwhile_is_confirmed(
    next_agent: Agent, cluster: Cluster, doc: str
) -> None:
    ada = next_agent.open("ada", cluster["a"], doc).wait_synced()

    ada.drop()
    edit(ada, ["insert", ["text"], 0, "meanwhile"])

    ada.until("unconfirmed", False)
    ada.until("synced", True)
    assert record(record(cluster["a"].document(doc)["content"])["text"])["value"] == "meanwhile"


def test_an_edit_that_the_disk_has_not_taken_stays_unconfirmed(next_agent: Agent, tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a"]) as cluster:
        ada = next_agent.open("ada", cluster["a"], "notes/plan").wait_synced()
        edit(ada, ["insert", ["text"], 0, "on disk. "])
        ada.until("unconfirmed", False)

        resource.prlimit(cluster["a"].pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # no file may grow
        assert edit(ada, ["append", ["text"], "In memory. "])
        wait_for(lambda: 4507 in [record(close)["code"] for close in closes(ada) if close], 20, "the edge says so")
        assert ada.read("unconfirmed") is True

        resource.prlimit(cluster["a"].pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ada.until("unconfirmed", False)
        content = record(cluster["a"].document("notes/plan")["content"])
        assert record(content["text"])["value"] == "on disk. In memory. "
        ada.close()


def closes(editor: Editor) -> list[Json]:
    told = editor.read("closes")
    assert isinstance(told, list)
    return list(told)
