"""The command `skerry`. Errors are one line on standard error and exit status 1; `--verbose` shows the rest.

Room: flags, tables and exit statuses. What a command does is in the module it calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sync.errors import SkerryError
from sync.ids import parse_document_id

from . import account_commands, backup_commands, daemons, demo, rejected_commands, replay, status, token_commands
from .bench import flags as bench_flags
from .collector import set_up_collector
from .config import Config, load_config
from .http_client import EDGE_URL, TOKEN_VARIABLE, get_json_now
from .leader_read import read_at_leader
from .log import named, set_up_logging
from .moderation import moderated_loop
from .torture import command as torture

__all__ = ["build_parser", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] | None = getattr(options, "run", None)
    if run is None:
        parser.print_help()
        return 2
    if getattr(options, "token", None):
        os.environ[TOKEN_VARIABLE] = options.token  # of this process: every command that asks an edge reads it there
    try:
        with _cleaning_up():
            return run(options)
    except _Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 130
    except SkerryError as error:
        if options.verbose:
            raise
        print(f"skerry: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1


class _Terminated(KeyboardInterrupt):
    pass


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, with what it has started; daemons end in their own way."""

    def end(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- flags ------------------------------------------------------------------------------------------------------------
class _Parser(argparse.ArgumentParser):
    """Flags may stand anywhere: before Python 3.13 one that stood before an optional argument hid it."""

    _intermixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._intermixing = True  # what follows calls this method
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixing = False


def build_parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="skerry", description="Offline-first sync of Yjs documents over NATS JetStream."
    )
    parser.set_defaults(verbose=False)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--namespace", help="prefix of every NATS subject and stream (default: skerry)")
    common.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the same names as the flags")
    common.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    common.add_argument("--log-style", choices=("line", "json"))
    common.add_argument("--verbose", action="store_true", help="show tracebacks")
    nats = argparse.ArgumentParser(add_help=False)
    nats.add_argument("--nats", metavar="URL[,URL…]", help="NATS servers (default: nats://127.0.0.1:4222)")
    nats.add_argument("--credentials", type=Path, metavar="FILE", help="NATS credentials file")
    nats.add_argument("--nkey", type=Path, metavar="FILE", help="seed of a NATS user, as nats-accounts makes it")
    for name, what in (("ca", "authority"), ("cert", "certificate"), ("key", "key")):
        nats.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=f"TLS {what} for NATS (PEM)")
    streams = argparse.ArgumentParser(add_help=False)
    streams.add_argument("--shards", type=int, help="how many shards to make a new log with (default: 4)")
    streams.add_argument("--replicas", type=int, help="replicas of every stream (default: 1)")
    streams.add_argument("--development", action="store_true", default=None, help="streams may be deleted")
    node = argparse.ArgumentParser(add_help=False)
    node.add_argument("--name", help="name of this node")
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument("--data", type=Path, metavar="DIR", help="directory of this node's files")
    disk = argparse.ArgumentParser(add_help=False, parents=[files])
    disk.add_argument("--listen", metavar="HOST:PORT", help="address to serve at; port 0 takes a free one")
    broker = argparse.ArgumentParser(add_help=False)
    broker.add_argument("--sync-always", action="store_true", default=None, help="sync every message to disk")
    pins = argparse.ArgumentParser(add_help=False)
    pins.add_argument("--pin", action="append", metavar="PATTERN", help="keep matching documents replicated here")
    revoked = argparse.ArgumentParser(add_help=False)
    revoked.add_argument("--auth-revoked", type=Path, metavar="FILE", help="revocations (default: DATA/revoked.jsonl)")
    doors = argparse.ArgumentParser(add_help=False, parents=[revoked])
    doors.add_argument("--auth-keys", type=Path, metavar="FILE", help="keys for tokens (JWKS or PEM): ask who comes")
    doors.add_argument("--auth-audience", metavar="AUD", help="what tokens must say as aud")
    doors.add_argument("--auth-issuer", metavar="ISS", help="what tokens must say as iss")
    doors.add_argument("--insecure", action="store_true", default=None, help="serve others without asking who they are")
    doors.add_argument(
        "--origin", action="append", metavar="ORIGIN", help="web pages that may use this edge; * for all"
    )
    for name, what in (("cert", "certificate"), ("key", "key")):
        doors.add_argument(f"--listen-tls-{name}", type=Path, metavar="FILE", help=f"TLS {what} (PEM): serve wss")
    edge = argparse.ArgumentParser(add_help=False)
    default = os.environ.get("SKERRY_EDGE", "").partition(",")[0] or EDGE_URL
    edge.add_argument("--edge", default=default, metavar="URL", help=f"the edge to ask (default: {EDGE_URL})")
    token = argparse.ArgumentParser(add_help=False)
    token.add_argument("--token", metavar="TOKEN", help="shown to edges that ask (default: SKERRY_TOKEN)")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="JSON instead of a table")

    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, *parents: Any) -> Any:
        made = commands.add_parser(name, help=text, description=text, parents=[common, *parents])
        made.set_defaults(run=run)
        return made

    serve = command("serve", _serve, "everything on one machine", node, disk, streams, broker, pins, doors)
    serve.add_argument("--nats-listen", metavar="HOST:PORT", help="of the embedded server (default: 127.0.0.1:4222)")
    made = command("nats", _nats, "the embedded nats-server alone", disk, broker)
    made.add_argument("--accounts", type=Path, metavar="FILE", help="accounts, as nats-accounts makes them")
    made.add_argument("--insecure", action="store_true", default=None, help="serve others without asking who they are")
    made = command("nats-accounts", _accounts, "make NATS users of which no edge can harm the log")
    account_commands.add_arguments(made)
    command("leader", _leader, "merge and rebroadcast", node, files, nats, streams)
    command("edge", _edge, "serve clients", node, disk, nats, streams, pins, doors)
    made = command("demo", _demo, "two edges, cut off, edited, joined again, equal")
    demo.add_arguments(made)
    every = (node, disk, nats, streams, broker, pins, doors, as_json)
    command("config", _config, "check the configuration and print it", *every)
    made = command("status", _status, "edges, leader, shards, outbox, documents at a glance", nats, token, as_json)
    made.add_argument("--edge", action="append", metavar="URL", help="also ask this edge directly (it may be cut off)")
    made = command("verify", _verify, "compare every document across leader and edges", nats, as_json)
    made.add_argument("documents", nargs="*", metavar="DOC", help="only these (default: all)")
    docs = commands.add_parser("doc", help="list, show, edit documents", description="list, show, edit documents")
    docs.set_defaults(run=partial(_help, docs))
    doc_commands = docs.add_subparsers(title="commands", metavar="COMMAND")
    for name, run, text in (
        ("ls", _doc_ls, "list the documents of an edge"),
        ("cat", _doc_cat, "show what a document holds"),
        ("digest", _doc_digest, "show a document's version and digest"),
    ):
        made = doc_commands.add_parser(name, help=text, description=text, parents=[common, edge, token, nats, as_json])
        made.set_defaults(run=run)
        if name == "ls":
            made.add_argument("--hash", action="store_true", help="how the logs name each document")
        else:
            made.add_argument("document", metavar="DOC")
            made.add_argument("--leader", action="store_true", help="as the leader has it, asked over NATS")
            made.add_argument("--at-least", metavar="TOKEN", help="wait until it has come as far as this write")
            made.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="how long (default: 10)")
    for point in entry_points(group="skerry.commands"):  # the client's: neither room imports the other
        point.load()({"doc": doc_commands}[point.name], [common, token, as_json])
    token_commands.add_commands(commands, [common], as_json)
    backup_commands.add_commands(commands, common, nats, as_json, _load)
    rejected_commands.add_commands(commands, [common, nats, as_json], _load)
    made = command("revoke", _revoke, "take tokens back: their connections are closed", disk, revoked)
    token_commands.add_revoke(made)
    made = command("replay", replay.run, "play an editing trace through real clients on real edges", token)
    replay.add_arguments(made)
    made = command("bench", bench_flags.run, "measure, side by side with what people would pick instead")
    bench_flags.add_arguments(made)
    made = command("torture", torture.run, "real processes, real faults from a seed, and was everything kept?")
    torture.add_arguments(made)
    return parser


