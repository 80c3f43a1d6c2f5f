"""Documents as files: which name a document has on a disk, and what stands in the file.

Room: bytes and paths. A directory holds one file a document, at the document's own path: `notes/plan` as text is
`notes/plan.txt`. What a file system cannot name is percent-encoded, so that every name leads back to its document.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from sync.document import JsonValue
from sync.errors import InvalidInput, SkerryError
from sync.ids import DocId, parse_document_id
from sync.roots import RootKind

from .document import OpenDocument
from .places import NotJson, Readable, WrongKind, parse_json, put, value_at
from .places import Path as Place

__all__ = [
    "FileFailed",
    "Format",
    "Source",
    "exported",
    "import_into",
    "name_of",
    "sources",
    "text_place",
    "write_file",
]

DEFAULT_TEXT: Final = "text"
"""The root that a text goes to in a document that has none yet: the one that the edge's page edits."""


class FileFailed(SkerryError):
    """A file that cannot be read or written."""


class Format(Enum):
    UPDATE = "update"
    """A Yjs update (v1): the document with its whole history; importing merges."""
    JSON = "json"
    TEXT = "text"

    @property
    def suffix(self) -> str:
        return _SUFFIXES[self]


_SUFFIXES: Final = {Format.UPDATE: ".yjs", Format.JSON: ".json", Format.TEXT: ".txt"}
_FORMATS: Final = {suffix: format for format, suffix in _SUFFIXES.items()}


# --- names ------------------------------------------------------------------------------------------------------------
_UNSAFE: Final = re.compile(r'[%\\:*?"<>|]|(?<=/)/|^/|/$|(?:(?<=/)|^)\.')
_DIRECTORY_SUFFIX: Final = re.compile(r"\.(?=(?:yjs|json|txt)/)")


def name_of(doc: str, format: Format) -> str:
    """Path below a directory: relative, without `..` or hidden names."""

    def encoded(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8"))

    return _DIRECTORY_SUFFIX.sub("%2E", _UNSAFE.sub(encoded, doc)) + format.suffix


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be imported."""

    path: Path
    doc: DocId
    format: Format


def sources(path: Path, format: Format | None, doc: str | None) -> Iterator[Source]:
    """The file, or every file below the directory that is of a format. Raises FileFailed, InvalidDocumentId."""
    if not path.exists():
        raise FileFailed(f"{path}: no such file; name a file or a directory")
    if not path.is_dir():
        of = format or _FORMATS.get(path.suffix.lower())
        if of is None:
            raise FileFailed(f"{path}: no format that its name tells; say which with --format")
        yield Source(path, parse_document_id(doc if doc is not None else _document_of(path.name)), of)
        return
    if doc is not None:
        raise FileFailed(f"{path}: is a directory, whose files name their documents; --as is for one file")
    for directory, below, names in os.walk(path, onerror=_raise):
        below.sort()
        for name in sorted(names):
            of = _FORMATS.get(Path(name).suffix.lower())
            if of is not None and format in (None, of):
                found = Path(directory) / name
                yield Source(found, parse_document_id(_document_of(found.relative_to(path).as_posix())), of)


def _raise(error: OSError) -> None:
    raise FileFailed(f"{error.filename}: {error.strerror}; give this user the right to read it") from error


def _document_of(name: str) -> str:
    """Inverse of `name_of`."""
    suffix = Path(name).suffix
    return unquote(name.removesuffix(suffix) if suffix.lower() in _FORMATS else name, errors="strict")


# --- contents ---------------------------------------------------------------------------------------------------------
def text_place(plan: Readable) -> Place:
    """The root that holds the text: the only one there is, or the usual one of a new document. Raises WrongKind."""
    kinds = {
        name: root["kind"]
        for name, root in plan.contents().items()
        if isinstance(root, dict) and root["kind"] != RootKind.UNKNOWN.word
    }
    texts = [name for name, kind in kinds.items() if kind == RootKind.TEXT.word]
    if len(texts) == 1:
        return (texts[0],)
    if not kinds:
        return (DEFAULT_TEXT,)
    names = ", ".join(f"/{name}" for name in kinds)
    raise WrongKind(f"{plan.doc}: holds {names}, and not one text; name a place, or take --format json")


def exported(plan: Readable, format: Format, place: Place | None) -> bytes:
    """Raises UnknownPath, WrongKind."""
    match format:
        case Format.UPDATE:
            return plan.state()
        case Format.JSON:
            version = str(plan.version) if plan.version is not None else None
            whole: JsonValue = {"doc": plan.doc, "version": version, "content": plan.contents()}
            value = whole if place is None else value_at(plan, place)
            return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8")
        case Format.TEXT:
            text = value_at(plan, place or text_place(plan))
            if not isinstance(text, str):
                raise WrongKind(f"{plan.doc}: is no text there; take --format json")
            return text.encode("utf-8")


def import_into(plan: OpenDocument, source: Source, place: Place | None) -> bool:
    """True where that took an edit. Raises FileFailed, InvalidInput, and as `edit()`."""
    try:
        data = source.path.read_bytes()
    except OSError as error:
        raise FileFailed(f"{source.path}: {error.strerror or error}; give this user the right to read it") from error
    try:
        if source.format is Format.UPDATE:
            return plan.take_in(data)
        text = data.decode("utf-8")
        if source.format is Format.TEXT:
            return put(plan, place or text_place(plan), text)
        return _import_json(plan, parse_json(text), place)
    except UnicodeDecodeError as error:
        raise FileFailed(f"{source.path}: not UTF-8 ({error.reason} at byte {error.start}); convert it first") from None
    except NotJson as error:
        raise FileFailed(f"{source.path}: {error}") from None
    except InvalidInput as error:
        raise type(error)(f"{source.path}: {error}") from None


def _import_json(plan: OpenDocument, value: JsonValue, place: Place | None) -> bool:
    """What `exported` writes, or any object: its names are roots."""
    if place is not None:
        return put(plan, place, value)
    if isinstance(value, dict) and isinstance(value.get("content"), dict) and "doc" in value:
        roots: dict[str, JsonValue] = {}
        content = value["content"]
        assert isinstance(content, dict)
        for name, root in content.items():
            if not isinstance(root, dict) or "value" not in root:
                raise WrongKind(f"/content/{name} has no value; is it an export of another program?")
            if root.get("kind") not in (RootKind.UNKNOWN.word, RootKind.UNREADABLE.word):
                roots[name] = root["value"]
                if root.get("kind") == RootKind.XML.word and plan.contents().get(name) != root:
                    raise WrongKind(f"/{name} is XML, which JSON cannot carry; export it with --format update")
        return put(plan, (), roots)
    return put(plan, (), value)


def write_file(path: Path, data: bytes, *, replace: bool) -> None:
    """Whole or not at all; where a link leads to, and into what is no file (a terminal, a pipe) as it comes.

    Raises FileFailed.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        try:
            path.write_bytes(data)
        except OSError as error:
            raise FileFailed(f"{path}: {error.strerror or error}; name a file") from error
        return
    if path.exists() and not replace:
        raise FileFailed(f"{path}: is there already; name another, or replace it with --force")
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise FileFailed(f"{path}: {error.strerror or error}; nothing was replaced") from error
