"""Change, Merged, Snapshot and the messages between edge and leader <-> NATS headers and payload (docs/protocol.md).

Room: values in, (headers, payload) out, and back; how one value is spelt is `sync.text`'s. Subjects, sizes of messages
and the object store are the bus's; nobody here looks into an update.

The headers are for people too: `nats stream view` shows who did what, when and why, without this program. So a value is
printable ASCII, everything else percent-encoded, and what is empty is left out.

The payload is one body (an update, a state, a state vector) as it is. What has to travel with it and is too long for a
header, or is binary, follows it, and a header says how many bytes of the payload it is: `Skerry-Dots-Bytes: 3120`.
Parts follow in the order in which this module names them. (JetStream refuses headers of more than 64 kB in all.)

Reading is strict: what is missing, malformed or newer is InvalidMessage naming the header, never a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, TypeVar

from .change import Beacon, Change, Context, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk
from .errors import InvalidInput, InvalidMessage, LimitReached
from .ids import DocId, Dot, DotSet, Version, from_subject_token, subject_token
from .limits import (
    BEACON_DOCS_MAX,
    CLIENT_ID_MAX,
    CLOCK_MAX,
    CONTEXT_TEXT_BYTES_MAX,
    DOCUMENT_ID_BYTES_MAX,
    DOT_RANGES_MAX,
    DOTS_HEADER_BYTES_MAX,
    STATE_VECTOR_CLIENTS_MAX,
)
from .text import (
    context_text,
    context_text_of,
    parse_dot,
    parse_dots,
    parse_time,
    parse_version,
    shown,
    time_text,
)

__all__ = [
    "FORMAT",
    "decode_beacon",
    "decode_change",
    "decode_merged",
    "decode_repair",
    "decode_snapshot",
    "decode_sync_answer",
    "decode_sync_ask",
    "encode_beacon",
    "encode_change",
    "encode_merged",
    "encode_repair",
    "encode_snapshot",
    "encode_sync_answer",
    "encode_sync_ask",
    "message_id",
    "parse_dot",
    "parse_version",
]

FORMAT: Final = 1
"""Of every message here. A change that an older reader would misread raises it, and adds golden vectors."""

_FORMAT_TEXT = str(FORMAT)

Headers = dict[str, str]

_NEED = re.compile(r"(0|[1-9][0-9]{0,15}):(0|[1-9][0-9]{0,9})", re.ASCII)
_COUNT = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)


# --- headers of one message -------------------------------------------------------------------------------------------
# Few documents, origins, edges and actors are in many changes; causation and correlation are in few, and are not kept.
_hex = lru_cache(maxsize=256)("{:x}".format)
_frequent_text = lru_cache(maxsize=1024)(context_text)
_frequent_text_of = lru_cache(maxsize=1024)(context_text_of)


def message_id(doc: DocId, dot: Dot, epoch: int) -> str:
    """`Nats-Msg-Id`: the log's epoch is within, because an emptied or new log still knows the ids of the old one."""
    return f"{_hex(epoch)}:{subject_token(doc)}:{_hex(dot.origin)}.{dot.seq}"


def _check_format(headers: Headers) -> None:
    text = headers.get("Skerry-Format")
    if text == _FORMAT_TEXT:
        return
    number = _number(headers, "Skerry-Format")
    if number > FORMAT:
        raise InvalidMessage(f"Skerry-Format: {number} is newer than {FORMAT}, which this program reads; update it")
    raise InvalidMessage(f"Skerry-Format: {number} was never written; the sender is at fault")


def _required(headers: Headers, name: str) -> str:
    value = headers.get(name)
    if value is None:
        raise InvalidMessage(f"{name}: missing; the sender is no program of this protocol")
    return value


def _number(headers: Headers, name: str) -> int:
    text = _required(headers, name)
    if not _COUNT.fullmatch(text):
        raise InvalidMessage(f"{name}: {shown(text)} is no number; the sender is at fault")
    return int(text)


