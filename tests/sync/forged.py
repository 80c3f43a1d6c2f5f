"""Updates that are well-formed and that a gate lets in, about what never happened: any ids, parents, contents."""

from __future__ import annotations

import random

from sync.lib0 import write_var_uint

__all__ = ["forged"]

_NEWCOMER = 99


def _text(text: str) -> bytes:
    data = text.encode()
    return write_var_uint(len(data)) + data


def forged(rng: random.Random, clocks: dict[int, int]) -> bytes:
    """One to two clients' structs beside a document with these clocks, and deletes within them."""
    known = sorted(clocks)
    sections = b""
    authors = rng.sample([*known, _NEWCOMER], rng.choice((0, 1, 1, 1, 2)))
    for client in authors:
        clock = clocks.get(client, 0)
        if rng.random() < 0.2:
            clock = rng.randint(0, clock)  # over what is there
        first, structs, count = clock, b"", rng.randint(1, 4)
        for _ in range(count):
            struct, length = _struct(rng, client, clock, clocks)
            structs += struct
            clock += length
        sections += write_var_uint(count) + write_var_uint(client) + write_var_uint(first) + structs
    deletes = b""
    deleting = rng.sample(known, rng.choice((0, 0, 0, 1, 2)))
    for client in deleting:
        ranges = b""
        count = rng.randint(1, 3)
        for _ in range(count):
            start = rng.randrange(clocks[client])
            ranges += write_var_uint(start) + write_var_uint(rng.randint(1, min(4, clocks[client] - start)))
        deletes += write_var_uint(client) + write_var_uint(count) + ranges
    return write_var_uint(len(authors)) + sections + write_var_uint(len(deleting)) + deletes


def _id(rng: random.Random, own: int, clock: int, clocks: dict[int, int]) -> bytes:
    client = own if clock and rng.random() < 0.25 else rng.choice(sorted(clocks))
    return write_var_uint(client) + write_var_uint(rng.randrange(clock if client == own and clock else clocks[client]))


def _struct(rng: random.Random, client: int, clock: int, clocks: dict[int, int]) -> tuple[bytes, int]:
    """(bytes, length)"""
    if rng.random() < 0.08:
        length = rng.randint(1, 3)
        return b"\0" + write_var_uint(length), length
    info = rng.choice((0x80, 0xC0, 0x40, 0, 0)) | rng.choice((0, 0, 0x20))
    body = b"".join(_id(rng, client, clock, clocks) for flag in (0x80, 0x40) if info & flag)
    if not info & 0xC0:
        named = rng.random() < 0.5
        root = rng.choice(("text", "map", "array", "xml"))
        body += b"\1" + _text(root) if named else b"\0" + _id(rng, client, clock, clocks)
        if info & 0x20:
            body += _text(rng.choice("abcd"))
    ref, content, length = rng.choice(
        (
            (1, b"\3", 3),
            (3, _text("xy"), 1),
            (4, _text("a"), 1),
            (4, _text("bcd"), 3),  # ASCII: see ARRAY_THAT_HANGS
            (5, _text('{"a":1}'), 1),
            (6, _text("bold") + _text("true"), 1),
            (6, _text("bold") + _text("null"), 1),
            *((7, bytes((kind,)), 1) for kind in (0, 1, 2, 4, 6)),
            (7, b"\3" + _text("p"), 1),
            (8, b"\2\x7d\1\x76\1\1k\x7e", 2),
            (8, b"\1\x75\1\x7f", 1),
            (9, _text("guid") + b"\x76\1" + _text("autoLoad") + b"\x78", 1),
        )
    )
    return bytes((info | ref,)) + body + content, length
