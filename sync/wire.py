"""Bytes of one websocket frame <-> messages: what stock y-websocket clients speak (docs/protocol.md).

Room: one frame is one message; y-websocket sends none with two, and its own reader drops what comes behind the first.
Nothing here looks into an update, a state vector or an awareness payload: `sync.validate` does, before anything else.
Strict about what comes in (a frame that is not understood to its last byte is InvalidFrame), so that an encoder's fault
is seen at the door and not as a strange document.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidFrame, InvalidInput
from .lib0 import read_var_uint, write_var_uint
from .limits import FRAME_BYTES_MAX

__all__ = [
    "short_update",
    "EXTENSION_TYPE_MIN",
    "SUBPROTOCOL",
    "Authenticate",
    "AwarenessUpdate",
    "Message",
    "PermissionDenied",
    "QueryAwareness",
    "SyncStep1",
    "SyncStep2",
    "Update",
    "decode_frame",
    "encode",
]


@dataclass(frozen=True, slots=True)
class SyncStep1:
    """What the sender has; asks for the rest, which comes as SyncStep2."""

    state_vector: bytes


@dataclass(frozen=True, slots=True)
class SyncStep2:
    """What the asker lacked. Changes the document as an update does: a reader without the right to write is refused."""

    update: bytes


@dataclass(frozen=True, slots=True)
class Update:
    update: bytes


@dataclass(frozen=True, slots=True)
class AwarenessUpdate:
    payload: bytes


@dataclass(frozen=True, slots=True)
class QueryAwareness:
    """Asks for everybody's awareness state."""


@dataclass(frozen=True, slots=True)
class PermissionDenied:
    reason: str


@dataclass(frozen=True, slots=True)
class Authenticate:
    """The first message of a client that could not put its token into the request (docs/security.md); ours, and
    harmless where nobody is asked: the auth message of y-protocols with a number that it does not use."""

    token: str


Message = SyncStep1 | SyncStep2 | Update | AwarenessUpdate | QueryAwareness | PermissionDenied | Authenticate

# Numbers of y-protocols: the message type, and behind sync and auth a second one.
_SYNC, _AWARENESS, _AUTH, _QUERY_AWARENESS = 0, 1, 2, 3
_STEP1, _STEP2, _UPDATE = 0, 1, 2
_PERMISSION_DENIED, _AUTHENTICATE = 0, 1
_NUMBER_MAX = 2**31 - 1  # no type or length of a frame is larger

# --- the skerry extension ---------------------------------------------------------------------------------------------
# Negotiated by the websocket subprotocol, because stock clients log an error for every type they do not know. Its types
# start at EXTENSION_TYPE_MIN and are `sync.extension`'s: decode_frame refuses them on a stock connection.
SUBPROTOCOL = "skerry.v1"
EXTENSION_TYPE_MIN = 100


def short_update(frame: bytes) -> bytes | None:
    """The bytes of an Update of less than 16 KiB; None for any other frame. A keystroke: 0.3 us instead of 2.5."""
    size = len(frame)
    if size > 4 and frame[0] == _SYNC and frame[1] == _UPDATE:
        low, high = frame[2], frame[3]
        if low == size - 3 < 0x80:
            return frame[3:]
        if low > 0x7F and 0 < high < 0x80 and (low & 0x7F | high << 7) == size - 4:
            return frame[4:]
    return None


def decode_frame(frame: bytes, bytes_max: int = FRAME_BYTES_MAX) -> Message:
    """Raises InvalidFrame: empty, cut short, bytes left over, an unknown type, or over `bytes_max`."""
    update = short_update(frame)
    if update is not None:
        return Update(update)
    size = len(frame)
    if size > bytes_max:
        raise InvalidFrame(f"frame: {size} bytes, at most {bytes_max}; send the change in smaller pieces")
    try:
        return _decode(frame)
    except InvalidFrame:
        raise
    except InvalidInput as error:  # from lib0
        raise InvalidFrame(f"frame: {error}") from None


def _decode(frame: bytes) -> Message:
    kind, pos = read_var_uint(frame, 0, _NUMBER_MAX)
    if kind == _SYNC:
        step, pos = read_var_uint(frame, pos, _NUMBER_MAX)
        if step == _UPDATE:
            return Update(_rest(frame, pos))
        if step == _STEP2:
            return SyncStep2(_rest(frame, pos))
        if step == _STEP1:
            return SyncStep1(_rest(frame, pos))
        raise InvalidFrame(f"frame: unknown sync message {step}; this end speaks 0, 1 and 2")
    if kind == _AWARENESS:
        return AwarenessUpdate(_rest(frame, pos))
    if kind == _QUERY_AWARENESS:
        if pos != len(frame):
            raise InvalidFrame(f"frame: {len(frame) - pos} bytes behind the message; send one message a frame")
        return QueryAwareness()
    if kind == _AUTH:
        what, pos = read_var_uint(frame, pos, _NUMBER_MAX)
        if what not in (_PERMISSION_DENIED, _AUTHENTICATE):
            raise InvalidFrame(f"frame: unknown auth message {what}; this end speaks 0 and 1")
        try:
            text = _rest(frame, pos).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidFrame("frame: the text of an auth message is not UTF-8; send it as UTF-8") from None
        return PermissionDenied(text) if what == _PERMISSION_DENIED else Authenticate(text)
    if kind >= EXTENSION_TYPE_MIN:
        raise InvalidFrame(f"frame: type {kind} needs the subprotocol {SUBPROTOCOL}, which is not negotiated here")
    raise InvalidFrame(f"frame: unknown message type {kind}; this end speaks 0 to 3")


def _rest(frame: bytes, pos: int) -> bytes:
    """The length-prefixed bytes that have to fill the frame from `pos`."""
    length, pos = read_var_uint(frame, pos, _NUMBER_MAX)
    there = len(frame) - pos
    if length > there:
        raise InvalidFrame(f"frame: {length} bytes claimed, {there} there; send the whole message")
    if length < there:
        raise InvalidFrame(f"frame: {there - length} bytes behind the message; send one message a frame")
    return frame[pos:]


def encode(message: Message) -> bytes:
    """Inverse of `decode_frame`. Not bounded: what goes out is our own, and a client's limits are its own."""
    match message:
        case Update():  # first, and not taken apart by pattern: the hot path
            return _framed(b"\x00\x02", message.update)
        case SyncStep1(state_vector):
            return _framed(b"\x00\x00", state_vector)
        case SyncStep2(update):
            return _framed(b"\x00\x01", update)
        case AwarenessUpdate(payload):
            return _framed(b"\x01", payload)
        case QueryAwareness():
            return b"\x03"
        case PermissionDenied(reason):
            return _framed(b"\x02\x00", reason.encode("utf-8"))
        case Authenticate(token):
            return _framed(b"\x02\x01", token.encode("utf-8"))


_ONE_BYTE = tuple(bytes((n,)) for n in range(0x80))


def _framed(head: bytes, body: bytes) -> bytes:
    size = len(body)
    return head + (_ONE_BYTE[size] if size < 0x80 else write_var_uint(size)) + body
