"""Every decoder that meets the outside: real messages of it, what it may raise, and what becomes of what it accepts."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs

import jwt
import pycrdt

from server.admission import target_of, token_of
from server.auth import TokenRefused, make_key, parse_keys, parse_revoked, verify
from server.config import parse_address
from server.gateway import Gateway, document_of
from server.http import _seconds
from server.log_reader import _place
from server.nats_link import parse_header_lines
from server.origin import FORWARDED, from_elsewhere, origin_allowed
from server.record import _decoded
from server.status import _docs
from server.sync_parts import PART
from sync import extension, headers, text, wire
from sync.arriving import look_at
from sync.change import Merged
from sync.document import Document
from sync.edge import Edge, EdgeSettings
from sync.errors import ConfigError, DocumentBroken, InvalidInput, InvalidUpdate, LimitReached
from sync.hosted import built
from sync.ids import ConnId, DocId, DotSet, Origin, Version, from_subject_token
from sync.limits import LARGE_FRAME_BYTES
from sync.nesting import Places
from sync.ports import StoredDocument
from sync.presence import Presence, encode_awareness
from sync.replica import Replica, Verdict
from sync.roots import find_roots
from sync.slices import cut
from sync.splits import at_once_bytes
from sync.step import Look, Report, TakeOn
from sync.token import decode_token
from sync.validate import AwarenessEntry, check_awareness, check_state_vector, check_update
from tests.fuzz.files import FILES
from tests.fuzz.judging import Decoder, elsewhere, turn
from tests.fuzz.leading import lead
from tests.fuzz.sockets import SOCKETS
from tests.sync import hostile
from tests.sync.forged import forged
from tests.sync.histories import life

__all__ = ["CONVICTS", "DECODERS"]

GOLDEN = Path(__file__).parent.parent / "sync" / "golden"
STOCK = Path(__file__).parent.parent / "sync" / "stock_updates.json"
_DOC = DocId("notes/plan")


def _golden(name: str) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((GOLDEN / f"{name}.json").read_text("utf-8")))


# --- updates ----------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=1)
def _updates() -> list[bytes]:
    seeds = [bytes.fromhex(each) for each in json.loads(STOCK.read_text("utf-8"))["v1"].values()]
    seeds += [one.data for one in hostile.UPDATES if len(one.data) < 400]
    for seed in range(6):
        history = life(seed)
        rng = random.Random(seed)
        seeds += [*rng.sample(history.updates, 12), history.state]
        seeds += [forged(rng, history.clocks) for _ in range(12)]
    return [seed for seed in seeds if len(seed) < 6_000]


@lru_cache(maxsize=1)
def _base() -> bytes:
    return life(3).state


_LIVES_BYTES_MAX = 20_000  # larger ones are only applied


def _live_with(update: bytes, _: object) -> None:
    """A fresh document and one with a history: apply, encode, merge, load again, pass on. Panics only are findings.

    What an accepted update does to a document that does not fit (a parent that is no type) is an error that the engine
    answers by throwing the document away: `sync.document` calls it DocumentBroken.
    """
    for base in (b"", _base()):
        try:
            _live(update, base)
        except Exception as error:
            if "decode" in str(error):
                raise  # accepted here, and not an update for pycrdt: two readings of one text


def _live(update: bytes, base: bytes) -> None:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=91)
    if base:
        doc.apply_update(base)
    doc.apply_update(update)
    if len(update) > _LIVES_BYTES_MAX:
        return
    state = doc.get_update()
    merged = pycrdt.merge_updates(base or b"\0\0", update)
    pycrdt.merge_updates(update, update)
    pycrdt.get_state(update)
    pycrdt.Snapshot.from_doc(doc).encode()
    check_state_vector(doc.get_state())
    find_roots(state)
    peer: pycrdt.Doc[Any] = pycrdt.Doc(client_id=92)
    peer.apply_update(state)
    peer.get("text", type=pycrdt.Text).insert(0, "x")
    doc.apply_update(peer.get_update(doc.get_state()))
    third = Document(merged)
    third.diff(peer.get_state())
    third.state()


def _check(data: bytes) -> object:
    """As an edge does (`server.large`)."""
    if len(data) <= LARGE_FRAME_BYTES:
        return check_update(data)
    with elsewhere():
        return check_update(data)


def _take(data: bytes) -> object:
    """As an edge takes an update: gate, depth, and all of it applied; a large one in pieces, each in a turn."""
    verdicts = []
    with elsewhere():
        replica = Replica(_DOC, _base() if len(data) % 2 else None, guarded=True)
        pieces = [data]
        if len(data) > at_once_bytes(replica.held_bytes):
            check_update(data)
            pieces = cut(data, {}, replica.into())
    for piece in pieces:
        verdicts.append(replica.take(piece, check_update(piece), 0).verdict)
        replica.materialise()
        turn()
    return verdicts


def _broadcast(data: bytes) -> object:
    """As an edge takes what the leader says, with a client that is told of it: each step of the machine in a turn."""
    with elsewhere():
        edge = Edge(EdgeSettings("a", Origin(1)))
        edge.opened(ConnId(1), _DOC, 0)
        stored = StoredDocument(_base() if len(data) % 2 else None, (), Version(1, 1), DotSet(), ())
        edge.loaded(_DOC, built(stored), 0)
        edge.received(ConnId(1), wire.encode(wire.SyncStep1(b"\0")), 0)
        edge.link_up(1, True, 0)
        dots = DotSet({Origin(2): ((1, 1),)})
        merged = Merged(_DOC, Version(1, 1), Version(1, 2), data, dots)
    refused = ""
    steps = deque([edge.merged(merged, 0)])
    turn()
    while steps:
        for effect in steps.popleft().now:
            match effect:
                case Look(doc, number, update, into):
                    with elsewhere():
                        found = look_at(update, into)
                    steps.append(edge.looked(doc, number, found, 0))
                    turn()
                case TakeOn(doc, number):
                    steps.append(edge.take_on(doc, number, 0))
                    turn()
                case Report(event, _, detail):
                    refused = f"{event}: {detail}"
        edge.flush(0, 0)
        turn()
    if refused:
        raise InvalidUpdate(refused)
    return edge.hosted[_DOC].replica


def _all_in(data: bytes, value: object) -> None:
    """The version has passed what is in, and nothing else."""
    replica = cast("Replica | None", value)
    if replica is None:
        return  # pycrdt broke over it: it is taken from the store again
    try:
        whole = not data or replica.judge(check_update(data)).verdict is Verdict.SEEN
    except DocumentBroken:
        return
    assert (replica.version == Version(1, 2)) is whole, "the version tells another story than the content"


def _in_pieces(data: bytes, value: object) -> None:
    """Pieces are updates, and bring and delete what the whole does; where everything stands can be told."""
    shape = check_update(data)
    try:
        pieces = [check_update(piece) for piece in cut(data, {})]
        Places(_base()).deepest(data)
    except InvalidUpdate:
        return  # structs that wait for each other
    brought = {client: following for piece in pieces for client, _, following in piece.brings}
    assert brought == {client: following for client, _, following in shape.brings}, "other clocks in pieces"
    deleted = {span for piece in pieces for span in piece.deletes}
    for client, first, following in shape.deletes:  # perhaps with the struct, and what lies beside it
        for of, at, end in sorted(deleted):
            if of == client and at <= first < end:
                first = end
        assert first >= following, "fewer deletions in pieces"
    for client, first, following in deleted.difference(shape.deletes):  # of structs whose content is gone
        whole = any(of == client and at <= first and following <= end for of, at, end in shape.brings)
        assert whole, "deletions in pieces that nobody made"


def _record(data: bytes) -> object:
    """What the process before this one left on record: the mapped file's body, and the list of deaths."""
    try:
        return _decoded(data)
    except (struct.error, UnicodeDecodeError):
        return None


