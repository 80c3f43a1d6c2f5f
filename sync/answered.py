"""A large answer of the leader is looked at elsewhere before the machine takes it: nobody's typing waits for that.

Room: a part of the edge machine. A real document of 100,000 characters takes Python 60 ms to check and 60 to cut, which
held everybody's documents; so the shell does that (`look`, in a thread) and hands over what it has found.

1. Where the edge has nothing yet, the document is made there too, and becomes the replica's in no time. What came is
   then the state that is stored, and the answer to whoever asks for all of it: the same bytes.
2. Else it is taken a piece at a time, in an order in which nothing is early; the version moves behind the last one.
3. What was found out is never more than an abbreviation: where something has changed meanwhile, the answer is taken as
   if nobody had looked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import limits
from .brink import Doing, present
from .catchup import Catchup
from .change import SyncAnswer
from .clash import probing
from .company import Out
from .document import Document
from .errors import ClientIdClash, DocumentBroken, InvalidUpdate, LimitReached
from .giving_way import compare
from .hosted import Hosted, whole_answer
from .nesting import Nesting, PlacesWanted, nesting_of
from .replica import Replica, Verdict
from .seeking import seek
from .serving import Serving
from .slices import Piece, pieces_of
from .splits import Into
from .step import Compact
from .validate import Shape, check_update

__all__ = ["Looked", "adopts", "conclude", "look", "take_made", "take_piece"]


@dataclass(frozen=True, slots=True)
class Looked:
    shape: Shape
    document: Document | None = None
    """Made of it, where the edge that asked had nothing."""
    nesting: Nesting | None = None
    """Of that document."""
    equal: bool = False
    """That document has the digest that the leader said."""
    pieces: tuple[Piece, ...] = ()
    taken: bool = False
    """All of the pieces are in."""


def look(answer: SyncAnswer, blank: bool, into: Into) -> Looked | None:
    """`blank`: it was asked for by who has nothing. None: it cannot be, and the machine will find that too. Pure."""
    try:
        shape = check_update(answer.update)
        if blank and _stands_alone(shape):
            return _made(answer, shape)
        return Looked(shape, pieces=pieces_of(answer.update, into))
    except (InvalidUpdate, DocumentBroken):
        return None


def _made(answer: SyncAnswer, shape: Shape) -> Looked:
    brink = present()
    if not shape.brings or brink.suspects(answer.doc):
        return Looked(shape)
    nesting = nesting_of(shape.names, lambda: answer.update)
    if nesting.too_deep:
        return Looked(shape)  # refused by whoever takes it
    brink.enter(answer.doc, Doing.APPLY, (answer.update,))
    try:
        document = Document(answer.update)  # a state, joined as far as it can be: 30 ms for 10,000,000 characters
        return Looked(shape, document, nesting, answer.digest != "" and document.digest() == answer.digest)
    finally:
        brink.leave()


def _stands_alone(shape: Shape) -> bool:
    reach: dict[int, int] = {}
    for client, first, following in shape.brings:
        if first != reach.get(client, 0):
            return False
        reach[client] = following
    needs = (*shape.needs, *((client, following) for client, _, following in shape.deletes))
    return all(reach.get(client, 0) >= following for client, following in needs)


def adopts(replica: Replica, looked: Looked | None, update: bytes) -> bool:
    """Invariant 1: the replica is empty and becomes what was made of this. Raises InvalidUpdate."""
    if looked is None or looked.document is None or looked.nesting is None:
        return False
    return replica.adopt(looked.document, update, looked.shape, looked.nesting)


def take_made(serving: Serving, host: Hosted, replica: Replica, looked: Looked, update: bytes, out: Out) -> bool:
    """Invariant 1. False: it has to be taken as ever. Raises InvalidUpdate."""
    if not adopts(replica, looked, update):
        return False
    if looked.equal and host.compaction is None:  # else that one would replace it
        serving.writing.add(Compact(host.doc, update))
        host.rows = host.row_bytes = 0
        host.state_bytes = len(update)
    else:
        serving.writing.add_from_log(host.doc, update)
    serving.tell_content(host, update, out)
    host.answered = whole_answer(replica, update)
    return True


def take_piece(
    serving: Serving, catchup: Catchup, epoch: int, answer: SyncAnswer, piece: Piece, now_ms: int, out: Out
) -> bool:
    """Invariant 2. False: the answer has to be taken as a whole, or is nobody's any more.

    Where the document is `seeking` then, this piece has to be taken again.
    """
    host = serving.hosted.get(answer.doc)
    if host is None or not catchup.is_open(answer.ask, answer.doc) or answer.version.epoch != epoch:
        return False
    replica = host.replica
    if replica is None or replica is not host.asker or host.replace or host.probe:
        return False
    try:
        replica.know_deletions()
        taken = replica.take(*piece, now_ms)
        replica.materialise()
    except (ClientIdClash, InvalidUpdate, LimitReached):
        return False  # the whole of it meets that too
    except PlacesWanted:
        seek(host, serving.rebuild, out)
        return True
    except DocumentBroken as error:
        serving.rebuild(host, str(error), out)
        return False
    serving.take_in(host, taken, out)
    return taken.verdict is not Verdict.EARLY


def conclude(
    serving: Serving,
    catchup: Catchup,
    host: Hosted,
    replica: Replica,
    answer: SyncAnswer,
    theirs: Mapping[int, int],
    now_ms: int,
    out: Out,
) -> bool:
    """An answer was taken: is there more to ask, or to heal? True where edge and leader are known to be equal."""
    if host.suspect and probing(replica.clocks, theirs) == replica.clocks:
        host.suspect = False  # the leader has nothing of whom this edge knows: nothing to compare
    if host.suspect:
        host.suspect, host.probe = False, dict(theirs)
        catchup.want(host.doc, now_ms)
    elif not serving.telling.settled(host):
        host.compare = bool(len(host.unmerged))
        if not host.compare:
            catchup.want(host.doc, now_ms + limits.RETRY_MS_MIN)
    elif host.line is not None:
        host.line.compare = True  # a part of what comes behind this answer is here already
    elif host.told is not None and host.told.epoch == answer.version.epoch and host.told.seq > answer.version.seq:
        catchup.want(host.doc, now_ms)  # a broadcast has overtaken the answer
    elif replica.version != answer.version:
        if catchup.sweeps(host.doc):
            catchup.want(host.doc, now_ms + limits.HEAL_PAUSE_MS)
    else:
        return compare(serving, catchup, host, replica, answer, theirs, now_ms, out)
    return False
