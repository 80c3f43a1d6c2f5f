"""The table of docs/guarantees.md, line by line: four edits, each come to one stage and no further, then a failure.

Whoever made an edit is dead by then (SIGKILL), and but for the stage `own` its disk is gone as well: what is still
there afterwards is there because the place that said "safe" has kept it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from server.streams import Layout
from tests.processes import ROOT, Cluster, record, wait_for
from tests.proxy import Proxy

STAGES = ("own", "edge", "log", "merged")
NOWHERE = "ws://127.0.0.1:9"  # nobody listens on the port for discarding
BACK_S_MAX = 60.0
PAGE = 4096  # of SQLite


class Hole:
    """A proxy that can swallow every packet, both ways, in a thread of its own."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self._proxy = proxy
        self._loop = loop
        self.url = proxy.url

    @property
    def accepted_count(self) -> int:
        return self._proxy.accepted_count

    def swallow(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.swallow, "up", "down")

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.heal)


@contextmanager
def hole_before(url: str) -> Iterator[Hole]:
    found = urlsplit(url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = Proxy(str(found.hostname), int(found.port or 0))
    try:
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), loop).result(10)
        try:
            yield Hole(proxy, loop)
        finally:
            asyncio.run_coroutine_threadsafe(proxy.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@dataclass
class Story:
    """Two edges, a and b (which keeps everything), a leader and a log; the edits are made at a."""

    cluster: Cluster
    path: Path
    hole: Hole | None = None
    """On the way of both edges to NATS."""
    fills: bool = False
    """Nothing but a full log keeps the edit at `edge` from coming further."""

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
            elif stage == "edge" and self.hole is not None:
                assert a.link() == "up"
                self.hole.swallow()  # the edge publishes into it, and has yet to notice
            elif stage == "edge" and self.fills:
                limit_log(self, full=True)
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
        if self.fills:
            limit_log(self, full=False)
        for node in cluster.nodes():
            if not node.running:
                node.start()
        if self.hole is not None:
            self.hole.heal()
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


def edges_disk_damaged(story: Story) -> None:
    """Every page that holds the edit at `edge` is overwritten; all else of the store is as it was."""
    story.cluster["a"].kill()
    path = story.disk("a") / "edge.db"
    with closing(sqlite3.connect(path)) as run:
        run.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    content, dice, hit = bytearray(path.read_bytes()), random.Random(1), 0
    for at in range(0, len(content), PAGE):
        if b"\x04edge" in content[at : at + PAGE]:  # the text, with its length before it, as Yjs writes it
            content[at : at + PAGE] = dice.randbytes(PAGE)
            hit += 1
    assert 0 < hit < len(content) // PAGE / 2, f"{hit} pages"
    path.write_bytes(content)
    path.with_name("edge.db-wal").write_bytes(dice.randbytes(PAGE))  # torn: no clean end, so the store looks at itself
    story.cluster["a"].start()
    assert "store_set_aside" in story.cluster["a"].errors()


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


def black_hole(story: Story) -> None:
    """Has swallowed for a while already; no connection ends by it, and it takes every new one as well."""
    for edge in story.cluster.edges.values():
        edge.wait_link("down", 30)
    assert story.hole is not None
    accepted = story.hole.accepted_count
    wait_for(lambda: story.hole is not None and story.hole.accepted_count > accepted, 20, "somebody tries again")
    assert {edge.link() for edge in story.cluster.edges.values()} == {"down"}
    assert story.cluster["a"].outbox_count() == 2, "what is at `edge` alone, and what no leader has merged"


def leaders_process(story: Story) -> None:
    """Has happened already; another one comes."""
    story.cluster.leader = story.cluster.add_leader("second")
    story.cluster.leader.wait_ready()


def brokers_process(story: Story) -> None:
    story.cluster.nats.restart()


def brokers_disk(story: Story) -> None:
    story.cluster.nats.kill()
    shutil.rmtree(story.cluster.nats.jetstream)


def brokers_disk_while_cut_off(story: Story) -> None:
    """a is cut off already, since before the edit at `edge`; nobody is there to see the log go."""
    story.cluster["b"].cut(600)
    story.cluster["b"].wait_link("cut")
    brokers_disk(story)


def brokers_disk_rolled_back(story: Story) -> None:
    story.cluster.nats.kill()
    shutil.rmtree(story.cluster.nats.jetstream)
    shutil.copytree(story.path / "older-jetstream", story.cluster.nats.jetstream)


def brokers_disk_full(story: Story) -> None:
    """Has happened already: the log takes nothing more, and an edge that has something for it says so."""
    a = story.cluster["a"]
    wait_for(lambda: "log_refuses" in a.errors(), BACK_S_MAX, "a is told that the log is full")
    assert a.outbox_count() == 2, "what is at `edge` alone, and what no leader has merged"


def limit_log(story: Story, *, full: bool) -> None:
    """As if the log's disk had no room beyond what is there, or again had some."""
    broker, log = story.cluster.nats, Layout("skerry").changes
    broker.stream(log, max_bytes=record(broker.stream(log)["state"])["bytes"] if full else -1)


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
    "edge-disk-damaged": (edges_disk_damaged, ALL - {"edge"}),
    "edge-disk-copied": (edges_disk_copied, ALL),
    "every-edge-disk": (every_edges_disk, ALL - {"edge"}),
    "link": (link, ALL),
    "black-hole": (black_hole, ALL),
    "leader-process": (leaders_process, ALL),
    "broker-process": (brokers_process, ALL),
    "broker-disk": (brokers_disk, ALL),
    "broker-disk-cut-off": (brokers_disk_while_cut_off, ALL),
    "broker-disk-rolled-back": (brokers_disk_rolled_back, ALL),
    "broker-full": (brokers_disk_full, ALL),
    "every-process": (every_process, ALL),
    "edge-and-broker-disk": (edges_and_brokers_disk, ALL - {"edge", "log"}),
}
"""What fails -> how, and the stages whose promise outlives it."""


@pytest.mark.parametrize("failure", FAILURES)
def test_what_is_safe_at_a_stage_outlives(tmp_path: Path, failure: str) -> None:
    fail, kept = FAILURES[failure]
    holed = failure == "black-hole"
    with Cluster(tmp_path, () if holed else ("a", "b"), pins={"b": ["*"]}) as cluster, ExitStack() as stack:
        story = Story(cluster, tmp_path, fills=failure == "broker-full")
        if holed:
            story.hole = stack.enter_context(hole_before(cluster.nats.url))
            cluster.way = story.hole.url
            for name in ("a", "b"):
                cluster.add_edge(name)
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
