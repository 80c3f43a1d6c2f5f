"""Backups are taken while everything runs and put back; a damaged store is set aside; nothing acknowledged is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from sync.errors import SkerryError
from tests.peer import Peer
from tests.processes import Cluster, Json, record, run_cli, wait_for

DOC = "notes/plan"
PAGE = 4096


def _write(cluster: Cluster, edge: str, doc: str, text: str) -> None:
    with Peer(cluster[edge], doc) as peer:
        peer.wait_synced()
        peer.append(text)
        peer.wait_acknowledged()


def _reads(cluster: Cluster, edge: str, doc: str, text: str) -> None:
    with Peer(cluster[edge], doc) as reader:
        reader.wait_text(text, 30)


def _run(*arguments: str) -> dict[str, Json]:
    done = run_cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return record(json.loads(done.stdout))


def _set_aside(cluster: Cluster, edge: str) -> dict[str, Json]:
    return record(wait_for(lambda: cluster[edge].status()["store_set_aside"], 20, "the set-aside store is named"))


def test_a_store_is_copied_while_its_edge_runs_and_put_back_without_losing_what_the_log_has(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        _write(cluster, "a", DOC, "before ")
        _write(cluster, "a", "closed/early", "written early")
        cluster.settle(verify=False)
        copy = tmp_path / "a.backup"

        with Peer(cluster["a"], DOC) as ada:
            ada.wait_synced()
            ada.append("while ")
            taken = _run("backup", "edge", "--data", str(tmp_path / "a-data"), "--to", str(copy))
            ada.append("after ")
            ada.wait_acknowledged()
        _write(cluster, "a", "made/later", "the backup never had me")
        cluster.settle(verify=False)
        refused = run_cli("restore", "edge", str(copy), "--data", str(tmp_path / "a-data"))
        in_use = run_cli("restore", "edge", str(copy), "--data", str(tmp_path / "a-data"), "--replace")
        cluster["a"].stop()
        restored = _run("restore", "edge", str(copy), "--data", str(tmp_path / "a-data"), "--replace")
        cluster["a"].start()
        cluster["a"].wait_link("up")

        assert taken["documents"] == 2
        assert "open in process" in refused.stderr
        assert "open in process" in in_use.stderr
        assert Path(str(restored["before"])).exists()
        wait_for(lambda: "intact=False" in cluster["a"].last_lines(200), 20, "the older store is noticed")
        _reads(cluster, "a", DOC, "before while after ")
        _reads(cluster, "a", "made/later", "the backup never had me")
        _reads(cluster, "a", "closed/early", "written early")
        _write(cluster, "a", DOC, "again")
        cluster.settle(DOC)
        _reads(cluster, "b", DOC, "before while after again")


def test_unsent_changes_of_a_restored_backup_reach_the_log(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster["a"].cut(600)
        _write(cluster, "a", DOC, "made with the link down")
        copy = tmp_path / "a.backup"
        _run("backup", "edge", "--data", str(tmp_path / "a-data"), "--to", str(copy))
        cluster["a"].kill()
        for path in (tmp_path / "a-data").glob("edge.db*"):
            path.unlink()

        _run("restore", "edge", str(copy), "--data", str(tmp_path / "a-data"))
        cluster["a"].start()

        _reads(cluster, "b", DOC, "made with the link down")


def test_a_log_is_copied_while_it_runs_and_put_into_a_new_broker_which_every_edge_notices(tmp_path: Path) -> None:
    """The edges that held the documents are gone with their disks: what the backup has is all that there is."""
    with Cluster(tmp_path) as cluster:
        for number in range(5):
            _write(cluster, "a", f"notes/{number}", f"number {number}")
        _write(cluster, "a", "notes/large", "x" * 1_500_000)  # its change is in the object store
        cluster.settle(verify=False)
        copy = str(tmp_path / "log.backup")
        with Peer(cluster["b"], DOC) as ben:
            ben.wait_synced()
            ben.append("first ")
            first = _run("backup", "log", "--nats", cluster.nats.url, "--to", copy)
            ben.append("second")
            ben.wait_acknowledged()
        cluster.settle(verify=False)
        second = _run("backup", "log", "--nats", cluster.nats.url, "--to", copy)
        before = cluster["b"].status()["epoch"]
        with Peer(cluster["b"], DOC) as ben:  # only edge b has this
            ben.wait_synced()
            ben.append(" third")
            ben.wait_acknowledged()
        cluster["a"].kill()
        for path in (tmp_path / "a-data").glob("edge.db*"):
            path.unlink()
        cluster.nats.wipe()
        cluster["b"].wait_link("up", 20)

        restored = _run("restore", "log", copy, "--nats", cluster.nats.url)
        again = _run("restore", "log", copy, "--nats", cluster.nats.url)
        cluster["a"].start()

        assert (first["unreadable"], second["unreadable"]) == (0, 0)
        assert int(str(second["changes"])) > int(str(first["changes"])) >= 6
        assert int(str(restored["changes"])) >= 5
        assert again["changes"] == 0
        wait_for(lambda: cluster["b"].status()["epoch"] not in (None, before), 20, "a new epoch")
        for number in range(5):
            _reads(cluster, "a", f"notes/{number}", f"number {number}")
        _reads(cluster, "a", "notes/large", "x" * 1_500_000)
        _reads(cluster, "a", DOC, "first second third")
        cluster.settle(DOC)


def test_a_backup_of_one_log_does_not_go_on_with_another(tmp_path: Path) -> None:
    with Cluster(tmp_path, ["a"]) as cluster:
        _write(cluster, "a", DOC, "one")
        cluster.settle(verify=False)
        copy = str(tmp_path / "log.backup")
        _run("backup", "log", "--nats", cluster.nats.url, "--to", copy)
        cluster.nats.wipe()
        cluster["a"].wait_link("up", 20)

        done = run_cli("backup", "log", "--nats", cluster.nats.url, "--to", copy)
        foreign = run_cli("restore", "log", str(tmp_path / "nothing"), "--nats", cluster.nats.url)

        assert done.returncode == 1
        assert "holds another log" in done.stderr
        assert "no such file" in foreign.stderr


def _some_pages(content: bytearray) -> None:
    rng = random.Random(5)
    for at in rng.sample(range(1, len(content) // PAGE), 4):
        content[at * PAGE : (at + 1) * PAGE] = rng.randbytes(PAGE)


def _cut_short(content: bytearray) -> None:
    del content[len(content) // PAGE // 2 * PAGE + 100 :]


def _garbage(content: bytearray) -> None:
    content[:] = random.Random(7).randbytes(len(content))


@pytest.mark.parametrize("harm", [_some_pages, _cut_short, _garbage], ids=["pages", "cut", "garbage"])
def test_a_damaged_store_is_set_aside_named_and_rebuilt_from_the_leader(
    tmp_path: Path, harm: Callable[[bytearray], None]
) -> None:
    with Cluster(tmp_path) as cluster:
        for number in range(20):
            _write(cluster, "a", f"notes/{number}", f"number {number} " + "y" * 3_000)
        cluster.settle(verify=False)
        cluster["a"].stop()
        store = tmp_path / "a-data" / "edge.db"
        content = bytearray(store.read_bytes())
        harm(content)
        store.write_bytes(content)

        cluster["a"].start()
        for number in range(20):
            _reads(cluster, "a", f"notes/{number}", f"number {number} " + "y" * 3_000)
        _write(cluster, "a", "notes/0", "and on")
        aside = _set_aside(cluster, "a")
        shown = run_cli("status", "--nats", cluster.nats.url)

        assert Path(str(aside["path"])).exists()
        assert "store_set_aside" in cluster["a"].errors()
        assert "set aside" in shown.stdout
        assert cluster["a"].running


def test_unsent_changes_are_saved_from_a_damaged_store_row_by_row(tmp_path: Path) -> None:
    """Cut off, edited, damaged: the pages of the texts are gone in part, the outbox is not."""
    with Cluster(tmp_path) as cluster:
        cluster["a"].cut(600)
        for number in range(20):
            _write(cluster, "a", f"notes/{number}", f"number {number} " + "z" * 3_000)
        cluster["a"].stop()
        store = tmp_path / "a-data" / "edge.db"
        content = bytearray(store.read_bytes())
        _some_pages(content)
        store.write_bytes(content)

        cluster["a"].start()
        cluster["a"].wait_link("up")
        aside = wait_for(lambda: _touched(cluster), 20, "the store was set aside")
        cluster.settle(verify=False)
        known = _run("status", "--nats", cluster.nats.url)
        readable = 0
        for number in range(20):
            status, body = cluster["a"].http(f"/docs/notes%2F{number}?timeout=2")
            if status == 200 and b"z" * 3_000 in body:
                readable += 1
                _reads(cluster, "b", f"notes/{number}", f"number {number} " + "z" * 3_000)

        assert known
        assert readable >= 12, f"{readable} of 20 were saved: {aside}"


def _touched(cluster: Cluster) -> dict[str, Json] | None:
    """Damage shows when it is met: ask for everything."""
    for number in range(20):
        try:
            cluster["a"].http(f"/docs/notes%2F{number}")
        except (OSError, SkerryError):
            return None
    found = cluster["a"].status()["store_set_aside"]
    return None if found is None else record(found)
