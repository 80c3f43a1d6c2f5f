"""`skerry doc get`, `set`, `edit`, `watch`: what stands at a path of one document.

Room: what the flags ask for, and what is done about it, in order. Paths are `client.places`', what is edited by hand
`client.draft`'s, what is printed of an edit `client.saying`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Any

from sync.document import JsonValue
from sync.errors import SkerryError

from . import places, watching
from .document import OpenDocument
from .draft import Draft, in_editor, read_back, standard_input
from .events import Offline, Online, Stream
from .reaching import NotGiven, Reach, at_work
from .saying import STAGES, told

__all__ = ["edit", "get", "set_value", "watch"]


def get(options: argparse.Namespace, reach: Reach) -> int:
    place = places.parse_path(options.path)

    async def run() -> int:
        async with at_work(reach) as work:
            plan = await work.open(options.document)
            if options.at_least:
                await plan.reach(options.at_least, options.timeout)
            _print_value(places.value_at(plan, place), as_json=options.json)
            return 0

    return asyncio.run(run())


def _print_value(value: JsonValue, *, as_json: bool) -> None:
    if isinstance(value, str) and not as_json:
        sys.stdout.write(value if value.endswith("\n") else f"{value}\n")
    else:
        print(json.dumps(value, ensure_ascii=False, indent=2))


def set_value(options: argparse.Namespace, reach: Reach) -> int:
    place = places.parse_path(options.path)
    if options.delete and options.value is not None:
        raise places.NotJson("--delete takes no value; leave out one of them")
    value = None if options.delete else places.parse_json(_given(options.value))

    def change(plan: OpenDocument) -> bool:
        if options.delete:
            return places.remove(plan, place, correlation=options.correlation)
        return places.put(plan, place, value, correlation=options.correlation)

    async def run() -> int:
        async with at_work(reach) as work:
            plan = await work.open(options.document, needed=False)
            changed = change(plan)
            return told(await work.outcome(plan, STAGES[options.confirmed], changed=changed), options)

    return asyncio.run(run())


def _given(text: str | None) -> str:
    if text not in (None, "-"):
        return str(text)
    if sys.stdin.isatty():
        raise NotGiven("no value; give it as JSON behind the path, or on standard input")
    return standard_input()


def edit(options: argparse.Namespace, reach: Reach) -> int:
    place = places.parse_path(options.path) if options.path is not None else None
    given = None if sys.stdin.isatty() else standard_input()
    if given == "":
        raise NotGiven(f"standard input is empty; to empty a text: skerry doc set {options.document} PATH '\"\"'")

    async def run() -> int:
        async with at_work(reach) as work:
            plan = await work.open(options.document, needed=False)
            plan.check_writable()  # before an hour is spent in an editor
            draft = Draft(plan, place, options.correlation)
            # What is read now is what the text is compared with: what others type meanwhile waits, and is merged with
            # the difference by the CRDT, which no comparison of texts could do.
            work.session.addresses = ()
            if given is not None:
                changed = draft.apply(given)
            else:
                path = await in_editor(draft)
                try:
                    changed = draft.apply(read_back(path))
                    work.session.addresses = work.addresses
                    outcome = await work.outcome(plan, STAGES[options.confirmed], changed=changed)
                except SkerryError as error:
                    raise type(error)(f"{error}; your text is kept in {path}") from error
                path.unlink()
                path.parent.rmdir()
                return told(outcome, options)
            work.session.addresses = work.addresses
            return told(await work.outcome(plan, STAGES[options.confirmed], changed=changed), options)

    return asyncio.run(run())


def watch(options: argparse.Namespace, reach: Reach) -> int:
    place = places.parse_path(options.path)
    if not reach.addresses:
        raise NotGiven(f"{options.offline}: nobody else changes a store; name an edge as well, with --edge")

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

    return asyncio.run(run())


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
