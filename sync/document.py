"""The only file that imports pycrdt: apply, merge, diff, digest, snapshot; text positions in code points.

Room: one CRDT and nothing about who sent what. Callers hand in bytes that `sync.validate` has passed and the gate
(`sync.replica`) has judged: pycrdt loses operations that come early (FACTS.md 1.1) and dies of hostile bytes (1.7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pycrdt

from .errors import DocumentBroken
from .lib0 import read_var_uint, write_var_uint
from .limits import CLIENT_ID_MAX, CLOCK_MAX, MERGE_FAN_IN

__all__ = ["EMPTY_UPDATE", "Document", "Ranges", "byte_offset", "decode_snapshot_bytes", "digest_of", "merge"]

EMPTY_UPDATE = b"\x00\x00"
"""The update that brings nothing and deletes nothing."""

Ranges = dict[int, list[tuple[int, int]]]
"""Client -> ascending, disjoint, non-adjacent (first clock, next clock)."""


class Document:
    """One `pycrdt.Doc`. Every method that runs Rust raises DocumentBroken where it panics; then discard the object."""

    __slots__ = ("crdt",)

    def __init__(self, state: bytes | None = None) -> None:
        self.crdt: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc()
        if state is not None:
            self.apply(state)

    def apply(self, update: bytes) -> None:
        try:
            self.crdt.apply_update(update)
        except BaseException as error:
            raise _broken(error, "apply") from error

    def state_vector(self) -> bytes:
        try:
            return self.crdt.get_state()
        except BaseException as error:
            raise _broken(error, "state vector") from error

    def clocks(self) -> dict[int, int]:
        """Client -> next clock."""
        buffer = self.state_vector()
        count, at = read_var_uint(buffer, 0, len(buffer))
        clocks: dict[int, int] = {}
        for _ in range(count):
            client, at = read_var_uint(buffer, at, CLIENT_ID_MAX)
            clocks[client], at = read_var_uint(buffer, at, CLOCK_MAX)
        return clocks

    def diff(self, state_vector: bytes) -> bytes:
        """What a holder of `state_vector` lacks, and the whole delete set. The vector must have been checked."""
        try:
            return self.crdt.get_update(state_vector)
        except BaseException as error:
            raise _broken(error, "diff") from error

    def state(self) -> bytes:
        """The whole document as one update."""
        try:
            return self.crdt.get_update()
        except BaseException as error:
            raise _broken(error, "state") from error

    def deleted(self) -> Ranges:
        """Every deleted clock, as `sync.replica` compares it."""
        return decode_snapshot_bytes(self._snapshot())[1]

    def digest(self) -> str:
        """Equal exactly where two replicas hold the same operations and deletions (law 6)."""
        return digest_of(*decode_snapshot_bytes(self._snapshot()))

    def _snapshot(self) -> bytes:
        try:
            return pycrdt.Snapshot.from_doc(self.crdt).encode()
        except BaseException as error:
            raise _broken(error, "snapshot") from error


def _broken(error: BaseException, what: str) -> BaseException:
    """A Rust panic (a BaseException of its own class) or a refusal is DocumentBroken; anything else stays itself."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return DocumentBroken(
            f"document: {what} failed in pycrdt ({type(error).__name__}); rebuild it from what is stored"
        )
    return error


def merge(updates: Sequence[bytes]) -> bytes:
    """One update with everything in `updates`. A tree, since pycrdt's merge is worse than linear (FACTS.md 1.10)."""
    if len(updates) == 1:
        return updates[0]
    if not updates:
        return EMPTY_UPDATE
    level = list(updates)
    try:
        while len(level) > 1:
            level = [pycrdt.merge_updates(*level[at : at + MERGE_FAN_IN]) for at in range(0, len(level), MERGE_FAN_IN)]
    except BaseException as error:
        raise _broken(error, "merge") from error
    return level[0]


def decode_snapshot_bytes(encoded: bytes) -> tuple[dict[int, int], Ranges]:
    """(clocks, deleted) of an encoded `pycrdt.Snapshot`: delete set first, then state vector (FACTS.md 1.5)."""
    size = len(encoded)
    deleted: Ranges = {}
    count, at = read_var_uint(encoded, 0, size)
    for _ in range(count):
        client, at = read_var_uint(encoded, at, CLIENT_ID_MAX)
        range_count, at = read_var_uint(encoded, at, size)
        spans: list[tuple[int, int]] = []
        for _ in range(range_count):
            first, at = read_var_uint(encoded, at, CLOCK_MAX)
            length, at = read_var_uint(encoded, at, CLOCK_MAX)
            spans.append((first, first + length))
        deleted[client] = _joined(spans)
    count, at = read_var_uint(encoded, at, size)
    clocks: dict[int, int] = {}
    for _ in range(count):
        client, at = read_var_uint(encoded, at, CLIENT_ID_MAX)
        clocks[client], at = read_var_uint(encoded, at, CLOCK_MAX)
    return clocks, deleted


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    spans.sort()
    joined: list[tuple[int, int]] = []
    for first, following in spans:
        if joined and first <= joined[-1][1]:
            if following > joined[-1][1]:
                joined[-1] = (joined[-1][0], following)
        elif following > first:
            joined.append((first, following))
    return joined


def digest_of(clocks: dict[int, int], deleted: Ranges) -> str:
    """BLAKE2b-128 over the canonical form: clients ascending, ranges joined; zero clocks and empty clients left out."""
    clients = sorted(client for client, clock in clocks.items() if clock)
    body = bytearray(write_var_uint(len(clients)))
    for client in clients:
        body += write_var_uint(client) + write_var_uint(clocks[client])
    for client in sorted(client for client, spans in deleted.items() if spans):
        body += write_var_uint(client) + write_var_uint(len(deleted[client]))
        for first, following in deleted[client]:
            body += write_var_uint(first) + write_var_uint(following - first)
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def byte_offset(text: str, index: int) -> int:
    """Code point index -> pycrdt's UTF-8 byte index (FACTS.md 1.8). Raises IndexError outside the text."""
    if not 0 <= index <= len(text):
        raise IndexError(f"text index {index}: the text has {len(text)} characters")
    return len(text[:index].encode("utf-8"))
