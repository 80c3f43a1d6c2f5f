"""One law switched off at a time, from outside: the simulator has to notice within a few worlds.

The production code has no such switch; a method of a machine is replaced, or the shell's order turned round. Each law
twice: with every step watched, and with nobody watching, when only what comes of it in the end can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sync.arriving import Arrival
from sync.change import Change, RepairAsk
from sync.company import Out
from sync.hosted import Held, Hosted
from sync.ids import Dot, DotSet
from sync.joining import join
from sync.outbox import Outbox
from sync.replica import Judgement, Replica, Verdict
from sync.slow import Readers
from sync.step import Commit, Send
from sync.taking import Taking
from sync.telling import Telling
from sync.validate import Shape

from .disk import Violation
from .edges import EdgeNode
from .editors import GatedReplica
from .world import World

SEEDS = 40
SETTLE_MS = 30_000  # healthy worlds of these seeds need less; a broken one is not waited for any longer


class Unwatched(EdgeNode):
    """Nobody holds what leaves this edge, or what it stores, against its disk."""

    watched = False


def caught(
    words: str,
    edge_node: type[EdgeNode] = EdgeNode,
    faults: Sequence[str] = (),
    seeds: int = SEEDS,
    first: int = 0,
    step: int = 1,
) -> str:
    """The first violation with these words in at most so many worlds; empty where there is none."""
    for seed in range(first, seeds, step):
        try:
            World(seed, edge_node=edge_node, faults=faults, settle_ms_max=SETTLE_MS).run()
        except Violation as violation:
            if words in str(violation):
                return f"seed {seed}: {violation}"
    return ""


# --- the gate (law 3) -------------------------------------------------------------------------------------------------
@pytest.fixture
def no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Replica.judge

    def early_is_new(replica: Replica, shape: Shape) -> Judgement:
        judgement = judge(replica, shape)
        return Judgement(Verdict.NEW) if judgement.verdict is Verdict.EARLY else judgement

    monkeypatch.setattr(Replica, "judge", early_is_new)


@pytest.mark.usefixtures("no_gate")
def test_without_the_gate_something_is_stored_early() -> None:
    assert caught("before what it depends on")


@pytest.mark.usefixtures("no_gate")
def test_without_the_gate_operations_are_lost() -> None:
    assert caught("pycrdt holds", Unwatched)


@pytest.mark.usefixtures("no_gate")
def test_the_editors_keep_their_gate() -> None:
    """Stock Yjs keeps early updates back; else the editors would lose operations themselves."""
    assert GatedReplica.judge is not Replica.judge


# --- commit, then ship (law 2) ----------------------------------------------------------------------------------------
class Eager(EdgeNode):
    """Ships and acknowledges first, then writes."""

    def store(self, commit: Commit) -> None:
        self.committed(commit)
        self.disk.commit(commit.writes, lambda: None, lambda reason: None)


class UnwatchedEager(Unwatched):
    """The same with a slow disk."""

    def store(self, commit: Commit) -> None:
        self.committed(commit)
        self.later(1_000, lambda: self.disk.commit(commit.writes, lambda: None, lambda reason: None))


def test_an_edge_that_ships_before_it_commits_is_found() -> None:
    assert caught("before it is on the disk", Eager)


def test_an_edge_that_acknowledges_before_it_commits_loses_what_it_acknowledged() -> None:
    assert caught("was acknowledged and is lost", UnwatchedEager, faults=("power_cut", "cut"), seeds=120)


# --- at least once, and idempotent (law 4) ----------------------------------------------------------------------------
@pytest.fixture
def no_dedup(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Replica.judge

    def seen_is_new(replica: Replica, shape: Shape) -> Judgement:
        judgement = judge(replica, shape)
        return Judgement(Verdict.NEW) if judgement.verdict is Verdict.SEEN else judgement

    monkeypatch.setattr(Replica, "judge", seen_is_new)


@pytest.mark.usefixtures("no_dedup")
def test_without_dedup_an_edge_stores_again_what_it_has() -> None:
    assert caught("stores again what is there")


def test_without_dedup_of_deletions_an_edge_stores_again_what_comes_from_the_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row without a dot that only deletes: its clocks tell nothing, the deleted ones do."""
    judge = Replica.judge

    def deleted_again_is_new(replica: Replica, shape: Shape) -> Judgement:
        judgement = judge(replica, shape)
        seen = judgement.verdict is Verdict.SEEN and not shape.brings and len(shape.deletes) > 0
        return Judgement(Verdict.NEW) if seen else judgement

    monkeypatch.setattr(Replica, "judge", deleted_again_is_new)

    assert caught("stores again what is there, as None")


