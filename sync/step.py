"""Effects as values: what to send now, what to commit, then what to send.

A machine's method returns a Step. The shell does `now` in order, then writes `commit` (if any) in one transaction with
fsync, and only after it has succeeded calls the machine's `committed(ticket, now_ms)`, which returns the next Step.
Commits are performed in the order in which they were returned. Where a commit fails (disk full) the shell calls
`commit_failed(ticket, now_ms)`; commits that were handed out behind it fail with it, since they build on it.

Room: values only; each machine says in its own module which it returns and which event answers it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .change import Beacon, Change, Context, LogEntry, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk
from .content import Captured
from .elsewhere import Work
from .ids import ConnId, DocId, Dot, DotSet, Version
from .replica import Replica
from .splits import Into

__all__ = [
    "Ack",
    "AppendUpdate",
    "AnswerSync",
    "AskRepair",
    "AskSync",
    "Broadcast",
    "Close",
    "Commit",
    "Compact",
    "DropOutbox",
    "EdgeEffect",
    "Elsewhere",
    "Emit",
    "FindPlaces",
    "Follow",
    "LeaderEffect",
    "ListDocuments",
    "Load",
    "LoadLogged",
    "Look",
    "LookAtLog",
    "MarkShipped",
    "Pause",
    "PresenceOut",
    "Publish",
    "ReadOutbox",
    "Reject",
    "Report",
    "Resume",
    "Send",
    "SendBeacon",
    "SetAside",
    "SetVersion",
    "Step",
    "StoreSnapshot",
    "TakeOn",
    "Unfollow",
    "Verify",
    "Write",
]


# --- writes: one row each, all of a Commit in one transaction ---------------------------------------------------------
@dataclass(frozen=True, slots=True)
class AppendUpdate:
    """Received bytes of one document; with a dot, they are also a row of the outbox until DropOutbox names it."""

    doc: DocId
    update: bytes
    dot: Dot | None = None
    context: Context = field(default_factory=Context)
    covers: DotSet = field(default_factory=DotSet)
    folded: bool = False
    """True: the document has this content already; the row is the outbox's only and no update row of the document."""
    heals: bool = False
    """True: a difference to what one leader held, shipped again for a log that had lost it (`sync.outbox`)."""


@dataclass(frozen=True, slots=True)
class SetVersion:
    """Creates the document's row if there is none."""

    doc: DocId
    version: Version | None
    dots: DotSet


@dataclass(frozen=True, slots=True)
class MarkShipped:
    """The log acknowledged these outbox rows of one document: (dot, version)."""

    doc: DocId
    shipped: tuple[tuple[Dot, Version], ...]


@dataclass(frozen=True, slots=True)
class DropOutbox:
    """The leader has merged these: their update rows stay, they are the outbox's no more."""

    doc: DocId
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Compact:
    """`state` holds every update row of the document written before this: it replaces them. Outbox rows stay."""

    doc: DocId
    state: bytes


Write = AppendUpdate | SetVersion | MarkShipped | DropOutbox | Compact


@dataclass(frozen=True, slots=True)
class Commit:
    ticket: int
    writes: tuple[Write, ...]


# --- effects of an edge -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Send:
    """One frame to these connections; encoded once."""

    conns: tuple[ConnId, ...]
    frame: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close this connection with a websocket code and a reason of at most 120 bytes."""

    conn: ConnId
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """What this connection sends would only wait: it is not read until Resume names it, or it is closed."""

    conn: ConnId


@dataclass(frozen=True, slots=True)
class Resume:
    conns: tuple[ConnId, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Read a document from the edge's store, answered by `loaded(doc, stored)`."""

    doc: DocId


@dataclass(frozen=True, slots=True)
class Publish:
    """Append a change to the log; answered by `published(doc, dot, version)` or `publish_failed(doc, dot)`."""

    change: Change


@dataclass(frozen=True, slots=True)
class AskSync:
    """Ask the shard's leader; answered by `sync_answered(answer)` or `sync_failed(doc, ask)`."""

    ask: SyncAsk


