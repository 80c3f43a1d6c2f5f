"""JetStream forgets, all of it or the newest part: what was acknowledged is shipped again (law 5)."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from pathlib import Path

import nats

from sync.document import Document, merge
from sync.headers import decode_change
from sync.ids import DocId, from_subject_token
from tests.faults.words import Talk
from tests.peer import Peer
from tests.processes import Cluster

DOC = "notes/plan"
CUT_S = 4


def epoch(cluster: Cluster) -> object:
    """Of the log that edge b speaks to."""
    return cluster["b"].status()["epoch"]


def test_a_log_that_vanished_while_an_edge_was_cut_off_comes_back_whole(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        talk.say(20)
        talk.agree(cluster)
        with Peer(cluster["a"], "closed/meanwhile") as cyd:  # nobody has it open when the log goes
            cyd.wait_synced()
            cyd.append("written once, long ago")
            cyd.wait_acknowledged()
        cluster.settle(verify=False)

        cluster["b"].cut(CUT_S)
        talk.say(20)
        before = epoch(cluster)
        cluster.nats.wipe()
        talk.say(20)
        cluster["b"].wait_link("up", CUT_S + 20)
        assert epoch(cluster) != before, "it is the same log: nothing was lost"
        talk.say(20)

        text = talk.agree(cluster)
        talk.agree_in_log(cluster, text)
        with Peer(cluster["fresh"], "closed/meanwhile") as reader:
            reader.wait_text("written once, long ago", 30)


def test_a_log_that_was_rolled_back_gets_what_it_forgot(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster, Talk(DOC, cluster["a"], cluster["b"]) as talk:
        talk.say(20)
        talk.agree(cluster)
        cluster.nats.keep_copy(tmp_path / "older")
        for edge in cluster.edges.values():
            edge.wait_link("up", 20)
        talk.say(20)
        with Peer(cluster["b"], "made/after-the-copy") as cyd:
            cyd.wait_synced()
            cyd.append("the older log never had me")
            cyd.wait_acknowledged()
        talk.agree(cluster)

        cluster["b"].cut(CUT_S)
        talk.say(10)
        cluster.nats.roll_back(tmp_path / "older")
        talk.say(10)
        cluster["b"].wait_link("up", CUT_S + 20)

        text = talk.agree(cluster)
        talk.agree_in_log(cluster, text)
        with Peer(cluster["fresh"], "made/after-the-copy") as reader:
            reader.wait_text("the older log never had me", 30)


def test_a_log_that_vanished_while_every_edge_was_down_comes_back_whole(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        with Talk(DOC, cluster["a"], cluster["b"]) as talk:
            talk.say(20)
            text = talk.agree(cluster)
        before = epoch(cluster)
        for edge in cluster.edges.values():
            assert edge.stop() == 0

        cluster.nats.wipe()
        for edge in cluster.edges.values():
            edge.start()
            edge.wait_link("up", 20)

        assert epoch(cluster) != before, "it is the same log: nothing was lost"
        cluster.settle(DOC)
        talk.agree_in_log(cluster, text)


def texts_in_log(url: str) -> dict[DocId, str]:
    """What the log alone says: every message of the stream, read and folded here."""

    async def read() -> dict[DocId, list[bytes]]:
        updates: dict[DocId, list[bytes]] = defaultdict(list)
        client = await nats.connect(url)
        try:
            stream = client.jetstream()
            count = (await stream.stream_info("SKERRY_CHANGES")).state.messages
            reading = await stream.subscribe("skerry.changes.>", stream="SKERRY_CHANGES", ordered_consumer=True)
            for _ in range(count):
                message = await reading.next_msg(timeout=20)
                doc = from_subject_token(message.subject.split(".")[3])
                updates[doc].append(decode_change(doc, message.headers or {}, message.data).update)
        finally:
            await client.close()
        return updates

    return {doc: Document(merge(updates)).text("text") for doc, updates in asyncio.run(read()).items()}


def test_a_log_deleted_while_two_edges_are_cut_off_has_in_the_end_all_that_any_edge_acknowledged(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path, ("a", "b", "c")) as cluster:
        edges = list(cluster.edges.values())
        said: dict[str, list[str]] = {}

        def talk(doc: str) -> None:
            with Talk(doc, *edges) as talk:
                talk.say(20)
                for peer in talk.peers:
                    peer.wait_acknowledged()
                said[doc] = talk.said

        talk("notes/linked")
        cluster.settle("notes/linked")
        for name in ("a", "b"):
            cluster[name].cut(600)
            cluster[name].wait_link("cut")
        talk("notes/cut-off")
        for edge in edges:
            with Peer(edge, "notes/linked") as ada:
                ada.wait_synced()
                word = f"<{edge.name}alone>"
                ada.append(word)
                ada.wait_acknowledged()
                said["notes/linked"].append(word)
        # Nobody is connected any more: what the edges have on their disks is all there is.
        assert all(cluster[name].outbox_count() > 0 for name in ("a", "b"))
        before = epoch(cluster)

        cluster.nats.wipe()
        for name in ("a", "b"):
            cluster[name].cut(0.1)
        for edge in edges:
            edge.wait_link("up", 30)
        assert epoch(cluster) != before, "it is the same log: nothing was lost"
        cluster.settle(*said, deadline_s=60)

        found = texts_in_log(cluster.nats.url)
        for doc, words in said.items():
            assert Counter(re.findall(r"<\w+>", found[DocId(doc)])) == Counter(words), doc
