"""A terminal in a fresh directory, in which the commands of a page run as they stand there.

Room: commands, the daemons that they start, and what is put in the place of a page's addresses. What a page says, and
what must come of it, is the tests' (`tests/test_docs_console.py`, `tests/interop/test_readme.py`).
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.processes import ROOT, wait_for

__all__ = ["ADDRESSES", "DEFAULTS", "Shell"]

ADDRESSES = ("127.0.0.1:4222", "127.0.0.1:8787", "127.0.0.1:8788", "0.0.0.0:8787")
"""Each becomes a free port of this machine's loopback, the same in all commands of a block."""

DEFAULTS = {"SKERRY_NATS": "nats://127.0.0.1:4222", "SKERRY_LISTEN": "127.0.0.1:8787"}
"""What a command takes where the page names nothing."""


class Shell:
    """A directory in which a page's commands run, and the daemons that they have started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.words: dict[str, str] = {}
        """What stands for something in the page (TOKEN), and what it is here."""
        self.daemon_env: dict[str, str] = {}
        self.env_more: dict[str, str] = {}
        self._addresses = dict(zip(ADDRESSES, map("127.0.0.1:{}".format, free_ports(3)), strict=False))
        self._addresses["0.0.0.0:8787"] = self._addresses["127.0.0.1:8787"]
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []
        directory.mkdir(parents=True)
        (directory / ".venv").symlink_to(sys.prefix)

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, _ in reversed(self._daemons):
            self.stop(name)

    def here(self, text: str) -> str:
        for page, mine in [*self._addresses.items(), *self.words.items()]:
            text = text.replace(page, mine)
        return text

    @property
    def env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SKERRY_")}
        return {**kept, **{key: self.here(value) for key, value in DEFAULTS.items()}, **self.env_more, "COLUMNS": "200"}

    def run(self, command: str, *, status: int = 0) -> str:
        """One command; what it printed. A daemon (`… &`) is waited for until it is ready."""
        command = self.here(command)
        if command.endswith(" &"):
            self._begin(command.removesuffix(" &"))
            return ""
        done = subprocess.run(
            command,
            shell=True,
            cwd=ROOT if command.startswith("make ") else self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
        return done.stdout

    def _begin(self, command: str) -> None:
        number = len(self._daemons)
        out = self.directory / f"daemon-{number}.out"
        with open(out, "wb") as printed, open(out.with_suffix(".err"), "wb") as logged:
            daemon = subprocess.Popen(
                shlex.split(command),
                cwd=self.directory,
                env={**self.env, **self.daemon_env, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=logged,
            )
        self._daemons.append((command, daemon))

        def ready() -> bool:
            assert daemon.poll() is None, f"{command}: ended\n{out.with_suffix('.err').read_text('utf-8')}"
            return out.read_text("utf-8").startswith("ready ")

        wait_for(ready, 30, f"{command}: ready")

    def stop(self, what: str) -> None:
        """End the daemons whose command has this in it, as Ctrl-C would."""
        for command, daemon in self._daemons:
            if self.here(what) in command and daemon.poll() is None:
                daemon.terminate()
                try:
                    daemon.wait(15)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait(15)

    def get(self, address: str, path: str, token: str = "") -> tuple[int, bytes]:
        """(status, body) of a GET."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"http://{self.here(address)}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def free_ports(count: int) -> list[int]:
    """Of this machine, now; different ones. Below those that the kernel gives out: a connection of another test, made
    before the daemon listens, cannot take one of them."""
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports between 20000 and 32000")
