"""lib0's variable-length unsigned integers: seven bits a byte, the lowest first, the top bit says that more follow.

Room: bytes and integers. Nothing here knows what a number means.
"""

from __future__ import annotations

from .errors import InvalidInput

__all__ = ["read_var_uint", "write_var_uint"]


def read_var_uint(buf: bytes, pos: int, limit: int) -> tuple[int, int]:
    """The number at `pos` and the position after it.

    Raises InvalidInput where the bytes end early, the number is above `limit` (which also bounds how many bytes are
    read: no giant integer is ever built), or it is written longer than it has to be (every value has one spelling).
    """
    value = shift = 0
    start = pos
    end = len(buf)
    while pos < end:
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if value > limit:
            raise InvalidInput(f"byte {start}: number over {limit}; the sender's encoder is at fault")
        if byte < 0x80:
            if byte == 0 and shift:
                raise InvalidInput(f"byte {start}: number is longer than needed; the sender's encoder is at fault")
            return value, pos
        shift += 7
        if shift > 63:  # ten bytes hold 70 bits; zeros behind continuation bits would never pass `limit`
            raise InvalidInput(f"byte {start}: number has no end; the sender's encoder is at fault")
    raise InvalidInput(f"byte {start}: ends within a number; send the whole message")


def write_var_uint(value: int) -> bytes:
    """Inverse of `read_var_uint`; `value` is not negative."""
    assert value >= 0
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