@pytest.mark.usefixtures("no_dedup")
def test_without_dedup_a_change_that_stands_twice_in_the_log_is_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does anybody know a dot again."""
    monkeypatch.setattr(DotSet, "__contains__", lambda dots, dot: False)

    assert caught("is emitted twice", Unwatched)


# --- what the log lost is found and shipped again (law 5) -------------------------------------------------------------
class Deaf(EdgeNode):
    """Hears no call for repair."""

    def repair_asked(self, ask: RepairAsk) -> None:
        pass


def test_without_repair_a_log_that_lost_its_tail_does_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.giving_way._heal", lambda *arguments: None)

    assert caught("does not settle", Deaf, faults=("log_tail_lost", "log_lost"))


# --- a slow reader is brought up to date from state (law 8) -----------------------------------------------------------
def test_a_slow_reader_that_is_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Readers, "_send", lambda readers, conn, behind: readers.closed(conn) or [])

    assert caught("does not settle")


def test_a_difference_to_too_high_clocks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate had let in by then was still on its way."""
    monkeypatch.setattr("sync.slow._lower", lambda behind, frame: None)

    assert caught("does not settle", seeds=120)


# --- nobody is told of a write before it was sent ---------------------------------------------------------------------
def _at_once(telling: Telling, host: Hosted, claim: Held, out: Out) -> None:
    out.append(Send(tuple(host.tracking.conns), claim.frame))


def test_a_version_that_overtakes_its_content_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Telling, "_claim", _at_once)

    assert caught("who was sent all up to a version", first=2, step=4)


# --- a row leaves the outbox when the disk says so (law 2) ------------------------------------------------------------
def test_a_row_that_a_failed_commit_has_left_on_the_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory takes what waited to be dropped for dropped."""

    def forgotten(outbox: Outbox, ticket: int, now_ms: int, reason: str, out: Out) -> None:
        rows = list(outbox._dropping)
        gone = set(outbox._gone)
        commit_failed(outbox, ticket, now_ms, reason, out)
        outbox._dropping = rows
        outbox._gone |= gone & set(rows)

    commit_failed = Outbox._commit_failed
    monkeypatch.setattr(Outbox, "_commit_failed", forgotten)

    assert caught("in its outbox", faults=("disk_full",), first=40, seeds=60, step=19)


# --- what is joined holds what it names (laws 3 and 4) ----------------------------------------------------------------
def test_a_run_that_names_a_row_which_it_does_not_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(run: Sequence[Change], name: Dot) -> Change:
        change = join(run[:-1], name)
        change.covers.add(run[-1].dot)
        return change

    monkeypatch.setattr("sync.outbox.join", forgetful)

    assert caught("claims to hold", faults=("cut",))


# --- the version moves behind the last piece --------------------------------------------------------------------------
def test_a_broadcast_that_counts_as_taken_before_its_last_piece_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Taking._take_piece

    def first_only(edge: Taking, host: Hosted, arrival: Arrival, now_ms: int, out: Out) -> bool:
        taken = take(edge, host, arrival, now_ms, out)
        if arrival.pieces:
            arrival.pieces.clear()
        return taken

    monkeypatch.setattr(Taking, "_take_piece", first_only)

    assert caught("claims to hold")


# --- and the control --------------------------------------------------------------------------------------------------
def test_with_all_laws_on_the_same_worlds_show_nothing() -> None:
    assert caught("", faults=("log_tail_lost", "log_lost", "crash"), seeds=10) == ""
