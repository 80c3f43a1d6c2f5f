"""`skerry doc …` on top of the client: edit, watch, set, get, export, import, sync, unmerged.

Room: flags, what is printed, exit statuses. `add_commands` is found by the entry-point group `skerry.commands`: the
command line is the server's, and neither room imports the other. What a command does is in the modules below it.

Exit statuses: 0 done, 1 an error (one line says which), 3 done and kept in a store, but on no edge yet.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sync.document import JsonValue
from sync.errors import SkerryError, StoreError
from sync.extension import Stage
from sync.ids import DocId

from . import files, places, watching
from .document import OpenDocument
from .events import Offline, Online, Stream
from .parking import Aside, rejected
from .reaching import Outcome, Reach, Work, at_work, temporary

__all__ = ["add_commands"]

EDGE: Final = "ws://127.0.0.1:8787"
KEPT: Final = 3
AT_ONCE: Final = 8  # documents on their way together: the slowest of them does not hold up the others
_STAGES: Final[dict[str, Stage]] = {"edge": Stage.EDGE, "log": Stage.LOG, "merged": Stage.MERGED}
_SAID: Final = {
    Stage.DISK: "on this disk only",
    Stage.EDGE: "on the edge's disk",
    Stage.LOG: "in the log",
    Stage.MERGED: "merged by the leader",
}


class NoText(SkerryError):
    """There is neither an editor nor a text to be read."""


# --- flags ------------------------------------------------------------------------------------------------------------
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
        "--confirmed", choices=tuple(_STAGES), default="edge", help="wait until the edit is this safe (default: edge)"
    )
    writing.add_argument("--actor", default="", metavar="NAME", help="who edits, as others see it")
    writing.add_argument("--correlation", default="", metavar="TEXT", help="one user action from end to end")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, *more: argparse.ArgumentParser) -> Any:
        made = commands.add_parser(name, help=text, description=text, parents=[*parents, reach, *more])
        made.set_defaults(run=run)
        return made

    def document(made: Any, **of_path: Any) -> None:
        made.add_argument("document", metavar="DOC")
        made.add_argument("path", metavar="PATH", help="JSON Pointer (RFC 6901): /body, /todo/0, /set/theme", **of_path)

    made = command("edit", _edit, "edit in $EDITOR, or take standard input; only the difference is applied", writing)
    document(made, nargs="?")
    made = command("get", _get, "show what is at a path")
    document(made, nargs="?", default="")
    made.add_argument("--at-least", metavar="TOKEN", help="wait until the document has come as far as this write")
    made = command("set", _set, "set what is at a path; only the difference is applied", writing)
    document(made)
    made.add_argument("value", nargs="?", metavar="JSON", help="default: read from standard input")
    made.add_argument("--delete", action="store_true", help="take away what is at the path")
    made = command("watch", _watch, "show what others change, as it comes, until Ctrl-C")
    document(made, nargs="?", default="")
    made.add_argument("--count", type=int, metavar="N", help="end after so many changes")
    made = command("export", _export, "write documents to a file or a directory, or one to standard output")
    made.add_argument("documents", nargs="*", metavar="DOC")
    made.add_argument("--match", action="append", metavar="PATTERN", help="all documents like this, as 'notes/*'")
    made.add_argument("--to", type=Path, metavar="FILE|DIR", help="a directory, where there are several documents")
    made.add_argument("--format", choices=[each.value for each in files.Format], default="json", help="default: json")
    made.add_argument("--path", metavar="PATH", help="only what is there (JSON, text)")
    made.add_argument("--force", action="store_true", help="replace files")
    made.add_argument("--aside", type=int, metavar="N", help="the store's Nth copy from before a reload")
    made = command("import", _import, "bring in files, or a directory of them", writing)
    made.add_argument("files", nargs="+", type=Path, metavar="FILE|DIR")
    made.add_argument("--as", dest="name", metavar="DOC", help="the document (default: what the file's name says)")
    made.add_argument("--format", choices=[each.value for each in files.Format], help="default: by .yjs, .json, .txt")
    made.add_argument("--path", metavar="PATH", help="where in the document (JSON, text)")
    made = command("sync", _sync, "bring a store and an edge together, and say what is merged", writing)
    made.add_argument("documents", nargs="*", metavar="DOC", help="default: all of the store")
    made.add_argument("--match", action="append", metavar="PATTERN", help="of the edge as well, as 'notes/*'")
    made.add_argument("--reload", action="store_true", help="where something was rejected, take what the edge has")
    command("unmerged", _unmerged, "list a store's documents, and which edits are how safe")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: 0 to 86400 seconds")
    return seconds


def _reach(options: argparse.Namespace) -> Reach:
    addresses = tuple(options.edge or (() if options.offline is not None else _usual()))
    return Reach(
        addresses,
        options.offline,
        options.namespace or os.environ.get("SKERRY_NAMESPACE") or "skerry",
        os.environ.get("SKERRY_TOKEN", ""),  # also what --token says
        options.timeout,
        getattr(options, "actor", ""),
    )


def _usual() -> tuple[str, ...]:
    return tuple(filter(None, os.environ.get("SKERRY_EDGE", "").split(","))) or (EDGE,)


def _run(work: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(work)


# --- one document -----------------------------------------------------------------------------------------------------
def _get(options: argparse.Namespace) -> int:
    place = places.parse_path(options.path)

    async def run() -> int:
        async with at_work(_reach(options)) as work:
            plan = await work.open(options.document)
            if options.at_least:
                await plan.reach(options.at_least, options.timeout)
            _print_value(places.value_at(plan, place), as_json=options.json)
            return 0

    return _run(run())


def _print_value(value: JsonValue, *, as_json: bool) -> None:
    if isinstance(value, str) and not as_json:
        sys.stdout.write(value if value.endswith("\n") else f"{value}\n")
    else:
        print(json.dumps(value, ensure_ascii=False, indent=2))


def _set(options: argparse.Namespace) -> int:
    place = places.parse_path(options.path)
    if options.delete and options.value is not None:
        raise places.NotJson("--delete takes no value; leave out one of them")
    value = None if options.delete else places.parse_json(_given(options.value))

    def edit(plan: OpenDocument) -> bool:
        if options.delete:
            return places.remove(plan, place, correlation=options.correlation)
        return places.put(plan, place, value, correlation=options.correlation)

    async def run() -> int:
        async with at_work(_reach(options)) as work:
            plan = await work.open(options.document, needed=False)
            changed = edit(plan)
            return _tell(await work.outcome(plan, _STAGES[options.confirmed], changed=changed), options)

    return _run(run())


def _given(text: str | None) -> str:
    if text not in (None, "-"):
        return str(text)
    if sys.stdin.isatty():
        raise NoText("no value; give it as JSON behind the path, or on standard input")
    return _standard_input()


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoText(f"standard input: not UTF-8 ({error.reason} at byte {error.start}); convert it first") from None


def _edit(options: argparse.Namespace) -> int:
    place = places.parse_path(options.path) if options.path is not None else None
    given = None if sys.stdin.isatty() else _standard_input()
    if given == "":
        raise NoText(f"standard input is empty; to empty a text: skerry doc set {options.document} PATH '\"\"'")

    async def run() -> int:
        async with at_work(_reach(options)) as work:
            plan = await work.open(options.document, needed=False)
            plan.check_writable()  # before an hour is spent in an editor
            draft = _Draft(plan, place, options.correlation)
            # What is read now is what the text is compared with: what others type meanwhile waits, and is merged with
            # the difference by the CRDT, which no comparison of texts could do.
            work.session.addresses = ()
            if given is not None:
                changed = draft.apply(given)
            else:
                path = await _edited(draft)
                try:
                    changed = draft.apply(_read(path))
                    work.session.addresses = work.addresses
                    outcome = await work.outcome(plan, _STAGES[options.confirmed], changed=changed)
                except SkerryError as error:
                    raise type(error)(f"{error}; your text is kept in {path}") from error
                path.unlink()
                path.parent.rmdir()
                return _tell(outcome, options)
            work.session.addresses = work.addresses
            return _tell(await work.outcome(plan, _STAGES[options.confirmed], changed=changed), options)

    return _run(run())


class _Draft:
    """What is edited: a text as it is, anything else as JSON."""

    def __init__(self, plan: OpenDocument, place: places.Path | None, correlation: str) -> None:
        """Raises WrongKind."""
        self.plan = plan
        self.correlation = correlation
        if place is None:
            try:
                place = files.text_place(plan)
            except places.WrongKind:
                place = ()
        self.place = place
        try:
            self.value = places.value_at(plan, place)
        except places.UnknownPath:
            if len(place) != 1:
                raise
            self.value = ""
        self.is_text = isinstance(self.value, str)
        self.text = str(self.value) if self.is_text else json.dumps(self.value, ensure_ascii=False, indent=2) + "\n"

    def apply(self, text: str) -> bool:
        """Editors and `echo` end a text with a line feed that was not there: that one is no edit."""
        if self.is_text:
            if text.endswith("\n") and not self.text.endswith("\n"):
                text = text.removesuffix("\n")
            return places.put(self.plan, self.place, text, correlation=self.correlation)
        value = places.parse_json(text)
        if not self.place and isinstance(self.value, dict) and isinstance(value, dict):
            value = {**{root: _emptied(was) for root, was in self.value.items() if root not in value}, **value}
        return places.put(self.plan, self.place, value, correlation=self.correlation)


def _emptied(value: JsonValue) -> JsonValue:
    return "" if isinstance(value, str) else [] if isinstance(value, list) else {}


async def _edited(draft: _Draft) -> Path:
    """The file, when the editor has ended. Raises NoText."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise NoText("no editor; set EDITOR, or give the text on standard input")
    path = temporary() / ("text.txt" if draft.is_text else "value.json")
    try:
        path.write_bytes(draft.text.encode("utf-8"))
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise StoreError(f"{path}: {error.strerror}; free some space, or name another place with TMPDIR") from None
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the editor's
    try:
        done = await asyncio.to_thread(subprocess.run, [*shlex.split(editor), str(path)], check=False)
        failed = f"ended with status {done.returncode}" if done.returncode else ""
    except (OSError, ValueError) as error:
        failed = str(error)
    finally:
        signal.signal(signal.SIGINT, before)
    if failed:
        kept = f"what is typed is in {path}"
        with contextlib.suppress(OSError):
            if path.read_bytes() == draft.text.encode("utf-8"):
                shutil.rmtree(path.parent)
                kept = "nothing was typed"
        raise NoText(f"editor {editor!r}: {failed}; nothing was changed, {kept}")
    return path


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NoText(f"{path}: {error}") from None


