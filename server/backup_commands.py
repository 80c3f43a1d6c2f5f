"""`skerry backup` and `skerry restore`: an edge's store, and the log.

Room: flags, progress and one line (or JSON) at the end. What is done is in `server.store_backup`, `server.log_backup`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from . import daemons
from .config import Config
from .edge import STORE
from .log import set_up_logging
from .log_backup import backup_log, restore_log
from .store_backup import backup_store, restore_store

__all__ = ["add_commands"]

Load = Callable[[argparse.Namespace], Config]


def add_commands(
    commands: Any,
    common: argparse.ArgumentParser,
    nats: argparse.ArgumentParser,
    as_json: argparse.ArgumentParser,
    load: Load,
) -> None:
    made = commands.add_parser("backup", help="copy an edge's store, or the log, while it runs")
    made.set_defaults(run=None)
    kinds = made.add_subparsers(title="commands", metavar="COMMAND")
    text = "copy an edge's store while the edge runs"
    edge = kinds.add_parser("edge", help=text, description=text, parents=[common, as_json])
    edge.add_argument("--data", type=Path, metavar="DIR", help="the edge's directory")
    edge.add_argument("--to", type=Path, required=True, metavar="FILE", help="where the copy goes")
    edge.set_defaults(run=lambda options: _backup_edge(options, load(options)))
    text = "write the log of a namespace into a file; into one that is there, what is new"
    log = kinds.add_parser("log", help=text, description=text, parents=[common, nats, as_json])
    log.add_argument("--to", type=Path, required=True, metavar="FILE", help="where the log goes")
    log.set_defaults(run=lambda options: _backup_log(options, load(options)))

    made = commands.add_parser("restore", help="put a backup back")
    made.set_defaults(run=None)
    kinds = made.add_subparsers(title="commands", metavar="COMMAND")
    text = "put a copy in the place of an edge's store; the edge must not run"
    edge = kinds.add_parser("edge", help=text, description=text, parents=[common, as_json])
    edge.add_argument("backup", type=Path, metavar="FILE")
    edge.add_argument("--data", type=Path, metavar="DIR", help="the edge's directory")
    edge.add_argument("--replace", action="store_true", help="put a store that is there aside")
    edge.set_defaults(run=lambda options: _restore_edge(options, load(options)))
    text = "put the changes of a backup into the log, also while it runs; what is there stays"
    log = kinds.add_parser("log", help=text, description=text, parents=[common, nats, as_json])
    log.add_argument("backup", type=Path, metavar="FILE")
    log.set_defaults(run=lambda options: _restore_log(options, load(options)))


def _backup_edge(options: argparse.Namespace, config: Config) -> int:
    with _progress(options.json) as told:
        found = backup_store(config.data / STORE, options.to, lambda done, total: told("store", done, total))
    return _said(options, found, "{to}: {documents} documents, {outbox} unsent changes, {bytes} bytes")


def _restore_edge(options: argparse.Namespace, config: Config) -> int:
    with _progress(options.json) as told:
        found = restore_store(
            options.backup, config.data / STORE, options.replace, lambda done, total: told("store", done, total)
        )
    line = "{store}: {documents} documents, {outbox} unsent changes; the edge compares all of them with the leader"
    return _said(options, found, line + ("; what was there is {before}" if found["before"] else ""))


def _backup_log(options: argparse.Namespace, config: Config) -> int:
    set_up_logging("error", "line")

    async def run() -> dict[str, object]:
        async with daemons.operator_bus(config) as bus:
            with _progress(options.json) as told:
                return await backup_log(bus.session(), options.to, told)

    line = "{to}: {changes} changes up to {last_seq}, {snapshots} snapshots, {rejected} rejected, {bytes} bytes"
    return _said(options, asyncio.run(run()), line)


def _restore_log(options: argparse.Namespace, config: Config) -> int:
    set_up_logging("error", "line")

    async def run() -> dict[str, object]:
        async with daemons.operator_bus(config) as bus:
            with _progress(options.json) as told:
                return await restore_log(bus, options.backup, told)

    line = "{changes} changes put into the log, {changes_there} were there, {changes_unusable} are none; "
    return _said(options, asyncio.run(run()), line + "{snapshots} snapshots, {rejected} rejected")


def _said(options: argparse.Namespace, found: dict[str, object], line: str) -> int:
    print(json.dumps(found) if options.json else line.format(**found))
    return 0


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        bars: dict[str, Any] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total or None)
            progress.update(bars[what], completed=done, total=total or None)

        yield told
