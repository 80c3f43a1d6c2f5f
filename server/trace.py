"""Editing traces: recorded keystroke histories, and the updates that their authors would have sent.

Room: reads one file and edits documents in memory; knows no socket. A transaction's positions mean exactly the state
that its parents describe, so each author has a document here that takes in just what its next transaction requires.

File: JSON, gzipped or not. `startContent`, `endContent`, `txns`: `patches: [[position, deleted, inserted], ...]` in
code points; where `kind` is "concurrent", also `numAgents` and in each transaction its `agent` and `parents` (indices
of earlier transactions).

Client ids are the authors' numbers plus 1: where two insert at one place the smaller id comes first, and `endContent`
of a concurrent trace is what ascending ids give. Fixed ids are safe in a fresh document only (facts 1.6).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sync.document import EMPTY_UPDATE, Document, merge
from sync.errors import InvalidInput

__all__ = ["TRACE_ROOT", "Authored", "Patch", "Trace", "Transaction", "TraceError", "authored_updates", "read_trace"]

TRACE_ROOT = "text"
"""The root that a replay types into."""

TRACE_BYTES_MAX = 512 * 1024 * 1024  # unpacked; the largest public trace is about 20 MB
AUTHOR_COUNT_MAX = 1_000  # each has a whole document and, in a replay, a connection


class TraceError(InvalidInput):
    """A file that is no editing trace, or whose positions do not fit its own history."""


@dataclass(frozen=True, slots=True)
class Patch:
    """In code points of the text as the patches before it left it."""

    position: int
    deleted: int
    inserted: str


@dataclass(frozen=True, slots=True)
class Transaction:
    agent: int
    parents: tuple[int, ...]
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    start: str
    end: str
    agent_count: int
    transactions: tuple[Transaction, ...]


@dataclass(frozen=True, slots=True)
class Authored:
    """One transaction as a Yjs update."""

    index: int
    """Of the transaction; -1 for the content that the trace starts with, which is the first author's."""
    agent: int
    update: bytes
    knows: tuple[int, ...]
    """How many updates of each author are before it or it: what its author had seen and made."""


