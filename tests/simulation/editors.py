"""People at stock clients: a Yjs document each, y-websocket's frames, and the habit of not waiting for anything.

Room: one editor edits one document, online and off, at one edge and then at another. It behaves as a stock client does:
step 1 when the socket opens, updates at once, a full answer to every step 1, no question asked again by itself. What
comes early it keeps back, as Yjs does and Yrs does not: with a gate of its own, which no mutation of the machines'
reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pycrdt

from sync.document import Crdt
from sync.ids import ConnId, DocId
from sync.presence import encode_awareness
from sync.replica import Replica
from sync.slices import cut
from sync.validate import AwarenessEntry, Shape, check_awareness
from sync.wire import AwarenessUpdate, QueryAwareness, SyncStep1, SyncStep2, Update, decode_frame, encode

from .contents import shape_of
from .disk import Violation
from .edits import random_edit
from .schedule import Action

if TYPE_CHECKING:
    from .edges import EdgeNode
    from .world import World

__all__ = ["Conn", "Editor", "Written"]


class GatedReplica(Replica):
    """A client's own gate: bound to the true one when this module is read."""

    __slots__ = ()
    judge = Replica.judge
    take = Replica.take
    _take = Replica._take


@dataclass(slots=True, eq=False)
class Written:
    """One update that one editor has made, and what became of it."""

    doc: DocId
    client: int
    update: bytes
    shape: Shape
    at_ms: int
    acked: bool = False
    """An edge has said that it is on its disk."""
    excused: bool = False
    """Every disk, log message and editor that held it was lost."""
    arrived: set[ConnId] = field(default_factory=set)
    """By which connections an edge has received it: what it sends there with this content says that it is safe."""

    def words(self) -> str:
        what = [f"clocks {first} to {following}" for _, first, following in self.shape.brings]
        if self.shape.deletes:
            what.append(f"{len(self.shape.deletes)} deleted ranges")
        return f"what client {self.client} wrote at {self.at_ms} ms ({', '.join(what)})"


class Conn:
    """A websocket between an editor and an edge: in order, and then broken. Each end notices by itself."""

    def __init__(self, number: ConnId, editor: Editor, node: EdgeNode) -> None:
        self.id = number
        self.editor = editor
        self.node = node
        self.doc = editor.doc
        self.open_here = True
        self.lost = False
        """True: what was on its way did not arrive."""
        self._run = node.run
        self._up_ms = 0
        self._down_ms = 0

    def _after(self, free_ms: int, action: Action) -> int:
        world = self.editor.world
        at_ms = max(free_ms, world.now_ms + world.rng.randint(0, world.client_delay_ms_max))
        world.after(at_ms - world.now_ms, action)
        return at_ms

    def up(self, frame: bytes, wrote: Sequence[Written] = ()) -> None:
        """`wrote`: what of the editor's own is within."""

        def arrive() -> None:
            if not self.lost and self.node.run == self._run:
                for written in wrote:
                    written.arrived.add(self.id)
                self.node.frame(self, frame)

        self._up_ms = self._after(self._up_ms, arrive)

    def down(self, frame: bytes) -> None:
        def arrive() -> None:
            if self.open_here:
                self.editor.frame(self, frame)

        self._down_ms = self._after(self._down_ms, arrive)

    def hang_up(self, lost: bool) -> None:
        """The editor is gone from here; the edge reads what still comes, or nothing, and notices later."""
        self.open_here = False
        self.lost = lost
        world = self.editor.world

        def noticed() -> None:
            if self.node.run == self._run:
                self.node.hung_up(self)

        late_ms = world.rng.choice((0, 0, 50, 3_000))
        self._up_ms = self._after(self._up_ms + late_ms, noticed)

    def broken(self) -> None:
        """The edge is gone from here."""

        def noticed() -> None:
            if self.open_here:
                self.open_here = False
                self.editor.disconnected(self)

        self._down_ms = self._after(self._down_ms, noticed)


