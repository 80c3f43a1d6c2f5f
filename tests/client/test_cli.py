"""`skerry doc …` against real edges, run as a person runs it: what is printed, what it exits with, what is kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from server.cli import main
from tests.processes import ROOT, Cluster, Json, Node, record, run_cli, wait_for

NOBODY = "ws://127.0.0.1:1"


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Json:
        return cast(Json, json.loads(self.out))


Skerry = Callable[..., Done]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def skerry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Skerry:
    """The command line within this process. `stdin`: what is piped in; without it there is a terminal."""
    for name in ("SKERRY_TOKEN", "SKERRY_NAMESPACE", "SKERRY_EDGE", "VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def run(*arguments: object, stdin: bytes | None = None) -> Done:
        with monkeypatch.context() as patch:
            pipe: Any = Terminal() if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))
            patch.setattr(sys, "stdin", pipe)
            capsys.readouterr()
            status = main(["doc", *map(str, arguments)])
        return Done(status, *capsys.readouterr())

    return run


def editor(tmp_path: Path, program: str) -> str:
    """A command that edits the file of its last argument, `path`, by this Python program."""
    script = tmp_path / "editor.py"
    script.write_text(f"import sys, pathlib\npath = pathlib.Path(sys.argv[-1])\n{program}\n", "utf-8")
    return shlex.join([sys.executable, str(script)])


# --- set and get ------------------------------------------------------------------------------------------------------
def test_what_is_set_at_one_edge_is_read_at_the_other(cluster: Cluster, doc: str, skerry: Skerry) -> None:
    done = skerry("set", doc, "/set/theme", '"dark"', "--edge", cluster["a"].ws, "--confirmed", "merged", "--json")
    said = record(done.json)

    assert done.status == 0
    assert (said["changed"], said["stage"], said["edge"], said["kept"]) == (True, "merged", "a", None)
    at_least = ("--at-least", said["token"], "--edge", cluster["b"].ws)
    assert skerry("get", doc, "/set/theme", *at_least) == (0, "dark\n", "")
    assert skerry("get", doc, *at_least, "--json").json == {"set": {"theme": "dark"}}
    again = skerry("set", doc, "/set/theme", '"dark"', "--edge", cluster["b"].listen)
    assert again == (0, f"{doc}: no difference\n", "")
    gone = skerry("set", doc, "/set/theme", "--delete", "--edge", f"http://{cluster['b'].listen}")
    assert gone.status == 0
    stages = "on the edge's disk|in the log|merged by the leader"  # at least that far, and perhaps further by now
    assert re.match(rf"{doc}: ({stages}) \(b\); token sk1\.", gone.out)


def test_a_value_comes_on_standard_input_too(cluster: Cluster, doc: str, skerry: Skerry) -> None:
    assert skerry("set", doc, "/todo", "--edge", cluster["a"].ws, stdin=b'["tent", "map"]').status == 0
    assert skerry("set", doc, "/todo/-", "-", "--edge", cluster["a"].ws, stdin=b'"rope"').status == 0

    assert skerry("get", doc, "/todo", "--edge", cluster["a"].ws).json == ["tent", "map", "rope"]


# --- edit -------------------------------------------------------------------------------------------------------------
def test_concurrent_typing_survives_an_editor(
    cluster: Cluster, doc: str, skerry: Skerry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = cluster["a"].ws, cluster["b"].ws
    skerry("set", doc, "/body", '"Pack the tent.\\nBuy a map.\\n"', "--edge", a, "--confirmed", "merged")
    meanwhile = ["-m", "server.cli", "doc", "set", doc, "/body", '"Pack the big tent.\\nBuy a map.\\n"']
    program = f"""
import subprocess
subprocess.run([sys.executable, *{[*meanwhile, "--edge", b, "--confirmed", "merged"]!r}], cwd={str(ROOT)!r}, check=True)
path.write_text(path.read_text().replace("map", "compass") + "Call Ben.\\n")
"""
    monkeypatch.setenv("EDITOR", editor(tmp_path, program))

    done = skerry("edit", doc, "--edge", a, "--confirmed", "merged", "--json")

    assert done.status == 0, done.err
    token = record(done.json)["token"]
    read = skerry("get", doc, "/body", "--edge", b, "--at-least", token)
    assert read.out == "Pack the big tent.\nBuy a compass.\nCall Ben.\n"


def test_a_text_on_standard_input_is_an_edit(cluster: Cluster, doc: str, skerry: Skerry) -> None:
    a = ("--edge", cluster["a"].ws)
    assert skerry("edit", doc, *a, stdin="Zelt 🏕\n".encode()).status == 0
    assert cluster["a"].document(doc)["content"] == {"text": {"kind": "text", "value": "Zelt 🏕"}}
    assert skerry("edit", doc, *a, stdin="Zelt 🏕\n".encode()).out == f"{doc}: no difference\n"
    assert skerry("edit", doc, "/other", *a, stdin=b"another root").status == 0
    assert skerry("get", doc, *a).json == {"other": "another root", "text": "Zelt 🏕"}


def test_what_is_no_text_is_edited_as_json(
    cluster: Cluster, doc: str, skerry: Skerry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = ("--edge", cluster["a"].ws)
    skerry("set", doc, "", '{"set": {"theme": "dark"}, "todo": ["tent"], "old": ["x"]}', *a)
    program = """
