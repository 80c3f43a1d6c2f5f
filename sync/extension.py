"""Bytes of the skerry extension <-> messages: many documents on one connection, edits with names, how safe each is.

Room: what travels once a websocket has agreed on `sync.wire.SUBPROTOCOL` (docs/protocol.md). A websocket message is a
channel and one message; a channel is one document on one connection, and channel 0 is the connection itself. What means
what to whom is the machines'; here it is only read to its last byte, bounded as `sync.wire` is, and written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from . import wire
from .change import Context
from .errors import InvalidDocumentId, InvalidFrame, InvalidInput
from .ids import ORIGIN_MAX, DocId, Dot, Origin, Version, parse_document_id
from .lib0 import read_var_uint, write_var_uint
from .limits import CONTEXT_TEXT_BYTES_MAX, FRAME_BYTES_MAX, REASON_BYTES_MAX

__all__ = [
    "CHANNEL_MAX",
    "CONNECTION",
    "EXTENSION_VERSION",
    "At",
    "Await",
    "Changed",
    "CloseChannel",
    "Edit",
    "Hello",
    "Message",
    "Open",
    "Reached",
    "Rejected",
    "Safe",
    "Stage",
    "decode",
    "decode_channel",
    "encode",
    "on_channel",
]

CONNECTION: Final = 0
"""The channel that is no document: HELLO comes on it."""
CHANNEL_MAX: Final = 2**31 - 1
EXTENSION_VERSION: Final = 2
"""2: edits may be rejected. A client says in a HELLO of its own that it reads this; an older one is not told."""

_NUMBER_MAX = 2**31 - 1
_SEQ_MAX = 2**53 - 1  # of a dot
_TIME_MS_MAX = 2**53 - 1
_EPOCH_MAX = 2**64 - 1
_STREAM_SEQ_MAX = 2**63 - 1
_TOKEN_BYTES_MAX = 100  # the longest token has 71
_DOT_BYTES_MIN = 2
_CHANGE_BYTES_MIN = _DOT_BYTES_MIN + 5


class Stage(IntEnum):
    """How safe an edit is. Each stage holds what the ones before it hold."""

    DISK = 0
    """On the client's own disk. Never on the wire."""
    EDGE = 1
    """On the disk of the edge that said so."""
    LOG = 2
    """The log has acknowledged it."""
    MERGED = 3
    """The leader has merged it."""


