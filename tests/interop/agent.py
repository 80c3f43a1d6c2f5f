"""The Python end of agent.mjs: stock Yjs editors in one Node process, asked one request at a time.

Room: requests and answers. What an editor does is in agent.mjs; what must come out is in the tests.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import cast
from urllib.parse import quote

import pytest

from tests.processes import Json, Node, as_int, record

__all__ = ["YJS_14", "Agent", "Edit", "Editor", "need_node", "shared"]

HERE = Path(__file__).parent
YJS_14 = "agent-14.mjs"
ANSWER_S_MAX = 60.0
UNTIL_MS = 20_000

Edit = list[Json]
"""[verb, path, argument …] of agent.mjs: ["insert", ["text"], 0, "a"], ["set", ["map"], "k", 1]."""


def need_node() -> None:
    """Skip, by name, where stock Yjs cannot run."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed; stock Yjs needs it")
    if not all((HERE / "node_modules" / package).is_dir() for package in ("y-websocket", "@y/websocket")):
        pytest.skip("stock Yjs is not installed; run: npm install --prefix tests/interop")


def shared(kind: str, of: Json = None, **more: Json) -> Json:
    """A shared type as a value: shared("map", {"k": 1}), shared("xml", name="p", children=[…])."""
    return {"$": kind, **({"of": of} if of is not None else {}), **more}


class Agent:
    """`with Agent() as agent:` and `agent.open("ada", edge, "notes/plan")`."""

    def __init__(self, program: str = "agent.mjs") -> None:
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._asked = 0
        self._names: set[str] = set()
        self._process = subprocess.Popen(
            ["node", str(HERE / program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, name="agent", daemon=True)
        self._reader.start()

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        self._process.stdin.close()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def ask(self, op: str, arguments: Mapping[str, Json]) -> Json:
        """Raises AssertionError with the editor's own words where it cannot."""
        assert self._process.stdin is not None
        self._asked += 1
        self._process.stdin.write(json.dumps({"id": self._asked, "op": op, **arguments}) + "\n")
        self._process.stdin.flush()
        try:
            line = self._answers.get(timeout=ANSWER_S_MAX)
        except queue.Empty:
            raise AssertionError(f"agent: no answer to {op} within {ANSWER_S_MAX:g} s") from None
        assert line is not None, f"agent: ended with status {self._process.wait()} at {op}"
        answer = record(cast(Json, json.loads(line)))
        assert answer["id"] == self._asked, f"agent: answer {line:.200} to request {self._asked}"
        assert "error" not in answer, f"agent: {op} {arguments.get('name', '')}: {answer['error']}"
        return answer["value"]

    def open(
        self, name: str, edge: Node, doc: str, *, client_id: int | None = None, connect: bool = True, raw: bool = False
    ) -> Editor:
        """A new editor on this document. `raw`: the path goes out as it is, not percent-encoded."""
        room = doc if raw else quote(doc, safe="/")
        more: dict[str, Json] = {"clientID": client_id} if client_id is not None else {}
        own = self.ask("open", {"name": name, "url": edge.ws, "room": room, "connect": connect, **more})
        self._names.add(name)
        return Editor(self, name, as_int(own))

    def close_all(self) -> list[str]:
        """Close every editor; what stock code has complained about meanwhile."""
        for name in sorted(self._names):
            self.ask("close", {"name": name})
        self._names.clear()
        complaints = self.ask("complaints", {})
        assert isinstance(complaints, list)
        return [str(line) for line in complaints]

    def forget(self, name: str) -> None:
        self._names.discard(name)


class Editor:
    """One stock editor. The roots of its document are text, map, array and xml."""

    def __init__(self, agent: Agent, name: str, client_id: int) -> None:
        self._agent = agent
        self.name = name
        self.client_id = client_id

    def _ask(self, op: str, **arguments: Json) -> Json:
        return self._agent.ask(op, {"name": self.name, **arguments})

    # --- edits -------------------------------------------------------------------------------------------------------
    def edit(self, *edits: Edit, apart: bool = False) -> Json:
        """One transaction; `apart`: one each. What the agent has to say about it: agent-14.mjs, nothing otherwise."""
        return self._ask("edit", edits=cast(Json, list(edits)), apart=apart)

    def insert(self, index: int, text: str) -> None:
        self.edit(["insert", ["text"], index, text])

    def append(self, text: str) -> None:
        self.edit(["append", ["text"], text])

    def delete(self, index: int, length: int) -> None:
        self.edit(["delete", ["text"], index, length])

    def type(self, text: str, pause_ms: int = 0) -> None:
        """Characters at the end, one transaction each."""
        self._ask("type", text=text, pause_ms=pause_ms)

    def paste(self, index: int, piece: str, times: int) -> int:
        """One insert of a long text; its length in UTF-8 bytes."""
        return as_int(record(self._ask("paste", index=index, piece=piece, times=times))["bytes"])

    def undoable(self, *roots: str) -> None:
        """From here on, own edits of these roots can be undone."""
        self._ask("undoable", paths=[[root] for root in roots])

    def undo(self) -> bool:
        return self._ask("undo") is True

    def redo(self) -> bool:
        return self._ask("redo") is True

    # --- the connection ----------------------------------------------------------------------------------------------
    def connect(self) -> None:
        self._ask("connect")

    def disconnect(self) -> None:
        self._ask("disconnect")
        self.until("connected", False)

    def drop(self) -> None:
        """The socket breaks; the provider connects again by itself."""
        self._ask("drop")

    def close(self) -> None:
        self._ask("close")
        self._agent.forget(self.name)

    def present(self, state: Json) -> None:
        """Own awareness state; None: gone."""
        self._ask("present", state=state)

    # --- looking -----------------------------------------------------------------------------------------------------
    def read(self, view: str, *args: Json) -> Json:
        return self._ask("read", view=view, args=list(args))

    def until(self, view: str, equals: Json, *args: Json, ms: int = UNTIL_MS) -> Json:
        """Wait until this view equals that value, keys in any order."""
        return self._ask("until", view=view, equals=equals, args=list(args), ms=ms)

    def wait_synced(self) -> Editor:
        self.until("synced", True)
        return self

    @property
    def json(self) -> dict[str, Json]:
        return record(self.read("json"))

    @property
    def text(self) -> str:
        return str(self.read("text"))

    def until_same(self, other: Editor, ms: int = UNTIL_MS) -> dict[str, Json]:
        """Wait until this document reads as the other one does now; what it reads."""
        return record(self.until("json", cast(Json, other.json), ms=ms))
