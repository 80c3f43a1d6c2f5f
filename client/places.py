"""Places in a document by JSON Pointer (RFC 6901): what is there, and how it becomes something else.

Room: a path, a JSON value and the shared types of one document. `/body` is the root `body`; `/settings/theme` is the
key `theme` of the map `settings`; `/todo/0` is the first item of the array `todo`, `/todo/-` the place behind its last.

A value that is put somewhere changes only what differs, down to single words of a text: what others edit at the same
time stays. New values are plain JSON, not shared types: two who make the same nested type at once would lose one of
them (facts 1.9), so what many edit together belongs into a root.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from jsonpointer import JsonPointer, JsonPointerException

from sync.document import Crdt, JsonValue, kind_of, splice
from sync.errors import InvalidInput
from sync.ids import DocId, Version
from sync.roots import RootKind

from .differences import list_splices, text_splices
from .document import OpenDocument

__all__ = [
    "NotJson",
    "Path",
    "Readable",
    "UnknownPath",
    "WrongKind",
    "parse_json",
    "parse_path",
    "put",
    "remove",
    "value_at",
]

Path = tuple[str, ...]

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_END: Final = "-"
_SAFE_INTEGER: Final = 2**53  # JavaScript's; larger ones are kept as the doubles that they are to every Yjs
_KINDS: Final[dict[type, RootKind]] = {str: RootKind.TEXT, dict: RootKind.MAP, list: RootKind.ARRAY}
_EMPTY: Final[dict[RootKind, JsonValue]] = {RootKind.TEXT: "", RootKind.MAP: {}, RootKind.ARRAY: []}
_WORDS: Final = {RootKind.TEXT: "a text", RootKind.MAP: "an object", RootKind.ARRAY: "an array", RootKind.XML: "XML"}


class UnknownPath(InvalidInput):
    """Nothing is at this place of the document, or it is no JSON Pointer."""


class WrongKind(InvalidInput):
    """What is at this place cannot be what it was asked to be."""


class NotJson(InvalidInput):
    """A text that is no JSON value."""


def parse_path(text: str) -> Path:
    """Raises UnknownPath. The whole document is the empty text."""
    try:
        return tuple(JsonPointer(text).parts)
    except JsonPointerException as error:
        raise UnknownPath(f"{text!r}: no JSON Pointer ({error}); write it as /settings/theme or /todo/0") from None


def parse_json(text: str) -> JsonValue:
    """Raises NotJson. Integral floats become integers, as documents give them back."""
    try:
        value: JsonValue = json.loads(text, parse_constant=_no_number, parse_float=_number, parse_int=_integer)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        what = f"{text[:40]}…" if len(text) > 40 else text
        raise NotJson(f"{what!r}: not JSON ({error}); a text is written in quotes, as '\"dark\"'") from None
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large")
    return int(value) if value.is_integer() and abs(value) <= _SAFE_INTEGER else value


def _integer(text: str) -> float | int:
    return int(text) if len(text) < 17 and abs(int(text)) <= _SAFE_INTEGER else _number(text)


def _text(path: Path) -> str:
    return str(JsonPointer.from_parts(path).path) if path else "the document"


# --- reading ----------------------------------------------------------------------------------------------------------
class Readable(Protocol):
    """A document that is open, or a copy of one."""

    @property
    def doc(self) -> DocId: ...

    @property
    def version(self) -> Version | None: ...

    def contents(self) -> dict[str, JsonValue]: ...

    def state(self) -> bytes: ...


def value_at(plan: Readable, path: Path) -> JsonValue:
    """Raises UnknownPath."""
    values = _values(plan.contents())
    if not path:
        return values
    here: JsonValue = values
    for at, token in enumerate(path):
        match here:
            case dict() if token in here:
                here = here[token]
            case list() if _INDEX.fullmatch(token) and int(token) < len(here):
                here = here[int(token)]
            case _:
                raise _unknown(plan.doc, path[: at + 1], here)
    return here


def _values(contents: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Root -> its value; roots of which nothing is left do not count."""
    values: dict[str, JsonValue] = {}
    for name, root in contents.items():
        assert isinstance(root, dict)
        if root["kind"] != RootKind.UNKNOWN.word:
            values[name] = root["value"]
    return values


def _unknown(doc: str, path: Path, around: JsonValue) -> UnknownPath:
    match around:
        case dict():
            names = [str(JsonPointer.from_parts([name]).path)[1:] for name in around]
            there = f"there is {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "it is empty"
        case list():
            there = f"there are {len(around)} items"
        case _:
            there = "it holds no others"
    where = _text(path[:-1]) if path[:-1] else doc
    return UnknownPath(f"{doc}: nothing is at {_text(path)}; in {where} {there}")