@dataclass(frozen=True, slots=True)
class Open:
    """Client: this channel is this document from now on."""

    doc: DocId


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """Either side: this channel is over; the connection and its other channels stay. Codes: `sync.closing`."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Edit:
    """Client: an update with its name and its context. Sent again with the same dot until it is merged."""

    dot: Dot
    actor: str
    causation: str
    correlation: str
    update: bytes


@dataclass(frozen=True, slots=True)
class Safe:
    """Edge: these edits have come to this stage, at this version where it is known."""

    stage: Stage
    dots: tuple[Dot, ...]
    version: Version | None


@dataclass(frozen=True, slots=True)
class At:
    """Edge: everything of the document up to this version was sent on this channel before this message."""

    version: Version


@dataclass(frozen=True, slots=True)
class Await:
    """Client: say when this document has come as far as the token. `number` comes back in the answer."""

    number: int
    token: str
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Reached:
    """Edge: everything that the token covers was sent before this (`reached`); or time is up, or it is refused."""

    number: int
    reached: bool
    have: str
    """What there is, or why the token is refused: at most REASON_BYTES_MAX bytes."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Edge: the contexts of others' changes whose content was sent before this."""

    changes: tuple[tuple[Dot, Context], ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """Edge, on channel 0, before anything else; from version 2 on, the client answers with its own, without names."""

    extension: int
    """EXTENSION_VERSION of who says it."""
    namespace: str
    edge: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """Edge: the leader has refused these edits, and will again. Nobody else ever sees them."""

    dots: tuple[Dot, ...]
    reason: str
    """At most REASON_BYTES_MAX bytes."""


Message = Open | CloseChannel | Edit | Safe | At | Await | Reached | Changed | Hello | Rejected


class _Kind(IntEnum):
    OPEN = 100
    CLOSE = 101
    EDIT = 102
    SAFE = 103
    AT = 104
    AWAIT = 105
    REACHED = 106
    CHANGED = 107
    HELLO = 108
    REJECTED = 109


# --- reading ----------------------------------------------------------------------------------------------------------
def decode_channel(frame: bytes, bytes_max: int = FRAME_BYTES_MAX) -> tuple[int, bytes]:
    """(channel, the message's bytes) of a websocket message. Raises InvalidFrame."""
    if len(frame) > bytes_max:
        raise InvalidFrame(f"frame: {len(frame)} bytes, at most {bytes_max}; send the change in smaller pieces")
    try:
        channel, at = read_var_uint(frame, 0, CHANNEL_MAX)
    except InvalidInput as error:
        raise InvalidFrame(f"frame: {error}") from None
    return channel, frame[at:]


def decode(inner: bytes, bytes_max: int = FRAME_BYTES_MAX) -> Message | wire.Message:
    """One message of a channel. Raises InvalidFrame, and InvalidDocumentId for an OPEN of a name that cannot be."""
    if not inner or inner[0] < wire.EXTENSION_TYPE_MIN:
        return wire.decode_frame(inner, bytes_max)
    if len(inner) > FRAME_BYTES_MAX:
        raise InvalidFrame(f"frame: {len(inner)} bytes, at most {FRAME_BYTES_MAX}; send the change in smaller pieces")
    if inner[0] not in _KINDS:
        raise InvalidFrame(f"frame: unknown message type {inner[0]}; this end speaks 0 to 3 and 100 to 109")
    reader = _Reader(inner)
    try:
        message = _decode(_Kind(inner[0]), reader)
    except (InvalidFrame, InvalidDocumentId):
        raise
    except InvalidInput as error:  # from lib0
        raise InvalidFrame(f"frame: {error}") from None
    reader.end()
    return message


_KINDS = frozenset(_Kind)


def _decode(kind: _Kind, read: _Reader) -> Message:
    match kind:
        case _Kind.OPEN:
            return Open(parse_document_id(read.text(FRAME_BYTES_MAX)))  # which names its own limit
        case _Kind.CLOSE:
            return CloseChannel(read.number(), read.text(REASON_BYTES_MAX))
        case _Kind.EDIT:
            return Edit(read.dot(), read.text(), read.text(), read.text(), read.data())
        case _Kind.SAFE:
            return Safe(read.stage(), read.dots(), read.version_or_none())
        case _Kind.AT:
            return At(read.version())
        case _Kind.AWAIT:
            return Await(read.number(), read.text(_TOKEN_BYTES_MAX), read.number())
        case _Kind.REACHED:
            return Reached(read.number(), bool(read.uint(1)), read.text(REASON_BYTES_MAX))
        case _Kind.CHANGED:
            return Changed(read.changes())
        case _Kind.HELLO:
            return Hello(read.number(), read.text(), read.text())
        case _Kind.REJECTED:
            return Rejected(read.dots(), read.text(REASON_BYTES_MAX))


class _Reader:
    """A place in a message's bytes, moved by reading. Every method raises InvalidInput where the bytes do not fit."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, inner: bytes) -> None:
        self._bytes = inner
        self._at = 1  # behind the type

    def uint(self, limit: int) -> int:
        value, self._at = read_var_uint(self._bytes, self._at, limit)
        return value

    def number(self) -> int:
        return self.uint(_NUMBER_MAX)

    def data(self) -> bytes:
        length = self.uint(FRAME_BYTES_MAX)
        there = len(self._bytes) - self._at
        if length > there:
            raise InvalidFrame(f"frame: {length} bytes claimed, {there} there; send the whole message")
        start = self._at
        self._at += length
        return self._bytes[start : self._at]

    def text(self, bytes_max: int = CONTEXT_TEXT_BYTES_MAX) -> str:
        spelled = self.data()
        if len(spelled) > bytes_max:
            raise InvalidFrame(f"frame: a text of {len(spelled)} bytes, at most {bytes_max}; send a shorter one")
        try:
            return spelled.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidFrame("frame: a text that is not UTF-8; send it as UTF-8") from None

    def dot(self) -> Dot:
        origin, seq = self.uint(ORIGIN_MAX), self.uint(_SEQ_MAX)
        if seq == 0:
            raise InvalidFrame("frame: a dot with number 0; edits are counted from 1")
        return Dot(Origin(origin), seq)

    def dots(self) -> tuple[Dot, ...]:
        return tuple([self.dot() for _ in range(self._count(_DOT_BYTES_MIN))])

    def version(self) -> Version:
        return Version(self.uint(_EPOCH_MAX), self.uint(_STREAM_SEQ_MAX))

    def version_or_none(self) -> Version | None:
        version = self.version()
        return None if version == _UNKNOWN else version

    def stage(self) -> Stage:
        stage = self.uint(_NUMBER_MAX)
        if not Stage.EDGE <= stage <= Stage.MERGED:
            raise InvalidFrame(f"frame: unknown stage {stage}; this end speaks 1 to 3")
        return Stage(stage)

    def changes(self) -> tuple[tuple[Dot, Context], ...]:
        return tuple([(self.dot(), self._context()) for _ in range(self._count(_CHANGE_BYTES_MIN))])

    def _context(self) -> Context:
        return Context(self.text(), self.text(), self.text(), self.text(), self.uint(_TIME_MS_MAX))

    def _count(self, bytes_each: int) -> int:
        """A count that the bytes behind it can hold: nothing is made by a claim alone."""
        count = self.uint(_NUMBER_MAX)
        there = len(self._bytes) - self._at
        if count * bytes_each > there:
            raise InvalidFrame(f"frame: {count} entries claimed in {there} bytes; send the whole message")
        return count

    def end(self) -> None:
        left = len(self._bytes) - self._at
        if left:
            raise InvalidFrame(f"frame: {left} bytes behind the message; send one message a frame")


# --- writing ----------------------------------------------------------------------------------------------------------
_UNKNOWN = Version(0, 0)


def on_channel(channel: int, inner: bytes) -> bytes:
    """Inverse of `decode_channel`."""
    assert channel <= CHANNEL_MAX
    return write_var_uint(channel) + inner


def encode(message: Message | wire.Message) -> bytes:
    """Inverse of `decode`; a reason that is longer than REASON_BYTES_MAX is cut."""
    match message:
        case Open(doc):
            return bytes((_Kind.OPEN,)) + _text(doc)
        case CloseChannel(code, reason):
            return bytes((_Kind.CLOSE,)) + write_var_uint(code) + _text(_cut(reason))
        case Edit(dot, actor, causation, correlation, update):
            return (
                bytes((_Kind.EDIT,)) + _dot(dot) + _text(actor) + _text(causation) + _text(correlation) + _data(update)
            )
        case Safe(stage, dots, version):
            return bytes((_Kind.SAFE, stage)) + _dots(dots) + _version(version)
        case At(version):
            return bytes((_Kind.AT,)) + _version(version)
        case Await(number, token, wait_ms):
            return bytes((_Kind.AWAIT,)) + write_var_uint(number) + _text(token) + write_var_uint(wait_ms)
        case Reached(number, reached, have):
            return bytes((_Kind.REACHED,)) + write_var_uint(number) + bytes((reached,)) + _text(_cut(have))
        case Changed(changes):
            return (
                bytes((_Kind.CHANGED,)) + write_var_uint(len(changes)) + b"".join([_change(*each) for each in changes])
            )
        case Hello(extension, namespace, edge):
            return bytes((_Kind.HELLO,)) + write_var_uint(extension) + _text(namespace) + _text(edge)
        case Rejected(dots, reason):
            return bytes((_Kind.REJECTED,)) + _dots(dots) + _text(_cut(reason))
        case _:
            return wire.encode(message)


def _data(data: bytes) -> bytes:
    return write_var_uint(len(data)) + data


def _text(text: str) -> bytes:
    return _data(text.encode("utf-8"))


def _cut(reason: str) -> str:
    """Whole characters within REASON_BYTES_MAX."""
    return reason.encode("utf-8")[:REASON_BYTES_MAX].decode("utf-8", "ignore")


def _dot(dot: Dot) -> bytes:
    return write_var_uint(dot.origin) + write_var_uint(dot.seq)


def _dots(dots: Sequence[Dot]) -> bytes:
    return write_var_uint(len(dots)) + b"".join([_dot(dot) for dot in dots])


def _version(version: Version | None) -> bytes:
    known = version or _UNKNOWN
    return write_var_uint(known.epoch) + write_var_uint(known.seq)


def _change(dot: Dot, context: Context) -> bytes:
    texts = (context.edge, context.actor, context.causation, context.correlation)
    return _dot(dot) + b"".join([_text(text) for text in texts]) + write_var_uint(context.time_ms)
