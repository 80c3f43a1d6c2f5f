"""A version token as text: what a user carries from a write to a read.

A token means: a reader that covers this version (the same epoch, as far), or holds this dot, has seen my write. The dot
is there from the first moment, link up or down; the version once the log has acknowledged. Both tell a deletion too,
which a state vector does not (law 6).

Room: the text, and which namespace and document it is for. Who waits for a token, and how long, is the machines'.

    sk1.<base64url, no padding, of>
        1 byte     bits: 1 a version follows, 2 a dot follows
        4 bytes    BLAKE2b of the namespace
        4 bytes    BLAKE2b of the document id
        numbers    (lib0) epoch, seq of the version; origin, seq of the dot
        4 bytes    CRC-32 of all before it, big-endian
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from .errors import InvalidInput, InvalidToken
from .ids import ORIGIN_MAX, DocId, Dot, Origin, Version
from .lib0 import read_var_uint, write_var_uint

__all__ = ["Token", "decode_token", "encode_token"]

_FORMAT = "sk1"
_TOKEN_CHARACTERS_MAX = 100  # the longest is 71
_VERSION, _DOT = 1, 2
_HASH_BYTES = 4
_HEAD_BYTES = 1 + 2 * _HASH_BYTES
_UINT64_MAX = 2**64 - 1
_STREAM_SEQ_MAX = 2**63 - 1
_SEQ_MAX = 2**53 - 1
_WHOLE = "copy the whole token as it was given to you"


@dataclass(frozen=True, slots=True)
class Token:
    """At least one of `version` and `dot`."""

    namespace: str
    doc: DocId
    version: Version | None
    dot: Dot | None


@lru_cache(maxsize=4096)
def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8"), digest_size=_HASH_BYTES).digest()


def encode_token(token: Token) -> str:
    """URL-safe, 40 to 70 characters."""
    version, dot = token.version, token.dot
    assert version is not None or dot is not None
    out = bytearray((0,))
    out += _hash(token.namespace) + _hash(token.doc)
    if version is not None:
        out[0] |= _VERSION
        out += write_var_uint(version.epoch) + write_var_uint(version.seq)
    if dot is not None:
        out[0] |= _DOT
        out += write_var_uint(dot.origin) + write_var_uint(dot.seq)
    out += zlib.crc32(out).to_bytes(4, "big")
    return f"{_FORMAT}.{urlsafe_b64encode(out).rstrip(b'=').decode('ascii')}"


def decode_token(text: str, namespace: str, doc: DocId) -> Token:
    """Raises InvalidToken: no token, a newer format, damaged, or made in another namespace or for another document."""
    body = _bytes_of(text)
    if body[1 : 1 + _HASH_BYTES] != _hash(namespace):
        raise InvalidToken(f"token: made in another namespace than {namespace}; ask the deployment that gave it")
    if body[1 + _HASH_BYTES : _HEAD_BYTES] != _hash(doc):
        raise InvalidToken(f"token: made for another document than {doc}; use it with the one that you wrote to")
    bits, pos = body[0], _HEAD_BYTES
    version: Version | None = None
    dot: Dot | None = None
    if not 1 <= bits <= 3:
        raise InvalidToken(f"token: holds kinds {bits}, this program knows 1 to 3; it was not made by this program")
    try:
        if bits & _VERSION:
            epoch, pos = read_var_uint(body, pos, _UINT64_MAX)
            seq, pos = read_var_uint(body, pos, _STREAM_SEQ_MAX)
            version = Version(epoch, seq)
        if bits & _DOT:
            origin, pos = read_var_uint(body, pos, ORIGIN_MAX)
            seq, pos = read_var_uint(body, pos, _SEQ_MAX)
            dot = Dot(Origin(origin), seq)
    except InvalidInput as error:
        raise InvalidToken(f"token: {error}; it was not made by this program") from None
    if pos != len(body) or (dot is not None and dot.seq == 0):
        raise InvalidToken("token: its numbers are wrong though its check is right; it was not made by this program")
    return Token(namespace, doc, version, dot)


def _bytes_of(text: str) -> bytes:
    """What the text spells, without the check, which is right."""
    head, dot, spelled = text[: _TOKEN_CHARACTERS_MAX + 1].partition(".")
    if not dot or head[:2] != "sk" or not head[2:].isdigit():
        raise InvalidToken("token: does not start with sk1. and is no token of this program; " + _WHOLE)
    if head != _FORMAT:
        raise InvalidToken(
            f"token: of format {head[:8]!r}, this program reads {_FORMAT}; update it, or ask a newer node"
        )
    if len(text) > _TOKEN_CHARACTERS_MAX:
        raise InvalidToken(f"token: {len(text)} characters, at most {_TOKEN_CHARACTERS_MAX}; {_WHOLE}")
    try:
        data = urlsafe_b64decode(spelled.encode("ascii") + b"=" * (-len(spelled) % 4))
    except (Base64Error, ValueError):  # ValueError: not ASCII
        raise InvalidToken(f"token: holds characters that no token has, or misses some; {_WHOLE}") from None
    # The decoder skips foreign characters and ignores spare bits: every token has one spelling.
    if urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != spelled:
        raise InvalidToken(f"token: holds characters that no token has, or misses some; {_WHOLE}")
    if len(data) < _HEAD_BYTES + 4:
        raise InvalidToken(f"token: is cut short; {_WHOLE}")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise InvalidToken(f"token: its check does not fit, a character is wrong or missing; {_WHOLE}")
    return data[:-4]