@lru_cache(maxsize=1)
def _based() -> pycrdt.Doc[Any]:
    doc: pycrdt.Doc[Any] = pycrdt.Doc(client_id=90)
    doc.apply_update(_base())
    return doc


def _ask(state_vector: bytes, _: object) -> None:
    _based().get_update(state_vector)


def _state_vectors() -> list[bytes]:
    made = [each.data for each in hostile.STATE_VECTORS if len(each.data) < 400]
    for seed in range(8):
        doc: pycrdt.Doc[Any] = pycrdt.Doc()
        doc.apply_update(life(seed).state)
        made.append(doc.get_state())
    return made


# --- presence ---------------------------------------------------------------------------------------------------------
def _awareness() -> list[bytes]:
    states = ("null", "{}", '{"user":{"name":"ada \N{GRINNING FACE}","n":[1,2.5,-3e7,true]}}', '"\\ud800"', " null ")
    many = [AwarenessEntry(2**32 + at, at, states[at % 5]) for at in range(30)]
    made = [encode_awareness(many[:count]) for count in (0, 1, 2, 5, 30)]
    return made + [each.data for each in hostile.AWARENESS if len(each.data) < 400]


_presence = [Presence(), 0]


def _merge_presence(_: bytes, value: object) -> None:
    presence, now_ms = cast("tuple[Presence, int]", tuple(_presence))
    _presence[1] = now_ms + 500
    entries = cast("tuple[AwarenessEntry, ...]", value)
    try:
        news = presence.merge(entries, ConnId(1), now_ms)
    except LimitReached:
        return
    check_awareness(encode_awareness(news))
    presence.corrections(entries)
    presence.expire(now_ms)


