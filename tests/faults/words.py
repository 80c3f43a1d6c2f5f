"""People who type numbered words, so that a missing or doubled one is named."""

from __future__ import annotations

import re
import time
from collections import Counter
from types import TracebackType

from tests.peer import Peer
from tests.processes import Cluster, Node, record, wait_for

__all__ = ["Talk"]

PAUSE_S = 0.02  # between two rounds of words: fifty keystrokes a second and person
ROOT = "text"


class Talk:
    """`with Talk("notes/plan", edge_a, edge_b) as talk:` one person per edge named."""

    def __init__(self, doc: str, *edges: Node) -> None:
        self.doc = doc
        self.peers = [Peer(edge, doc) for edge in edges]
        self.said: list[str] = []
        for peer in self.peers:
            peer.wait_synced()

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self.peers:
            peer.close()

    def say(self, rounds: int = 1) -> None:
        """Everybody appends a word, so many times; connected or not."""
        for _ in range(rounds):
            for peer in self.peers:
                word = f"<{peer.edge.name}{len(self.said)}>"
                peer.append(word)
                self.said.append(word)
                peer.pump(PAUSE_S / len(self.peers))

    def say_until_up(self, edge: Node, deadline_s: float) -> None:
        """Go on talking until this edge has its link."""
        ends = time.monotonic() + deadline_s
        while edge.link() != "up":
            self.say()
            assert time.monotonic() < ends, f"{edge}: no link after {deadline_s:g} s\n{edge.last_lines()}"

    def check(self, text: str, where: object) -> None:
        """Every word that was said, once, and nothing else."""
        got, said = Counter(re.findall(r"<\w+>", text)), Counter(self.said)
        assert got == said, f"{where}: missing {sorted(said - got)[:20]}, too much {sorted(got - said)[:20]}"
        assert len(text) == sum(map(len, self.said)), f"{where}: something between the words"

    def agree(self, cluster: Cluster, deadline_s: float = 40.0) -> str:
        """Wait for the end, which is the same everywhere, has every word, and is in the log; the text."""
        length = sum(map(len, self.said))

        def arrived() -> bool:
            for peer in self.peers:  # all of them: an edge may be waiting for what one of them answers
                peer.pump(PAUSE_S)
            return all(len(str(peer.text)) >= length and peer.all_acknowledged() for peer in self.peers)

        wait_for(arrived, deadline_s, lambda: f"{length} characters: {[peer.told() for peer in self.peers]}")
        cluster.settle(self.doc, deadline_s=deadline_s)
        text = self.peers[0].read()
        for peer in self.peers:
            self.check(peer.read(), f"the client at {peer.edge}")
            assert peer.read() == text
        for edge in cluster.edges.values():
            assert record(record(edge.document(self.doc)["content"])[ROOT])["value"] == text
        return text

    def agree_in_log(self, cluster: Cluster, text: str) -> None:
        """End what knows the past and look at what the log alone gives to a new leader and a new edge."""
        for edge in cluster.edges.values():
            edge.kill()
        assert cluster.leader is not None
        cluster.leader.restart()
        fresh = cluster.add_edge("fresh")
        fresh.wait_link("up")
        with Peer(fresh, self.doc) as reader:
            reader.wait_text(text, 30)
