"""`skerry doc …` on top of the client: edit, watch, set, get, export, import, sync, unmerged.

Room: the flags, and which command they are for. `add_commands` is found by the entry-point group `skerry.commands`: the
command line is the server's, and neither room imports the other. What a command does is in `client.place_commands` and
`client.carry_commands`, what is printed and the exit statuses in `client.saying`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import carry_commands, files, place_commands
from .reaching import EDGE, Reach, usual
from .saying import STAGES

__all__ = ["add_commands"]

Command = Callable[[argparse.Namespace, Reach], int]


def add_commands(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Below `skerry doc`. `parents`: flags that every command of the program has."""
    reach = argparse.ArgumentParser(add_help=False)
    reach.add_argument(
        "--edge", action="append", metavar="URL", help=f"an edge; again: others to try (default: {EDGE})"
    )
    reach.add_argument(
        "--offline", type=Path, metavar="STORE", help="work in this file, with no network unless --edge is given too"
    )
    reach.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="how long to wait (default: 10)"
    )
    writing = argparse.ArgumentParser(add_help=False)
    writing.add_argument(
        "--confirmed", choices=tuple(STAGES), default="edge", help="wait until the edit is this safe (default: edge)"
    )
    writing.add_argument("--actor", default="", metavar="NAME", help="who edits, as others see it")
    writing.add_argument("--correlation", default="", metavar="TEXT", help="one user action from end to end")

    def command(name: str, run: Command, text: str, *more: argparse.ArgumentParser) -> Any:
        made = commands.add_parser(name, help=text, description=text, parents=[*parents, reach, *more])
        made.set_defaults(run=lambda options: run(options, _reach(options)))
        return made

    def document(made: Any, **of_path: Any) -> None:
        made.add_argument("document", metavar="DOC")
        made.add_argument("path", metavar="PATH", help="JSON Pointer (RFC 6901): /body, /todo/0, /set/theme", **of_path)

    made = command(
        "edit", place_commands.edit, "edit in $EDITOR, or take standard input; only the difference is applied", writing
    )
    document(made, nargs="?")
    made = command("get", place_commands.get, "show what is at a path")
    document(made, nargs="?", default="")
    made.add_argument("--at-least", metavar="TOKEN", help="wait until the document has come as far as this write")
    made = command("set", place_commands.set_value, "set what is at a path; only the difference is applied", writing)
    document(made)
    made.add_argument("value", nargs="?", metavar="JSON", help="default: read from standard input")
    made.add_argument("--delete", action="store_true", help="take away what is at the path")
    made = command("watch", place_commands.watch, "show what others change, as it comes, until Ctrl-C")
    document(made, nargs="?", default="")
    made.add_argument("--count", type=int, metavar="N", help="end after so many changes")
    made = command(
        "export", carry_commands.export, "write documents to a file or a directory, or one to standard output"
    )
    made.add_argument("documents", nargs="*", metavar="DOC")
    made.add_argument("--match", action="append", metavar="PATTERN", help="all documents like this, as 'notes/*'")
    made.add_argument("--to", type=Path, metavar="FILE|DIR", help="a directory, where there are several documents")
    made.add_argument("--format", choices=[each.value for each in files.Format], default="json", help="default: json")
    made.add_argument("--path", metavar="PATH", help="only what is there (JSON, text)")
    made.add_argument("--force", action="store_true", help="replace files")
    made.add_argument("--aside", type=int, metavar="N", help="the store's Nth copy from before a reload")
    made = command("import", carry_commands.import_files, "bring in files, or a directory of them", writing)
    made.add_argument("files", nargs="+", type=Path, metavar="FILE|DIR")
    made.add_argument("--as", dest="name", metavar="DOC", help="the document (default: what the file's name says)")
    made.add_argument("--format", choices=[each.value for each in files.Format], help="default: by .yjs, .json, .txt")
    made.add_argument("--path", metavar="PATH", help="where in the document (JSON, text)")
    made = command("sync", carry_commands.sync, "bring a store and an edge together, and say what is merged", writing)
    made.add_argument("documents", nargs="*", metavar="DOC", help="default: all of the store")
    made.add_argument("--match", action="append", metavar="PATTERN", help="of the edge as well, as 'notes/*'")
    made.add_argument("--reload", action="store_true", help="where something was rejected, take what the edge has")
    command("unmerged", carry_commands.unmerged, "list a store's documents, and which edits are how safe")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: 0 to 86400 seconds")
    return seconds


def _reach(options: argparse.Namespace) -> Reach:
    addresses = tuple(options.edge or (() if options.offline is not None else usual()))
    return Reach(
        addresses,
        options.offline,
        options.namespace or os.environ.get("SKERRY_NAMESPACE") or "skerry",
        os.environ.get("SKERRY_TOKEN", ""),  # also what --token says
        options.timeout,
        getattr(options, "actor", ""),
    )
