"""Real daemons as processes: a node, a cluster of them, and what a test asks of one from outside.

Room: process ids, signals, HTTP, the command line. Nothing here imports the daemons' code: what a test sees is what an
operator sees. Every process is ended by its id, also when a test fails, and on Linux when the test's process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast
from urllib.parse import quote

import nats
from websockets.sync.client import connect
from websockets.typing import Subprotocol

__all__ = ["ROOT", "Cluster", "Json", "Node", "NatsNode", "Verdict", "as_int", "record", "run_cli", "wait_for"]

ROOT = Path(__file__).resolve().parents[1]
OPERATOR_SUBPROTOCOL = "skerry.operator.v1"
READY_S_MAX = 30.0  # two cores shared by several workers
SETTLE_S_MAX = 30.0
STOP_S_MAX = 15.0
POLL_S = 0.05
LOG_LINES = 15
PR_SET_PDEATHSIG = 1

T = TypeVar("T")
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def wait_for(condition: Callable[[], T], deadline_s: float, what: str | Callable[[], str]) -> T:
    """The first truthy answer of `condition`. An OSError (nobody listens yet) counts as "not yet".

    Raises AssertionError naming `what` and the last answer.
    """
    ends = time.monotonic() + deadline_s
    last: object = None
    while True:
        try:
            answer = condition()
            if answer:
                return answer
            last = answer
        except (OSError, http.client.HTTPException) as error:
            last = error
        if time.monotonic() > ends:
            told = what() if callable(what) else what
            raise AssertionError(f"not within {deadline_s:g} s: {told}; last seen: {last!r:.2000}")
        time.sleep(POLL_S)


def record(value: Json) -> dict[str, Json]:
    """`value` as the JSON object it has to be."""
    assert isinstance(value, dict), f"not a JSON object: {value!r:.200}"
    return value


def as_int(value: Json) -> int:
    assert isinstance(value, int), f"not a number: {value!r:.200}"
    return value


def run_cli(
    *args: str, deadline_s: float = 60.0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One command of the command line, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *args],
        cwd=ROOT,
        env={**_environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )


class Node:
    """One daemon. In `command`, `{listen}` is its address: a free port at first, the same one after a restart."""

    def __init__(
        self,
        role: str,
        name: str,
        directory: Path,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        program: str = "server.cli",
    ) -> None:
        self.role = role
        self.name = name
        self.directory = directory
        self.listen = "127.0.0.1:0"
        self.ready_line: dict[str, str] = {}
        """`key=value` of the line that the daemon printed when it began to serve."""
        self._command = list(command)
        self._env = dict(env or {})
        self.program = program
        """The module that it runs: a test puts one there that breaks something on purpose."""
        self.kill_count = 0
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._out = directory / f"{name}.out"
        self._err = directory / f"{name}.err"

    def __repr__(self) -> str:
        return f"{self.role} {self.name}"

    # --- life --------------------------------------------------------------------------------------------------------
    def spawn(self) -> None:
        """Begin, without waiting for it to serve."""
        assert self._process is None or self._process.poll() is not None, f"{self} runs already"
        self.ready_line = {}
        command = [part.replace("{listen}", self.listen) for part in self._command]
        with open(self._out, "wb") as out, open(self._err, "ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.program, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env={**_environment(), "PYTHONUNBUFFERED": "1", **self._env},
                preexec_fn=_die_with_parent(),
            )

    def wait_ready(self, deadline_s: float = READY_S_MAX) -> None:
        def ready() -> dict[str, str]:
            assert self._process is not None
            for line in self._out.read_text("utf-8", "replace").splitlines(keepends=True):
                if line.startswith("ready ") and line.endswith("\n"):
                    return dict(pair.split("=", 1) for pair in line.split()[1:])
            status = self._process.poll()
            assert status is None, f"{self} ended with status {status} before it was ready\n{self.last_lines()}"
            return {}

        self.ready_line = wait_for(ready, deadline_s, lambda: f"{self} is ready\n{self.last_lines()}")
        self.listen = self.ready_line.get("listen", self.listen)

    def start(self, deadline_s: float = READY_S_MAX) -> None:
        self.spawn()
        self.wait_ready(deadline_s)

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None:
            self.kill_count += 1
            self._process.kill()
            self._process.wait(STOP_S_MAX)

    def stop(self, deadline_s: float = STOP_S_MAX) -> int:
        """SIGTERM, and the exit status. Fails where it does not end in time."""
        assert self._process is not None
        self._process.terminate()
        return self.wait_end(deadline_s)

    def wait_end(self, deadline_s: float = STOP_S_MAX) -> int:
        """The exit status of a daemon that is ending by itself."""
        assert self._process is not None
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end within {deadline_s:g} s\n{self.last_lines()}") from None

    def restart(self, deadline_s: float = READY_S_MAX) -> None:
        """SIGKILL, then begin again on the same address and directory."""
        self.kill()
        self.start(deadline_s)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """However it is: gone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
        self.kill()

    # --- what it says ------------------------------------------------------------------------------------------------
    def errors(self) -> str:
        """Everything on its standard error, over all restarts."""
        return self._err.read_text("utf-8", "replace") if self._err.exists() else ""

    def check_log(self) -> None:
        """Fails where it has logged an error. A node that was killed at work may say what it was doing: it knows of no
        other cause (`server.record`)."""
        lines = self.errors().splitlines()
        died = [line for line in lines if " died_of " in line]
        wrong = [line for line in lines if re.search(r"Traceback| ERROR | CRITICAL ", line) and line not in died]
        assert not wrong, self.last_lines(60)
        assert len(died) <= self.kill_count, self.last_lines(60)

    def last_lines(self, count: int = LOG_LINES) -> str:
        lines = self.errors().splitlines()[-count:]
        return "\n".join(f"  {self.name}| {line}" for line in lines) or f"  {self.name}| (nothing logged)"

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self}: no VmRSS")

    # --- HTTP and the operator's websocket ---------------------------------------------------------------------------
    def http(self, path: str, deadline_s: float = 10.0) -> tuple[int, bytes]:
        """(status, body) of a GET. Raises OSError where nobody listens."""
        host, _, port = self.listen.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=deadline_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Json:
        """JSON of a GET that has to succeed."""
        status, body = self.http(path)
        assert status == 200, f"{self}: GET {path} is {status}: {body[:300]!r}"
        return cast(Json, json.loads(body))

    def status(self) -> dict[str, Json]:
        return record(self.get("/status"))

    def link(self) -> str:
        """`up`, `down` or `cut`."""
        return str(record(self.status()["link"])["state"])

    def wait_link(self, state: str, deadline_s: float = 15.0) -> float:
        """Returns the seconds that it took."""
        began = time.monotonic()
        wait_for(lambda: self.link() == state, deadline_s, lambda: f"{self}: link {state}\n{self.last_lines()}")
        return time.monotonic() - began

    def outbox_count(self) -> int:
        return as_int(record(self.status()["outbox"])["count"])

    def document(self, doc: str) -> dict[str, Json]:
        return record(self.get(f"/docs/{quote(doc, safe='')}"))

    def digest(self, doc: str) -> str | None:
        """None where this edge does not know the document."""
        status, body = self.http(f"/docs/{quote(doc, safe='')}?digest=1")
        if status == 404:
            return None
        assert status == 200, f"{self}: digest of {doc!r} is {status}: {body[:300]!r}"
        return str(record(cast(Json, json.loads(body)))["digest"])

    @property
    def ws(self) -> str:
        return f"ws://{self.listen}"

    def operate(self, **order: Json) -> dict[str, Json]:
        """One order over the operator's websocket, and its answer; what is pushed in between is passed over."""
        with connect(f"{self.ws}/", subprotocols=[Subprotocol(OPERATOR_SUBPROTOCOL)]) as socket:
            socket.send(json.dumps(order))
            ends = time.monotonic() + 10
            while True:
                answer = record(cast(Json, json.loads(socket.recv(max(0.1, ends - time.monotonic())))))
                if "ok" in answer or "error" in answer:
                    return answer

    def cut(self, seconds: float) -> None:
        """Cut this edge's link to NATS for so long."""
        answer = self.operate(op="cut", seconds=seconds)
        assert answer.get("ok") is True, f"{self}: {answer}"


