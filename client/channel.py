"""One document on one connection: what is said to the edge, in which order, and what is done with what it says.

Room: messages of `sync.extension` in and out; no socket. Thrown away with its connection.

Invariants:
1. Nothing is sent behind OPEN and the own step 1 until the edge has said what it holds: then it has the document.
2. Edits go in their order and by their names. What the edge lacks besides goes before the first edit that needs it, or
   behind the last one. An edge that lets this client only read is told the edits, once: it says of those that it has
   how safe they are. What it lacks besides stays here.
3. How far the document is, and whose changes are in it, is believed of an edge that has answered what it lacks: some
   older ones say it before that.
4. Of a document that is parked nothing is sent that no edge has: only edits that one had on its disk, to hear of them,
   and where they build on nothing that this one lacks. What others write comes in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from sync import extension, wire
from sync.digest import encode_clocks
from sync.document import EMPTY_UPDATE
from sync.errors import InvalidFrame
from sync.extension import Stage
from sync.limits import EDGE_FRAME_BYTES_MAX, PIECE_BYTES
from sync.pieces import pieces_of as frames_of
from sync.replica import Replica, Verdict
from sync.slices import cut
from sync.validate import check_state_vector, check_update

from .document import OpenDocument
from .parking import Fresh

__all__ = ["Channel", "pieces_of"]

_PAGE_COUNT: Final = 100  # edits read from the store at once; other documents have their turn in between
_PAGE_BYTES: Final = 256 * 1024
_GAP_MS: Final = 2_000  # what came early and still waits: exchange state
_SILENT_MS: Final = 10_000  # an edit was sent and the edge says nothing of it: send it again
_AGAIN_MS: Final = 500  # an edge that is asked for everything has yet to give way to the leader

_Sent = extension.Message | wire.Message


class Channel:
    def __init__(self, number: int, document: OpenDocument) -> None:
        self.number = number
        self.document = document
        self.closed: extension.CloseChannel | None = None
        self._edge: Replica | None = None
        """What the edge holds, as far as it is known here: only its clocks count, nothing is applied."""
        self._greeted = False
        """It has everything that was here when it asked."""
        self._answered = False
        """It has said what this document lacks."""
        self._row = 0
        """The last edit that was sent."""
        self._replies: deque[_Sent] = deque()
        self._asked_ms = 0
        self._said_ms = 0
        """When the last edit was sent, or the edge said how safe one is."""
        self._whole = document.waiting.reloading
        """The first answer is all that the edge holds: several questions may have one answer, so it is asked first."""
        self._again_ms = 0
        """When that is asked again, on another channel; 0 while its answer is waited for."""
        for wanted in document.waiting.wanted.values():
            wanted.asked = False
        document.denied = ""  # by the edge before, or the token before

    def opening(self, now_ms: int) -> list[_Sent]:
        """The first messages."""
        self._said_ms = self._asked_ms = now_ms
        asked = wire.SyncStep1(encode_clocks({})) if self._whole else self._step1()
        messages: list[_Sent] = [extension.Open(self.document.doc), asked]
        if own := self.document.awareness.payload(now_ms):
            messages.append(wire.AwarenessUpdate(own))
        return messages

    # --- what the edge says ------------------------------------------------------------------------------------------
    def receive(self, inner: bytes, now_ms: int, fresh: Fresh | None = None) -> bool:
        """True where there is something to be sent. `fresh`: as `look_at` has made it of this.

        Raises InvalidInput, LimitReached, DocumentBroken.
        """
        document = self.document
        match extension.decode(inner, EDGE_FRAME_BYTES_MAX):
            case wire.Update(update):
                document.take(update)
            case wire.SyncStep2(update):
                return self._answer(update, now_ms, fresh)
            case extension.Safe(stage, dots, version):
                self._said_ms = now_ms
                document.safe(stage, dots, version)
            case extension.Rejected(dots, reason):
                self._said_ms = now_ms
                document.rejected(dots, reason)
            case extension.At(version):
                if self._answered:  # Invariant 3.
                    document.at(version)
            case wire.SyncStep1(state_vector):
                return self._asked(check_state_vector(state_vector))
            case extension.Reached(number, reached, _):
                document.waiting.answered(number, reached)
            case extension.Changed(changes):
                if self._answered:
                    document.changed(changes)
            case wire.AwarenessUpdate(payload):
                return document.awareness.receive(payload, now_ms)
            case wire.QueryAwareness():
                if own := document.awareness.payload(now_ms):
                    self._replies.append(wire.AwarenessUpdate(own))
                    return True
            case wire.PermissionDenied(reason):
                document.deny(reason or "the edge says so")
            case extension.CloseChannel() as close:
                self.closed = close
            case extension.Open() | extension.Edit() | extension.Await() | extension.Hello():
                raise InvalidFrame("frame: an edge does not say this on a document's channel")
        return False

    @property
    def reloads(self) -> bool:
        """What comes next as an answer is taken whole, in the place of the document."""
        return self._whole and not self._answered and self.document.waiting.reloading

    async def look_at(self, inner: bytes) -> Fresh | None:
        """Where it `reloads`: what takes the document's place, made in a thread. None: this is no answer.

        Nothing else may be received meanwhile. Raises StoreError, InvalidInput, DocumentBroken.
        """
        message = extension.decode(inner, EDGE_FRAME_BYTES_MAX)
        return await self.document.fresh(message.update) if isinstance(message, wire.SyncStep2) else None

    def _answer(self, update: bytes, now_ms: int, fresh: Fresh | None) -> bool:
        reloads = self.reloads
        if reloads and self.document.adopt(update, fresh):
            self._row = 0
            self._whole = False
        else:
            self.document.take(update)
            self._whole = reloads  # else nobody waits for it any more: who does next has it asked for anew
            self._again_ms = now_ms + _AGAIN_MS if reloads else 0
        self._answered = True
        self.document.waiting.synced(True)
        return reloads

    def stale(self, now_ms: int) -> bool:
        """All that the edge holds is wanted, and this channel does not ask for it (any more)."""
        if not self.document.waiting.reloading:
            return False
        return not self._whole or 0 < self._again_ms <= now_ms

    @property
    def _may_write(self) -> bool:
        return not self.document.denied and self.document.parked is None

    def _asked(self, clocks: dict[int, int]) -> bool:
        if self._edge is None:
            self._edge = Replica(self.document.doc)
            self._edge.clocks = clocks
        elif self._may_write:  # it repairs a gap
            self._replies += _step2(self.document.replica.diff(encode_clocks(clocks)))
        return True

    # --- what is said ------------------------------------------------------------------------------------------------
    def outgoing(self, now_ms: int) -> list[_Sent]:
        """The next messages; empty where there is nothing to say now. Raises StoreError."""
        messages = list(self._replies)
        self._replies.clear()
        if self.document.awareness.unsaid:
            messages.append(wire.AwarenessUpdate(self.document.awareness.payload(now_ms)))
        messages += self._awaits()
        if self._edge is None or self.document.editing:  # Invariant 1.
            return messages
        page = self.document.pending(self._row, _PAGE_COUNT, _PAGE_BYTES)
        for pending in page:
            self._row = pending.row
            if self.document.parked is not None and not self._may_ask(self._edge, pending.edit):
                continue
            if not self._greeted and self._may_write:
                messages += self._make_way(self._edge, pending.edit.update)
            messages.append(pending.edit)
            self._said_ms = now_ms
        if not page and not self._greeted and self._may_write:
            self._greeted = True
            left = self.document.replica.diff(encode_clocks(self._edge.clocks))
            if left != EMPTY_UPDATE:  # clocks tell nothing of deletions: they are always sent (law 6)
                messages += _step2(left)
        return messages

    def _may_ask(self, edge: Replica, edit: extension.Edit) -> bool:
        """Invariant 4."""
        progress = self.document.unmerged.get(edit.dot)
        known = progress is not None and progress.stage > Stage.DISK
        return known and edge.judge(check_update(edit.update)).verdict is not Verdict.EARLY

    def _make_way(self, edge: Replica, update: bytes) -> list[_Sent]:
        """What has to come before this edit; afterwards the edge has it. Invariant 2."""
        shape = check_update(update)
        before: list[_Sent] = []
        if edge.judge(shape).verdict is Verdict.EARLY:
            replica = self.document.replica
            before += _step2(replica.diff(encode_clocks(edge.clocks)))
            edge.clocks = dict(replica.clocks)
        for client, _, following in shape.brings:
            edge.clocks[client] = max(edge.clocks.get(client, 0), following)
        return before

    def _awaits(self) -> list[_Sent]:
        now = asyncio.get_running_loop().time()
        asked: list[_Sent] = []
        for wanted in self.document.waiting.wanted.values():
            if not wanted.asked:
                wanted.asked = True
                asked.append(extension.Await(wanted.number, wanted.text, max(0, int(1000 * (wanted.until - now)))))
        return asked

    def tick(self, now_ms: int) -> bool:
        """Time has passed. True where there is something to be sent."""
        news = self.document.awareness.renew(now_ms)
        early = self.document.replica.early
        if early and now_ms - max(self._asked_ms, min(each.since_ms for each in early)) >= _GAP_MS:
            self._asked_ms = now_ms
            self._replies.append(self._step1())
            news = True
        if self._row and self._may_write and now_ms - self._said_ms >= _SILENT_MS and self._unheard():
            self._said_ms = now_ms
            self._row = 0
            news = True
        return news

    def _unheard(self) -> bool:
        oldest = next(iter(self.document.unmerged.values()), None)
        return oldest is not None and oldest.stage is Stage.DISK

    def _step1(self) -> wire.SyncStep1:
        return wire.SyncStep1(self.document.replica.state_vector())


def pieces_of(frame: bytes) -> list[bytes]:
    """Frames that say the same in this order, and hold nobody for long. For a thread. Raises InvalidInput."""
    number, inner = extension.decode_channel(frame, EDGE_FRAME_BYTES_MAX)
    message = extension.decode(inner, EDGE_FRAME_BYTES_MAX)
    if not isinstance(message, wire.Update | wire.SyncStep2):
        return [frame]
    check_update(message.update)
    pieces = cut(message.update, {})
    if len(pieces) < 2:
        return [frame]
    said = [*(wire.Update(piece) for piece in pieces[:-1]), type(message)(pieces[-1])]
    return [extension.on_channel(number, extension.encode(each)) for each in said]


def _step2(update: bytes) -> list[wire.SyncStep2]:
    """In pieces that an edge takes: a document may be larger than a frame of a client (`sync.limits`)."""
    return [wire.SyncStep2(piece) for piece in frames_of(update, PIECE_BYTES)]
