"""`skerry rejected`: what a leader has refused, and what an edge has set aside: listed, shown, put back by hand.

Room: flags and tables. A piece is named by its number in the rejected stream, or by its files in DATA/aside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sync.change import Change, Context
from sync.errors import BusError, InvalidInput, SkerryError
from sync.headers import decode_change
from sync.ids import Version, from_subject_token

from . import aside, daemons
from .bus import Bus
from .config import Config
from .edge import ASIDE
from .log import set_up_logging
from .session import OBJECT_HEADER, StoredMessage

__all__ = ["add_commands"]

Load = Callable[[argparse.Namespace], Config]
PUBLISH_S_MAX = 10.0


def add_commands(commands: Any, parents: list[argparse.ArgumentParser], load: Load) -> None:
    made = commands.add_parser("rejected", help="changes that were refused or set aside: list, show, release")
    made.set_defaults(run=None)
    kinds = made.add_subparsers(title="commands", metavar="COMMAND")
    for name, run, text in (
        ("ls", _ls, "list what the leader refused (with --data: what this edge set aside)"),
        ("show", _show, "show one piece; --out writes its bytes, a Yjs update, into a file"),
        ("release", _release, "append a refused change to the log again; the leader judges it anew"),
    ):
        one = kinds.add_parser(name, help=text, description=text, parents=parents)
        if name != "release":
            one.add_argument("--data", type=Path, metavar="DIR", help="an edge's directory: look there, not in the log")
        if name != "ls":
            one.add_argument("name", metavar="NAME", help="as `rejected ls` names it")
        if name == "show":
            one.add_argument("--out", type=Path, metavar="FILE", help="write the bytes there")
        one.set_defaults(run=lambda options, run=run: run(options, load(options)))


def _ls(options: argparse.Namespace, config: Config) -> int:
    rows = _aside_rows(config) if options.data else asyncio.run(_with_bus(config, _logged_rows))
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    table = Table("name", "document", "edge", "actor", "bytes", "reason", box=None)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("name", "doc", "edge", "actor", "bytes", "reason")))
    Console().print(table if rows else "nothing was refused or set aside")
    return 0


def _show(options: argparse.Namespace, config: Config) -> int:
    if options.data:
        kept, data = aside.find(config.data / ASIDE, options.name)
        row = _row(kept.name, kept.doc, "", "", len(data), kept.reason)
    else:
        message = asyncio.run(_with_bus(config, lambda bus: _one(bus, options.name)))
        row, data = _row_of(message), message.data
    if options.out is not None:
        try:
            options.out.write_bytes(data)
        except OSError as error:
            raise SkerryError(f"{options.out}: {error.strerror}; name a file that can be written") from None
    shown = {**row, "hex": data[:200].hex()}
    print(json.dumps(shown, ensure_ascii=False) if options.json else "\n".join(f"{k}: {v}" for k, v in shown.items()))
    return 0


def _release(options: argparse.Namespace, config: Config) -> int:
    version = asyncio.run(_with_bus(config, lambda bus: _put_back(bus, options.name)))
    print(json.dumps({"name": options.name, "version": str(version)}) if options.json else f"in the log at {version}")
    return 0


async def _with_bus(config: Config, work: Callable[[Bus], Any]) -> Any:
    set_up_logging("error", "line")
    async with daemons.operator_bus(config) as bus:
        return await work(bus)


async def _logged(bus: Bus) -> list[StoredMessage]:
    session = bus.session()
    subject = f"{session.layout.namespace}.rejected.>"
    found: list[StoredMessage] = []
    async for message in session.stored(session.layout.rejected, subject, 0):
        data = await session.payload(message.headers, message.data)
        headers = {name: value for name, value in message.headers.items() if name != OBJECT_HEADER}
        found.append(StoredMessage(message.subject, message.seq, headers, data))
    return found


async def _logged_rows(bus: Bus) -> list[dict[str, object]]:
    return [_row_of(message) for message in await _logged(bus)]


async def _one(bus: Bus, name: str) -> StoredMessage:
    for message in await _logged(bus):
        if str(message.seq) == name:
            return message
    raise SkerryError(f"{name}: no refused change of this number; `skerry rejected ls` names them")


async def _put_back(bus: Bus, name: str) -> Version:
    message = await _one(bus, name)
    try:
        change = _change_of(message)
    except InvalidInput as error:
        raise SkerryError(f"{name}: no change that could be appended: {error}") from None
    answer: asyncio.Future[Version | BusError] = asyncio.get_running_loop().create_future()
    bus.publish(change, answer.set_result)
    try:
        async with asyncio.timeout(PUBLISH_S_MAX):
            found = await answer
    except TimeoutError:
        raise SkerryError(f"{name}: no answer of the log within {PUBLISH_S_MAX:g} s; try again") from None
    if isinstance(found, Version):
        return found
    raise found


def _change_of(message: StoredMessage) -> Change:
    return decode_change(from_subject_token(message.subject.rpartition(".")[2]), message.headers, message.data)


def _row_of(message: StoredMessage) -> dict[str, object]:
    context = Context()
    with contextlib.suppress(InvalidInput):  # else that is why it was refused
        context = _change_of(message).context
    try:
        doc = str(from_subject_token(message.subject.rpartition(".")[2]))
    except InvalidInput:
        doc = message.subject
    reason = message.headers.get("Skerry-Reason", "")
    return _row(str(message.seq), doc, context.edge, context.actor, len(message.data), reason)


def _aside_rows(config: Config) -> list[dict[str, object]]:
    return [_row(k.name, k.doc, "", "", k.bytes, k.reason) for k in aside.listed(config.data / ASIDE)]


def _row(name: str, doc: str, edge: str, actor: str, size: int, reason: str) -> dict[str, object]:
    return {"name": name, "doc": doc, "edge": edge, "actor": actor, "bytes": size, "reason": reason}
