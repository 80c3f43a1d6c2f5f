"""A stock client whose token only reads, ends, or is taken back: what y-websocket itself makes of it."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterator
from typing import IO

import pytest

from tests.console import Shell
from tests.interop.test_readme import running
from tests.processes import wait_for

DEADLINE_S = 20.0
PROGRAM = """
import * as Y from 'yjs'
import { WebsocketProvider } from 'y-websocket'
console.warn = (...words) => console.log('warned', words.join(' ').replaceAll('\\n', ' '))
const ydoc = new Y.Doc()
const text = ydoc.getText('text')
text.observe((event, transaction) => { if (!transaction.local) console.log('reads', text.toString()) })
const provider = new WebsocketProvider('ADDRESS', 'team/plan', ydoc, { params: { token: 'TOKEN' } })
provider.on('connection-close', (event) => console.log('closed', event.code, event.reason))
provider.on('sync', (is) => { if (is) { console.log('synced'); text.insert(0, 'WRITES') } })
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """An edge that asks for tokens, and a key to make them with."""
    with Shell(tmp_path_factory.mktemp("tokens") / "here") as shell:
        shell.run(".venv/bin/skerry token key --private signer.json --keys keys.json")
        shell.run(".venv/bin/skerry edge --name a --listen 127.0.0.1:8787 --auth-keys keys.json --data ./edge &")
        yield shell


def token(shell: Shell, subject: str, grants: str, seconds: int = 3600) -> str:
    return shell.run(f".venv/bin/skerry token make --key signer.json --sub {subject} {grants} --for {seconds}s").strip()


class Lines:
    """What a program prints, line by line, with a deadline."""

    def __init__(self, printed: IO[str]) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(printed,), daemon=True).start()

    def _read(self, printed: IO[str]) -> None:
        with contextlib.suppress(ValueError):  # closed by the test, which is over
            for line in printed:
                self._lines.put(line)

    def next(self, begins: str) -> str:
        """The next line that begins so; others are passed."""
        passed: list[str] = []
        ends = time.monotonic() + DEADLINE_S
        while True:
            try:
                passed.append(self._lines.get(timeout=max(0.01, ends - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"not within {DEADLINE_S:g} s: {begins!r}; it said {passed}") from None
            if passed[-1].startswith(begins):
                return passed[-1]


@contextlib.contextmanager
def client(shell: Shell, shown: str, writes: str) -> Iterator[Lines]:
    address = shell.here("ws://127.0.0.1:8787")
    with running(PROGRAM.replace("ADDRESS", address).replace("TOKEN", shown).replace("WRITES", writes)) as printed:
        yield Lines(printed)


def text(shell: Shell, shown: str) -> str:
    status, body = shell.get("127.0.0.1:8787", "/docs/team%2Fplan", shown)
    return str(json.loads(body)["content"]["text"]["value"]) if status == 200 else ""


def test_a_stock_client_that_may_only_read_sees_everything_and_is_told_why_its_edit_is_not_taken(
    shell: Shell,
) -> None:
    writer, reader = token(shell, "ada", "--write 'team/*'"), token(shell, "ben", "--read 'team/*'")
    with client(shell, writer, "from ada ") as ada:
        assert ada.next("synced")
        wait_for(lambda: text(shell, writer) == "from ada ", 15, "ada's edit at the edge")
    with client(shell, reader, "from ben ") as ben:
        assert ben.next("reads") == "reads from ada \n"
        assert "read-only" in ben.next("warned Permission denied")

        with client(shell, writer, "and more ") as ada:
            assert ada.next("synced")
            assert "and more" in ben.next("reads")  # it stays, and reads on
    assert "from ben" not in text(shell, writer)


def test_a_stock_clients_connection_ends_with_its_token_and_says_so_by_a_code(shell: Shell) -> None:
    with client(shell, token(shell, "cyd", "--write 'team/*'", seconds=4), "") as cyd:
        assert cyd.next("synced")
        assert cyd.next("closed").startswith("closed 4419 ")


def test_a_stock_clients_connection_ends_when_its_token_is_taken_back(shell: Shell) -> None:
    shown = token(shell, "dag", "--write 'team/*'")
    with client(shell, shown, "") as dag:
        assert dag.next("synced")
        shell.run(".venv/bin/skerry revoke --sub dag --data ./edge")
        assert dag.next("closed").startswith("closed 4423 ")
    assert shell.get("127.0.0.1:8787", "/docs/team%2Fplan", shown)[0] == 401
