"""Clocks and deletions as pycrdt writes them, and the digest by which replicas are compared (law 6, facts 1.5).

Room: bytes and numbers, no pycrdt. An ordinary document that is edited much has 150,000 deleted ranges, and all of them
are looked at for each digest: what is read and written here in place is what `sync.lib0` does with a call a number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from .lib0 import read_var_uint, write_var_uint
from .limits import CLIENT_ID_MAX, CLOCK_MAX

__all__ = [
    "Ranges",
    "decode_snapshot_bytes",
    "digest_of",
    "digest_of_snapshot",
    "encode_clocks",
    "read_clocks",
    "read_ranges",
]

Ranges = dict[int, list[tuple[int, int]]]
"""Client -> ascending, disjoint, non-adjacent (first clock, next clock)."""


def encode_clocks(clocks: Mapping[int, int]) -> bytes:
    """A state vector."""
    known = [(client, clock) for client, clock in sorted(clocks.items()) if clock]
    numbers = [write_var_uint(number) for pair in known for number in pair]
    return b"".join((write_var_uint(len(known)), *numbers))


def read_clocks(state_vector: bytes) -> dict[int, int]:
    count, at = read_var_uint(state_vector, 0, len(state_vector))
    clocks: dict[int, int] = {}
    for _ in range(count):
        client, at = read_var_uint(state_vector, at, CLIENT_ID_MAX)
        clocks[client], at = read_var_uint(state_vector, at, CLOCK_MAX)
    return clocks


def decode_snapshot_bytes(encoded: bytes) -> tuple[dict[int, int], Ranges]:
    """(clocks, deleted) of an encoded `pycrdt.Snapshot`: delete set first, then state vector."""
    deleted: Ranges = {}
    count, at = read_var_uint(encoded, 0, len(encoded))
    for _ in range(count):
        client, at = read_var_uint(encoded, at, CLIENT_ID_MAX)
        number, at = read_var_uint(encoded, at, len(encoded))
        spans, at, ordered = read_ranges(encoded, at, number)
        deleted[client] = spans if ordered else _joined(spans)
    return read_clocks(encoded[at:]), deleted


def digest_of(clocks: Mapping[int, int], deleted: Ranges) -> str:
    """BLAKE2b-128 over the canonical form: clients ascending, ranges joined; zero clocks and empty clients left out."""
    return _digest(clocks, {client: _spelled(spans) for client, spans in deleted.items() if spans})


def digest_of_snapshot(encoded: bytes) -> str:
    """`digest_of` what `decode_snapshot_bytes` reads. Ranges in order are spelled as they are."""
    spelled: dict[int, bytes] = {}
    count, at = read_var_uint(encoded, 0, len(encoded))
    for _ in range(count):
        client, start = read_var_uint(encoded, at, CLIENT_ID_MAX)
        number, at = read_var_uint(encoded, start, len(encoded))
        spans, at, ordered = read_ranges(encoded, at, number)
        if spans := spans if ordered else _joined(spans):
            spelled[client] = encoded[start:at] if ordered else _spelled(spans)
    return _digest(read_clocks(encoded[at:]), spelled)


def _digest(clocks: Mapping[int, int], spelled: Mapping[int, bytes]) -> str:
    clients = sorted(client for client, clock in clocks.items() if clock)
    body = bytearray(write_var_uint(len(clients)))
    for client in clients:
        body += write_var_uint(client) + write_var_uint(clocks[client])
    for client in sorted(spelled):
        body += write_var_uint(client) + spelled[client]
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def _spelled(spans: list[tuple[int, int]]) -> bytes:
    parts = [write_var_uint(len(spans))]
    for first, following in spans:
        parts += (write_var_uint(first), write_var_uint(following - first))
    return b"".join(parts)


def read_ranges(b: bytes, at: int, count: int) -> tuple[list[tuple[int, int]], int, bool]:
    """So many ranges, the position behind them, and whether they ascend with a gap between each two."""
    spans: list[tuple[int, int]] = []
    add = spans.append
    ordered, last = True, -1
    for _ in range(count):
        first, c = b[at], b[at + 1]
        if first < 128:
            at += 1
        elif c < 128:
            first = first & 127 | c << 7
            at += 2
        elif (d := b[at + 2]) < 128:
            first = first & 127 | (c & 127) << 7 | d << 14
            at += 3
        else:
            first, at = read_var_uint(b, at, CLOCK_MAX)
        length = b[at]
        at += 1
        if length > 127:
            length, at = read_var_uint(b, at - 1, CLOCK_MAX)
        if first <= last or not length:
            ordered = False
        last = first + length
        add((first, last))
    return spans, at, ordered


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