# --- watching ---------------------------------------------------------------------------------------------------------
def _watch(options: argparse.Namespace) -> int:
    place = places.parse_path(options.path)
    reach = _reach(options)
    if not reach.addresses:
        raise NoText(f"{options.offline}: nobody else changes a store; name an edge as well, with --edge")

    async def run() -> int:
        async with at_work(reach) as work:
            plan = await work.open(options.document, needed=False)
            events = asyncio.create_task(_tell_link(plan.events(), options))
            _watched(options, {"event": "watching", "doc": plan.doc, "edge": work.session.edge})
            count = 0
            try:
                async for seen in watching.seen(plan, place):
                    count += 1
                    _watched(options, watching.record_of(plan.doc, seen), watching.lines_of(seen))
                    if count == options.count:
                        break
            finally:
                events.cancel()
            return 0

    return _run(run())


def _watched(options: argparse.Namespace, record: dict[str, JsonValue], lines: Iterable[str] | None = None) -> None:
    if options.json:
        print(json.dumps(record, ensure_ascii=False), flush=True)
    elif lines is not None:
        print("\n".join(lines), flush=True)
    else:
        event, *rest = (str(value) for value in record.values())
        print(f"{event}: {', '.join(rest)}", file=sys.stderr, flush=True)


async def _tell_link(stream: Stream[Any], options: argparse.Namespace) -> None:
    async for event in stream:
        match event:
            case Online(address, edge):
                _watched(options, {"event": "online", "edge": edge, "address": address})
            case Offline(reason):
                _watched(options, {"event": "offline", "reason": reason})


