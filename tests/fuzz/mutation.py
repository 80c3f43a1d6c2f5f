"""Inputs from a seed: real messages, bent. Structure-aware where it pays: numbers, lengths, ids, lines, doubled parts.

Why not a coverage-guided library: see docs/decisions.md (measured against atheris).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sync.lib0 import write_var_uint

__all__ = ["bent", "large"]

_BYTES = (0, 1, 2, 3, 4, 7, 8, 9, 10, 0x20, 0x28, 0x7F, 0x80, 0x81, 0x84, 0xA8, 0xC4, 0xFF)
_NUMBERS = (
    *(0, 1, 2, 63, 64, 127, 128, 255, 16_383, 16_384, 2**21, 2**28, 2**29, 2**31 - 2, 2**31 - 1, 2**31, 2**32 - 1),
    *(2**32, 2**40, 2**52, 2**53 - 1, 2**53, 2**56, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70),
)
_WORDS = (
    *(b"-1", b"0", b"00", b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b"[[", b'"', b"\\ud800", b"\\u0000"),
    *(b"%", b"%00", b"%FF", b"%E2%82", b"\xff", b"\xed\xa0\xbd", b"\xf0\x9f\x98\x80", "\u2028".encode(), b"\r\n"),
    *(b"99999999999999999999", b"9" * 400, b"_", b"+1", b" ", b"\t", b".", b":", b",", b"-", b"0x1", b"\xd9\xa1"),
)
_LARGE_BYTES_MAX = 1024 * 1024 - 1


def bent(rng: random.Random, seeds: Sequence[bytes], words: Sequence[bytes], bytes_max: int = 16_384) -> bytes:
    """One of the seeds with one to a few changes; sometimes as it is, sometimes noise."""
    kind = rng.random()
    if kind < 0.01:
        return rng.randbytes(rng.choice((0, 1, 2, 3, 8, 40)))
    data = bytearray(rng.choice(seeds))
    if kind < 0.02:
        return bytes(data)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 5, 9))):
        _change(rng, data, seeds, words)
    return bytes(data[:bytes_max])


def _change(rng: random.Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    size = len(data)
    at = rng.randrange(size + 1)
    match rng.randrange(14):
        case 0 if at < size:
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < size:
            data[at] = rng.choice(_BYTES)
        case 2 if at < size:
            data[at] = (data[at] + rng.choice((1, -1, 2, -2))) % 256
        case 3:
            data.insert(at, rng.choice(_BYTES))
        case 4:
            del data[at : at + rng.choice((1, 1, 1, 2, 5, 30))]
        case 5:
            data[at:at] = data[at : at + rng.choice((1, 2, 4, 8, 30))]
        case 6:  # a part of another message over a part of this one
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            length = rng.choice((1, 2, 4, 12, 60))
            data[at : at + rng.choice((0, 0, length))] = other[start : start + length]
        case 7:
            del data[at:]
        case 8:  # one number for another
            end = at
            while end < size and data[end] > 127 and end - at < 10:
                end += 1
            data[at : end + 1] = write_var_uint(rng.choice(_NUMBERS))
        case 9:  # a number near it
            end = at
            while end < size and data[end] > 127 and end - at < 8:
                end += 1
            if end < size:
                value = sum((byte & 127) << 7 * place for place, byte in enumerate(data[at : end + 1]))
                data[at : end + 1] = write_var_uint(max(0, value + rng.choice((-2, -1, 1, 2, 128))))
        case 10:
            data[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(_WORDS)
        case 11 if words:
            data[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(words)
        case 12:  # lines change places
            lines = bytes(data).split(b"\n")
            one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[one], lines[two] = lines[two], lines[one]
            data[:] = b"\n".join(lines)
        case _:  # swap two parts
            length = rng.choice((1, 2, 4, 8))
            to = rng.randrange(size + 1)
            data[at : at + length], data[to : to + length] = data[to : to + length], data[at : at + length]


def large(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Up to a mebibyte: a part of a message so many times, with the number before it as it was, or so many more."""
    data = rng.choice(seeds)
    size = rng.choice((20_000, 100_000, 300_000, _LARGE_BYTES_MAX))
    start = rng.randrange(len(data) + 1)
    length = rng.choice((1, 1, 2, 2, 3, 4, 5, 7, 12, 40))
    part = data[start : start + length] or b"\0"
    count = (size - len(data) - 12) // len(part)
    if count < 2:
        return data[:_LARGE_BYTES_MAX]
    if rng.random() < 0.5 and start:
        value = rng.choice((count, count + 1, data[start - 1] + count, len(part) * count))
        return data[: start - 1] + write_var_uint(value) + part * count + data[start:]
    return data[:start] + part * count + data[start:]
