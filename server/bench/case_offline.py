"""Case 5: ten thousand edits that were made offline come back: time and bytes until the other edge has them all.

Two who were away: a client, which offers its document when it connects; and an edge, whose clients typed on while its
link to NATS was cut. Room: relays that count, and absences.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sync.document import Document, merge

from . import peers, skerry
from .dialect import Kind
from .machine import Cores, cpu_s
from .probe import Probe
from .records import Sample
from .servers import Server, Target
from .stage import Case, Plan, Run, Stage
from .typing import Writers
from .wires import Address, Wires, masked

__all__ = ["OFFLINE"]

DOC: Final = "bench/offline"
DEADLINE_S: Final = 60.0
CHUNK_BYTES: Final = 1 << 16


class Relay(threading.Thread):
    """Passes TCP on to `target`, counts bytes both ways, and can be cut: then connections end and none is accepted."""

    def __init__(self, target: Address) -> None:
        super().__init__(daemon=True)
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._over = False
        self.cut = False
        self.up_bytes = 0
        """Towards the target."""
        self.down_bytes = 0
        self.began_s = 0.0
        """When the newest connection was accepted."""

    @property
    def address(self) -> Address:
        host, port = self._listening.getsockname()
        return host, port

    def run(self) -> None:
        while not self._over:
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listening:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._pairs:
                    self._pass(key.fileobj, bool(key.data))
            if self.cut and self._pairs:
                self._drop_all()
        self._drop_all()
        self._listening.close()

    def end(self) -> None:
        self._over = True
        self.join(5)

    def _accept(self) -> None:
        near, _ = self._listening.accept()
        if self.cut:
            near.close()
            return
        far = socket.create_connection(self._target)
        self.began_s = time.perf_counter()
        for one, other, up in ((near, far, True), (far, near, False)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[one] = other
            self._selector.register(one, selectors.EVENT_READ, up)

    def _pass(self, source: socket.socket, up: bool) -> None:
        try:
            piece = source.recv(CHUNK_BYTES)
            self._pairs[source].sendall(piece)
        except OSError:
            piece = b""
        if not piece:
            self._drop(source)
        elif up:
            self.up_bytes += len(piece)
        else:
            self.down_bytes += len(piece)

    def _drop(self, one: socket.socket) -> None:
        other = self._pairs.pop(one)
        self._pairs.pop(other, None)
        for end in (one, other):
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
            end.close()

    def _drop_all(self) -> None:
        for one in list(self._pairs):
            if one in self._pairs:
                self._drop(one)


class _Behind(skerry.Edges):
    """Two edges; the links of both go through relays."""

    def __init__(self) -> None:
        super().__init__()
        self.relays: list[Relay] = []

    def link(self, nats: Address) -> str:
        relay = Relay(nats)
        relay.start()
        self.relays.append(relay)
        host, port = relay.address
        return f"nats://{host}:{port}"

    def start(self, folder: Path, cores: Cores) -> Target:
        self.relays.clear()
        return super().start(folder, cores)

    def stop(self) -> None:
        super().stop()
        for relay in self.relays:
            relay.end()
        self.relays.clear()


def _client_comes_back(stage: Stage, count: int, writers: Writers) -> Sample:
    """Its whole absence is one step 2, as every Yjs client does it."""
    (person,) = writers.first(1)
    away = _joined(person.type(count)[:count])
    dialect, target = stage.target.dialect, stage.target
    with Wires() as wires:
        reader = wires.connect(target.readers_at, dialect.path(DOC))
        probe = Probe(reader, dialect, {person.client_id: _never(count)}, count)
        wires.all_ready([reader])
        for message in dialect.hello(DOC):
            reader.send(masked(message))
        wires.until(lambda: probe.synced, DEADLINE_S, "the reader is synchronised")
        wires.rest(0.5)
        relays = stage.server.relays if isinstance(stage.server, _Behind) else []
        before_bytes = [(relay.up_bytes, relay.down_bytes) for relay in relays]
        read_bytes, before_s = reader.read_bytes, cpu_s(target.pids)
        writer = wires.connect(target.writers_at, dialect.path(DOC))
        wires.all_ready([writer])
        began = time.perf_counter()
        for message in dialect.hello(DOC):
            writer.send(masked(message))
        writer.send(masked(dialect.state(DOC, away)))
        wires.until(lambda: probe.delivered >= count, DEADLINE_S, f"{count:,} edits are at the other edge")
        seconds = time.perf_counter() - began
        read_bytes = reader.read_bytes - read_bytes
        wires.rest(0.5)
        spent_s = cpu_s(target.pids) - before_s
        shipped = relays[0].up_bytes - before_bytes[0][0] if relays else None
    return _sample(seconds, spent_s, away, read_bytes, shipped)


def _edge_comes_back(stage: Stage, count: int, writers: Writers) -> Sample:
    """Its clients typed one character after the other while it was cut off; time counts from its new connection."""
    server = stage.server
    assert isinstance(server, _Behind)
    (person,) = writers.first(1)
    updates = person.type(count)[:count]
    dialect, target = stage.target.dialect, stage.target
    with Wires() as wires:
        reader = wires.connect(target.readers_at, dialect.path(DOC))
        probe = Probe(reader, dialect, {person.client_id: _never(count)}, count)
        writer = wires.connect(target.writers_at, dialect.path(DOC))
        wires.all_ready([reader, writer])
        for client in (reader, writer):
            for message in dialect.hello(DOC):
                client.send(masked(message))
        wires.until(lambda: probe.synced and writer.heard > 0, DEADLINE_S, "both are synchronised")
        wires.rest(0.5)
        relay = server.relays[0]
        relay.cut = True
        echo = Document()
        wires.until(lambda: not skerry.linked(target.writers_at), DEADLINE_S, "the edge has noticed the cut")

        def hear(message: bytes) -> None:
            heard = dialect.read(message)
            if heard.kind in (Kind.UPDATE, Kind.STATE):
                echo.apply(heard.body)

        writer.hear = hear
        for at in range(0, count, 20):
            for update in updates[at : at + 20]:
                writer.send(masked(dialect.update(DOC, update)))
            wires.rest(0.004)
        wires.until(
            lambda: echo.clocks().get(person.client_id, 0) == count, DEADLINE_S, "all are on the cut edge's disk"
        )
        wires.rest(0.5)
        up_bytes, read_bytes, before_s = relay.up_bytes, reader.read_bytes, cpu_s(target.pids)
        relay.cut = False
        cut_ended = time.perf_counter()
        wires.until(lambda: probe.delivered >= count, DEADLINE_S, f"{count:,} edits are at the other edge")
        seconds = time.perf_counter() - max(cut_ended, relay.began_s)
        read_bytes = reader.read_bytes - read_bytes
        wires.rest(0.5)
        spent_s = cpu_s(target.pids) - before_s
        shipped = relay.up_bytes - up_bytes
    return _sample(seconds, spent_s, _joined(updates), read_bytes, shipped)


def _joined(updates: Sequence[bytes]) -> bytes:
    """As whoever made them would offer them: what was typed in one go is one piece."""
    return Document(merge(updates)).state()


def _never(count: int) -> array[float]:
    """Nothing of it is timed one by one."""
    return array("d", bytes(8 * count))


def _sample(seconds: float, spent_s: float, merged: bytes, read_bytes: int, shipped: int | None) -> Sample:
    began = time.perf_counter()
    Document().apply(merged)
    once_s = time.perf_counter() - began
    values = {
        "back_ms": 1000 * seconds,
        "apply_ms": 1000 * once_s,
        "time_ratio": seconds / once_s,
        "merged_kb": len(merged) / 1000,
        "reader_ratio": read_bytes / len(merged),
        "cpu_ms": 1000 * spent_s,
    }
    if shipped is not None:
        values["shipped_ratio"] = shipped / len(merged)
    return Sample(values)


def _runs(plan: Plan, servers: list[Server]) -> list[Run]:
    count = 1_000 if plan.quick else 10_000
    found = [
        Run(
            server,
            f"{count:,} edits of a client that was away",
            count,
            lambda stage: _client_comes_back(stage, count, plan.writers),
        )
        for server in servers
    ]
    found.append(
        Run(
            servers[0],
            f"{count:,} edits of an edge that was cut off",
            count,
            lambda stage: _edge_comes_back(stage, count, plan.writers),
        )
    )
    return found


OFFLINE: Final = Case(5, "edits made offline come back", "edits", lambda: [_Behind(), peers.HocuspocusRedis()], _runs)
