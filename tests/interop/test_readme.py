"""The browser programs of README and docs/security.md, as they stand there, in Node with the stock packages."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.console import Shell
from tests.interop.agent import HERE, need_node
from tests.processes import ROOT, Cluster, record, wait_for

HELLO = "Hello from a stock Yjs client. "


def test_readmes_program_writes_into_the_document(cluster: Cluster, doc: str) -> None:
    (program,) = re.findall(r"```js\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert "'ws://127.0.0.1:8787', 'notes/plan'" in program
    program = program.replace("'ws://127.0.0.1:8787', 'notes/plan'", f"'{cluster['a'].ws}', '{doc}'")
    with running(program) as node:
        assert node.readline() == HELLO + "\n"  # what its observer prints

        wait_for(lambda: cluster["a"].digest(doc), 15, "the document at the edge")
        content = record(cluster["a"].document(doc)["content"])
        assert record(content["text"])["value"] == HELLO


def test_the_security_pages_program_shows_its_token(tmp_path: Path) -> None:
    (program,) = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "security.md").read_text("utf-8"), re.DOTALL)
    assert program.count("'wss://edge.example'") == 1
    with Shell(tmp_path / "here") as shell:
        shell.run(".venv/bin/skerry token key --private signer.json --keys keys.json")
        token = shell.run(".venv/bin/skerry token make --key signer.json --sub ada --write 'team/*' --for 1h").strip()
        shell.run(".venv/bin/skerry edge --name a --listen 127.0.0.1:8787 --auth-keys keys.json &")
        program = program.replace("wss://edge.example", shell.here("ws://127.0.0.1:8787"))

        def said(token: str) -> str:
            before = f"{BEGIN}const ydoc = new Y.Doc(); const token = '{token}'\nconst provider = "
            after = "provider.on('sync', (is) => console.log('synced', is))\n"
            after += "provider.on('connection-close', (event) => console.log('closed', event.code, event.reason))\n"
            with running(before + program + after) as node:
                return node.readline()

        assert said(token) == "synced true\n"
        assert said("nonsense").startswith("closed 4401 ")


BEGIN = """
import * as Y from 'yjs'
import { WebsocketProvider } from 'y-websocket'
"""


@contextlib.contextmanager
def running(program: str) -> Iterator[IO[str]]:
    """What it prints."""
    need_node()
    node = subprocess.Popen(
        ["node", "--input-type=module"], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert node.stdin is not None
    assert node.stdout is not None
    try:
        node.stdin.write(
            "import WebSocket from 'ws'; globalThis.WebSocket ??= WebSocket;\n" + program
        )  # a browser's own
        node.stdin.close()
        yield node.stdout
    finally:
        node.kill()
        node.wait(10)
        node.stdout.close()
