"""What a client says to each server, and how it reads the answer: y-websocket's frames, and Hocuspocus's around them.

Room: bytes of websocket messages. Every server gets the same Yjs updates; only their wrapping differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from sync.errors import InvalidInput
from sync.lib0 import read_var_uint, write_var_uint

__all__ = ["HOCUSPOCUS", "YJS", "Dialect", "Heard", "Kind"]

_SYNC, _AWARENESS, _AUTH, _SYNC_REPLY = 0, 1, 2, 4
_STEP_1, _STEP_2, _UPDATE = 0, 1, 2
_NOTHING: Final = b"\x00"  # a state vector of nobody
_LIMIT: Final = 2**53


class Kind(Enum):
    STATE = "state"
    """Step 2: what the server had when the client came."""
    UPDATE = "update"
    ASKED = "asked"
    """Step 1: the server wants what it lacks."""
    PRESENCE = "presence"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Heard:
    kind: Kind
    body: bytes = b""


class Dialect(Protocol):
    def path(self, doc: str) -> str: ...

    def hello(self, doc: str, vector: bytes = _NOTHING) -> list[bytes]:
        """What a client says first: let me in, and send me what I lack."""
        ...

    def update(self, doc: str, update: bytes) -> bytes: ...

    def state(self, doc: str, update: bytes) -> bytes:
        """Step 2: all that the server lacks."""
        ...

    def presence(self, doc: str, states: bytes) -> bytes: ...

    def read(self, message: bytes) -> Heard: ...


class _Yjs:
    """y-websocket: the path of the URL names the document."""

    def path(self, doc: str) -> str:
        return f"/{doc}"

    def hello(self, doc: str, vector: bytes = _NOTHING) -> list[bytes]:
        return [_message(_SYNC, _STEP_1, vector)]

    def update(self, doc: str, update: bytes) -> bytes:
        return _message(_SYNC, _UPDATE, update)

    def state(self, doc: str, update: bytes) -> bytes:
        return _message(_SYNC, _STEP_2, update)

    def presence(self, doc: str, states: bytes) -> bytes:
        return bytes([_AWARENESS]) + _counted(states)

    def read(self, message: bytes) -> Heard:
        return _read(message, 0)


class _Hocuspocus:
    """The same behind the document's name, after a token (an empty one: the server asks nobody)."""

    def path(self, doc: str) -> str:
        return "/"

    def hello(self, doc: str, vector: bytes = _NOTHING) -> list[bytes]:
        token = self._address(doc) + bytes([_AUTH, 0]) + _counted(b"")
        return [token, self._address(doc) + _message(_SYNC, _STEP_1, vector)]

    def update(self, doc: str, update: bytes) -> bytes:
        return self._address(doc) + _message(_SYNC, _UPDATE, update)

    def state(self, doc: str, update: bytes) -> bytes:
        return self._address(doc) + _message(_SYNC, _STEP_2, update)

    def presence(self, doc: str, states: bytes) -> bytes:
        return self._address(doc) + bytes([_AWARENESS]) + _counted(states)

    def read(self, message: bytes) -> Heard:
        length, at = read_var_uint(message, 0, _LIMIT)
        return _read(message, at + length)

    @staticmethod
    def _address(doc: str) -> bytes:
        return _counted(doc.encode("utf-8"))


def _counted(body: bytes) -> bytes:
    return write_var_uint(len(body)) + body


def _message(kind: int, step: int, body: bytes) -> bytes:
    return bytes([kind, step]) + _counted(body)


def _read(message: bytes, at: int) -> Heard:
    kind = message[at]
    if kind in (_SYNC, _SYNC_REPLY):
        step = message[at + 1]
        at += 2
        known = {_STEP_1: Kind.ASKED, _STEP_2: Kind.STATE, _UPDATE: Kind.UPDATE}[step]
    elif kind == _AWARENESS:
        at += 1
        known = Kind.PRESENCE
    else:
        return Heard(Kind.OTHER)
    length, at = read_var_uint(message, at, _LIMIT)
    if at + length > len(message):
        raise InvalidInput("a message of a server ends early; it and this bench do not speak the same protocol")
    return Heard(known, message[at : at + length])


YJS: Final[Dialect] = _Yjs()
HOCUSPOCUS: Final[Dialect] = _Hocuspocus()
