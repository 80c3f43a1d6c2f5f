"""Accents, CJK and astral characters, from a client in Python and from stock Yjs, whose indices count differently."""

from __future__ import annotations

import pytest

from tests.interop.agent import Agent
from tests.interop.conftest import Same
from tests.peer import Peer
from tests.processes import Cluster

FACE = "\N{GRINNING FACE}"
FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
TEXTS = {
    "accents": "Ça déjà vu: naïve Ångström, é and e\N{COMBINING ACUTE ACCENT}",
    "cjk": "日本語テキスト 中文 한국어",
    "astral": f"{FACE}\N{MATHEMATICAL BOLD CAPITAL A}{FAMILY}\N{CJK UNIFIED IDEOGRAPH-20000}",
    "right to left": "שלום عليكم",
    "controls": "tab\tnewline\nnul\0line separator\u2028end",
}


def utf16(text: str) -> int:
    """Length as JavaScript counts it."""
    return len(text.encode("utf-16-le")) // 2


@pytest.mark.parametrize("kind", TEXTS)
def test_text_from_python_is_read_by_stock_yjs_and_back(agent: Agent, cluster: Cluster, doc: str, kind: str) -> None:
    text = TEXTS[kind]
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    with Peer(cluster["b"], doc) as ben:
        ben.wait_synced()

        ben.append(text)
        ada.until("text", text)
        ada.append(text[::-1])
        ben.wait_text(text + text[::-1])
        ben.insert(len(text), "|")

        ada.until("text", f"{text}|{text[::-1]}")
        ben.wait_acknowledged()
    cluster.settle(doc, verify=False)


def test_edits_between_astral_characters_land_at_the_same_place(agent: Agent, cluster: Cluster, doc: str) -> None:
    base = f"日{FACE}本{FAMILY}é"
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    with Peer(cluster["b"], doc) as ben:
        ada.insert(0, base)
        ben.wait_text(base)

        ben.insert(2, f"[{FACE}]")  # behind the first face: two characters, three UTF-16 units
        ada.until("text", f"日{FACE}[{FACE}]本{FAMILY}é")
        ada.delete(utf16(f"日{FACE}["), utf16(FACE))
        ben.wait_text(f"日{FACE}[]本{FAMILY}é")
        ada.insert(utf16(f"日{FACE}[]本"), "中")

        wanted = f"日{FACE}[]本中{FAMILY}é"
        ben.wait_text(wanted)
        ada.until("text", wanted)
    cluster.settle(doc, verify=False)


def test_typing_astral_characters_at_once_on_both_sides(agent: Agent, cluster: Cluster, doc: str) -> None:
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    with Peer(cluster["b"], doc) as ben:
        ben.wait_synced()

        for _ in range(10):
            ada.append(FACE)
            ben.append("日")
            ben.insert(0, FACE)

        ben.wait(lambda: len(str(ben.text)) == 30, 20, "all thirty characters")
        ada.until("text", ben.read())
        assert (ben.read().count(FACE), ben.read().count("日")) == (20, 10)
    cluster.settle(doc, verify=False)


@pytest.mark.parametrize(
    ("cuts", "shown"),
    [
        ([(2, 1, "")], "a\ufffdb"),
        ([(2, 1, ""), (1, 1, "")], "ab"),
        ([(2, 0, "x")], "a\ufffdx\ufffdb"),
        ([(1, 1, "x"), (2, 1, "y")], "axyb"),
    ],
    ids=["half deleted", "one half after the other", "typed within", "both replaced"],
)
def test_where_stock_yjs_cuts_a_character_everybody_sees_the_same(
    agent: Agent, cluster: Cluster, doc: str, same: Same, cuts: list[tuple[int, int, str]], shown: str
) -> None:
    """As an editor does that counts UTF-16 units: nothing is refused, and who comes later reads what is left."""
    ada = agent.open("ada", cluster["a"], doc).wait_synced()
    ben = agent.open("ben", cluster["b"], doc).wait_synced()
    ada.insert(0, f"a{FACE}b")
    ben.until("text", f"a{FACE}b")

    for index, length, text in cuts:
        if length:
            ada.delete(index, length)
        if text:
            ada.insert(index, text)

    ada.until("text", shown)
    ben.until("text", shown)
    cyd = agent.open("cyd", cluster["b"], doc).wait_synced()
    cyd.until("text", shown)
    same(ada, ben, cyd)
    ben.append("!")
    ada.until("text", f"{shown}!")
    cluster.settle(doc)