class NatsNode(Node):
    """`skerry nats`: the process that matters is nats-server, its child."""

    def __init__(self, name: str, directory: Path, data: Path) -> None:
        super().__init__("nats", name, directory, ["nats", "--data", str(data), "--listen", "{listen}"])
        self.data = data

    @property
    def url(self) -> str:
        return f"nats://{self.listen}"

    @property
    def server_pid(self) -> int:
        """Of nats-server itself, as the kernel knows it: a pid file may be of the one before."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        (child,) = {int(child) for task in tasks for child in task.read_text().split()}
        return child

    @property
    def jetstream(self) -> Path:
        return self.data / "nats" / "jetstream"

    def kill(self) -> None:
        """SIGKILL for both, the server first: it must not get to a clean end."""
        if self.running:
            with contextlib.suppress(ValueError, OSError):
                os.kill(self.server_pid, signal.SIGKILL)
        super().kill()

    def pause(self) -> None:
        os.kill(self.server_pid, signal.SIGSTOP)

    def resume(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            os.kill(self.server_pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Stop, forget every stream, start again."""
        self.stop()
        shutil.rmtree(self.jetstream)
        self.start()

    def keep_copy(self, to: Path) -> None:
        """Copy what JetStream has on disk; the server is stopped meanwhile."""
        self.stop()
        shutil.copytree(self.jetstream, to)
        self.start()

    def roll_back(self, copy: Path) -> None:
        """Stop, put an older copy in the place of what is there, start again."""
        self.stop()
        shutil.rmtree(self.jetstream)
        shutil.copytree(copy, self.jetstream)
        self.start()

    def stream(self, name: str, **edited: Json) -> dict[str, Json]:
        """What a stream says of itself; edited first, where something is given, as `nats stream edit` does."""
        return asyncio.run(self._stream(name, edited))

    async def _stream(self, name: str, edited: dict[str, Json]) -> dict[str, Json]:
        client = await nats.connect(self.url)
        try:
            answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.{name}")).data)
            if edited:
                config = json.dumps(answer["config"] | edited).encode()
                answer = json.loads((await client.request(f"$JS.API.STREAM.UPDATE.{name}", config)).data)
            assert "error" not in answer, answer
            return record(answer)
        finally:
            await client.close()


