"""`skerry doc export`, `import`, `sync`, `unmerged`: whole documents, many at once, between edges, stores and files.

Room: which documents, each of them, and one report of all. One that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from sync.document import JsonValue
from sync.errors import SkerryError
from sync.extension import Stage
from sync.ids import DocId

from . import files, places
from .document import OpenDocument
from .parking import Aside, rejected
from .reaching import NotGiven, Reach, Work, at_work, usual
from .saying import STAGES, record_of, report, status_of

__all__ = ["export", "import_files", "sync", "unmerged"]

AT_ONCE: Final = 8  # documents on their way together: the slowest of them does not hold up the others


def export(options: argparse.Namespace, reach: Reach) -> int:
    format = files.Format(options.format)
    place = places.parse_path(options.path) if options.path is not None else None
    if not options.documents and not options.match:
        raise NotGiven("no document; name some, or all of them with --match '*'")

    async def run() -> int:
        async with at_work(reach) as work:
            docs = await _chosen(work, options)
            several = options.match or len(docs) > 1 or (options.to is not None and options.to.is_dir())
            if several and options.to is None:
                raise NotGiven(f"{len(docs)} documents; name a directory with --to")

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
                report(results, options, ("doc", "file", "bytes"))
            return status_of(results)

    return asyncio.run(run())


def _aside(plan: OpenDocument, number: int) -> Aside:
    """Raises NotGiven."""
    copies = plan.asides()
    if not 1 <= number <= len(copies):
        raise NotGiven(f"{plan.doc}: {len(copies)} copies are there; skerry doc unmerged counts them, for a store")
    return copies[number - 1]


def import_files(options: argparse.Namespace, reach: Reach) -> int:
    format = files.Format(options.format) if options.format else None
    place = places.parse_path(options.path) if options.path is not None else None
    found = [source for path in options.files for source in files.sources(path, format, options.name)]
    if not found:
        raise files.FileFailed(f"{options.files[0]}: holds no .yjs, .json or .txt; say what it is with --format")

    async def run() -> int:
        async with at_work(reach) as work:

            async def one(source: files.Source) -> dict[str, JsonValue]:
                plan = await work.open(source.doc, needed=False)
                try:
                    changed = files.import_into(plan, source, place)
                    outcome = await work.outcome(plan, STAGES[options.confirmed], changed=changed)
                finally:
                    await plan.close()
                return {"file": str(source.path), **record_of(outcome)}

            results = await _each("importing", found, one, options)
            report(results, options, ("doc", "file", "changed", "stage"))
            return status_of(results)

    return asyncio.run(run())


def sync(options: argparse.Namespace, reach: Reach) -> int:
    if options.offline is None:
        raise NotGiven("no store; name it with --offline")
    if not reach.addresses:
        reach = replace(reach, addresses=usual())

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
                    return record_of(await work.outcome(plan, STAGES[options.confirmed], changed=False)) | {
                        "aside": kept
                    }
                finally:
                    await plan.close()

            results = await _each("syncing", docs, one, options)
            report(results, options, ("doc", "stage", "edge"))
            for each in results:
                if each.get("aside"):
                    copy = f"skerry doc export {each['doc']} --aside {each['aside']} --offline {options.offline}"
                    print(f"skerry: {each['doc']}: reloaded; what was here is kept: {copy}", file=sys.stderr)
            return status_of(results)

    return asyncio.run(run())


def unmerged(options: argparse.Namespace, reach: Reach) -> int:
    if options.offline is None:
        raise NotGiven("no store; name it with --offline")
    if not options.offline.exists():
        raise files.FileFailed(f"{options.offline}: no such store; name one that a command with --offline has made")

    async def run() -> int:
        async with at_work(replace(reach, addresses=(), token="", timeout_s=0)) as work:
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
            report(results, options, ("doc", "disk", "edge", "log", "rejected", "version", "aside"))
            for each in results:
                if each["parked"] is not None:
                    print(f"skerry: {rejected(DocId(str(each['doc'])), str(each['parked']))}", file=sys.stderr)
            return 0

    return asyncio.run(run())


async def _chosen(work: Work, options: argparse.Namespace) -> list[str]:
    """Raises NotGiven where a pattern names nothing."""
    docs = list(dict.fromkeys(options.documents))
    if options.match:
        listed = await work.listed()
        found = [doc for doc in listed if any(fnmatchcase(doc, pattern) for pattern in options.match)]
        if not found and not docs:
            raise NotGiven(f"no document here is like {', '.join(options.match)}; skerry doc ls shows those of an edge")
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