import json
value = json.loads(path.read_text())
del value["old"]
value["todo"].append("map")
path.write_text(json.dumps(value))
"""
    monkeypatch.setenv("VISUAL", editor(tmp_path, program))

    assert skerry("edit", doc, *a).status == 0
    assert skerry("get", doc, *a).json == {"set": {"theme": "dark"}, "todo": ["tent", "map"]}
    monkeypatch.setenv("VISUAL", editor(tmp_path, "path.write_text('{')"))
    done = skerry("edit", doc, "/set", *a)
    assert done.status == 1
    assert "not JSON" in done.err
    assert "your text is kept in " in done.err
    kept = Path(done.err.strip().rpartition("kept in ")[2])
    assert kept.read_text() == "{"
    kept.unlink()
    kept.parent.rmdir()


def test_an_editor_that_fails_changes_nothing(
    cluster: Cluster, doc: str, skerry: Skerry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = ("--edge", cluster["a"].ws)
    assert "no editor; set EDITOR" in skerry("edit", doc, *a).err
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    assert "No such file or directory" in (done := skerry("edit", doc, *a)).err
    assert "nothing was typed" in done.err
    assert list((tmp_path / "temporary").iterdir()) == []
    monkeypatch.setenv("EDITOR", editor(tmp_path, "path.write_text('x'); sys.exit(3)"))
    done = skerry("edit", doc, *a)
    assert done.status == 1
    assert "ended with status 3; nothing was changed, what is typed is in " in done.err
    assert Path(done.err.strip().rpartition(" ")[2]).read_text() == "x"
    assert "is empty" in skerry("edit", doc, *a, stdin=b"").err
    assert "not UTF-8" in skerry("edit", doc, *a, stdin=b"\xff").err
    assert skerry("get", doc, *a).json == {}


# --- offline ----------------------------------------------------------------------------------------------------------
def test_work_offline_is_brought_in_later(cluster: Cluster, doc: str, skerry: Skerry, tmp_path: Path) -> None:
    a, store = ("--edge", cluster["a"].ws), ("--offline", tmp_path / "notes.db")
    skerry("set", doc, "/body", '"before"', *a, "--confirmed", "merged")
    assert skerry("sync", doc, *store, *a, "--json").status == 0

    kept = skerry("edit", doc, *store, stdin=b"before and after")
    assert kept.status == 0
    assert kept.out.startswith(f"{doc}: kept in {tmp_path / 'notes.db'}; token sk1.")
    assert skerry("set", doc, "/set/a", "1", *store).status == 0
    assert skerry("get", doc, *store).json == {"body": "before and after", "set": {"a": 1}}
    (row,) = cast(list[Json], skerry("unmerged", *store, "--json").json)
    assert (record(row)["doc"], record(row)["disk"], record(row)["edge"]) == (doc, 2, 0)
    skerry("set", doc, "/body", '"long before"', *a)
    (synced,) = cast(
        list[Json], skerry("sync", *store, "--edge", cluster["b"].ws, "--confirmed", "merged", "--json").json
    )

    assert (record(synced)["stage"], record(synced)["edge"]) == ("merged", "b")
    read = skerry("get", doc, "--at-least", record(synced)["token"], *a)
    assert read.json == {"body": "long before and after", "set": {"a": 1}}
    (row,) = cast(list[Json], skerry("unmerged", *store, "--json").json)
    assert (record(row)["disk"], record(row)["edge"], record(row)["log"]) == (0, 0, 0)


def test_without_an_edge_it_says_so_and_what_is_kept(doc: str, skerry: Skerry, tmp_path: Path) -> None:
    store = tmp_path / "notes.db"
    lost = skerry("set", doc, "/body", '"x"', "--edge", NOBODY)
    assert lost.status == 1
    assert lost.err.startswith(f"skerry: no edge at {NOBODY} (")
    assert lost.err.count("\n") == 1

    kept = skerry("set", doc, "/body", '"x"', "--edge", NOBODY, "--offline", store)

    assert kept.status == 3
    assert f"kept in {store}, on no edge yet ({NOBODY}: " in kept.err
    assert f"later: skerry doc sync --offline {store}\n" in kept.err
    assert skerry("get", doc, "/body", "--offline", store).out == "x\n"
    assert skerry("get", doc, "--offline", store, "/body").out == "x\n"
    assert skerry("get", "--offline", store, doc, "/body").out == "x\n"
    assert skerry("get", doc, "/body", "--offline", store, "--edge", NOBODY).status == 1
    assert f"{doc}2: is not in {store}" in skerry("get", f"{doc}2", "/body", "--offline", store).err


def test_an_edge_that_goes_under_an_editor_loses_no_text(
    cluster: Cluster, doc: str, skerry: Skerry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = cluster.add_edge("short-lived")
    try:
        program = f"import os, signal\nos.kill({edge.pid}, signal.SIGKILL)\npath.write_text('typed for an hour')"
        monkeypatch.setenv("EDITOR", editor(tmp_path, program))

        done = skerry("edit", doc, "--edge", edge.ws, "--json")
    finally:
        edge.end()
        del cluster.edges["short-lived"]

    assert done.status == 3
    store = record(done.json)["kept"]
    assert f"kept in {store}, on no edge yet" in done.err
    assert skerry("sync", "--offline", store, "--edge", cluster["a"].ws).status == 0
    assert skerry("get", doc, "/text", "--edge", cluster["a"].ws).out == "typed for an hour\n"


def test_an_edge_that_is_cut_off_has_it_on_its_disk(cluster: Cluster, doc: str, skerry: Skerry) -> None:
    cluster["a"].cut(4)
    try:
        done = skerry("set", doc, "/body", '"x"', "--edge", cluster["a"].ws, "--confirmed", "log", "--timeout", "0.5")
        assert done.status == 3
        assert "only on the edge's disk (edge a has not said so in time)" in done.err
    finally:
        cluster["a"].wait_link("up")


# --- watch ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("style", ["--json", "lines"])
def test_a_watcher_sees_what_changes_and_who_and_why(cluster: Cluster, doc: str, skerry: Skerry, style: str) -> None:
    skerry("set", doc, "/body", '"Pack the tent."', "--edge", cluster["a"].ws, "--confirmed", "merged")
    flags = [style] if style == "--json" else []
    watcher = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "doc", "watch", doc, "--edge", cluster["b"].ws, "--count", "1", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        text=True,
    )
    assert watcher.stdout is not None
    try:
        assert "watching" in watcher.stdout.readline()
        how = ("--actor", "ada", "--correlation", "trip-42", "--edge", cluster["a"].ws)
        skerry("set", doc, "/body", '"Pack the big tent."', *how)
        said = watcher.stdout.read()
        assert watcher.wait(30) == 0
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stdout.close()

    if style == "--json":
        (line,) = said.splitlines()
        seen = record(cast(Json, json.loads(line)))
        edit: Json = {"position": 9, "deleted": "", "inserted": "big "}
        assert (seen["event"], seen["doc"]) == ("changed", doc)
        assert seen["changes"] == [{"path": "/body", "edits": [edit]}]
        (by,) = cast(list[Json], seen["by"])
        assert {"edge": "a", "actor": "ada", "correlation": "trip-42"}.items() <= record(by).items()
    else:
        assert said.rstrip().endswith('ada at edge a (trip-42): /body at 9: +"big "')


# --- export and import ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("format", ["update", "json", "text"])
def test_a_directory_of_documents_goes_from_edge_to_edge(
    cluster: Cluster, doc: str, skerry: Skerry, tmp_path: Path, format: str
) -> None:
    names = [f"{doc}/{name}" for name in ("plan", "a//b", ".hidden", "ü %")]
    for name in names:
        skerry("set", name, "/text", json.dumps(f"this is {name}"), "--edge", cluster["a"].ws)

    out = skerry(
        "export", "--match", f"{doc}/*", "--to", tmp_path / "out", "--format", format, "--edge", cluster["a"].ws
    )
    assert out.status == 0, out.err
    store = ("--offline", tmp_path / "copy.db")
    back = skerry("import", tmp_path / "out", *store)
    assert back.status == 0, back.err
    assert skerry("import", tmp_path / "out", *store, "--json").out.count('"changed": false') == len(names)

    for name in names:
        assert skerry("get", name, "/text", *store).out == f"this is {name}\n"
    again = skerry("export", "--match", f"{doc}/*", "--to", tmp_path / "out", "--format", format, *store)
    assert again.status == 1
    assert again.err.count("is there already; name another, or replace it with --force") == len(names)
    force = ("--to", tmp_path / "out", "--format", format, "--force")
    assert skerry("export", *names, *force, *store).status == 0


def test_many_documents_show_a_progress_bar_at_a_terminal_and_nowhere_else(tmp_path: Path, skerry: Skerry) -> None:
    for name in ("a", "b", "c"):
        skerry("set", name, "/text", '"x"', "--offline", tmp_path / "notes.db")
    terminal, theirs = os.openpty()
    command = [sys.executable, "-m", "server.cli", "doc", "export", "--match", "*", "--offline", tmp_path / "notes.db"]

    with open(terminal, "rb", buffering=0) as screen:
        with open(theirs, "wb") as stderr:
            done = subprocess.run(
                [*map(str, command), "--to", str(tmp_path / "out")],
                cwd=ROOT,
                env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
                stderr=stderr,
                stdout=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        shown = screen.read(65_536).decode("utf-8")

    assert done.returncode == 0
    assert "exporting" in shown
    assert "100%" in shown
    again = skerry("export", "--match", "*", "--offline", tmp_path / "notes.db", "--to", tmp_path / "again")
    assert again.err == ""


def test_one_document_goes_to_standard_output(cluster: Cluster, doc: str, skerry: Skerry, tmp_path: Path) -> None:
    skerry("set", doc, "/text", '"Zelt\\n"', "--edge", cluster["a"].ws, "--confirmed", "merged")
    text = run_cli("doc", "export", doc, "--format", "text", "--edge", cluster["a"].ws)
    whole = run_cli("doc", "export", doc, "--edge", cluster["a"].ws)

    assert text.stdout == "Zelt\n"
    exported = record(cast(Json, json.loads(whole.stdout)))
    assert exported["content"] == cluster["a"].document(doc)["content"]
    assert exported["doc"] == doc


# --- what is wrong ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("get", "{doc}", "/nope", "--edge", "{a}"), "nothing is at /nope; in {doc} there is body"),
        (("get", "{doc}", "nope", "--edge", "{a}"), "no JSON Pointer"),
        (("get", "", "--edge", "{a}"), "document id: empty"),
        (("get", "{doc}", "--at-least", "sk1.xx", "--edge", "{a}"), "token"),
        (("set", "{doc}", "/body", "[]", "--edge", "{a}"), "/body is a text and cannot become an array"),
        (("set", "{doc}", "/body", "hello", "--edge", "{a}"), "'hello': not JSON"),
        (("set", "{doc}", "/body", '"x"', "--delete", "--edge", "{a}"), "--delete takes no value"),
        (("set", "{doc}", "/body", "--edge", "{a}"), "no value; give it as JSON"),
        (("set", "{doc}", "/nope", "--delete", "--edge", "{a}"), "nothing is at /nope"),
        (("set", "{doc}", "/body", '"x"', "--edge", "ftp://x"), "no address of an edge"),
        (("set", "{doc}", "/body", '"x"', "--edge", "{a}", "--namespace", "other"), "is of namespace skerry"),
        (("set", "{doc}", "/body", '"x"', "--offline", "{tmp}/damaged.db"), "damaged.db: damaged"),
        (("set", "{doc}", "/body", '"x"', "--offline", "{tmp}"), "cannot be opened"),
        (("set", "{doc}", "/body", '"x"', "--offline", "{tmp}/newer.db"), "reads up to 3; start a newer Skerry"),
        (("get", "a" * 257, "--edge", "{a}"), "document id: 257 bytes, at most 256; choose a shorter one"),
        (("get", "a\tb", "--edge", "{a}"), "document id: control character U+0009 is not allowed; remove it"),
        (("get", "{doc}", "--edge", "host:port"), "'ws://host:port': no address of an edge"),
        (
            ("get", "{doc}", "--edge", NOBODY),
            f"no edge at {NOBODY} ({NOBODY}: connection refused); is one running there?",
        ),
        (("get", "{doc}", "--edge", "ws://nobody.invalid", "--timeout", "2"), "no edge at ws://nobody.invalid"),
        (("edit", "{doc}", "/set/nope", "--edge", "{a}"), "nothing is at /set"),
        (("watch", "{doc}", "--offline", "{tmp}/x.db"), "name an edge as well"),
        (("export", "--edge", "{a}"), "no document; name some"),
        (("export", "--match", "nothing-like-it", "--edge", "{a}"), "no document here is like nothing-like-it"),
        (("export", "--match", "*", "--edge", "{a}"), "name a directory with --to"),
        (("export", "{doc}", "--path", "/body/x", "--edge", "{a}"), "nothing is at /body/x"),
        (("import", "{tmp}/nope", "--edge", "{a}"), "nope: no such file"),
        (("import", "{tmp}/damaged.db", "--edge", "{a}"), "no format that its name tells"),
        (("import", "{tmp}/damaged.db", "--format", "update", "--as", "{doc}", "--edge", "{a}"), "damaged.db: byte 0"),
        (("sync", "--edge", "{a}"), "no store; name it with --offline"),
        (("unmerged", "--offline", "{tmp}/nope.db"), "no such store"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_is_wrong_is_one_line(
    cluster: Cluster, skerry: Skerry, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    doc, a = "client/wrong", cluster["a"].ws
    (tmp_path / "damaged.db").write_bytes(b"this is no store, and has never been one")
    skerry("set", doc, "/body", '"x"', "--offline", tmp_path / "newer.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "newer.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
        newer.commit()
    skerry("set", doc, "/body", '"as it was"', "--edge", a)
    skerry("set", "client/wrong-too", "/body", '"as it was"', "--edge", a)

    done = skerry(*[each.format(doc=doc, a=a, tmp=tmp_path) for each in arguments])

    assert done.status == 1
    assert done.out == ""
    assert done.err.startswith("skerry: ")
    assert done.err.count("\n") == 1
    assert says.format(doc=doc) in done.err
    assert skerry("get", doc, "/body", "--edge", a).out == "as it was\n"


def test_an_edge_that_refuses_says_why_in_one_line(doc: str, tmp_path: Path, skerry: Skerry) -> None:
    command = ["edge", "--name", "small", "--data", str(tmp_path / "small"), "--listen", "{listen}"]
    command += ["--nats", "nats://127.0.0.1:1"]
    edge = Node("edge", "small", tmp_path, command, {"SKERRY_DOCUMENT_BYTES_MAX": "2000"})
    edge.start()
    try:
        done = skerry("set", doc, "/body", json.dumps("x" * 3000), "--edge", edge.ws)
    finally:
        edge.end()

    assert done.status == 1
    assert re.fullmatch(rf"skerry: {doc}: document_bytes: \d+ is over the limit of 2000; .*\(4429\)\n", done.err)


def limited(file_bytes_max: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`skerry doc …` with a disk on which no file gets larger than that."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))

    return subprocess.run(
        [sys.executable, "-m", "server.cli", "doc", *map(str, arguments)],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("SKERRY_")},
        preexec_fn=limit,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_full_disk_is_one_line_and_takes_nothing_back(
    cluster: Cluster, doc: str, tmp_path: Path, skerry: Skerry
) -> None:
    store = tmp_path / "notes.db"
    assert skerry("set", doc, "/body", '"kept"', "--offline", store).status == 0

    at_writing = limited(120_000, "set", doc, "/long", json.dumps("x" * 100_000), "--offline", store)
    at_opening = limited(0, "set", doc, "/body", '"y"', "--offline", store)
    without_store = limited(0, "set", doc, "/body", '"y"', "--edge", cluster["a"].ws)

    for done, says in (
        (at_writing, f"{store}: writing: "),
        (at_opening, f"{store}: opening: "),
        (without_store, "no place for temporary files"),
    ):
        assert done.returncode == 1
        assert done.stderr.startswith(f"skerry: {says}")
        assert done.stderr.count("\n") == 1
    assert "a quota is used up; check both, nothing that was stored was taken back" in at_writing.stderr
    assert skerry("get", doc, "--offline", store, "--json").json == {"body": "kept"}


def test_a_store_that_another_program_has_open_is_told(doc: str, tmp_path: Path, skerry: Skerry) -> None:
    store = tmp_path / "notes.db"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from client.store import Store\nfrom pathlib import Path\n"
            f"s = Store.open(Path({str(store)!r}), 'skerry'); print('open', flush=True); input()",
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        done = skerry("set", doc, "/x", '"y"', "--offline", store)
    finally:
        holder.communicate(b"\n")

    assert done.status == 1
    assert "somebody has it open" in done.err


def test_an_edge_that_starts_late_is_waited_for(cluster: Cluster, doc: str, skerry: Skerry) -> None:
    edge = cluster.add_edge("late")
    edge.kill()
    try:
        edge.spawn()
        deadline = time.monotonic() + 20
        while (done := skerry("set", doc, "/x", '"y"', "--edge", edge.ws)).status and time.monotonic() < deadline:
            pass
        assert done.status == 0, done.err
        wait_for(lambda: edge.document(doc), 10, "the edge has it")
    finally:
        edge.end()
        del cluster.edges["late"]