def _help(parser: argparse.ArgumentParser, _: argparse.Namespace) -> int:
    parser.print_help()
    return 2


_FLAGS = tuple(Config.model_fields)


def _load(options: argparse.Namespace) -> Config:
    flags = {name: getattr(options, name, None) for name in _FLAGS}
    return load_config(flags, options.config)


def _named(options: argparse.Namespace, default: str) -> Config:
    config = _load(options)
    return config if "name" in config.model_fields_set else config.model_copy(update={"name": default})


def _stay(config: Config, life: Callable[[Config], Any]) -> int:
    set_up_logging(config.log_level, config.log_style)
    set_up_collector()
    with asyncio.Runner(loop_factory=moderated_loop) as runner:
        runner.run(life(config))
    return 0


def _serve(options: argparse.Namespace) -> int:
    return _stay(_named(options, "edge"), daemons.run_serve)


def _nats(options: argparse.Namespace) -> int:
    config = _load(options)
    if "listen" not in config.model_fields_set:
        config = config.model_copy(update={"listen": config.nats_listen})
    return _stay(config, daemons.run_nats)


def _leader(options: argparse.Namespace) -> int:
    return _stay(_named(options, "leader"), daemons.run_leader)


def _edge(options: argparse.Namespace) -> int:
    return _stay(_named(options, "edge"), daemons.run_edge)