def read_trace(path: Path) -> Trace:
    """Raises TraceError, naming the file and the transaction."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            data = file.read(TRACE_BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: cannot be read ({reason}); give a trace as JSON or gzipped JSON") from None
    if len(data) > TRACE_BYTES_MAX:
        raise TraceError(f"{path}: over {TRACE_BYTES_MAX} bytes unpacked; give a shorter trace")
    try:
        content: object = json.loads(data)
    except (ValueError, RecursionError):
        raise TraceError(f"{path}: not JSON; give an editing trace") from None
    try:
        return _trace(path.name.removesuffix(".gz").removesuffix(".json"), content)
    except TraceError as error:
        raise TraceError(f"{path}: {error}; give an editing trace") from None


def _trace(name: str, content: object) -> Trace:
    fields = _object(content, "the file")
    start, end = fields.get("startContent", ""), fields.get("endContent")
    if not isinstance(start, str) or not isinstance(end, str):
        raise TraceError("startContent and endContent are not both texts")
    concurrent = fields.get("kind") == "concurrent"
    agent_count = _number(fields.get("numAgents"), 1, AUTHOR_COUNT_MAX, "numAgents") if concurrent else 1
    raw = fields.get("txns")
    if not isinstance(raw, list):
        raise TraceError("txns is not a list")
    transactions = tuple(
        _transaction(index, _object(each, f"transaction {index}"), agent_count, concurrent)
        for index, each in enumerate(raw)
    )
    return Trace(name, start, end, agent_count, transactions)


def _transaction(index: int, fields: dict[str, object], agent_count: int, concurrent: bool) -> Transaction:
    of = f"transaction {index}"
    agent = _number(fields.get("agent"), 0, agent_count - 1, f"{of}: agent") if concurrent else 0
    parents: tuple[int, ...] = (index - 1,) if index else ()
    if concurrent:
        raw = fields.get("parents")
        if not isinstance(raw, list):
            raise TraceError(f"{of}: parents is not a list")
        parents = tuple([_number(each, 0, index - 1, f"{of}: parent") for each in raw])
    patches = fields.get("patches")
    if not isinstance(patches, list):
        raise TraceError(f"{of}: patches is not a list")
    return Transaction(agent, parents, tuple([_patch(each, of) for each in patches]))


def _patch(raw: object, of: str) -> Patch:
    if not isinstance(raw, list) or len(raw) != 3 or not isinstance(raw[2], str):
        raise TraceError(f"{of}: a patch is not [position, deleted, inserted]")
    most = TRACE_BYTES_MAX
    return Patch(_number(raw[0], 0, most, f"{of}: position"), _number(raw[1], 0, most, f"{of}: deleted"), raw[2])


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TraceError(f"{what} is not an object")
    return value


def _number(value: object, low: int, high: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise TraceError(f"{what} is not a number from {low} to {high}")
    return value


# --- the authors ------------------------------------------------------------------------------------------------------
class _Author:
    __slots__ = ("document", "knows", "made")

    def __init__(self, agent: int, agent_count: int) -> None:
        self.document = Document(client_id=agent + 1)
        self.made: list[bytes] = []
        """Its own updates, in order."""
        self.knows = [0] * agent_count
        """How many updates of each author its document holds."""


def authored_updates(trace: Trace) -> Iterator[Authored]:
    """Every transaction as its author's update, in the order of the file, in which causes come first.

    Raises TraceError where a position is outside the text, or an author does not know what it wrote itself before
    (one replica has one history).
    """
    count = trace.agent_count
    authors = [_Author(agent, count) for agent in range(count)]
    if trace.start:
        first = authors[0]
        update = first.document.edit_text(TRACE_ROOT, 0, 0, trace.start)
        first.made.append(update)
        first.knows[0] = 1
        yield Authored(-1, 0, update, tuple(first.knows))
    base = tuple(authors[0].knows)
    knows: list[tuple[int, ...]] = []  # of each transaction: how many updates of each author are before or in it
    for index, transaction in enumerate(trace.transactions):
        author = authors[transaction.agent]
        _catch_up(index, author, transaction, knows, base, authors)
        update = _typed(index, author.document, transaction.patches)
        author.made.append(update)
        author.knows[transaction.agent] += 1
        knows.append(tuple(author.knows))
        yield Authored(index, transaction.agent, update, knows[-1])


def _catch_up(
    index: int,
    author: _Author,
    transaction: Transaction,
    knows: list[tuple[int, ...]],
    base: tuple[int, ...],
    authors: list[_Author],
) -> None:
    """Bring the author's document to the merged state of the transaction's parents, and no further."""
    wanted = tuple(map(max, zip(base, *(knows[parent] for parent in transaction.parents), strict=True)))
    missing: list[bytes] = []
    for other, (want, have) in enumerate(zip(wanted, author.knows, strict=True)):
        if want < have:
            raise TraceError(
                f"transaction {index}: author {transaction.agent} has seen {have} transactions of author {other} "
                f"before and its parents hold {want}; give a trace whose authors do not branch"
            )
        missing += authors[other].made[have:want]
    if missing:
        # One piece: each author's updates are in order here, and their causes are among them or taken already.
        author.document.apply(merge(missing))
        author.knows[:] = wanted


def _typed(index: int, document: Document, patches: tuple[Patch, ...]) -> bytes:
    made: list[bytes] = []
    for patch in patches:
        try:
            update = document.edit_text(TRACE_ROOT, patch.position, patch.deleted, patch.inserted)
        except (IndexError, InvalidInput) as error:
            raise TraceError(f"transaction {index}: {error}; the trace does not fit its own history") from None
        if update != EMPTY_UPDATE:
            made.append(update)
    return merge(made)