def _version(headers: Headers, name: str) -> Version:
    return _named(name, parse_version, _required(headers, name))


_T = TypeVar("_T")


def _named(name: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except InvalidInput as error:
        raise InvalidMessage(f"{name}: {error}") from None


def _document(name: str, token: str) -> DocId:
    if len(token) > 3 * DOCUMENT_ID_BYTES_MAX:
        raise InvalidMessage(f"{name}: {len(token)} characters, no document id is so long; the sender is at fault")
    return _named(name, from_subject_token, token)


_DIGEST = re.compile(r"[0-9a-f]{2,128}", re.ASCII)


def _digest(name: str, text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise InvalidMessage(f"{name}: {shown(text)} is no digest; the sender is at fault")
    return text


# --- parts that follow the body of a payload --------------------------------------------------------------------------
@lru_cache(maxsize=32)
def _size_name(name: str) -> str:
    return f"{name}-Bytes"


def _put_part(headers: Headers, tail: list[bytes], name: str, part: bytes) -> None:
    if part:
        headers[_size_name(name)] = str(len(part))
        tail.append(part)


def _put_text(headers: Headers, tail: list[bytes], name: str, text: str) -> None:
    """ASCII: a header where it is short, else a part of the payload."""
    if len(text) > DOTS_HEADER_BYTES_MAX:
        _put_part(headers, tail, name, text.encode("ascii"))
    elif text:
        headers[name] = text


def _put_dots(headers: Headers, tail: list[bytes], name: str, dots: DotSet) -> None:
    count = len(dots)
    if count == 0:
        return
    if count > DOT_RANGES_MAX:
        raise LimitReached("DOT_RANGES_MAX", count, DOT_RANGES_MAX, "forget the smallest ranges")
    _put_text(headers, tail, name, dots.to_text())


def _split(headers: Headers, payload: bytes, *names: str) -> list[bytes]:
    """The body, then the named parts, empty where a part is absent."""
    named = [_size_name(name) for name in names]
    sizes = [_number(headers, name) if name in headers else 0 for name in named]
    start = len(payload) - sum(sizes)
    if start < 0:
        raise InvalidMessage(
            f"{names[0]}-Bytes: the parts are {-start} bytes longer than the payload; the message was cut"
        )
    parts = [payload if not any(sizes) else payload[:start]]
    for size in sizes:
        parts.append(payload[start : start + size])
        start += size
    return parts


def _text_part(headers: Headers, name: str, part: bytes) -> str:
    """What `_put_text` put: from the header, or from the part of the payload."""
    text = headers.get(name, "")
    if not part:
        return text
    if text:
        raise InvalidMessage(f"{name}: in the headers and in the payload; the sender is at fault")
    try:
        return part.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidMessage(f"{name}: not ASCII; the sender is at fault") from None


def _dots(headers: Headers, name: str, part: bytes) -> DotSet:
    text = _text_part(headers, name, part)
    if not text:
        return DotSet()
    return _named(name, parse_dots, text)


# --- change -----------------------------------------------------------------------------------------------------------
def encode_change(change: Change, epoch: int) -> tuple[Headers, bytes]:
    """`epoch` is that of the log it is appended to. Raises LimitReached for a context that is too long."""
    dot = f"{_hex(change.dot.origin)}.{change.dot.seq}"
    headers = {
        "Nats-Msg-Id": f"{_hex(epoch)}:{subject_token(change.doc)}:{dot}",  # message_id, without naming the dot twice
        "Skerry-Format": _FORMAT_TEXT,
        "Skerry-Dot": dot,
    }
    context = change.context
    if context.edge:
        headers["Skerry-Edge"] = _frequent_text("Skerry-Edge", context.edge)
    if context.actor:
        headers["Skerry-Actor"] = _frequent_text("Skerry-Actor", context.actor)
    if context.causation:
        headers["Skerry-Causation"] = context_text("Skerry-Causation", context.causation)
    if context.correlation:
        headers["Skerry-Correlation"] = context_text("Skerry-Correlation", context.correlation)
    if context.time_ms:
        headers["Skerry-Time"] = time_text(context.time_ms)
    if not len(change.covers):
        return headers, change.update
    tail: list[bytes] = []
    _put_dots(headers, tail, "Skerry-Covers", change.covers)
    return headers, b"".join((change.update, *tail)) if tail else change.update


def decode_change(doc: DocId, headers: Headers, payload: bytes) -> Change:
    """`doc` is the one of the subject. Raises InvalidMessage."""
    _check_format(headers)
    dot = _named("Skerry-Dot", parse_dot, _required(headers, "Skerry-Dot"))
    get = headers.get
    edge, actor, causation = get("Skerry-Edge"), get("Skerry-Actor"), get("Skerry-Causation")
    correlation, time = get("Skerry-Correlation"), get("Skerry-Time")
    context = Context(
        edge=_frequent_text_of("Skerry-Edge", edge) if edge else "",
        actor=_frequent_text_of("Skerry-Actor", actor) if actor else "",
        causation=context_text_of("Skerry-Causation", causation) if causation else "",
        correlation=context_text_of("Skerry-Correlation", correlation) if correlation else "",
        time_ms=_named("Skerry-Time", parse_time, time) if time else 0,
    )
    if "Skerry-Covers" not in headers and "Skerry-Covers-Bytes" not in headers:
        return Change(doc, dot, payload, context)
    update, covers = _split(headers, payload, "Skerry-Covers")
    return Change(doc, dot, update, context, _dots(headers, "Skerry-Covers", covers))


# --- merged -----------------------------------------------------------------------------------------------------------
def encode_merged(merged: Merged) -> tuple[Headers, bytes]:
    headers = {
        "Skerry-Format": _FORMAT_TEXT,
        "Skerry-Prev": str(merged.prev),
        "Skerry-Version": str(merged.version),
    }
    if merged.fetch:
        headers["Skerry-Fetch"] = "1"
    tail: list[bytes] = []
    _put_dots(headers, tail, "Skerry-Dots", merged.dots)
    _put_dots(headers, tail, "Skerry-Rejected", merged.rejected)
    _put_reason(headers, merged.reason)
    if merged.contexts:
        _put_part(headers, tail, "Skerry-Contexts", _contexts_part(merged.contexts))
    return headers, b"".join((merged.update, *tail)) if tail else merged.update


def decode_merged(doc: DocId, headers: Headers, payload: bytes) -> Merged:
    _check_format(headers)
    prev, version = _version(headers, "Skerry-Prev"), _version(headers, "Skerry-Version")
    if prev.epoch == version.epoch and prev.seq > version.seq:
        raise InvalidMessage(f"Skerry-Prev: {prev} is after Skerry-Version {version}; the sender is at fault")
    fetch = headers.get("Skerry-Fetch")
    if fetch not in (None, "1"):
        raise InvalidMessage(f"Skerry-Fetch: {shown(fetch or '')} is not 1; the sender is at fault")
    update, dots, rejected, said = _split(headers, payload, "Skerry-Dots", "Skerry-Rejected", "Skerry-Contexts")
    return Merged(
        doc=doc,
        prev=prev,
        version=version,
        update=update,
        dots=_dots(headers, "Skerry-Dots", dots),
        rejected=_dots(headers, "Skerry-Rejected", rejected),
        contexts=_contexts(said) if said else (),
        fetch=fetch is not None,
        reason=_reason(headers),
    )


def _put_reason(headers: Headers, reason: str) -> None:
    if reason:
        cut = reason.encode("utf-8", "replace")[:CONTEXT_TEXT_BYTES_MAX].decode("utf-8", "ignore")
        headers["Skerry-Reason"] = context_text("Skerry-Reason", cut)


def _reason(headers: Headers) -> str:
    return context_text_of("Skerry-Reason", headers["Skerry-Reason"]) if "Skerry-Reason" in headers else ""


def _contexts_part(contexts: Sequence[tuple[Dot, Context]]) -> bytes:
    rows = [[str(dot), c.edge, c.actor, c.causation, c.correlation, c.time_ms] for dot, c in contexts]
    return json.dumps(rows, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def _contexts(part: bytes) -> tuple[tuple[Dot, Context], ...]:
    try:
        rows = json.loads(part)
        found = []
        for dot, edge, actor, causation, correlation, time_ms in rows:
            texts = (edge, actor, causation, correlation)
            if not all(isinstance(text, str) and len(text.encode()) <= CONTEXT_TEXT_BYTES_MAX for text in texts):
                raise ValueError("no context")
            if type(time_ms) is not int:
                raise ValueError("no time")
            found.append((parse_dot(dot), Context(edge, actor, causation, correlation, time_ms)))
        return tuple(found)
    except (ValueError, TypeError, RecursionError, InvalidMessage):
        raise InvalidMessage("Skerry-Contexts: not a list of contexts; the sender is at fault") from None


# --- snapshot ---------------------------------------------------------------------------------------------------------
def encode_snapshot(snapshot: Snapshot) -> tuple[Headers, bytes]:
    headers = {
        "Skerry-Format": _FORMAT_TEXT,
        "Skerry-Version": str(snapshot.version),
        "Skerry-Digest": _digest("Skerry-Digest", snapshot.digest),
    }
    tail: list[bytes] = []
    _put_dots(headers, tail, "Skerry-Dots", snapshot.dots)
    return headers, b"".join((snapshot.state, *tail)) if tail else snapshot.state


def decode_snapshot(doc: DocId, headers: Headers, payload: bytes) -> Snapshot:
    _check_format(headers)
    version = _version(headers, "Skerry-Version")
    digest = _digest("Skerry-Digest", _required(headers, "Skerry-Digest"))
    state, dots = _split(headers, payload, "Skerry-Dots")
    return Snapshot(doc, version, state, _dots(headers, "Skerry-Dots", dots), digest)


# --- sync -------------------------------------------------------------------------------------------------------------
def encode_sync_ask(ask: SyncAsk) -> tuple[Headers, bytes]:
    headers = {"Skerry-Format": _FORMAT_TEXT, "Skerry-Doc": subject_token(ask.doc), "Skerry-Ask": str(ask.ask)}
    if ask.version is not None:
        headers["Skerry-Version"] = str(ask.version)
    return headers, ask.state_vector


def decode_sync_ask(headers: Headers, payload: bytes) -> SyncAsk:
    _check_format(headers)
    return SyncAsk(
        doc=_document("Skerry-Doc", _required(headers, "Skerry-Doc")),
        ask=_number(headers, "Skerry-Ask"),
        state_vector=payload,
        version=_version(headers, "Skerry-Version") if "Skerry-Version" in headers else None,
    )


def encode_sync_answer(answer: SyncAnswer) -> tuple[Headers, bytes]:
    headers = {
        "Skerry-Format": _FORMAT_TEXT,
        "Skerry-Doc": subject_token(answer.doc),
        "Skerry-Ask": str(answer.ask),
        "Skerry-Version": str(answer.version),
    }
    if answer.digest:  # none from a leader that has set something aside
        headers["Skerry-Digest"] = _digest("Skerry-Digest", answer.digest)
    tail: list[bytes] = []
    _put_part(headers, tail, "Skerry-State-Vector", answer.state_vector)
    _put_dots(headers, tail, "Skerry-Dots", answer.dots)
    _put_dots(headers, tail, "Skerry-Rejected", answer.rejected)
    _put_reason(headers, answer.reason)
    return headers, b"".join((answer.update, *tail)) if tail else answer.update


def decode_sync_answer(headers: Headers, payload: bytes) -> SyncAnswer:
    _check_format(headers)
    update, state_vector, dots, rejected = _split(
        headers, payload, "Skerry-State-Vector", "Skerry-Dots", "Skerry-Rejected"
    )
    return SyncAnswer(
        doc=_document("Skerry-Doc", _required(headers, "Skerry-Doc")),
        ask=_number(headers, "Skerry-Ask"),
        update=update,
        state_vector=state_vector,
        version=_version(headers, "Skerry-Version"),
        dots=_dots(headers, "Skerry-Dots", dots),
        digest=_digest("Skerry-Digest", headers["Skerry-Digest"]) if "Skerry-Digest" in headers else "",
        rejected=_dots(headers, "Skerry-Rejected", rejected),
        reason=_reason(headers),
    )


# --- repair -----------------------------------------------------------------------------------------------------------
def encode_repair(ask: RepairAsk) -> tuple[Headers, bytes]:
    headers = {"Skerry-Format": _FORMAT_TEXT}
    tail: list[bytes] = []
    _put_text(headers, tail, "Skerry-Missing", ",".join(f"{client}:{clock}" for client, clock in ask.missing))
    return headers, b"".join((ask.state_vector, *tail)) if tail else ask.state_vector


def decode_repair(doc: DocId, headers: Headers, payload: bytes) -> RepairAsk:
    _check_format(headers)
    state_vector, part = _split(headers, payload, "Skerry-Missing")
    text = _text_part(headers, "Skerry-Missing", part)
    if text.count(",") >= STATE_VECTOR_CLIENTS_MAX:
        raise InvalidMessage(f"Skerry-Missing: more than {STATE_VECTOR_CLIENTS_MAX} clients; the sender is at fault")
    missing = []
    for pair in text.split(",") if text else ():
        match = _NEED.fullmatch(pair)
        if not match or int(match[1]) > CLIENT_ID_MAX or int(match[2]) > CLOCK_MAX:
            raise InvalidMessage(f"Skerry-Missing: {shown(pair)} is not <client>:<clock>; the sender is at fault")
        missing.append((int(match[1]), int(match[2])))
    return RepairAsk(doc, state_vector, tuple(missing))


# --- beacon -----------------------------------------------------------------------------------------------------------
def encode_beacon(beacon: Beacon) -> tuple[Headers, bytes]:
    """One line a document: its subject token, version, digest (`-` for none)."""
    count = len(beacon.docs)
    if count > BEACON_DOCS_MAX:
        raise LimitReached("BEACON_DOCS_MAX", count, BEACON_DOCS_MAX, "send another beacon for the rest")
    lines = [f"{subject_token(doc)} {version} {digest or '-'}\n" for doc, version, digest in beacon.docs]
    return {"Skerry-Format": _FORMAT_TEXT}, "".join(lines).encode("ascii")


def decode_beacon(headers: Headers, payload: bytes) -> Beacon:
    _check_format(headers)
    try:
        text = payload.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidMessage("beacon: not ASCII; the sender is at fault") from None
    if text.count("\n") > BEACON_DOCS_MAX:  # before the lines are made: a million of them take 17 MiB
        count = text.count("\n")
        raise InvalidMessage(f"beacon: {count} documents, at most {BEACON_DOCS_MAX}; the sender is at fault")
    lines = text.split("\n")
    if lines.pop() != "":
        raise InvalidMessage("beacon: the last line does not end; the message was cut")
    docs = []
    for number, line in enumerate(lines, 1):
        where = f"beacon line {number}"
        fields = line.split(" ")
        if len(fields) != 3:
            raise InvalidMessage(f"{where}: not <document> <version> <digest>; the sender is at fault")
        docs.append(
            (
                _document(where, fields[0]),
                _named(where, parse_version, fields[1]),
                "" if fields[2] == "-" else _digest(where, fields[2]),
            )
        )
    return Beacon(tuple(docs))