# --- writing ----------------------------------------------------------------------------------------------------------
def put(plan: OpenDocument, path: Path, value: JsonValue, *, correlation: str = "", causation: str = "") -> bool:
    """Make it `value`; True where that took an edit. Raises UnknownPath, WrongKind, and as `OpenDocument.edit`.

    A root that is not there is made by its value: a text, an array, an object. An object as the whole document sets
    the roots that it names. Nothing has changed where this raises.
    """
    return _run(plan, _plan_put(plan, path, value), correlation, causation)


def remove(plan: OpenDocument, path: Path, *, correlation: str = "", causation: str = "") -> bool:
    """Take away what is there; a root is emptied, since Yjs knows no end of one. As `put`."""
    old = value_at(plan, path)
    if not path:
        raise WrongKind(f"{plan.doc}: the whole document cannot be removed; name a place in it, as /body")
    if len(path) == 1:
        emptied: JsonValue = "" if isinstance(old, str) else [] if isinstance(old, list) else {}
        return put(plan, path, emptied, correlation=correlation, causation=causation)
    container, rest, around = _container(plan, plan.crdt, path)
    if len(rest) == 1:
        token = rest[0]
        key = int(token) if isinstance(around, list) else token
        return _run(plan, [lambda: container.__delitem__(key)], correlation, causation)
    changed = _copy(around)
    parent = _descend(changed, rest[:-1])
    del parent[int(rest[-1]) if isinstance(parent, list) else rest[-1]]
    steps = _steps_in(plan.doc, container, around, rest[0], _descend(changed, rest[:1]))
    return _run(plan, steps, correlation, causation)


_Step = Callable[[], object]


def _run(plan: OpenDocument, steps: list[_Step], correlation: str, causation: str) -> bool:
    """Nothing was changed before this: what can be wrong was found while the steps were made."""
    if not steps:
        return False
    with plan.edit(correlation=correlation, causation=causation):
        for step in steps:
            step()
    return True


def _plan_put(plan: OpenDocument, path: Path, value: JsonValue) -> list[_Step]:
    if not path:
        if not isinstance(value, dict):
            raise WrongKind(f'{plan.doc}: a document is an object of its roots, as \'{{"body": "text"}}\'')
        return [step for root, each in value.items() for step in _plan_put(plan, (root,), each)]
    contents = plan.contents()
    values = _values(contents)
    if len(path) == 1:
        return _steps_of_root(plan, path[0], contents, value)
    if path[0] not in values:
        if len(path) > 2:
            raise _unknown(plan.doc, path[:1], values)
        root: JsonValue = [value] if path[1] == _END else {path[1]: value}
        return _steps_of_root(plan, path[0], contents, root)
    container, rest, around = _container(plan, plan.crdt, path)
    if len(rest) == 1:
        return _steps_at(plan.doc, container, around, path, value)
    changed = _copy(around)
    parent = _descend(changed, rest[:-1])
    _set_plain(plan.doc, parent, path, value)
    return _steps_in(plan.doc, container, around, rest[0], _descend(changed, rest[:1]))


def _steps_of_root(plan: OpenDocument, name: str, contents: Mapping[str, JsonValue], value: JsonValue) -> list[_Step]:
    before = contents.get(name)
    word = str(before["kind"]) if isinstance(before, dict) else RootKind.UNKNOWN.word
    if isinstance(before, dict) and word != RootKind.UNKNOWN.word and _canonical(before["value"]) == _canonical(value):
        return []
    wanted = _KINDS.get(type(value))
    if wanted is None:
        raise WrongKind(f"{plan.doc}: /{name} would be {json.dumps(value)}; a root is a text, an object or an array")
    if word not in (wanted.word, RootKind.UNKNOWN.word):
        raise WrongKind(f"{plan.doc}: /{name} is {_called(word)} and cannot become {_WORDS[wanted]}; name another root")
    old = before["value"] if isinstance(before, dict) and word == wanted.word else _EMPTY[wanted]
    crdt: Any = plan.crdt
    if word == RootKind.UNKNOWN.word:
        return [lambda: _make_root(plan.doc, crdt, name, wanted, value)] if value else []
    return _steps_between(plan.doc, crdt[name], old, value)


def _called(word: str) -> str:
    return next((called for kind, called in _WORDS.items() if kind.word == word), word)


def _make_root(doc: str, crdt: Crdt, name: str, kind: RootKind, value: JsonValue) -> None:
    root = crdt.root(name, kind)
    for step in _steps_between(doc, root, _EMPTY[kind], value):
        step()


