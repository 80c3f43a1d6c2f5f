"""A document in which something was refused is parked, until its program takes what the others have.

What was refused stays in the CRDT that made it, and all that the same client id writes behind it builds on it: no edge
will ever take that (law 3). So nothing more is written there, and a fresh CRDT takes its place.

Room: which closings park, what others have of what is here, and the copies. The document does it (`client.document`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from sync.closing import CLOSE_BAD_UPDATE, CLOSE_CLIENT_ID, CLOSE_LIMIT
from sync.document import Document, JsonValue
from sync.errors import InvalidUpdate, SkerryError
from sync.extension import CloseChannel, Edit, Stage
from sync.ids import DocId, Dot
from sync.loading import document_of
from sync.replica import Replica, Verdict
from sync.validate import check_update

from .store import Progress

__all__ = ["GIVE_WAY_MS", "Aside", "EditRejected", "Fresh", "fresh_of", "refusal_of", "rejected"]

GIVE_WAY_MS: Final = 5_000
"""An edge has what the leader has refused until it has the leader's document: so long it is asked again."""
_FULL: Final = "document_bytes:"  # of the limits, the one that no waiting helps against


class EditRejected(SkerryError):
    """The document is parked: an edge or the leader has refused what is in it. `OpenDocument.reload` goes on."""


def rejected(doc: DocId, reason: str) -> EditRejected:
    return EditRejected(
        f"{doc}: rejected: {reason}; nobody would take what is written behind it: reload the document"
        " (`reload()`, `skerry doc sync --reload`), a copy of what is here is kept"
    )


def refusal_of(close: CloseChannel) -> str:
    """Why the edge will never take what is in this document; empty where a later try may pass."""
    final = close.code in (CLOSE_CLIENT_ID, CLOSE_BAD_UPDATE)
    final = final or (close.code == CLOSE_LIMIT and close.reason.startswith(_FULL))
    return f"{close.reason} ({close.code})" if final else ""


@dataclass(frozen=True, slots=True)
class Aside:
    """A document as it was before a reload; it is read, and never sent."""

    doc: DocId
    reason: str
    at_ms: int
    """When it was parked (Unix milliseconds)."""
    update: bytes
    version: None = None

    def state(self) -> bytes:
        """The whole of it as one Yjs update (v1). Taken into a document it brings back what was refused."""
        return self.update

    def contents(self) -> dict[str, JsonValue]:
        """As `OpenDocument.contents`."""
        return Document(self.update).contents()

    def text(self, root: str) -> str:
        return Document(self.update).text(root)


class Fresh(NamedTuple):
    """What takes a parked document's place."""

    state: bytes
    document: Document
    """Made of it."""
    old: bytes
    """What was here."""
    kept: frozenset[Dot]
    """Edits that go on: others have them, or an edge took them and they build on nothing that was refused."""
    complete: bool
    """All that was here is in it."""


def fresh_of(
    doc: DocId, whole: bytes, old: bytes, edits: Iterable[Edit], unmerged: Mapping[Dot, Progress], now_ms: int
) -> Fresh:
    """Of all that an edge holds (`whole`), and of what is here. Of the stored `edits` those count that are `unmerged`.

    Any thread may ask: it is seconds of work for a large document. Raises InvalidUpdate, DocumentBroken.
    """
    fresh = Replica(doc, guarded=True)  # what two have written under one client id is seen
    if fresh.take(whole, check_update(whole), now_ms).verdict is Verdict.EARLY:
        raise InvalidUpdate(f"{doc}: a part of a document; an edge has to send all of it")
    complete = _takes(fresh, old, now_ms, news=False)
    kept: list[Dot] = []
    for edit in edits:
        progress = unmerged.get(edit.dot)
        if progress is not None and _takes(fresh, edit.update, now_ms, news=progress.stage > Stage.DISK):
            kept.append(edit.dot)
    state = fresh.verified_state()
    return Fresh(state, document_of(state, ()), old, frozenset(kept), complete)


def _takes(fresh: Replica, update: bytes, now_ms: int, *, news: bool) -> bool:
    """Whether it is in there, or, with `news`, can be put there."""
    try:
        shape = check_update(update)
        verdict = fresh.judge(shape).verdict
        if verdict is Verdict.EARLY or (verdict is Verdict.NEW and not news):
            return False
        fresh.take(update, shape, now_ms)
    except InvalidUpdate:  # other content of the same client, or too deep
        return False
    return True