# --- many documents ---------------------------------------------------------------------------------------------------
def _export(options: argparse.Namespace) -> int:
    format = files.Format(options.format)
    place = places.parse_path(options.path) if options.path is not None else None
    if not options.documents and not options.match:
        raise NoText("no document; name some, or all of them with --match '*'")

    async def run() -> int:
        async with at_work(_reach(options)) as work:
            docs = await _chosen(work, options)
            several = options.match or len(docs) > 1 or (options.to is not None and options.to.is_dir())
            if several and options.to is None:
                raise NoText(f"{len(docs)} documents; name a directory with --to")

            async def one(doc: str) -> dict[str, JsonValue]:
                plan = await work.open(doc)
                try:
                    data = files.exported(plan if options.aside is None else _aside(plan, options.aside), format, place)
                finally:
                    await plan.close()
                if options.to is None:
                    sys.stdout.buffer.write(data)
                    return {}
                path = options.to / files.name_of(doc, format) if several else options.to
                await asyncio.to_thread(files.write_file, path, data, replace=options.force)
                return {"doc": doc, "file": str(path), "bytes": len(data)}

            results = await _each("exporting", docs, one, options)
            if options.to is not None:
                _report(results, options, ("doc", "file", "bytes"))
            return _status(results)

    return _run(run())