@dataclass(frozen=True, slots=True)
class ReadOutbox:
    """Read outbox rows after this row number; answered by `outbox_read(read, rows)`."""

    read: int
    after: int
    count_max: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class ListDocuments:
    """List every document of the edge's store, or of the log; answered by `listed(docs, in_log)`."""

    in_log: bool


@dataclass(frozen=True, slots=True)
class Follow:
    """Receive broadcasts and presence of this document."""

    doc: DocId


@dataclass(frozen=True, slots=True)
class Unfollow:
    doc: DocId


@dataclass(frozen=True, slots=True)
class PresenceOut:
    """Awareness bytes for the other edges; empty asks them for what they have. At most once."""

    doc: DocId
    payload: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Something an operator acts on: becomes a log event. `event` is a key of `server.log`; never a payload."""

    event: str
    doc: DocId | None
    detail: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """Keep these bytes for somebody to look at: they are no part of the document any more."""

    doc: DocId
    update: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Load this state in a fresh document (`sync.compacting.refusal_of`); answered by `verified(captured, refusal)`."""

    doc: DocId
    captured: Captured


@dataclass(frozen=True, slots=True)
class FindPlaces:
    """Find out in a thread where everything in this state stands (`sync.nesting.places_of`); answered by `places_found`
    with the same replica, of which nothing is read meanwhile."""

    doc: DocId
    replica: Replica
    state: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """Check and cut this update in a thread (`sync.arriving.look_at`); answered by `looked(doc, number, found)`."""

    doc: DocId
    number: int
    update: bytes
    into: Into


@dataclass(frozen=True, slots=True)
class TakeOn:
    """Call `take_on(doc, number)` with the next turn of the loop: there is more to take than fits into one."""

    doc: DocId
    number: int


# --- effects of a leader ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class LoadLogged:
    """Read the newest snapshot and the changes after it with `seq < before` (all, where None).

    Answered by `logged(doc, snapshot, entries)`, or `log_failed(doc)`.
    """

    doc: DocId
    before: int | None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Run it where nobody waits for it (a thread), one after the other; answered by `worked(work, work.run())`."""

    work: Work


@dataclass(frozen=True, slots=True)
class LookAtLog:
    """An edge stands at this place of the log, and the log was read and ends before it: is it there still?

    Where it is not, the log has lost its tail, and is marked; no answer is needed.
    """

    doc: DocId
    version: Version


@dataclass(frozen=True, slots=True)
class Broadcast:
    merged: Merged


@dataclass(frozen=True, slots=True)
class Ack:
    """Acknowledge these stream sequences to the consumer; after everything before it in `now` was sent."""

    shard: int
    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnswerSync:
    """Answer the request that the shell knows as `reply`."""

    reply: str
    answer: SyncAnswer


@dataclass(frozen=True, slots=True)
class AskRepair:
    ask: RepairAsk


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """Replace the document's snapshot, fenced: only where the stored one is older. No answer is needed."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Reject:
    """Put a refused message of the log into the rejected stream, with the reason."""

    entry: LogEntry
    reason: str


@dataclass(frozen=True, slots=True)
class SendBeacon:
    beacon: Beacon


@dataclass(frozen=True, slots=True)
class Emit:
    """One JSON event for programs that know no CRDT."""

    doc: DocId
    version: Version
    contexts: tuple[tuple[Dot, Context], ...]


EdgeEffect = (
    Send
    | Close
    | Pause
    | Resume
    | Load
    | LoadLogged
    | Publish
    | AskSync
    | ReadOutbox
    | ListDocuments
    | Follow
    | Unfollow
    | PresenceOut
    | Report
    | SetAside
    | Verify
    | FindPlaces
    | Look
    | TakeOn
)

LeaderEffect = (
    LoadLogged
    | Elsewhere
    | LookAtLog
    | Broadcast
    | Ack
    | AnswerSync
    | AskRepair
    | StoreSnapshot
    | Reject
    | SendBeacon
    | Emit
    | Publish
    | Report
)


_Effect = TypeVar("_Effect")


@dataclass(frozen=True, slots=True)
class Step(Generic[_Effect]):
    """What to do now, in order; and what to commit."""

    now: tuple[_Effect, ...] = ()
    commit: Commit | None = None
