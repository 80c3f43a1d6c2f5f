"""What an edge has set aside: bytes that are no part of a document any more, kept for somebody to look at.

Room: a directory of its own, two files a piece: `<name>.json` says what and why, `<name>.update` is the bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sync.document import EMPTY_UPDATE
from sync.errors import StoreError
from sync.ids import DocId, DotSet
from sync.lib0 import write_var_uint
from sync.ports import Store
from sync.step import Compact, SetVersion

__all__ = ["Kept", "find", "keep", "keep_document", "listed", "remove"]

KEPT_MAX = 1_000  # pieces; the oldest go first


@dataclass(frozen=True, slots=True)
class Kept:
    name: str
    doc: str
    kind: str
    """replaced: what gave way to the leader's document. quarantined: it ended this process. rows: the same, many
    updates one after the other, each behind its length (a varint)."""
    reason: str
    at_ms: int
    bytes: int


def keep(directory: Path, doc: DocId, kind: str, update: bytes, reason: str) -> Kept:
    """On disk when it returns. The same bytes of the same document are kept once. Raises StoreError."""
    at_ms = time.time_ns() // 1_000_000
    digest = hashlib.sha256(doc.encode() + b"\0" + update).hexdigest()[:12]
    known = next((one for one in listed(directory) if one.name.endswith(digest)), None)
    if known is not None:
        return known
    kept = Kept(f"{at_ms}-{digest}", doc, kind, reason, at_ms, len(update))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / f"{kept.name}.update", update)
        _write(directory / f"{kept.name}.json", json.dumps(asdict(kept), ensure_ascii=False).encode())
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}; make room there for what was set aside") from error
    for old in listed(directory)[:-KEPT_MAX]:
        remove(directory, old)
    return kept


def keep_document(store: Store, directory: Path, doc: DocId, reason: str) -> list[Kept]:
    """A stored document that nothing can load any more: kept as it is, and empty from then on. Raises StoreError.

    What of it the leader has not merged stays in the outbox: the leader judges it. The rest comes from there.
    """
    stored = store.load(doc)
    if stored is None:
        return []
    pieces = [("quarantined", stored.state or b"")]
    if len(stored.updates) == 1:
        pieces.append(("quarantined", stored.updates[0]))
    else:
        pieces.append(("rows", b"".join(write_var_uint(len(row)) + row for row in stored.updates)))
    kept = [keep(directory, doc, kind, piece, reason) for kind, piece in pieces if piece]
    store.commit([Compact(doc, EMPTY_UPDATE), SetVersion(doc, None, DotSet())])
    return kept


def listed(directory: Path) -> list[Kept]:
    """The oldest first."""
    found: list[Kept] = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(Kept(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # being written or removed
    return found


def find(directory: Path, name: str) -> tuple[Kept, bytes]:
    """Raises StoreError."""
    for kept in listed(directory):
        if kept.name == name:
            try:
                return kept, (directory / f"{name}.update").read_bytes()
            except OSError as error:
                raise StoreError(f"{directory / name}.update: {error.strerror}") from error
    raise StoreError(f"{name}: nothing of this name was set aside in {directory}; `skerry rejected ls` names them")


def remove(directory: Path, kept: Kept) -> None:
    for suffix in (".json", ".update"):
        (directory / f"{kept.name}{suffix}").unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
