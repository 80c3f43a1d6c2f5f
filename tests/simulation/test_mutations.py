"""One law switched off at a time, from outside: the simulator has to notice within a few worlds.

The production code has no such switch; a method of a machine is replaced, or the shell's order turned round.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import pytest

from sync.change import RepairAsk
from sync.edge import Edge
from sync.replica import Judgement, Replica, Verdict
from sync.step import Commit
from sync.validate import Shape

from .disk import Violation
from .edges import EdgeNode
from .world import World

SEEDS = 60
SETTLE_MS = 30_000  # a healthy world needs 15 s at most in these seeds; a broken one is not waited for longer


def caught(edge_node: type[EdgeNode] = EdgeNode) -> list[str]:
    """The first violation in at most SEEDS worlds."""

    def sentences() -> Iterable[str]:
        for seed in range(SEEDS):
            try:
                World(seed, edge_node=edge_node, settle_ms_max=SETTLE_MS).run()
            except Violation as violation:
                yield f"seed {seed}: {violation}"

    return list(islice(sentences(), 1))


def test_without_the_gate_the_simulator_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "judge", lambda replica, shape: Judgement(Verdict.NEW))

    assert caught()


class EagerEdge(EdgeNode):
    """Ships and acknowledges first, then writes."""

    def store(self, commit: Commit) -> None:
        self.committed(commit)
        self.disk.commit(commit.writes, lambda: None, lambda reason: None)


def test_an_edge_that_ships_before_it_commits_is_found() -> None:
    assert caught(EagerEdge)


class ForgetfulEdge(EagerEdge):
    """As EagerEdge, and nobody looks at the disk when it ships: only what is lost in the end can tell."""

    watched = False


def test_an_edge_that_ships_before_it_commits_loses_what_it_acknowledged() -> None:
    found = caught(ForgetfulEdge)

    assert "acknowledged and is lost" in found[0] or "does not settle" in found[0]


def test_without_dedup_the_simulator_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Replica.judge

    def seen_is_new(replica: Replica, shape: Shape) -> Judgement:
        judgement = judge(replica, shape)
        return judgement if judgement.verdict is Verdict.EARLY else Judgement(Verdict.NEW)

    monkeypatch.setattr(Replica, "judge", seen_is_new)

    assert caught()


class DeafEdge(EdgeNode):
    """Hears no call for repair."""

    def repair_asked(self, ask: RepairAsk) -> None:
        pass


def test_without_repair_the_simulator_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Edge, "_heal", lambda *arguments: None)

    found = caught(DeafEdge)

    assert found
    assert "does not settle" in found[0]


def test_with_all_laws_on_nothing_is_found() -> None:
    assert caught() == []


def test_a_mutation_is_not_seen_by_the_editors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would lose operations themselves, as stock Yjs does not."""
    from .editors import GatedReplica

    monkeypatch.setattr(Replica, "judge", lambda replica, shape: Judgement(Verdict.NEW))

    assert GatedReplica.judge is not Replica.judge
