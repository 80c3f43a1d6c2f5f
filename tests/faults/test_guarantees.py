"""The table of docs/guarantees.md, line by line: four edits, each come to one stage and no further, then a failure.

Whoever made an edit is dead by then (SIGKILL), and but for the stage `own` its disk is gone as well: what is still
there afterwards is there because the place that said "safe" has kept it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.processes import ROOT, Cluster, record, wait_for

STAGES = ("own", "edge", "log", "merged")
NOWHERE = "ws://127.0.0.1:9"  # nobody listens on the port for discarding
BACK_S_MAX = 60.0


@dataclass
class Story:
    """Two edges, a and b (which keeps everything), a leader and a log; the edits are made at a."""

    cluster: Cluster
    path: Path

    def store(self, stage: str) -> Path:
        return self.path / f"{stage}.db"

    def disk(self, edge: str) -> Path:
        return self.path / f"{edge}-data"

    @contextmanager
    def writer(self, stage: str, address: str, text: str, until: str) -> Iterator[None]:
        """Somebody whose edit for this stage has come as far as `until`; killed in the end."""
        script = [sys.executable, "-m", "tests.faults.writer"]
        process = subprocess.Popen(
            [*script, str(self.store(stage)), address, f"notes/{stage}", text, until],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reached\n", f"the writer of {stage}\n{self.cluster['a'].last_lines()}"
            yield
        finally:
            process.kill()
            process.wait(20)

    def write(self) -> None:
        """Four edits, one at each stage; merged first, as a leader is needed for it, and own last."""
        a, leader = self.cluster["a"], self.cluster.leader
        assert leader is not None
        for stage in reversed(STAGES):
            if stage == "log":
                leader.kill()
            elif stage == "edge":
                a.cut(600)
                a.wait_link("cut")
            with self.writer(stage, NOWHERE if stage == "own" else a.ws, stage, stage):
                pass
            if stage != "own":
                self.store(stage).unlink()

    def mend(self) -> None:
        """Everything runs, is linked, and has shipped what it has."""
        cluster = self.cluster
        for node in cluster.nodes():
            if not node.running:
                node.start()
        for edge in cluster.edges.values():
            if edge.link() == "cut":
                edge.cut(0.1)
            edge.wait_link("up", 30)
        if self.store("own").exists():
            with self.writer("own", cluster["b"].ws, "", "merged"):
                pass
        wait_for(lambda: not any(cluster.outboxes().values()), BACK_S_MAX, lambda: f"outboxes {cluster.outboxes()}")

    def read(self, edge: str, stage: str) -> str:
        """As somebody who asks for it; empty where there is nothing."""
        status, body = self.cluster[edge].http(f"/docs/{quote(f'notes/{stage}', safe='')}")
        if status == 404:
            return ""
        assert status == 200, body
        content = record(record(json.loads(body))["content"])
        return str(record(content["text"])["value"]) if content else ""


# --- the failures -----------------------------------------------------------------------------------------------------
def writers_process(story: Story) -> None:
    """Has happened already."""


def writers_disk(story: Story) -> None:
    story.store("own").unlink()


def edges_process(story: Story) -> None:
    story.cluster["a"].restart()


def edges_disk(story: Story) -> None:
    story.cluster["a"].kill()
    shutil.rmtree(story.disk("a"))


def edges_disk_rolled_back(story: Story) -> None:
    story.cluster["a"].kill()
    shutil.rmtree(story.disk("a"))
    shutil.copytree(story.path / "older-a", story.disk("a"))


def edges_disk_copied(story: Story) -> None:
    story.cluster["a"].kill()
    shutil.copytree(story.disk("a"), story.disk("twin"))
    story.cluster.add_edge("twin")


def every_edges_disk(story: Story) -> None:
    for name in ("a", "b"):
        story.cluster[name].kill()
        shutil.rmtree(story.disk(name))


def link(story: Story) -> None:
    for edge in story.cluster.edges.values():
        edge.cut(600)
    for edge in story.cluster.edges.values():
        edge.wait_link("cut")


def leaders_process(story: Story) -> None:
    """Has happened already; another one comes."""
    story.cluster.leader = story.cluster.add_leader("second")
    story.cluster.leader.wait_ready()


def brokers_process(story: Story) -> None:
    story.cluster.nats.restart()


def brokers_disk(story: Story) -> None:
    story.cluster.nats.kill()
    shutil.rmtree(story.cluster.nats.jetstream)


def brokers_disk_rolled_back(story: Story) -> None:
    story.cluster.nats.kill()
    shutil.rmtree(story.cluster.nats.jetstream)
    shutil.copytree(story.path / "older-jetstream", story.cluster.nats.jetstream)


def every_process(story: Story) -> None:
    for node in story.cluster.nodes():
        node.kill()


def edges_and_brokers_disk(story: Story) -> None:
    wait_for(lambda: story.read("b", "merged") == "merged", BACK_S_MAX, "the other edge has it too")
    edges_disk(story)
    brokers_disk(story)


ALL = frozenset(STAGES)
FAILURES: dict[str, tuple[Callable[[Story], None], frozenset[str]]] = {
    "writer-process": (writers_process, ALL),
    "writer-disk": (writers_disk, ALL - {"own"}),
    "edge-process": (edges_process, ALL),
    "edge-disk": (edges_disk, ALL - {"edge"}),
    "edge-disk-rolled-back": (edges_disk_rolled_back, ALL - {"edge"}),
    "edge-disk-copied": (edges_disk_copied, ALL),
    "every-edge-disk": (every_edges_disk, ALL - {"edge"}),
    "link": (link, ALL),
    "leader-process": (leaders_process, ALL),
    "broker-process": (brokers_process, ALL),
    "broker-disk": (brokers_disk, ALL),
    "broker-disk-rolled-back": (brokers_disk_rolled_back, ALL),
    "every-process": (every_process, ALL),
    "edge-and-broker-disk": (edges_and_brokers_disk, ALL - {"edge", "log"}),
}
"""What fails -> how, and the stages whose promise outlives it."""


@pytest.mark.parametrize("failure", FAILURES)
def test_what_is_safe_at_a_stage_outlives(tmp_path: Path, failure: str) -> None:
    fail, kept = FAILURES[failure]
    with Cluster(tmp_path, pins={"b": ["*"]}) as cluster:
        story = Story(cluster, tmp_path)
        if failure == "broker-disk-rolled-back":
            cluster.nats.keep_copy(tmp_path / "older-jetstream")
        if failure == "edge-disk-rolled-back":
            cluster["a"].stop()
            shutil.copytree(story.disk("a"), tmp_path / "older-a")
            cluster["a"].start()
        for edge in cluster.edges.values():
            edge.wait_link("up")
        story.write()

        fail(story)
        story.mend()

        for stage in sorted(kept):
            for name in ("a", "b"):
                wait_for(lambda: story.read(name, stage) == stage, BACK_S_MAX, f"{stage} at edge {name}")  # noqa: B023
        cluster.settle(deadline_s=BACK_S_MAX)
        for stage in sorted(ALL - kept):
            assert [story.read(edge, stage) for edge in ("a", "b")] == ["", ""], f"{stage} is there all the same"
