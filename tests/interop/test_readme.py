"""README's browser program, as it stands there, in Node with the stock packages."""

from __future__ import annotations

import re
import subprocess

from tests.interop.agent import HERE, need_node
from tests.processes import ROOT, Cluster, record, wait_for

HELLO = "Hello from a stock Yjs client. "


def test_readmes_program_writes_into_the_document(cluster: Cluster, doc: str) -> None:
    (program,) = re.findall(r"```js\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert "'ws://127.0.0.1:8787', 'notes/plan'" in program
    program = program.replace("'ws://127.0.0.1:8787', 'notes/plan'", f"'{cluster['a'].ws}', '{doc}'")
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

        assert node.stdout.readline() == HELLO + "\n"  # what its observer prints

        wait_for(lambda: cluster["a"].digest(doc), 15, "the document at the edge")
        content = record(cluster["a"].document(doc)["content"])
        assert record(content["text"])["value"] == HELLO
    finally:
        node.kill()
        node.wait(10)
        node.stdout.close()