def _aside(plan: OpenDocument, number: int) -> Aside:
    """Raises NoText."""
    copies = plan.asides()
    if not 1 <= number <= len(copies):
        raise NoText(f"{plan.doc}: {len(copies)} copies are there; skerry doc unmerged counts them, for a store")
    return copies[number - 1]


def _import(options: argparse.Namespace) -> int:
    format = files.Format(options.format) if options.format else None
    place = places.parse_path(options.path) if options.path is not None else None
    found = [source for path in options.files for source in files.sources(path, format, options.name)]
    if not found:
        raise files.FileFailed(f"{options.files[0]}: holds no .yjs, .json or .txt; say what it is with --format")

    async def run() -> int:
        async with at_work(_reach(options)) as work:

            async def one(source: files.Source) -> dict[str, JsonValue]:
                plan = await work.open(source.doc, needed=False)
                try:
                    changed = files.import_into(plan, source, place)
                    outcome = await work.outcome(plan, _STAGES[options.confirmed], changed=changed)
                finally:
                    await plan.close()
                return {"file": str(source.path), **_record(outcome)}

            results = await _each("importing", found, one, options)
            _report(results, options, ("doc", "file", "changed", "stage"))
            return _status(results)

    return _run(run())


def _sync(options: argparse.Namespace) -> int:
    if options.offline is None:
        raise NoText("no store; name it with --offline")
    reach = _reach(options)
    if not reach.addresses:
        reach = replace(reach, addresses=_usual())

    async def run() -> int:
        async with at_work(reach) as work:
            docs = await _chosen(work, options) if options.documents or options.match else []
            if not options.documents:
                docs = sorted({*docs, *work.session.documents()})

            async def one(doc: str) -> dict[str, JsonValue]:
                plan = await work.open(doc)
                try:
                    kept: int | None = None
                    if options.reload and plan.parked is not None:
                        await work.reload(plan)
                        kept = len(plan.asides()) or None
                    return _record(await work.outcome(plan, _STAGES[options.confirmed], changed=False)) | {
                        "aside": kept
                    }
                finally:
                    await plan.close()

            results = await _each("syncing", docs, one, options)
            _report(results, options, ("doc", "stage", "edge"))
            for each in results:
                if each.get("aside"):
                    copy = f"skerry doc export {each['doc']} --aside {each['aside']} --offline {options.offline}"
                    print(f"skerry: {each['doc']}: reloaded; what was here is kept: {copy}", file=sys.stderr)
            return _status(results)

    return _run(run())


def _unmerged(options: argparse.Namespace) -> int:
    if options.offline is None:
        raise NoText("no store; name it with --offline")
    if not options.offline.exists():
        raise files.FileFailed(f"{options.offline}: no such store; name one that a command with --offline has made")

    async def run() -> int:
        async with at_work(Reach((), options.offline, _reach(options).namespace, "", 0)) as work:
            results: list[dict[str, JsonValue]] = []
            for doc in map(DocId, work.session.documents()):
                stored = work.session.store.load(doc)
                assert stored is not None
                counts: dict[str, JsonValue] = {
                    stage.name.lower(): sum(edit.stage is stage for edit in stored.edits)
                    for stage in (Stage.DISK, Stage.EDGE, Stage.LOG)
                }
                version = str(stored.version) if stored.version is not None else None
                since = min((edit.since_ms for edit in stored.edits), default=None)
                results.append(
                    {
                        "doc": doc,
                        **counts,
                        "rejected": len(stored.rejected),
                        "since_ms": since,
                        "version": version,
                        "aside": stored.copies,
                        "parked": stored.parked.reason if stored.parked else None,
                    }
                )
            _report(results, options, ("doc", "disk", "edge", "log", "rejected", "version", "aside"))
            for each in results:
                if each["parked"] is not None:
                    print(f"skerry: {rejected(DocId(str(each['doc'])), str(each['parked']))}", file=sys.stderr)
            return 0

    return _run(run())


