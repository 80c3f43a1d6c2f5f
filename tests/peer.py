"""A client in Python on a real socket: pycrdt behind the frames of `sync.wire`, as somebody's own program would do it.

Room: one document at one edge. A thread reads the socket and only queues; the test's own thread takes what came
(`pump`, which every method calls that looks). `acknowledged` is a second replica that holds nothing but what the edge
has sent back: an update of its own is in there when the edge has echoed it, after its commit (law 2).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from urllib.parse import quote

import pycrdt
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from sync import wire
from sync.document import Document, byte_offset
from sync.limits import FRAME_BYTES_MAX
from sync.validate import check_state_vector, check_update
from tests.processes import Node, wait_for

__all__ = ["Peer"]

AGAIN_S = 0.1  # between two attempts to connect
OPEN_S_MAX = 5.0
PAUSE_S = 0.02


class Peer:
    """`with Peer(edge, "notes/plan") as ada:`. It connects again by itself until it is closed."""

    def __init__(self, edge: Node, doc: str, *, client_id: int | None = None) -> None:
        self.edge = edge
        self.doc = doc
        self.crdt: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc(client_id=client_id) if client_id is not None else pycrdt.Doc()
        self.text = self.crdt.get("text", type=pycrdt.Text)
        self.acknowledged = Document()
        self.echoed_clock = 0
        """Of this client's own operations: as far as the edge has echoed them one after the other, after its commit."""
        self.synced = False
        """An answer to this connection's question has come."""
        self.synced_length: int | None = None
        """Characters of the text when the first answer had been taken in."""
        self.awareness: list[bytes] = []
        self.closes: list[tuple[int, str]] = []
        self._socket: ClientConnection | None = None
        self._came: queue.SimpleQueue[tuple[ClientConnection, bytes | None]] = queue.SimpleQueue()
        self._before_answer: list[bytes] = []
        self._ending = threading.Event()
        self._local = False
        self._observer = self.crdt.observe(self._observed)
        self._reader = threading.Thread(target=self._read, name=f"peer {doc}", daemon=True)
        self._reader.start()

    # --- life --------------------------------------------------------------------------------------------------------
    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._ending.set()
        if (socket := self._socket) is not None:
            socket.close()
        self._reader.join(OPEN_S_MAX + 5)
        assert not self._reader.is_alive(), f"the reader of {self.doc!r} does not end"
        self.crdt.unobserve(self._observer)

    def _read(self) -> None:
        while not self._ending.is_set():
            try:
                with connect(
                    f"{self.edge.ws}/{quote(self.doc, safe='/')}",
                    max_size=4 * FRAME_BYTES_MAX,
                    open_timeout=OPEN_S_MAX,
                    compression=None,
                ) as socket:
                    if self._ending.is_set():
                        return
                    self._socket = socket
                    self._came.put((socket, None))
                    for frame in socket:
                        assert isinstance(frame, bytes), "a text frame from an edge"
                        self._came.put((socket, frame))
            except ConnectionClosed:
                pass
            except (OSError, WebSocketException):
                self._ending.wait(AGAIN_S)
            if (ended := self._socket) is not None:
                self._socket = None
                self.closes.append((ended.close_code or 1006, ended.close_reason or ""))
                self._ending.wait(AGAIN_S)

    # --- what comes --------------------------------------------------------------------------------------------------
    def pump(self, wait_s: float = 0.0) -> None:
        """Take in everything that came; wait at most `wait_s` for the first of it."""
        ends = time.monotonic() + wait_s
        while True:
            try:
                socket, frame = self._came.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                return
            ends = 0.0
            if frame is None:
                self.synced = False
                self._before_answer.clear()
                # What is acknowledged, not what is here: the answer fills exactly the gaps of `acknowledged`.
                self._send_on(socket, wire.SyncStep1(self.acknowledged.state_vector()))
            else:
                self._take(socket, wire.decode_frame(frame))

    def _take(self, socket: ClientConnection, message: wire.Message) -> None:
        match message:
            case wire.SyncStep1(state_vector):
                self._send_on(socket, wire.SyncStep2(self.crdt.get_update(state_vector)))
            case wire.SyncStep2(update):
                self._apply(update)
                self.synced = True
                if self.synced_length is None:
                    self.synced_length = len(str(self.text))
                before, self._before_answer = self._before_answer, []
                for update in before:
                    self._live(update)
            case wire.Update(update):
                if self.synced:
                    self._live(update)
                else:  # it may depend on what the answer brings, and pycrdt loses what comes early (facts 1.1)
                    self._before_answer.append(update)
            case wire.AwarenessUpdate(payload):
                self.awareness.append(payload)
            case other:
                raise AssertionError(f"not expected from an edge: {other}")

    def _live(self, update: bytes) -> None:
        """An update behind the answer: law 3 says that everything it depends on is here."""
        shape, clocks = check_update(update), self.acknowledged.clocks()
        early = [(client, first) for client, first, _ in shape.brings if clocks.get(client, 0) < first]
        for client, _, following in shape.brings:
            clocks[client] = max(clocks.get(client, 0), following)
        needs = [*shape.needs, *((client, following) for client, _, following in shape.deletes)]
        early += [(client, wanted) for client, wanted in needs if clocks.get(client, 0) < wanted]
        assert not early, f"{self.edge} has sent an update of {self.doc!r} too early: it needs {early}"
        self._apply(update)
        for client, first, following in shape.brings:
            if client == self.crdt.client_id and first <= self.echoed_clock:
                self.echoed_clock = max(self.echoed_clock, following)

    def _apply(self, update: bytes) -> None:
        self.crdt.apply_update(update)
        self.acknowledged.apply(update)

    # --- what goes ---------------------------------------------------------------------------------------------------
    def edit(self, change: Callable[[pycrdt.Text], None]) -> None:
        """One transaction on the text, sent at once; without a connection it goes with the next handshake."""
        self.pump()
        self._local = True
        try:
            with self.crdt.transaction():
                change(self.text)
        finally:
            self._local = False

    def insert(self, index: int, text: str) -> None:
        """`index` in characters (code points)."""
        at = byte_offset(str(self.text), index)
        self.edit(lambda own: own.insert(at, text))

    def append(self, text: str) -> None:
        self.edit(lambda own: own.insert(len(own), text))

    def apply_own(self, update: bytes) -> None:
        """An update that this client is said to have made: taken in here, and sent at once where there is a socket."""
        self.crdt.apply_update(update)
        if (socket := self._socket) is not None:
            self._send_on(socket, wire.Update(update))

    def send(self, frame: bytes) -> None:
        """Bytes as they are. Raises OSError where there is no connection."""
        socket = self._socket
        if socket is None:
            raise ConnectionError("not connected")
        socket.send(frame)

    def _observed(self, event: pycrdt.TransactionEvent) -> None:
        if self._local and (socket := self._socket) is not None:
            self._send_on(socket, wire.Update(event.update))

    def _send_on(self, socket: ClientConnection, message: wire.Message) -> None:
        try:
            socket.send(wire.encode(message))
        except ConnectionClosed:
            return  # the next handshake brings it

    # --- what is seen ------------------------------------------------------------------------------------------------
    @property
    def connected(self) -> bool:
        return self._socket is not None

    def clocks(self) -> dict[int, int]:
        """Client -> next clock, of what is here."""
        return check_state_vector(self.crdt.get_state())

    def read(self) -> str:
        self.pump()
        return str(self.text)

    def wait(self, condition: Callable[[], bool], deadline_s: float, what: str) -> None:
        def pumped() -> bool:
            self.pump(PAUSE_S)
            return condition()

        wait_for(pumped, deadline_s, lambda: f"{what} (at {self.edge}, closes {self.closes})\n{self.edge.last_lines()}")

    def wait_synced(self, deadline_s: float = 20.0) -> None:
        self.wait(lambda: self.synced, deadline_s, f"{self.doc!r} is synced")

    def wait_text(self, text: str, deadline_s: float = 20.0) -> None:
        self.wait(lambda: str(self.text) == text, deadline_s, f"{self.doc!r} reads {text[:80]!r}")

    def wait_length(self, characters: int, deadline_s: float = 20.0) -> None:
        """At least so many."""
        self.wait(lambda: len(str(self.text)) >= characters, deadline_s, f"{self.doc!r} has {characters} characters")

    def wait_echoed(self, clock: int, deadline_s: float = 10.0) -> None:
        """Own operations below `clock` have come back one after the other."""
        self.wait(lambda: self.echoed_clock >= clock, deadline_s, f"own clock {clock} is echoed")

    def acknowledged_digest(self) -> str:
        self.pump()
        return self.acknowledged.digest()

    def all_acknowledged(self) -> bool:
        """Everything that is here has come back from the edge."""
        return self.acknowledged_digest() == Document(self.crdt.get_update()).digest()

    def wait_acknowledged(self, deadline_s: float = 20.0) -> None:
        self.wait(self.all_acknowledged, deadline_s, f"all of {self.doc!r} is acknowledged")

    def told(self) -> str:
        """For the message of a failing test."""
        state = "all" if self.all_acknowledged() else "not all"
        return f"at {self.edge}: {len(str(self.text))} characters, {state} acknowledged, closes {self.closes}"
