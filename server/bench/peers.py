"""What people would pick instead, from their own packages, as their own documentation starts them.

Room: the peers' names, versions, installation and start. Installed once, into a cache folder of the user's; a machine
that lacks Node.js, redis-server or a registry skips them by name, with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .dialect import HOCUSPOCUS, YJS, Dialect
from .machine import Cores
from .servers import Process, Processes, Server, Target, free_port, wait_listening

__all__ = ["Hocuspocus", "HocuspocusRedis", "PycrdtWebsocket", "YWebsocket", "peers"]

NODE: Final = {
    "@hocuspocus/server": "4.7.0",
    "@hocuspocus/extension-redis": "4.7.0",
    "@y/websocket-server": "0.1.1",
    "yjs": "13.6.33",
}
PYTHON: Final = {"pycrdt-websocket": "0.16.5", "uvicorn": "0.54.0", "websockets": "17.4"}
INSTALL_S_MAX: Final = 300

_HOCUSPOCUS: Final = """
import { Server } from '@hocuspocus/server'

const port = Number(process.argv[2])
const redis = process.argv[3]
const extensions = []
if (redis) {
  const { Redis } = await import('@hocuspocus/extension-redis')
  extensions.push(new Redis({ host: '127.0.0.1', port: Number(redis) }))
}
await new Server({ address: '127.0.0.1', port, quiet: true, extensions }).listen()
"""
_PYCRDT: Final = """
import asyncio
import sys

import uvicorn
from pycrdt.websocket import ASGIServer, WebsocketServer


async def main() -> None:
    async with WebsocketServer() as rooms:
        app = ASGIServer(rooms)
        await uvicorn.Server(uvicorn.Config(app, port=int(sys.argv[1]), log_level="warning")).serve()


asyncio.run(main())
"""


def cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "skerry-bench"


def peers() -> list[Server]:
    return [Hocuspocus(), YWebsocket(), PycrdtWebsocket(), HocuspocusRedis()]


class _Peer:
    """Processes of one start."""

    name = ""
    version = ""
    dialect: Dialect = YJS

    def __init__(self) -> None:
        self._processes = Processes()

    def stop(self) -> None:
        self._processes.stop()

    def _run(
        self,
        name: str,
        folder: Path,
        cores: Cores,
        command: Callable[[int], list[str]],
        env: dict[str, str] | None = None,
    ) -> tuple[Process, tuple[str, int]]:
        port = free_port()
        process = self._processes.start(name, command(port), folder, cores, env)
        wait_listening(process, ("127.0.0.1", port))
        return process, ("127.0.0.1", port)


class _NodePeer(_Peer):
    def missing(self) -> str | None:
        for program in ("node", "npm"):
            if shutil.which(program) is None:
                return f"{program} is not on this machine"
        return _install_node()


class Hocuspocus(_NodePeer):
    """Alone, and nothing stored: it acknowledges from memory."""

    name = "hocuspocus"
    version = NODE["@hocuspocus/server"]
    dialect = HOCUSPOCUS

    def start(self, folder: Path, cores: Cores) -> Target:
        script = _script("hocuspocus.mjs", _HOCUSPOCUS)
        process, address = self._run("hocuspocus", folder, cores, lambda port: ["node", str(script), str(port)])
        return Target(address, address, HOCUSPOCUS, (process.pid,), cores.servers)


class HocuspocusRedis(_NodePeer):
    """Two nodes that tell each other through Redis. Nothing stored."""

    name = "hocuspocus+redis"
    version = NODE["@hocuspocus/extension-redis"]
    dialect = HOCUSPOCUS

    def missing(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "redis-server is not on this machine (Debian: the package redis-server)"
        return super().missing()

    def start(self, folder: Path, cores: Cores) -> Target:
        redis, (_, redis_port) = self._run(
            "redis",
            folder,
            cores,
            lambda port: [
                "redis-server",
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ],
        )
        script = str(_script("hocuspocus.mjs", _HOCUSPOCUS))
        nodes = [
            self._run(name, folder, cores, lambda port: ["node", script, str(port), str(redis_port)])
            for name in ("node-a", "node-b")
        ]
        (first, one), (second, other) = nodes
        return Target(one, other, HOCUSPOCUS, (redis.pid, first.pid, second.pid), cores.servers)


class YWebsocket(_NodePeer):
    """The y-websocket server. Nothing stored."""

    name = "y-websocket"
    version = NODE["@y/websocket-server"]

    def start(self, folder: Path, cores: Cores) -> Target:
        script = cache() / "node" / "node_modules" / "@y" / "websocket-server" / "src" / "server.js"
        process, address = self._run(
            "y-websocket",
            folder,
            cores,
            lambda port: ["/usr/bin/env", f"PORT={port}", "HOST=127.0.0.1", "node", str(script)],
        )
        return Target(address, address, YJS, (process.pid,), cores.servers)


class PycrdtWebsocket(_Peer):
    """pycrdt-websocket under uvicorn, in an environment of its own. Nothing stored."""

    name = "pycrdt-websocket"
    version = PYTHON["pycrdt-websocket"]

    def missing(self) -> str | None:
        return _install_python()

    def start(self, folder: Path, cores: Cores) -> Target:
        script = cache() / "python" / "serve.py"
        script.write_text(_PYCRDT, "utf-8")
        process, address = self._run(
            "pycrdt-websocket", folder, cores, lambda port: [str(_python()), str(script), str(port)]
        )
        return Target(address, address, YJS, (process.pid,), cores.servers)


# --- installing -------------------------------------------------------------------------------------------------------
def _install_node() -> str | None:
    folder = cache() / "node"
    wanted = {"private": True, "dependencies": NODE}
    stamp = folder / "installed.json"
    if stamp.is_file() and json.loads(stamp.read_text("utf-8")) == wanted:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps(wanted, indent=2), "utf-8")
    failed = _install(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], folder)
    if failed is None:
        stamp.write_text(json.dumps(wanted), "utf-8")
    return failed


def _install_python() -> str | None:
    folder = cache() / "python"
    wanted = [f"{name}=={number}" for name, number in PYTHON.items()]
    stamp = folder / "installed.json"
    if stamp.is_file() and json.loads(stamp.read_text("utf-8")) == wanted:
        return None
    failed = _install([sys.executable, "-m", "venv", str(folder)], cache())
    failed = failed or _install(
        [str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], folder
    )
    if failed is None:
        stamp.write_text(json.dumps(wanted), "utf-8")
    return failed


def _python() -> Path:
    return cache() / "python" / ("Scripts" if os.name == "nt" else "bin") / "python"


def _install(command: list[str], folder: Path) -> str | None:
    """None, or why it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be installed: {error}"
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return f"cannot be installed: {lines[0] if lines else 'no reason given'}"
    return None


def _script(name: str, text: str) -> Path:
    path = cache() / "node" / name
    if not path.is_file() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
    return path
