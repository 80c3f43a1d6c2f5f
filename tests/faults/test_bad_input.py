"""Hostile bytes on the socket hurt who sent them, and nobody else (law 9)."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from sync import wire
from sync.lib0 import write_var_uint
from sync.limits import FRAME_BYTES_MAX
from tests.peer import Peer
from tests.processes import Cluster, Node
from tests.sync import hostile

RSS_BYTES_MAX = 64 * 1024 * 1024
CLOSE_S_MAX = 10.0
DOC = "notes/plan"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Shared by the module: an edge that survives one attack has to survive the next one."""
    with Cluster(tmp_path_factory.mktemp("bad")) as cluster:
        yield cluster
        assert all(node.running for node in cluster.nodes())
        cluster.settle()


@contextmanager
def unharmed(cluster: Cluster, doc: str = DOC) -> Iterator[None]:
    """Ada, at the edge that is attacked, and Ben, at the other one, type before, and read each other after it."""
    edge = cluster["a"]
    with Peer(edge, doc) as ada, Peer(cluster["b"], doc) as ben:
        ada.wait_synced()
        ada.append("before ")
        ada.wait_acknowledged()
        length = len(ada.read())
        ben.wait_length(length)
        pid, rss = edge.pid, edge.rss_bytes()

        yield

        ada.append("after ")
        ben.wait_length(length + len("after "))
        ben.append("too ")
        ada.wait_length(length + len("after too "))
        assert ada.read() == ben.read()
        assert set(ada.read().split()) <= {"before", "after", "too"}
        assert ada.closes == []
        assert ben.closes == []
        assert edge.pid == pid
        assert edge.running
        grown = edge.rss_bytes() - rss
        assert grown < RSS_BYTES_MAX, f"{edge} has grown by {grown // 2**20} MB"
        assert " task_died " not in edge.errors()


def closed_by(edge: Node, frame: bytes | str, doc: str = DOC) -> tuple[int, str]:
    """Send this as the first message of a connection; with which code and reason the edge closes it."""
    with connect(f"{edge.ws}/{doc}", max_size=None, compression=None) as socket:
        try:
            socket.send(frame)
            return close_of(socket)
        except ConnectionClosed:
            return close_of(socket)


def close_of(socket: ClientConnection) -> tuple[int, str]:
    ends = time.monotonic() + CLOSE_S_MAX
    while True:
        try:
            socket.recv(timeout=max(0.01, ends - time.monotonic()))
        except ConnectionClosed:
            assert socket.close_code is not None
            return socket.close_code, socket.close_reason or ""
        except TimeoutError:
            return 0, "not closed"