class Editor:
    def __init__(self, world: World, name: str, doc: DocId, client: int) -> None:
        self.world = world
        self.name = name
        self.doc = doc
        self.client = client
        self.replica = GatedReplica(doc)
        self.crdt = Crdt(client_id=client)
        self.replica.materialise().crdt = self.crdt
        self.alive = True
        self.wants: EdgeNode | None = None
        """The edge at which this editor tries to be; None while it works offline."""
        self.conn: Conn | None = None
        self.written: list[Written] = []
        self._unacked: list[Written] = []
        self.awareness_clock = 0
        self.heard: dict[int, int] = {}
        """Whose cursor was seen, and the clock of the newest."""
        self._updates: list[bytes] = []
        self._subscription = self.crdt.observe(self._observed)

    def _observed(self, event: pycrdt.TransactionEvent) -> None:
        self._updates.append(event.update)

    # --- writing -----------------------------------------------------------------------------------------------------
    def edit(self) -> None:
        """One edit: applied here, sent at once if there is a socket."""
        self._updates.clear()
        random_edit(self.world.rng, self.crdt)
        updates = [update for update in self._updates if update != b"\x00\x00"]
        self._updates.clear()
        for update in updates:
            shape = shape_of(update)
            self.replica.take(update, shape, self.world.now_ms)
            self.replica.materialise()
            written = Written(self.doc, self.client, update, shape, self.world.now_ms)
            self.written.append(written)
            self._unacked.append(written)
            self.world.truth.wrote(written)
            self.world.note(self.name, f"writes {len(update)} bytes: {written.words()}")
            if self.conn is not None:
                self.conn.up(encode(Update(update)), (written,))

    def told(self, conn: Conn, shape: Shape, answering: bool) -> list[Written]:
        """What of this editor's own is within this echo, of what arrived by this connection."""
        reach = dict.fromkeys((client for client, _, _ in shape.brings), 0)
        for client, _, following in shape.brings:
            reach[client] = max(reach[client], following)
        alone = {client for client, _, _ in shape.brings} == {self.client}  # else fan-out of somebody who has it too
        gone = {(client, clock) for client, first, end in shape.deletes for clock in range(first, end)}
        found: list[Written] = []
        for written in self._unacked:
            if conn.id not in written.arrived or not (answering or alone):
                continue
            brought = all(reach.get(client, 0) >= following for client, _, following in written.shape.brings)
            if brought and all(
                (client, clock) in gone for client, first, end in written.shape.deletes for clock in range(first, end)
            ):
                found.append(written)
        self._unacked = [written for written in self._unacked if written not in found]
        return found

    # --- the socket --------------------------------------------------------------------------------------------------
    def go(self, node: EdgeNode | None) -> None:
        """Work at this edge from now on; at none: offline."""
        if self.conn is not None and self.wants is not node:
            conn, self.conn = self.conn, None
            conn.hang_up(self.world.rng.random() < 0.5)
        self.wants = node
        if node is not None and self.conn is None:
            self._try(self.world.rng.randint(0, 200))

    def leave(self) -> None:
        """The tab is closed for ever; what only it knew is gone."""
        self.go(None)
        self.alive = False
        self.close()

    def close(self) -> None:
        self.crdt.unobserve(self._subscription)

    def disconnected(self, conn: Conn) -> None:
        if self.conn is conn:
            self.conn = None
            if self.wants is not None:
                self._try(self.world.rng.randint(50, 800))

    def _try(self, delay_ms: int) -> None:
        self.world.after(delay_ms, self._connect)

    def _connect(self) -> None:
        node = self.wants
        if self.conn is not None or node is None or not self.alive:
            return
        if node.edge is None:
            self._try(self.world.rng.randint(50, 800))
            return
        self.conn = Conn(self.world.next_conn(), self, node)
        self.world.note(self.name, f"opens {self.doc} at {node.name}")
        node.accept(self.conn)
        self.conn.up(encode(SyncStep1(self.replica.state_vector())))
        if self.world.rng.random() < 0.5:
            self.aware()
        if self.world.rng.random() < 0.3:
            self.edit()  # before the handshake is over, as stock clients do (facts 3.2)

    def aware(self) -> None:
        """Tell a cursor."""
        if self.conn is not None:
            self.awareness_clock += 1
            entry = AwarenessEntry(self.client, self.awareness_clock, f'{{"cursor": {self.awareness_clock}}}')
            self.conn.up(encode(AwarenessUpdate(encode_awareness((entry,)))))
            if self.world.rng.random() < 0.2:
                self.conn.up(encode(QueryAwareness()))

    def frame(self, conn: Conn, frame: bytes) -> None:
        match decode_frame(frame):
            case SyncStep1(state_vector):
                conn.up(encode(SyncStep2(self.replica.diff(state_vector))), tuple(self._unacked))
            case SyncStep2(update) | Update(update):
                self._take(update)
            case AwarenessUpdate(payload):
                for entry in check_awareness(payload):
                    self._hear(entry)
            case other:
                raise Violation(f"{self.name}: {conn.node.name} sent {other}")

    def _hear(self, entry: AwarenessEntry) -> None:
        """As y-protocols: the newest clock counts, and who reads of its own removal says that it is here."""
        if entry.client != self.client:
            self.heard[entry.client] = max(entry.clock, self.heard.get(entry.client, 0))
        elif entry.state == "null" and entry.clock >= self.awareness_clock:
            self.awareness_clock = entry.clock
            self.aware()

    def _take(self, update: bytes) -> None:
        """As Yjs, also a part of what has a gap within: another update may wait for it that the rest waits for."""
        shape = shape_of(update)
        gaps = len({client for client, _, _ in shape.brings}) < len(shape.brings)
        for part in cut(update, {}) if gaps else (update,):
            self.replica.take(part, shape_of(part), self.world.now_ms)
        self.replica.materialise()
