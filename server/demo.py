"""`skerry demo`: two edges, cut off, edited, joined again, equal. Real processes, real NATS, real websockets.

Room: a tour for people. It starts the same commands that anybody would type, and ends them by their process ids.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from websockets.asyncio.client import connect

from sync.errors import SkerryError
from sync.ids import parse_document_id

from .gateway import OPERATOR
from .http_client import get_json
from .typist import Typist

__all__ = ["add_arguments", "run"]

DOC = parse_document_id("notes/plan")
CUT_S = 3600.0
DEADLINE_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="stop after the tour; exit 0 only if all was equal")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the data there (default: a temporary directory)")


def run(options: argparse.Namespace) -> int:
    console = Console(highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="skerry-demo-") as temporary:
            directory: Path = options.data or Path(temporary)
            return asyncio.run(_tour(console, directory, options.namespace or "skerry", options.once))
    except KeyboardInterrupt:
        return 0


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    facts: dict[str, str]


@asynccontextmanager
async def _process(name: str, directory: Path, *arguments: str) -> AsyncIterator[Process]:
    """One command of this program as a process of its own; its log is in the demo's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.log"
    with path.open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server.cli",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the tour, which ends its processes in order
        )
        try:
            assert child.stdout is not None
            try:
                async with asyncio.timeout(DEADLINE_S):
                    line = (await child.stdout.readline()).decode()
            except TimeoutError:
                line = ""
            if not line.startswith("ready "):
                raise SkerryError(f"{name} did not start: {_last_line(path)}; its log is {path}")
            facts = dict(part.partition("=")[::2] for part in line.split()[1:])
            yield Process(name, facts)
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(15):
                        await child.wait()
                except TimeoutError:
                    child.kill()
                    await child.wait()


def _last_line(path: Path) -> str:
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


async def _cut(address: str, seconds: float) -> None:
    async with connect(f"ws://{address}/", subprotocols=[OPERATOR], compression=None) as socket:
        await socket.send(json.dumps({"op": "cut", "seconds": seconds}))
        answer = json.loads(await socket.recv())
    if not answer.get("ok"):
        raise SkerryError(f"{address}: {answer.get('error')}")


async def _document(address: str) -> dict[str, object]:
    return await get_json(f"http://{address}", f"/docs/{quote(DOC, safe='')}")


async def _tour(console: Console, directory: Path, namespace: str, once: bool) -> int:
    async with AsyncExitStack() as stack:
        say = console.print
        say(f"[bold]Skerry[/]: two edges, cut off, edited, joined again, equal. Data and logs: {directory}\n")
        space = ("--namespace", namespace)
        broker = await stack.enter_async_context(
            _process("nats", directory, "nats", "--data", str(directory), "--listen", "127.0.0.1:0")
        )
        nats = broker.facts["url"]
        say(f"  nats-server  {nats}")
        await stack.enter_async_context(_process("leader", directory, "leader", "--nats", nats, *space))
        say("  leader       merges and rebroadcasts")
        addresses = {}
        for name in ("a", "b"):
            edge = await stack.enter_async_context(
                _process(
                    f"edge-{name}",
                    directory,
                    "edge",
                    *("--name", name, "--data", str(directory / f"edge-{name}")),
                    *("--listen", "127.0.0.1:0", "--nats", nats, *space),
                )
            )
            addresses[name] = edge.facts["listen"]
            say(f"  edge {name}       ws://{addresses[name]}")
        ada = await stack.enter_async_context(Typist(addresses["a"], DOC))
        ben = await stack.enter_async_context(Typist(addresses["b"], DOC))
        equal = await _show(console, ada, ben, addresses, nats, namespace)
        if once:
            return 0 if equal else 1
        _invite(console, addresses, nats, namespace)
        await _until_interrupted()
        console.print("\nstopping")
        return 0 if equal else 1


async def _show(
    console: Console, ada: Typist, ben: Typist, addresses: dict[str, str], nats: str, namespace: str
) -> bool:
    say = console.print

    def both() -> None:
        console.print(f"      a: {ada.text!r}\n      b: {ben.text!r}", markup=False)

    say("\n[bold]1[/] Ada types at edge a, Ben at edge b; both are linked.")
    await ada.type("Ada was here. ")
    await ben.until("Ada was here. ", DEADLINE_S)
    await ben.type("Ben was too. ")
    await ada.until("Ben was too. ", DEADLINE_S)
    both()
    say("\n[bold]2[/] Edge b's link is cut. Both go on typing; neither waits.")
    await _cut(addresses["b"], CUT_S)
    await ada.type("(a, while b was away) ")
    await ben.type("(b, on its own) ")
    both()
    status = await get_json(f"http://{addresses['b']}", "/status")
    say(f"      edge b: link {_field(status, 'link', 'state')}, outbox {_field(status, 'outbox', 'count')} change(s)")
    say("\n[bold]3[/] The link is back; the changes cross.")
    await _cut(addresses["b"], 0)
    await ada.until("(b, on its own) ", DEADLINE_S)
    await ben.until("(a, while b was away) ", DEADLINE_S)
    both()
    say("\n[bold]4[/] Is it equal?")
    return await _verify(console, addresses, nats, namespace)


def _field(status: dict[str, object], *path: str) -> object:
    found: object = status
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


async def _verify(console: Console, addresses: dict[str, str], nats: str, namespace: str) -> bool:
    """`skerry verify` as a process, until it says EQUAL or time is up; then what everybody holds."""
    found: dict[str, object] = {}
    equal = False
    loop = asyncio.get_running_loop()
    ends = loop.time() + DEADLINE_S
    while not equal and loop.time() < ends:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.cli", "verify", "--json", "--nats", nats, "--namespace", namespace, DOC),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await child.communicate()
        found = json.loads(output) if output else {}
        nodes = _field(found, "documents", DOC, "nodes")
        versions = {str(state["version"]) for state in nodes.values()} if isinstance(nodes, dict) else set()
        equal = child.returncode == 0 and isinstance(nodes, dict) and set(nodes) == {"leader", "a", "b"}
        equal = equal and len(versions) == 1
    table = Table("node", "version", "digest", "outbox", "content", box=None, pad_edge=False)
    nodes = _field(found, "documents", DOC, "nodes")
    contents = set()
    for node, state in sorted(nodes.items()) if isinstance(nodes, dict) else ():
        shown = "(the same, by digest)"
        if node in addresses:
            shown = str(_field(await _document(addresses[node]), "content", "text", "value"))
            contents.add(shown)
        table.add_row(node, str(state["version"]), str(state["digest"])[:12], str(state["outbox"]), escape(shown))
    console.print(table)
    equal = equal and len(contents) == 1
    console.print("\n[bold green]EQUAL[/]" if equal else "\n[bold red]NOT EQUAL[/]: this is a bug, please report it")
    return equal


def _invite(console: Console, addresses: dict[str, str], nats: str, namespace: str) -> None:
    console.print(
        f"""
It stays up. To try, in another terminal:
  .venv/bin/skerry status --nats {nats} --namespace {namespace}
  .venv/bin/skerry doc cat {DOC} --edge http://{addresses["b"]}
  .venv/bin/skerry verify --nats {nats} --namespace {namespace}
An editor of your own, in a browser or under Node.js:
  new WebsocketProvider("ws://{addresses["a"]}", "{DOC}", ydoc)
Ctrl-C ends it."""
    )


async def _until_interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