FRAMES: dict[str, bytes | str] = {
    "empty": b"",
    "text": "hello",
    "JSON": '{"op":"cut","seconds":5}',
    "an unknown type": b"\x07",
    "an extension type": write_var_uint(100) + b"\x00",
    "an unknown sync message": b"\x00\x07\x00",
    "cut short": b"\x00\x02\x05\x00",
    "bytes left over": b"\x00\x02\x02\x00\x00\x00",
    "claims 2^31": b"\x00\x02" + write_var_uint(2**31 - 1) + b"\x00",
    "claims 2^63": b"\x00\x02" + write_var_uint(2**63) + b"\x00",
    "a number of a megabyte": b"\xff" * 1_000_000,
    "as large as may be, zeros": b"\x00" * FRAME_BYTES_MAX,
    "as large as may be, an update of zeros": wire.encode(wire.Update(b"\x00" * (FRAME_BYTES_MAX - 10))),
    "as large as may be, an update of ones": wire.encode(wire.Update(b"\x01" * (FRAME_BYTES_MAX - 10))),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_that_is_no_message_closes_its_own_connection(cluster: Cluster, kind: str) -> None:
    with unharmed(cluster):
        code, reason = closed_by(cluster["a"], FRAMES[kind])

        assert 4400 <= code < 4500, (code, reason)
        assert reason


def test_a_message_over_the_limit_is_closed_by_its_size(cluster: Cluster) -> None:
    with unharmed(cluster):
        code, reason = closed_by(cluster["a"], bytes(FRAME_BYTES_MAX + 1))

        assert code == 1009, (code, reason)
        assert reason


def test_random_bytes_close_their_own_connections(cluster: Cluster) -> None:
    chance = random.Random(7)
    with unharmed(cluster):
        for size in [1, 2, 3, 5, 8, 100, 10_000, 1_000_000] * 5:
            frame = chance.randbytes(size)
            if frame == b"\x03":  # asks who is here: a message
                continue
            code, reason = closed_by(cluster["a"], frame)
            assert 4400 <= code < 4500, (frame[:20], code, reason)
            assert reason


def test_hostile_updates_close_their_own_connections(cluster: Cluster) -> None:
    with unharmed(cluster):
        for one in hostile.UPDATES:
            if one.refused:
                for frame in (wire.encode(wire.Update(one.data)), wire.encode(wire.SyncStep2(one.data))):
                    code, reason = closed_by(cluster["a"], frame)
                    assert 4400 <= code < 4500, (one.name, code, reason)
                    assert reason, one.name


def test_hostile_state_vectors_and_presence_close_their_own_connections(cluster: Cluster) -> None:
    frames = [(one, wire.encode(wire.SyncStep1(one.data))) for one in hostile.STATE_VECTORS]
    frames += [(one, wire.encode(wire.AwarenessUpdate(one.data))) for one in hostile.AWARENESS]
    with unharmed(cluster):
        for one, frame in frames:
            code, reason = closed_by(cluster["a"], frame)
            assert 4400 <= code < 4500, (one.name, code, reason)
            assert reason, one.name


def test_well_formed_nonsense_is_borne_by_both_edges_and_the_leader(cluster: Cluster) -> None:
    """What no check can refuse by its bytes alone: it may be taken, kept aside or refused, and everybody lives."""
    assert cluster.leader is not None
    pids = [node.pid for node in cluster.nodes()]
    with unharmed(cluster):
        for at, one in enumerate(one for one in hostile.UPDATES if not one.refused):
            doc = f"nonsense/{at}"
            with Peer(cluster["b"], doc) as ben:
                ben.wait_synced()
                with Peer(cluster["a"], doc) as eve:
                    eve.wait_synced()
                    eve.send(wire.encode(wire.Update(one.data)))
                    eve.pump(0.2)
                ben.append(f"beside {one.name}")
                ben.wait_acknowledged()
    assert [node.pid for node in cluster.nodes() if node.running] == pids


def test_bytes_that_are_no_http_disturb_nobody(cluster: Cluster) -> None:
    host, _, port = cluster["a"].listen.rpartition(":")
    chance = random.Random(11)
    with unharmed(cluster):
        openings = [
            chance.randbytes(10_000),
            b"\x16\x03\x01\x02\x00" + chance.randbytes(500),  # TLS knocks
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
            b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
            b"POST /docs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
            b"",
        ]
        for opening in openings:
            with socket.create_connection((host, int(port)), timeout=CLOSE_S_MAX) as raw:
                try:
                    raw.sendall(opening)
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(65536):
                        pass
                except (ConnectionError, BrokenPipeError):
                    pass


TEXT = b"0123456789" * 100_000
ASKED_COUNT = 4_000  # answers of a megabyte each, if they were made


def test_a_client_that_asks_and_never_reads_costs_no_memory_and_is_answered_when_it_reads(cluster: Cluster) -> None:
    doc = "notes/large"
    with Peer(cluster["a"], doc) as ada:
        ada.wait_synced()
        ada.append(TEXT.decode())
        ada.wait_acknowledged()
    with unharmed(cluster), unread(cluster["a"], doc) as eve:
        eve.sendall(masked(wire.encode(wire.SyncStep1(b"\x00"))) * ASKED_COUNT)
        eve.sendall(b"\x89\x80" + bytes(4))  # a ping: its answer comes behind everything that is under way

        got = read_until(eve, lambda got: b"\x8a\x00" in got)
        eve.sendall(masked(wire.encode(wire.SyncStep1(b"\x00"))))  # a last one: it reads on until then
        got += read_until(eve, lambda more: (got + more).count(TEXT) > 1)

    assert len(got) < 20 * len(TEXT), len(got)


@contextmanager
def unread(node: Node, doc: str) -> Iterator[socket.socket]:
    """A websocket that is open, and whose receiving side is small."""
    host, _, port = node.listen.rpartition(":")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        raw.settimeout(CLOSE_S_MAX)
        raw.connect((host, int(port)))
        raw.sendall(
            f"GET /{doc} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        got = b""
        while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < 5:  # and its step 1: the document is read
            got += raw.recv(1)
        yield raw


def masked(message: bytes) -> bytes:
    """A short binary frame of a client."""
    assert len(message) < 126
    return bytes([0x82, 0x80 | len(message)]) + bytes(4) + message


def read_until(raw: socket.socket, enough: Callable[[bytes], bool]) -> bytes:
    got = b""
    while not enough(got):
        more = raw.recv(1 << 20)
        assert more, "closed"
        got += more
    return got
