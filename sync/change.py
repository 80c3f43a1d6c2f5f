"""What travels: Change, Merged, Snapshot, and the messages between edge and leader. Frozen values, no behaviour.

Room: knows ids; knows neither bytes on a wire (`sync.headers`) nor CRDTs (`sync.document`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .ids import DocId, Dot, DotSet, Version

__all__ = [
    "Beacon",
    "Change",
    "Context",
    "LogEntry",
    "Logged",
    "Merged",
    "RepairAsk",
    "Snapshot",
    "SyncAnswer",
    "SyncAsk",
    "Unreadable",
    "entry_doc",
    "size_of",
]


@dataclass(frozen=True, slots=True)
class Context:
    """Who, why and when, as it travels in a change's headers. Texts: at most CONTEXT_TEXT_BYTES_MAX bytes."""

    edge: str = ""
    """Name of the edge that shipped it."""
    actor: str = ""
    """Who did it; empty where nobody said."""
    causation: str = ""
    """The dot or token of the change that caused this one."""
    correlation: str = ""
    """One user action from end to end."""
    time_ms: int = 0
    """Wall clock of the edge, Unix milliseconds. For people: nothing is ordered by it."""


@dataclass(frozen=True, slots=True)
class Change:
    """An update with its dot and its context, as an edge ships it."""

    doc: DocId
    dot: Dot
    update: bytes
    context: Context = field(default_factory=Context)
    covers: DotSet = field(default_factory=DotSet)
    """Earlier dots whose content is within `update`: a document shipped again after the log forgot it."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A change with its place in the log."""

    change: Change
    version: Version


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message of the log that is no change of ours: refused with `reason`, kept as received."""

    doc: DocId
    version: Version
    reason: str
    headers: dict[str, str]
    payload: bytes


LogEntry = Logged | Unreadable


def entry_doc(entry: LogEntry) -> DocId:
    return entry.change.doc if isinstance(entry, Logged) else entry.doc


def size_of(entry: LogEntry) -> int:
    """Of its update; nothing is done with one that cannot be read."""
    return len(entry.change.update) if isinstance(entry, Logged) else 0


@dataclass(frozen=True, slots=True)
class Merged:
    """The leader's broadcast: takes a document from version `prev` to version `version`.

    Every change in (prev, version] is within `update`; where `prev == version` an early change holds the version back
    and `update` is what was merged meanwhile. `update` empty: nothing new, or too large (`fetch`).
    """

    doc: DocId
    prev: Version
    version: Version
    update: bytes
    dots: DotSet
    """Dots this message confirms as merged."""
    rejected: DotSet = field(default_factory=DotSet)
    """Dots within (prev, version] that were refused; the reason is in the rejected stream."""
    fetch: bool = False
    """True: the update is larger than a message; ask with a sync request."""
    contexts: tuple[tuple[Dot, Context], ...] = ()
    """Of those changes in it that say an actor, a causation or a correlation."""
    reason: str = ""
    """Why the newest of the rejected was refused: at most CONTEXT_TEXT_BYTES_MAX bytes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document's whole state at a version. Never taken across a gap."""

    doc: DocId
    version: Version
    state: bytes
    dots: DotSet
    digest: str


@dataclass(frozen=True, slots=True)
class SyncAsk:
    """An edge asks for what it lacks. `ask` names the question; the answer names it again."""

    doc: DocId
    ask: int
    state_vector: bytes
    version: Version | None


@dataclass(frozen=True, slots=True)
class SyncAnswer:
    """What the asker lacks, how far the leader has come, and what the leader holds, to be compared."""

    doc: DocId
    ask: int
    update: bytes
    state_vector: bytes
    version: Version
    dots: DotSet
    digest: str
    rejected: DotSet = field(default_factory=DotSet)
    """Dots that were refused, as far as the leader knows: since the snapshot that it began with."""
    reason: str = ""
    """As in `Merged`."""


@dataclass(frozen=True, slots=True)
class RepairAsk:
    """The leader lacks operations: whoever has them ships a change with what `state_vector` does not cover."""

    doc: DocId
    state_vector: bytes
    missing: tuple[tuple[int, int], ...]
    """(client, clock): the clock that has to be reached before an early change can be merged."""


@dataclass(frozen=True, slots=True)
class Beacon:
    """Where recently changed documents are: shows a lost last broadcast and a difference that no clock shows."""

    docs: tuple[tuple[DocId, Version, str], ...]
    """(document, version, digest)"""
