"""Editing traces from a seed, in the format that `server.trace` reads."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from sync.document import Document

__all__ = ["made_trace", "write_trace"]

_WORDS = ("a", "b ", "é", "日本", "\N{GRINNING FACE}", "lorem ipsum ")


def made_trace(seed: int, *, agents: int = 2, count: int = 60) -> dict[str, object]:
    """A concurrent trace: authors type, and now and then one takes in all that another has."""
    rng = random.Random(seed)
    documents = [Document(client_id=agent + 1) for agent in range(agents)]
    heads: list[set[int]] = [set() for _ in range(agents)]  # of each author: newest transactions it knows
    parents_of: list[set[int]] = []
    transactions: list[dict[str, object]] = []
    for index in range(count):
        agent, other = rng.randrange(agents), rng.randrange(agents)
        if rng.random() < 0.3:
            documents[agent].apply(documents[other].state())
            heads[agent] |= heads[other]
        heads[agent] = _newest(heads[agent], parents_of)
        patches: list[list[int | str]] = []
        for _ in range(rng.choice((1, 1, 1, 2))):
            length = len(documents[agent].text("text"))
            position = rng.randint(0, length)
            deleted = min(length - position, rng.choice((0, 0, 1, 3)))
            inserted = "" if deleted else rng.choice(_WORDS)
            documents[agent].edit_text("text", position, deleted, inserted)
            patches.append([position, deleted, inserted])
        transactions.append({"parents": sorted(heads[agent]), "agent": agent, "numChildren": 0, "patches": patches})
        parents_of.append(heads[agent])
        heads[agent] = {index}
    whole = Document()
    for document in documents:
        whole.apply(document.state())
    return {
        "kind": "concurrent",
        "endContent": whole.text("text"),
        "numAgents": agents,
        "txns": transactions,
    }


def _newest(heads: set[int], parents_of: list[set[int]]) -> set[int]:
    """Without those that another one comes after."""
    older: set[int] = set()
    open_ = [parent for head in heads for parent in parents_of[head]]
    while open_:
        at = open_.pop()
        if at not in older:
            older.add(at)
            open_.extend(parents_of[at])
    return heads - older


def write_trace(path: Path, content: object, *, packed: bool = True) -> Path:
    data = json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path