def _container(plan: OpenDocument, crdt: Any, path: Path) -> tuple[Any, Path, JsonValue]:
    """The innermost shared type on the way to the last name of `path`, what is left of the path, and its JSON value.

    With more than one name left, the first of them is plain JSON with places within. Raises UnknownPath, WrongKind.
    """
    shared: Any = crdt[path[0]]
    around = value_at(plan, path[:1])
    for at in range(1, len(path) - 1):
        value = value_at(plan, path[: at + 1])
        inner = shared[int(path[at]) if isinstance(around, list) else path[at]]
        if kind_of(inner) is None:
            value_at(plan, path[:-1])
            return shared, path[at:], around
        shared, around = inner, value
    if not isinstance(around, dict | list):
        raise WrongKind(f"{plan.doc}: {_text(path[:-1])} is a text or XML; there are no places within it")
    return shared, path[-1:], around


def _steps_at(doc: str, container: Any, around: JsonValue, path: Path, value: JsonValue) -> list[_Step]:
    """`value` for the last name of `path` in a shared map or array."""
    token = path[-1]
    if isinstance(around, list):
        if token == _END:
            return [lambda: container.append(value)]
        if not _INDEX.fullmatch(token) or int(token) >= len(around):
            raise _unknown(doc, path, around)
    return _steps_in(doc, container, around, token, value)


def _steps_in(doc: str, container: Any, around: JsonValue, token: str, value: JsonValue) -> list[_Step]:
    """The difference, where the present item is a shared type that can become `value`; else another item."""
    if isinstance(around, list):
        at = int(token)
        return _steps_item(doc, container, at, container[at], around[at], value)
    assert isinstance(around, dict)
    if token in around:
        return _steps_item(doc, container, token, container[token], around[token], value)
    return [lambda: container.__setitem__(token, value)]


def _steps_item(
    doc: str, container: Any, key: str | int, item: object, old: JsonValue, value: JsonValue
) -> list[_Step]:
    if _canonical(old) == _canonical(value):
        return []
    if (kind := kind_of(item)) is RootKind.XML:
        raise WrongKind(f"{doc}: {key} is XML, which JSON cannot change; use an editor, or import an update")
    if kind is not None and kind is _KINDS.get(type(value)):
        return _steps_between(doc, item, old, value)
    if isinstance(key, int):
        return [lambda: container.__delitem__(key), lambda: container.insert(key, value)]
    return [lambda: container.__setitem__(key, value)]


def _steps_between(doc: str, shared: Any, old: JsonValue, new: JsonValue) -> list[_Step]:
    """A shared type's own steps from one value to another of its kind."""
    match old, new:
        case str(), str():
            return _steps_of_text(shared, old, new)
        case dict(), dict():
            steps: list[_Step] = [_deleting(shared, key) for key in old if key not in new]
            for key, value in new.items():
                steps += _steps_in(doc, shared, old, key, value)
            return steps
        case list(), list():
            return _steps_of_array(doc, shared, old, new)
    raise AssertionError("kinds were compared")


def _deleting(container: Any, key: str) -> _Step:
    return lambda: container.__delitem__(key)


def _steps_of_text(text: Any, old: str, new: str) -> list[_Step]:
    splices = text_splices(old, new)

    def run() -> None:
        content = old
        for each in splices:
            splice(text, content, each.position, each.deleted, each.inserted)
            content = content[: each.position] + each.inserted + content[each.position + each.deleted :]

    return [run] if splices else []


def _steps_of_array(doc: str, array: Any, old: list[JsonValue], new: list[JsonValue]) -> list[_Step]:
    steps: list[_Step] = []
    for a, b, c, d in list_splices([*map(_canonical, old)], [*map(_canonical, new)]):
        if b - a == d - c:  # one for one: a shared type within stays the one that it is
            for at in range(b - a):
                steps += _steps_item(doc, array, a + at, array[a + at], old[a + at], new[c + at])
            continue
        steps.append(_replacing(array, a, b, new[c:d]))
    return steps


def _replacing(array: Any, first: int, following: int, items: list[JsonValue]) -> _Step:
    def run() -> None:
        if following > first:
            del array[first:following]
        for at, item in enumerate(items):
            array.insert(first + at, item)

    return run


# --- plain JSON within a shared type ----------------------------------------------------------------------------------
def _copy(value: JsonValue) -> Any:
    return json.loads(json.dumps(value))


def _descend(value: Any, tokens: Path) -> Any:
    for token in tokens:
        value = value[int(token)] if isinstance(value, list) else value[token]
    return value


def _set_plain(doc: str, parent: Any, path: Path, value: JsonValue) -> None:
    token = path[-1]
    if isinstance(parent, dict):
        parent[token] = value
    elif isinstance(parent, list) and token == _END:
        parent.append(value)
    elif isinstance(parent, list) and _INDEX.fullmatch(token) and int(token) < len(parent):
        parent[int(token)] = value
    elif isinstance(parent, list):
        raise _unknown(doc, path, parent)
    else:
        raise WrongKind(f"{doc}: {_text(path[:-1])} is {json.dumps(parent)[:40]}; there are no places within it")


def _canonical(value: JsonValue) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
