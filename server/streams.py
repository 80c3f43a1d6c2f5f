"""The streams and buckets of one namespace: their names and subjects, their configuration, and whether they have it.

Room: JetStream's administration, as JSON over the connection it is given. What flows through a stream is unknown here.

A stream that is missing is made; one that exists with another configuration is left as it is: its owner decides. It is
StreamDiffers where going on would break a promise (`server.shape`), else named in the log's state. The log's epoch and
the number of shards live in the log's own metadata: every node reads the same.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from sync.errors import BusError, BusRefused, BusUnreachable, ConfigError, StreamDiffers
from sync.ids import DocId, subject_token

from .nats_link import parse_header_lines
from .shape import SHARDS_KEY, Difference, Kind, differences

__all__ = ["ApiError", "Layout", "LogState", "Requester", "api", "ensure_streams", "raise_epoch", "read_log_state"]

Json = dict[str, object]

NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)  # a subject token, part of stream and bucket names
SHARDS_DEFAULT = 4
EPOCH_KEY = "skerry-epoch"
LEASE_TTL_S = 10
API_S_MAX = 5.0  # one question to JetStream
EVENTS_BYTES_MAX = 256 * 1024 * 1024  # a server reserves it when the stream is made: small enough for a small disk
EVENTS_AGE_S = 7 * 24 * 3600
SECOND_NS = 1_000_000_000

STREAM_NOT_FOUND = 10059
STREAM_EXISTS = 10058


class Requester(Protocol):
    """Sends a request and waits for one answer. Raises BusUnreachable where nobody answers."""

    async def request(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None, timeout_s: float = API_S_MAX
    ) -> tuple[dict[str, str], bytes]: ...


class ApiError(BusError):
    """JetStream's own refusal; `err_code` is its number."""

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{subject}: JetStream says {description!r} ({err_code}); see the server's log")
        self.code = code
        self.err_code = err_code


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of everything in one namespace. Raises ConfigError for a namespace that cannot be."""

    namespace: str

    def __post_init__(self) -> None:
        if not NAMESPACE.fullmatch(self.namespace):
            raise ConfigError(
                f"namespace {self.namespace!r}: use 1-64 letters, digits, '-' and '_', as NATS asks of names"
            )

    @property
    def changes(self) -> str:
        return f"{self.namespace.upper()}_CHANGES"

    @property
    def snapshots(self) -> str:
        return f"{self.namespace.upper()}_SNAPSHOTS"

    @property
    def rejected(self) -> str:
        return f"{self.namespace.upper()}_REJECTED"

    @property
    def events(self) -> str:
        return f"{self.namespace.upper()}_EVENTS"

    @property
    def objects(self) -> str:
        return f"{self.namespace}_objects"

    @property
    def leaders(self) -> str:
        return f"{self.namespace}_leaders"

    def change(self, shard: int, doc: DocId) -> str:
        return f"{self.namespace}.changes.{shard}.{subject_token(doc)}"

    def of(self, kind: str, doc: DocId) -> str:
        """`<ns>.<kind>.<doc>`: merged, repair, snapshots, rejected, events."""
        return f"{self.namespace}.{kind}.{subject_token(doc)}"

    def of_shard(self, kind: str, shard: int) -> str:
        """`<ns>.<kind>.<shard>`: sync, beacon."""
        return f"{self.namespace}.{kind}.{shard}"

    def presence(self, edge: str, doc: DocId) -> str:
        """Under the name of the edge that says it: a server can be told who may."""
        return f"{self.namespace}.presence.{edge}.{subject_token(doc)}"

    def every_presence(self, edge: str) -> str:
        return f"{self.namespace}.presence.{edge}.*"

    def every(self, kind: str) -> str:
        return f"{self.namespace}.{kind}.*"

    def lease(self, shard: int) -> str:
        return f"$KV.{self.leaders}.{shard}"

    @property
    def lease_keys(self) -> str:
        return f"$KV.{self.leaders}.>"

    def candidate(self, identity: str) -> str:
        """A process that leads shards, or would."""
        return f"$KV.{self.leaders}.node.{identity}"


@dataclass(frozen=True, slots=True)
class LogState:
    """What the stream of changes says of itself."""

    epoch: int
    shards: int
    first_seq: int
    last_seq: int
    replicas: int
    differs: tuple[str, ...] = ()
    """What `ensure_streams` found in other shape than asked for, and may stay so."""


async def api(nats: Requester, subject: str, body: Mapping[str, object] | None = None) -> Json:
    """One request of `$JS.API.<subject>`. Raises ApiError, BusUnreachable, BusRefused (JetStream is off)."""
    data = json.dumps(body).encode() if body is not None else b""
    headers, answer = await nats.request(f"$JS.API.{subject}", data)
    if headers.get("Status") == "503":
        raise BusUnreachable("JetStream does not answer; start nats-server with -js, or wait for its recovery")
    try:
        parsed = _object(json.loads(answer))
    except ValueError:
        raise BusError(f"$JS.API.{subject}: the answer is no JSON; is this a nats-server?") from None
    error = parsed.get("error")
    if isinstance(error, dict):
        code, err_code = _int(error.get("code")), _int(error.get("err_code"))
        if err_code in (10039, 10076):  # not enabled for the account, not enabled
            raise BusRefused("JetStream is not enabled on this server or account; start nats-server with -js")
        raise ApiError(subject, code, err_code, str(error.get("description", "")))
    return parsed


async def ensure_streams(
    nats: Requester, layout: Layout, *, shards: int | None, replicas: int, development: bool, looks_only: bool = False
) -> LogState:
    """Make what is missing, verify what is there. Raises StreamDiffers naming every field of every stream.

    `looks_only`: whatever differs is named in the answer, and nothing is raised.
    """
    found: list[Difference] = []
    log_info: Json = {}
    for kind, want in _wanted(layout, shards or SHARDS_DEFAULT, replicas, development).items():
        info = await _find_or_make(nats, str(want["name"]), want)
        found += differences(kind, want, _object(info.get("config")), shards)
        if kind == "changes":
            log_info = info
    if not looks_only and not all(one.harmless for one in found):
        for_good = any(one.weight == "for good" for one in found)
        raise StreamDiffers("; ".join(one.text for one in found) + f"; {_ADVICE[for_good]}", waits=not for_good)
    return replace(_log_state(layout, log_info), differs=tuple(one.text for one in found))


_ADVICE = {
    True: "set this node's configuration to what is there, or use another namespace",
    False: "edit the stream with `nats stream edit`, or set this node's configuration to what is there; it waits",
}


async def read_log_state(nats: Requester, layout: Layout) -> LogState | None:
    """None where the stream of changes is gone."""
    try:
        return _log_state(layout, await api(nats, f"STREAM.INFO.{layout.changes}"))
    except ApiError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return None
        raise


async def raise_epoch(nats: Requester, layout: Layout) -> int:
    """Note in the log that its old count no longer holds: everybody sees a new epoch, which is returned."""
    info = await api(nats, f"STREAM.INFO.{layout.changes}")
    config = _object(info.get("config"))
    metadata = _object(config.get("metadata"))
    epoch = max(time.time_ns(), _log_state(layout, info).epoch + 1)
    update = {**config, "metadata": {**metadata, EPOCH_KEY: str(epoch)}}
    try:
        await api(nats, f"STREAM.UPDATE.{layout.changes}", update)
    except BusUnreachable:  # JetStream has just answered
        raise BusRefused(f"{layout.changes}: this user may not mark it; a leader may") from None
    return epoch


async def message_headers(nats: Requester, stream: str, seq: int) -> tuple[str, dict[str, str]] | None:
    """(subject, headers) of the message at `seq`, read from the stream's leader; None where there is none.

    Not a direct get: a follower may answer that, and it may be behind (facts 2.6). What is asked here is whether a
    message was lost, and a follower's lag would look like it.
    """
    found = await leader_get(nats, stream, {"seq": seq})
    return None if found is None else (found[0], found[1])


async def leader_get(
    nats: Requester, stream: str, body: Mapping[str, object]
) -> tuple[str, dict[str, str], bytes, int] | None:
    """(subject, headers, payload, seq) by `{"seq"}`, `{"last_by_subj"}` or `{"seq", "next_by_subj"}`, never stale."""
    try:
        answer = await api(nats, f"STREAM.MSG.GET.{stream}", body)
    except ApiError as error:
        if error.code == 404 and error.err_code != STREAM_NOT_FOUND:
            return None
        raise
    message = _object(answer.get("message"))
    try:
        headers = parse_header_lines(base64.b64decode(str(message.get("hdrs", ""))))
        payload = base64.b64decode(str(message.get("data", "")))
    except (binascii.Error, ValueError):
        raise BusError(f"{stream}: the server's answer is not base64; see its log") from None
    return str(message.get("subject", "")), headers, payload, _int(message.get("seq"))


def _wanted(layout: Layout, shards: int, replicas: int, development: bool) -> dict[Kind, Json]:
    common: Json = {"storage": "file", "num_replicas": replicas, "retention": "limits", "allow_direct": True}
    unbounded: Json = {"max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1, "max_msg_size": -1}
    ns = layout.namespace
    return {
        "changes": {
            **common,
            **unbounded,
            "name": layout.changes,
            "subjects": [f"{ns}.changes.*.*"],
            "discard": "new",
            "compression": "s2",
            "duplicate_window": 120 * SECOND_NS,
            "deny_delete": not development,
            "deny_purge": not development,
            "metadata": {SHARDS_KEY: str(shards)},
        },
        "snapshots": {
            **common,
            **unbounded,
            "name": layout.snapshots,
            "subjects": [f"{ns}.snapshots.*"],
            "discard": "old",
            "compression": "s2",
            "max_msgs_per_subject": 1,
        },
        "rejected": {
            **common,
            **unbounded,
            "name": layout.rejected,
            "subjects": [f"{ns}.rejected.*"],
            "discard": "new",
            "compression": "s2",
        },
        "events": {
            **common,
            **unbounded,
            "name": layout.events,
            "subjects": [f"{ns}.events.*"],
            "discard": "old",
            "compression": "s2",
            "max_bytes": EVENTS_BYTES_MAX,
            "max_age": EVENTS_AGE_S * SECOND_NS,
        },
        "objects": {  # what NATS' own tools make of `nats object add`
            **common,
            **unbounded,
            "name": f"OBJ_{layout.objects}",
            "subjects": [f"$O.{layout.objects}.C.>", f"$O.{layout.objects}.M.>"],
            "discard": "new",
            "allow_rollup_hdrs": True,
        },
        "leaders": {  # what NATS' own tools make of `nats kv add --ttl 10s`. The age is the bucket's: a key's own would
            # be dropped by the first renewal and leave a marker that blocks the next owner (facts 2.4)
            **common,
            **unbounded,
            "name": f"KV_{layout.leaders}",
            "subjects": [layout.lease_keys],
            "discard": "new",
            "max_msgs_per_subject": 1,
            "max_age": LEASE_TTL_S * SECOND_NS,
            "duplicate_window": LEASE_TTL_S * SECOND_NS,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
        },
    }


async def _find_or_make(nats: Requester, name: str, want: Json) -> Json:
    for _ in range(3):
        try:
            return await api(nats, f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
        try:
            return await api(nats, f"STREAM.CREATE.{name}", want)
        except ApiError as error:
            if error.err_code != STREAM_EXISTS:  # another node was faster: look at what it made
                raise
        except BusUnreachable:  # JetStream has just answered: this user's account does not reach so far
            raise BusUnreachable(f"{name}: not there yet, and this user may not make it; start a leader") from None
    raise BusError(f"{name}: made and deleted by others at the same time; try again")


def _log_state(layout: Layout, info: Json) -> LogState:
    config, state = _object(info.get("config")), _object(info.get("state"))
    metadata = _object(config.get("metadata"))
    try:
        shards = int(str(metadata.get(SHARDS_KEY, "")))
        noted = int(str(metadata.get(EPOCH_KEY) or 0))
    except ValueError:
        raise StreamDiffers(
            f"{layout.changes}: its metadata {json.dumps(metadata)} is not ours; repair it with nats stream edit"
        ) from None
    return LogState(
        epoch=max(_nanoseconds(str(info.get("created", ""))), noted),
        shards=shards,
        first_seq=_int(state.get("first_seq")),
        last_seq=_int(state.get("last_seq")),
        replicas=_int(config.get("num_replicas")) or 1,
    )


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _nanoseconds(text: str) -> int:
    """RFC 3339 with up to nine digits of a second; `datetime` has six, and the epoch needs all."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise BusError(f"nats-server: creation time {text!r} is no RFC 3339 time; see its version")
    moment = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86_400 + whole.seconds) * SECOND_NS + int((match[2] or "0").ljust(9, "0"))


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def subjects_of(info: Json) -> dict[str, int]:
    """`state.subjects` of a stream's information that was asked for with a filter."""
    return {str(subject): _int(count) for subject, count in _object(_object(info.get("state")).get("subjects")).items()}


def total_of(info: Json) -> int:
    return _int(info.get("total"))


def place_of(info: Json, place: str) -> tuple[int, int]:
    """(stream sequence, consumer sequence) of a consumer's `delivered` or `ack_floor`."""
    found = _object(info.get(place))
    return _int(found.get("stream_seq")), _int(found.get("consumer_seq"))