# --- frames -----------------------------------------------------------------------------------------------------------
def _frames() -> list[bytes]:
    made = [bytes.fromhex(each) for each in _golden("frames").values()]
    made += [wire.encode(wire.Update(update)) for update in _updates()[:10]]
    return [*made, wire.encode(wire.SyncStep2(_base()[:900])), b"\3", b"\2\0\2no"]


def _extended() -> list[bytes]:
    return [*[bytes.fromhex(each) for each in _golden("extension").values()], *_frames()[:6]]


def _on_channels() -> list[bytes]:
    return [extension.on_channel(number, inner) for number in (0, 1, 300) for inner in _extended()]


def _decode_on_channel(data: bytes) -> object:
    return extension.decode(extension.decode_channel(data)[1])


def _same_again(data: bytes, value: object) -> None:
    """What was read is written as it came: one spelling, one reading."""
    written = extension.encode(cast("extension.Message", value))
    if not isinstance(value, extension.CloseChannel | extension.Reached | wire.PermissionDenied):
        assert written == data, "another spelling"


# --- NATS -------------------------------------------------------------------------------------------------------------
Headers = dict[str, str]


def _raw(head: Headers, payload: bytes) -> bytes:
    return "\r\n".join(f"{name}: {value}" for name, value in head.items()).encode() + b"\r\n\r\n" + payload