class Verdict:
    """What `skerry verify --json` said. True: EQUAL, and each document was judged by all of `nodes`."""

    def __init__(self, done: subprocess.CompletedProcess[str], docs: Sequence[str], nodes: set[str]) -> None:
        self.text = (done.stdout + done.stderr).strip()
        self.complete = False
        if done.returncode == 0:
            documents = record(record(cast(Json, json.loads(done.stdout)))["documents"])
            asked = set(docs) or set(documents)
            self.complete = asked == set(documents) and all(
                nodes <= set(record(record(documents[doc])["nodes"])) for doc in asked
            )
        self.equal = done.returncode == 0 and self.complete

    def __bool__(self) -> bool:
        return self.equal

    def __repr__(self) -> str:
        return f"verify: EQUAL {self.equal}, everybody answered {self.complete}: {self.text[-1500:]}"


class Cluster:
    """nats, a leader and edges under one directory: `with Cluster(tmp_path, ["a", "b"]) as cluster:`."""

    def __init__(
        self,
        directory: Path,
        edges: Sequence[str] = ("a", "b"),
        *,
        leader: bool = True,
        nats: bool = True,
        pins: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.directory = directory
        self.nats = NatsNode("nats", directory, directory / "nats-data")
        self.leader: Node | None = None
        self.edges: dict[str, Node] = {}
        self.way: str | None = None
        """Where edges that are added reach NATS; None: where it is."""
        self._names = tuple(edges)
        self._wants_leader = leader
        self._wants_nats = nats
        self._pins = pins or {}

    def __enter__(self) -> Cluster:
        try:
            if self._wants_nats:
                self.nats.start()
                if self._wants_leader:
                    self.leader = self.add_leader()
                for name in self._names:  # side by side: starting an interpreter is most of it
                    self.add_edge(name, start=False).spawn()
                for node in self.nodes():
                    node.wait_ready()
                for edge in self.edges.values():
                    edge.wait_link("up")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and isinstance(error, AssertionError):
            error.add_note("\n".join(node.last_lines() for node in self.nodes()))
        self.end()

    def nodes(self) -> list[Node]:
        return [self.nats, *([self.leader] if self.leader is not None else []), *self.edges.values()]

    def end(self) -> None:
        for node in reversed(self.nodes()):
            node.end()

    def add_leader(self, name: str = "leader") -> Node:
        data = str(self.directory / f"{name}-data")
        node = Node("leader", name, self.directory, ["leader", "--data", data, "--nats", self.nats.url])
        node.spawn()
        return node

    def add_edge(self, name: str, *, start: bool = True) -> Node:
        command = ["edge", "--name", name, "--data", str(self.directory / f"{name}-data"), "--listen", "{listen}"]
        command += ["--nats", self.way or self.nats.url]
        for pin in self._pins.get(name, ()):
            command += ["--pin", pin]
        node = self.edges[name] = Node("edge", name, self.directory, command)
        if start:
            node.start()
        return node

    def __getitem__(self, name: str) -> Node:
        return self.edges[name]

    # --- equality ----------------------------------------------------------------------------------------------------
    def verify(self, *docs: str) -> Verdict:
        """`skerry verify` of these documents, which the leader and every edge must have; or of all that there are."""
        nodes = {"leader"} if self.leader is not None else set()
        if docs:
            nodes |= self.edges.keys()
        return Verdict(run_cli("verify", "--nats", self.nats.url, "--json", *docs), docs, nodes)

    def digests(self, doc: str) -> dict[str, str | None]:
        return {name: edge.digest(doc) for name, edge in self.edges.items()}

    def outboxes(self) -> dict[str, int]:
        return {name: edge.outbox_count() for name, edge in self.edges.items()}

    def settle(self, *docs: str, deadline_s: float = SETTLE_S_MAX, verify: bool = True) -> None:
        """Wait until every edge has shipped all it has, these documents are equal at all edges, and `verify` agrees."""
        ends = time.monotonic() + deadline_s

        def left() -> float:
            return max(1.0, ends - time.monotonic())

        def equal(doc: str) -> bool:
            digests = set(self.digests(doc).values())
            return len(digests) == 1 and None not in digests

        for doc in docs:
            wait_for(partial(equal, doc), left(), lambda: f"{docs!r} equal: {[self.digests(doc) for doc in docs]}")
        wait_for(lambda: not any(self.outboxes().values()), left(), lambda: f"everything shipped: {self.outboxes()}")
        if verify:
            wait_for(partial(self.verify, *docs), left(), "verify says EQUAL")


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs between fork and exec: a worker of the tests that is killed leaves nothing running."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None  # the signal comes when the thread ends that started the child
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_for_signal() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    return ask_for_signal


def _environment() -> dict[str, str]:
    """This process's own, less what would configure a daemon behind the test's back."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SKERRY_")}
