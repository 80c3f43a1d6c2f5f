"""Awareness of stock editors across edges: who is here, who comes later, who goes."""

from __future__ import annotations

import pytest

from tests.interop.agent import Agent, Editor
from tests.processes import Cluster, Json

ADA: Json = {"user": {"name": "Ada Å \N{GRINNING FACE}", "color": "#30bced"}, "cursor": {"anchor": 1, "head": 2}}
BEN: Json = {"user": {"name": "Ben"}}


@pytest.fixture
def ada(agent: Agent, cluster: Cluster, doc: str) -> Editor:
    """At edge a."""
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    ada.present(ADA)
    return ada


@pytest.fixture
def ben(agent: Agent, cluster: Cluster, doc: str) -> Editor:
    """At edge b."""
    ben = agent.open("ben", cluster["b"], doc).wait_synced()
    ben.present(BEN)
    return ben


def here(*who: tuple[Editor, Json]) -> dict[str, Json]:
    return {str(editor.client_id): state for editor, state in who}


def test_presence_crosses_edges_and_moves(ada: Editor, ben: Editor) -> None:
    ben.until("awareness", here((ada, ADA), (ben, BEN)))
    ada.until("awareness", here((ada, ADA), (ben, BEN)))

    for position in range(10):
        ada.present({"cursor": position})

    ben.until("awareness", here((ada, {"cursor": 9}), (ben, BEN)))


@pytest.mark.parametrize("edge", ["a", "b"])
def test_who_joins_sees_at_once_who_is_here(
    agent: Agent, cluster: Cluster, doc: str, ada: Editor, ben: Editor, edge: str
) -> None:
    ada.until("awareness", here((ada, ADA), (ben, BEN)))
    ben.until("awareness", here((ada, ADA), (ben, BEN)))

    cyd = agent.open("cyd", cluster[edge], doc)
    cyd.present({"user": {"name": "Cyd"}})

    # Well below the 15 s after which everybody repeats himself anyway.
    cyd.until("awareness", here((ada, ADA), (ben, BEN), (cyd, {"user": {"name": "Cyd"}})), ms=4_000)


def test_who_opens_the_document_first_at_an_edge_sees_who_is_at_the_other(
    agent: Agent, cluster: Cluster, doc: str, ada: Editor
) -> None:
    cyd = agent.open("cyd", cluster["b"], doc)
    cyd.present({})

    cyd.until("awareness", here((ada, ADA), (cyd, {})), ms=4_000)


def test_who_leaves_is_gone_everywhere(ada: Editor, ben: Editor) -> None:
    ben.until("awareness", here((ada, ADA), (ben, BEN)))

    ada.close()

    ben.until("awareness", here((ben, BEN)), ms=5_000)


def test_who_says_goodbye_but_stays_connected_is_gone(ada: Editor, ben: Editor) -> None:
    ben.until("awareness", here((ada, ADA), (ben, BEN)))

    ada.present(None)

    ben.until("awareness", here((ben, BEN)), ms=5_000)


def test_who_comes_back_after_a_broken_socket_is_seen_again(ada: Editor, ben: Editor) -> None:
    ben.until("awareness", here((ada, ADA), (ben, BEN)))

    ada.drop()
    ada.until("connected", False)
    ben.until("awareness", here((ben, BEN)), ms=5_000)

    ben.until("awareness", here((ada, ADA), (ben, BEN)), ms=5_000)


def test_who_disconnects_and_connects_again_goes_and_comes(ada: Editor, ben: Editor) -> None:
    ben.until("awareness", here((ada, ADA), (ben, BEN)))

    ada.disconnect()
    ben.until("awareness", here((ben, BEN)), ms=5_000)
    ada.connect()
    ben.until("awareness", here((ada, ADA), (ben, BEN)), ms=5_000)

    # Stock awareness forgets Ben's state but not his clock: what is sent again does not count for it, only news does
    # (every 15 s at the latest).
    ben.present(BEN)
    ada.until("awareness", here((ada, ADA), (ben, BEN)), ms=5_000)


def test_presence_is_not_part_of_the_document(cluster: Cluster, doc: str, ada: Editor, ben: Editor) -> None:
    ben.until("awareness", here((ada, ADA), (ben, BEN)))

    assert cluster["a"].outbox_count() == 0
    assert ben.read("state") == "AAA="
