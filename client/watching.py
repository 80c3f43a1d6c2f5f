"""`skerry doc watch`: what others change, as it comes; who and why, where somebody said so.

Room: two values of a document in, what differs between them out, as lines for people and as records for programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from jsonpointer import JsonPointer

from sync.change import Context
from sync.document import JsonValue
from sync.ids import Dot

from .differences import text_splices
from .document import OpenDocument
from .places import Path, value_at

__all__ = ["Seen", "differences", "lines_of", "record_of", "seen"]

GATHER_S: Final = 0.15  # one word of somebody is a few changes, and who wrote it comes behind them
_SHOWN: Final = 60  # characters of a piece of text or of a value in one line


@dataclass(frozen=True, slots=True)
class Seen:
    """What came within a moment: what is different now, and who said something about it."""

    at: datetime
    version: str
    different: tuple[dict[str, JsonValue], ...]
    by: tuple[tuple[Dot, Context], ...]


async def seen(plan: OpenDocument, place: Path) -> AsyncIterator[Seen]:
    """Until the document is closed. Own edits do not count: a watcher makes none."""
    stream = plan.changes()
    before = _value(plan, place)
    with contextlib.closing(stream):
        async for first in stream:
            by = list(first.contexts)
            with contextlib.suppress(TimeoutError, StopAsyncIteration):
                async with asyncio.timeout(GATHER_S):
                    while True:
                        by += (await anext(stream)).contexts
            after = _value(plan, place)
            different = tuple(differences(before, after, place))
            before = after
            if different or by:
                yield Seen(datetime.now().astimezone(), str(plan.version or ""), different, tuple(by))


def _value(plan: OpenDocument, place: Path) -> JsonValue:
    """None where nothing is there (yet)."""
    values = value_at(plan, ())
    for token in place:
        if isinstance(values, list) and token.isdigit() and int(token) < len(values):
            values = values[int(token)]
        elif isinstance(values, dict) and token in values:
            values = values[token]
        else:
            return None
    return values


def differences(old: JsonValue, new: JsonValue, place: Path) -> list[dict[str, JsonValue]]:
    """Each with `path`, and either `value` (null with `gone`), or for texts `edits`: position, deleted, inserted."""
    if old == new and type(old) is type(new):
        return []
    path = JsonPointer.from_parts(place).path if place else ""
    if isinstance(new, str) and (isinstance(old, str) or old is None):
        before = old or ""
        edits: list[JsonValue] = [
            {
                "position": each.position,
                "deleted": before[each.position : each.position + each.deleted],
                "inserted": each.inserted,
            }
            for each in reversed(text_splices(before, new))
        ]
        return [{"path": path, "edits": edits}] if old is not None or new else []
    if isinstance(old, dict | None) and isinstance(new, dict):
        was: Mapping[str, JsonValue] = old or {}
        found: list[dict[str, JsonValue]] = []
        for key in [*was, *(key for key in new if key not in was)]:
            if key not in new:
                found.append({"path": JsonPointer.from_parts((*place, key)).path, "value": None, "gone": True})
            elif key not in was and not isinstance(new[key], str | dict):
                found.append({"path": JsonPointer.from_parts((*place, key)).path, "value": new[key]})
            else:
                found += differences(was.get(key), new[key], (*place, key))
        return found
    return [{"path": path, "value": new} | ({"gone": True} if new is None else {})]


def record_of(doc: str, seen: Seen) -> dict[str, JsonValue]:
    by: list[JsonValue] = [
        {
            "edit": str(dot),
            "edge": context.edge,
            "actor": context.actor,
            "correlation": context.correlation,
            "causation": context.causation,
            "time_ms": context.time_ms,
        }
        for dot, context in seen.by
    ]
    return {
        "event": "changed",
        "at": seen.at.isoformat(timespec="milliseconds"),
        "doc": doc,
        "version": seen.version or None,
        "changes": list(seen.different),
        "by": by,
    }


def lines_of(seen: Seen) -> list[str]:
    """For people: `12:30:01 ada at edge a (trip-42): /body +"tent"`."""
    who = sorted({_who(context) for _, context in seen.by})
    head = f"{seen.at:%H:%M:%S}" + (f" {', '.join(who)}:" if who else "")
    what: list[str] = []
    for each in seen.different:
        path = str(each["path"]) or "/"
        edits = each.get("edits")
        if isinstance(edits, list):
            what += [f"{path} {_edit(edit)}" for edit in edits if isinstance(edit, dict)]
        else:
            what.append(f"{path} gone" if each.get("gone") else f"{path} = {_short(each['value'])}")
    return [f"{head} {each}" for each in what] or [f"{head} (nothing that can be seen)"]


def _who(context: Context) -> str:
    why = f" ({context.correlation})" if context.correlation else ""
    return f"{context.actor or 'somebody'} at edge {context.edge}{why}"


def _edit(edit: Mapping[str, JsonValue]) -> str:
    gone, came = edit["deleted"], edit["inserted"]
    parts = [f"-{_short(gone)}" if gone else "", f"+{_short(came)}" if came else ""]
    return f"at {edit['position']}: " + " ".join(part for part in parts if part)


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