def _messages(*kinds: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        found = _golden("messages-1")
        return [_raw(one["headers"], bytes.fromhex(one["payload"])) for n, one in found.items() if n.startswith(kinds)]

    return seeds


def _message(decode: Callable[[Headers, bytes], object]) -> Callable[[bytes], object]:
    """Bytes as nats-py would hand them over: header lines, an empty line, the payload."""

    def run(data: bytes) -> object:
        head, _, payload = data.partition(b"\r\n\r\n")
        return decode(parse_header_lines(head), payload)

    return run


def _texts(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")


_HEADER_WORDS = tuple(
    f"{name}: ".encode()
    for name in (
        *("Skerry-Format", "Skerry-Dot", "Skerry-Covers", "Skerry-Covers-Bytes", "Skerry-Time", "Skerry-Actor"),
        *("Skerry-Prev", "Skerry-Version", "Skerry-Dots", "Skerry-Dots-Bytes", "Skerry-Rejected", "Skerry-Fetch"),
        *("Skerry-Contexts-Bytes", "Skerry-Digest", "Skerry-Doc", "Skerry-Ask", "Skerry-Missing", "Skerry-Edge"),
        *("Skerry-Missing-Bytes", "Skerry-State-Vector-Bytes", "Skerry-Rejected-Bytes"),
    )
)


def _nats(name: str, decode: Callable[[Headers, bytes], object], *kinds: str) -> Decoder:
    return Decoder(name, _messages(*kinds), _message(decode), (InvalidInput,), None, _HEADER_WORDS)


# --- text -------------------------------------------------------------------------------------------------------------
def _text_of(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(_texts(data))


def _http(data: bytes) -> object:
    """Path and query of a GET, as `server.http` and `server.gateway` take them apart."""
    url = target_of(_texts(data))
    token_of(_texts(data), {"Authorization": _texts(data)})
    query = parse_qs(url.query)
    doc = document_of(_texts(data))
    _seconds(query.get("timeout", ["10"])[0])
    if "at_least" in query:
        decode_token(query["at_least"][0], "skerry", doc)
    return doc


_gateway = cast(Gateway, SimpleNamespace(_daemon=SimpleNamespace(bus=SimpleNamespace(cut=lambda seconds: None))))


def _operator(data: bytes) -> object:
    return Gateway._operation(_gateway, data)


def _question(data: bytes) -> object:
    """As `server.bus` reads an operator's question."""
    try:
        question = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return _docs(question) if isinstance(question, dict) else None


def _token_seeds() -> list[bytes]:
    return [token.encode() for token in _golden("tokens")["sk1"].values()]


_SECRET = "a secret of thirty-two bytes, and more"


@lru_cache(maxsize=1)
def _keys() -> Any:
    jwk = {
        "kty": "oct",
        "kid": "k",
        "alg": "HS256",
        "k": base64.urlsafe_b64encode(_SECRET.encode()).decode().rstrip("="),
    }
    return parse_keys(json.dumps({"keys": [jwk]}).encode(), private=True)


def _jwt(data: bytes) -> object:
    """Half of them rightly signed: what only the holder of a key can say is judged too."""
    if not data.startswith(b"{"):
        return verify(_texts(data), _keys(), 1_000.0)
    try:
        claims = json.loads(data)
        token = jwt.encode(claims, _SECRET, "HS256", {"kid": "k"})
    except Exception:
        return None
    return verify(token, _keys(), 1_000.0)


def _jwts() -> list[bytes]:
    claims = {"exp": 2_000, "sub": "ada", "jti": "1", "nbf": 1, "skerry": [{"docs": "notes/*", "may": "write"}]}
    return [json.dumps(claims).encode(), jwt.encode(claims, _SECRET, "HS256", {"kid": "k"}).encode()]


def _revoked(text: str) -> object:
    with elsewhere():
        return parse_revoked(io.StringIO(text))


def _key_files() -> list[bytes]:
    return [json.dumps({"keys": [part]}).encode() for kind in ("HS256", "EdDSA") for part in make_key(kind, "k")]


def _origin(data: bytes) -> object:
    origin, _, host = _texts(data).partition(" ")
    listed = ("https://app.example.org",)
    allowed = [origin_allowed(o, h, listed, loopback=True, tokens=False) for o, h in ((origin, host), (None, origin))]
    return [*allowed, *(from_elsewhere([(name, _texts(data))]) for name in FORWARDED)]


def _small_texts(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [each.encode() for each in texts]


_DOTS = "0:1-1,abc:1-7,abc:9-12,1fffffffffffff:1-9007199254740991"

DECODERS: tuple[Decoder, ...] = (
    Decoder("update", _updates, _check, (InvalidUpdate,), _live_with, weight=6),
    Decoder("take", _updates, _take, (InvalidUpdate, LimitReached, DocumentBroken), _in_pieces, weight=3),
    Decoder("broadcast", _updates, _broadcast, (InvalidUpdate,), _all_in, weight=2),
    Decoder("record", lambda: [struct.pack("<HI2I", 3, 2, 1, 2) + b"a/babc"], _record, ()),
    Decoder("state-vector", _state_vectors, check_state_vector, (InvalidUpdate,), _ask),
    Decoder("awareness", _awareness, check_awareness, (InvalidUpdate,), _merge_presence),
    Decoder("frame", _frames, wire.decode_frame, (InvalidInput,), _same_again),
    Decoder("extension", _extended, extension.decode, (InvalidInput,), _same_again),
    Decoder("channel", _on_channels, _decode_on_channel, (InvalidInput,)),
    _nats("change", lambda h, p: headers.decode_change(_DOC, h, p), "change"),
    _nats("merged", lambda h, p: headers.decode_merged(_DOC, h, p), "merged"),
    _nats("snapshot", lambda h, p: headers.decode_snapshot(_DOC, h, p), "snapshot"),
    _nats("sync-ask", headers.decode_sync_ask, "sync ask", "ask", "sync"),
    _nats("sync-answer", headers.decode_sync_answer, "sync answer", "answer", "sync"),
    _nats("repair", lambda h, p: headers.decode_repair(_DOC, h, p), "repair"),
    _nats("beacon", headers.decode_beacon, "beacon"),
    Decoder("token", _token_seeds, _text_of(lambda t: decode_token(t, "skerry", _DOC)), (InvalidInput,)),
    Decoder(
        "dot",
        _small_texts("0.1", "abc.7", "1fffffffffffff.9007199254740991"),
        _text_of(text.parse_dot),
        (InvalidInput,),
    ),
    Decoder("version", _small_texts("0-0", "18d75b8423f30000-812"), _text_of(text.parse_version), (InvalidInput,)),
    Decoder("dots", _small_texts(_DOTS, "a:1-2"), _text_of(text.parse_dots), (InvalidInput,)),
    Decoder("time", _small_texts("2026-09-21T14:13:20.123Z"), _text_of(text.parse_time), (InvalidInput,)),
    Decoder(
        "context",
        _small_texts("Ada %C3%85 <a@b>", "100%25%0D"),
        _text_of(lambda t: text.context_text_of("X", t)),
        (InvalidInput,),
    ),
    Decoder("subject", _small_texts("notes/plan%2Etxt", "%E6%97%A5"), _text_of(from_subject_token), (InvalidInput,)),
    Decoder("part", _small_texts("0123456789abcdef 0 3"), _text_of(PART.fullmatch), ()),
    Decoder(
        "delivery",
        _small_texts("$JS.ACK.S.c.1.2.3.4.5", "$JS.ACK._.a.S.c.1.2.3.4.5.x"),
        _text_of(_place),
        (),
        large=False,
    ),  # a subject of NATS: 4 KiB
    Decoder("header-lines", _messages(""), parse_header_lines, ()),
    Decoder(
        "http",
        _small_texts("/docs/notes/plan?at_least=sk1.AQ&timeout=5", "/notes%2Fplan?digest", "//[::1/x"),
        _http,
        (InvalidInput,),
        large=False,  # the library ends a request line at 8 KiB
    ),
    Decoder("operator", _small_texts('{"op": "cut", "seconds": 5}', '{"op":"cut","seconds":1e308}'), _operator, ()),
    Decoder(
        "question", _small_texts('{"op":"digests","docs":["a","b/c"]}', '{"op":"documents","after":"x"}'), _question, ()
    ),
    Decoder("address", _small_texts("127.0.0.1:8787", "[::1]:0"), _text_of(parse_address), (ValueError,)),
    Decoder("jwt", _jwts, _jwt, (TokenRefused,)),
    Decoder("keys", _key_files, lambda data: parse_keys(data), (ConfigError,), weight=0.3),
    Decoder(
        "revoked",
        _small_texts('{"jti": "1"}\n# x\n{"sub": "ada", "until": 5}'),
        _text_of(_revoked),
        (ConfigError,),
    ),
    Decoder(
        "origin",
        _small_texts(
            "https://app.example.org 127.0.0.1:8787", "http://localhost:1 [::1]:1", 'for="[::1]:1";by=b, for=a'
        ),
        _origin,
        (),
    ),
    *FILES,
    *SOCKETS,
    # last: a leader's work costs a hundred times what a message does, and a short campaign has tried the others then
    Decoder("delivered", _updates, lambda data: lead(_DOC, _base(), data), (), weight=0.2),
)


def _endless(_: bytes) -> object:
    while True:
        pass


def _unguarded(data: bytes) -> object:
    doc: pycrdt.Doc[Any] = pycrdt.Doc()
    doc.apply_update(data)
    return doc.get_update()


CONVICTS: tuple[Decoder, ...] = (
    Decoder("unguarded", _updates, _unguarded, (RuntimeError, ValueError)),
    Decoder("endless", _updates, _endless, ()),
)
"""Never in a campaign: what the tests of the campaign itself convict."""