async def _chosen(work: Work, options: argparse.Namespace) -> list[str]:
    """Raises NoText where a pattern names nothing."""
    docs = list(dict.fromkeys(options.documents))
    if options.match:
        listed = await work.listed()
        found = [doc for doc in listed if any(fnmatchcase(doc, pattern) for pattern in options.match)]
        if not found and not docs:
            raise NoText(f"no document here is like {', '.join(options.match)}; skerry doc ls shows those of an edge")
        docs += [doc for doc in found if doc not in docs]
    return docs


async def _each(
    what: str, items: Sequence[Any], one: Callable[[Any], Awaitable[dict[str, JsonValue]]], options: argparse.Namespace
) -> list[dict[str, JsonValue]]:
    """In the order of `items`. One that fails does not stop the others, unless it is the only one."""
    results: list[dict[str, JsonValue]] = [{} for _ in items]
    room = asyncio.Semaphore(AT_ONCE)
    console = Console(stderr=True)
    silent = options.json or len(items) < 2 or not console.is_terminal  # which would be given an empty line
    with Progress(console=console, transient=True, disable=silent) as progress:
        bar = progress.add_task(what, total=len(items))

        async def run(at: int, item: Any) -> None:
            async with room:
                try:
                    results[at] = await one(item)
                except SkerryError as error:
                    if len(items) == 1:
                        raise
                    results[at] = {"doc": item.doc if isinstance(item, files.Source) else item, "error": str(error)}
                progress.advance(bar)

        async with _together() as group:
            for at, item in enumerate(items):
                group.create_task(run(at, item))
    return results


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first error comes out as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


# --- what is said -----------------------------------------------------------------------------------------------------
def _record(outcome: Outcome) -> dict[str, JsonValue]:
    return {
        "doc": outcome.doc,
        "changed": outcome.changed,
        "stage": outcome.stage.name.lower(),
        "edge": outcome.edge or None,
        "token": outcome.token or None,
        "kept": outcome.kept or None,
        "why": outcome.why or None,
    }


def _tell(outcome: Outcome, options: argparse.Namespace) -> int:
    """Of one document."""
    if options.json:
        print(json.dumps(_record(outcome), ensure_ascii=False))
    elif not outcome.changed and not outcome.kept:
        print(f"{outcome.doc}: no difference")
    elif outcome.kept:
        print(f"{outcome.doc}: kept in {outcome.kept}; token {outcome.token}")
    else:
        at = f" ({outcome.edge})" if outcome.edge else ""
        asked = min(outcome.stage, _STAGES[options.confirmed])  # it may be known to be safer by chance
        print(f"{outcome.doc}: {_SAID[asked]}{at}; token {outcome.token}")
    if outcome.why:
        where = f"kept in {outcome.kept}, on no edge yet" if outcome.kept else f"only {_SAID[outcome.stage]}"
        again = f"; later: skerry doc sync --offline {outcome.kept}" if outcome.kept else ""
        print(f"skerry: {outcome.doc}: {where} ({outcome.why}){again}", file=sys.stderr)
    return _status([_record(outcome)])


def _status(results: Sequence[dict[str, JsonValue]]) -> int:
    if any("error" in result for result in results):
        return 1
    return KEPT if any(result.get("why") for result in results) else 0


def _report(results: Sequence[dict[str, JsonValue]], options: argparse.Namespace, columns: Sequence[str]) -> None:
    failed = [result for result in results if "error" in result]
    if options.json:
        print(json.dumps(results, ensure_ascii=False, indent=2))
    else:
        table = Table(*columns, box=None)
        for result in results:
            if "error" not in result:
                table.add_row(*["-" if result.get(name) is None else str(result.get(name)) for name in columns])
        Console().print(table)
    for result in failed:
        print(f"skerry: {result['error']}", file=sys.stderr)