def _accounts(options: argparse.Namespace) -> int:
    return account_commands.run_accounts(options, _load(options))


def _revoke(options: argparse.Namespace) -> int:
    return token_commands.run_revoke(options, _load(options))


def _demo(options: argparse.Namespace) -> int:
    return demo.run(options)


# --- asking -----------------------------------------------------------------------------------------------------------
def _config(options: argparse.Namespace) -> int:
    config = _load(options)
    values = json.loads(config.model_dump_json())
    if options.json:
        print(json.dumps(values, indent=2))
        return 0
    table = Table("setting", "value", "from", box=None)
    for name, value in values.items():
        shown = ",".join(value) if isinstance(value, list) else "" if value is None else str(value)
        table.add_row(name, shown, "set" if name in config.model_fields_set else "default")
    Console().print(table)
    return 0


def _doc_ls(options: argparse.Namespace) -> int:
    docs = get_json_now(options.edge, "/docs")["docs"]
    if options.hash:
        hashes = {doc: named(doc) for doc in docs}
        print(json.dumps(hashes) if options.json else "\n".join(f"{name} {doc}" for doc, name in hashes.items()))
        return 0
    print(json.dumps(docs) if options.json else "\n".join(docs))
    return 0


def _read(options: argparse.Namespace) -> dict[str, Any]:
    if options.leader:
        return asyncio.run(_read_at_leader(_load(options), options))
    path = f"/docs/{quote(options.document, safe='')}"
    if options.at_least:
        path += f"?at_least={quote(options.at_least)}&timeout={options.timeout:g}"
    return get_json_now(options.edge, path)


async def _read_at_leader(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    set_up_logging("error", "line")
    doc = parse_document_id(options.document)
    async with daemons.operator_bus(config) as bus:
        wanted = (config.namespace, options.at_least, options.timeout)
        return await read_at_leader(bus, doc, *wanted, contents=options.run is _doc_cat)


def _doc_cat(options: argparse.Namespace) -> int:
    found = _read(options)
    content: dict[str, dict[str, Any]] = found["content"]
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    elif len(content) == 1 and next(iter(content.values()))["kind"] == "text":
        value = next(iter(content.values()))["value"]
        print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    else:
        print(json.dumps({root: part["value"] for root, part in content.items()}, ensure_ascii=False, indent=2))
    return 0


def _doc_digest(options: argparse.Namespace) -> int:
    found = {key: value for key, value in _read(options).items() if key != "content"}
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print(found["digest"], found["version"] or "-", found["doc"])
    return 0


def _status(options: argparse.Namespace) -> int:
    config = _load(options)
    set_up_logging("error", "line")
    answers: list[dict[str, Any]] = []
    differs: tuple[str, ...] = ()
    unreachable = ""
    try:
        answers, differs = asyncio.run(_ask_status(config))
    except SkerryError as error:
        if not options.edge:
            raise
        unreachable = str(error)
    for url in options.edge or ():
        found = get_json_now(url, "/status")
        answers = [one for one in answers if (one.get("role"), one.get("name")) != ("edge", found.get("name"))]
        answers.append(found)
    answers.sort(key=lambda one: (str(one.get("role")), str(one.get("name"))))
    if options.json:
        shown = {"nodes": answers, "unreachable": unreachable or None, "streams_differ": differs}
        print(json.dumps({"namespace": config.namespace, **shown}, indent=2))
    else:
        _print_status(answers, unreachable)
        for difference in differs:
            print(f"streams: {difference}; undo it with `nats stream edit`")
    return 0


async def _ask_status(config: Config) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """What all nodes say of themselves, and how the streams differ from what this configuration wants."""
    async with daemons.operator_bus(config, looks_only=True) as bus:
        return list(await bus.ask_all({"op": "status"}, 1.0)), bus.differs


def _print_status(answers: list[dict[str, Any]], unreachable: str) -> None:
    console = Console()
    if unreachable:
        console.print(f"[yellow]NATS:[/] {unreachable}")
    edges = Table("edge", "link", "clients", "outbox", "bytes", "oldest", "documents", box=None, title="edges")
    leaders = Table("leader", "link", "shards", "lag", "merged", "rejected", "gaps", box=None, title="leaders")
    documents = Table(
        "document", "edge", "version", "clients", "unmerged", "early", box=None, title="documents in memory"
    )
    for one in answers:
        link = one["link"]["state"] + (f" ({one['link']['reason']})" if one["link"]["state"] != "up" else "")
        if one.get("role") == "edge":
            box = one["outbox"]
            age = "-" if box["oldest_age_ms"] is None else f"{box['oldest_age_ms'] / 1000:.1f} s"
            row = (one["name"], link, one["clients"], box["count"], box["bytes"], age, one["documents_in_memory"])
            edges.add_row(*map(str, row))
            for doc in one["documents"]:
                shown = (doc["doc"], one["name"], doc["version"] or "-", doc["clients"], doc["unmerged"], doc["early"])
                documents.add_row(*map(str, shown))
        else:
            shards = ",".join(str(shard["shard"]) for shard in one["shards"]) or "-"
            lag = sum(shard.get("lag") or 0 for shard in one["shards"])
            leaders.add_row(
                one["name"], link, shards, str(lag), str(one["merged"]), str(one["rejected"]), str(len(one["gaps"]))
            )
    for table in (leaders, edges, documents):
        if table.row_count:
            console.print(table)
    for one in answers:
        if aside := one.get("store_set_aside"):
            kept = f"{aside['documents']} documents and {aside['changes']} unsent changes carried over"
            console.print(f"[yellow]{one['name']}:[/] a damaged store was set aside: {aside['path']}; {kept}")
    if not answers:
        console.print("no node answered; is a leader or an edge linked to this NATS?")


def _verify(options: argparse.Namespace) -> int:
    config = _load(options)
    set_up_logging("error", "line")
    comparison = asyncio.run(_compare(config, options.documents, options.json))
    rows = [(doc, comparison.verdict_of(doc), nodes) for doc, nodes in sorted(comparison.documents.items())]
    if options.json:
        found = {doc: {"verdict": verdict, "nodes": nodes} for doc, verdict, nodes in rows}
        print(
            json.dumps({"verdict": comparison.verdict, "nodes": sorted(comparison.nodes), "documents": found}, indent=2)
        )
    else:
        table = Table("document", "verdict", "node", "version", "digest", "outbox", box=None)
        for doc, verdict, nodes in rows:
            for node, state in sorted(nodes.items()):
                shown = (doc, verdict, node, state["version"] or "-", str(state["digest"])[:12], state["outbox"])
                table.add_row(*map(str, shown))
        console = Console()
        console.print(table)
        console.print(f"{comparison.verdict}: {len(rows)} documents at {len(comparison.nodes)} nodes")
    return {"EQUAL": 0, "BEHIND": 3, "DIVERGED": 4}[comparison.verdict]


async def _compare(config: Config, documents: list[str], quiet: bool) -> status.Comparison:
    async with daemons.operator_bus(config) as bus:
        docs = documents or await status.list_all(bus)
        with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
            bar = progress.add_task("comparing", total=len(docs))
            return await status.compare_all(bus, docs, lambda count: progress.advance(bar, count))


if __name__ == "__main__":
    sys.exit(main())
