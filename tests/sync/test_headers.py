"""Messages on NATS: golden vectors, round trips, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync import headers
from sync.change import Beacon, Change, Context, Merged, RepairAsk, Snapshot, SyncAnswer, SyncAsk
from sync.errors import InvalidInput, InvalidMessage, LimitReached
from sync.ids import ORIGIN_MAX, DocId, Dot, DotSet, Origin, Version
from sync.limits import (
    BEACON_DOCS_MAX,
    CLIENT_ID_MAX,
    CLOCK_MAX,
    CONTEXT_TEXT_BYTES_MAX,
    DOT_RANGES_MAX,
    MESSAGE_HEADROOM_BYTES,
)
from sync.text import parse_dots

GOLDEN = Path(__file__).parent / "golden"

Headers = dict[str, str]
Value = Change | Merged | Snapshot | SyncAsk | SyncAnswer | RepairAsk | Beacon

DOC = DocId("notes/plan.txt")
EPOCH = 1_790_000_000_000_000_000
V811, V812 = Version(EPOCH, 811), Version(EPOCH, 812)


def dots_of(*ranges: tuple[int, int, int]) -> DotSet:
    dots = DotSet()
    for origin, first, last in ranges:
        dots.add_range(Origin(origin), first, last)
    return dots


FEW = dots_of((0xABC, 1, 7), (0xABC, 9, 9), (ORIGIN_MAX, 1, 2**53 - 1))
MANY = dots_of(*((0x10000000000000 + n, 1, 1000) for n in range(100)))  # too long for a header
WHO = Context("harbour", "Ada Å <ada@example.org>", "abc.6", "click 100%\r\nX: y ", 1_790_000_000_123)

VALUES: dict[str, Value] = {
    "change": Change(DOC, Dot(Origin(0xABC), 7), b"\x01\x02", WHO),
    "change, nothing said": Change(DOC, Dot(Origin(0), 1), b"\x00\x00"),
    "change, before 1970": Change(DOC, Dot(Origin(1), 1), b"\x00\x00", Context(time_ms=-1)),
    "change, covers few": Change(DOC, Dot(Origin(ORIGIN_MAX), 2**53 - 1), b"\x01", WHO, FEW),
    "change, covers many": Change(DOC, Dot(Origin(ORIGIN_MAX), 1), b"\x01\x02\x03", WHO, MANY),
    "merged": Merged(DOC, V811, V812, b"\x01\x02", dots_of((0xABC, 7, 7))),
    "merged, rejected": Merged(DOC, V811, V812, b"", DotSet(), FEW),
    "merged, rejected and why": Merged(DOC, V811, V812, b"", DotSet(), FEW, reason="update: byte 3: ends zu früh"),
    "merged, fetch": Merged(DOC, V811, V812, b"", FEW, fetch=True),
    "merged, many": Merged(DOC, Version(1, 5), V812, b"\xff", MANY, MANY),
    "snapshot": Snapshot(DOC, V812, b"\x01\x02", FEW, "00ff" * 16),
    "snapshot, many": Snapshot(DOC, V812, b"\x01\x02", MANY, "00ff" * 16),
    "sync ask": SyncAsk(DocId("日本 /*>."), 7, b"\x01\x05\x07", V811),
    "sync ask, nothing yet": SyncAsk(DOC, 0, b"\x00", None),
    "sync answer": SyncAnswer(DocId("日本 /*>."), 7, b"\x00\x00", b"\x01\x05\x07", V812, FEW, "ab"),
    "sync answer, many": SyncAnswer(DOC, 2**53 - 1, b"\x00\x00", b"\x01\x05\x07", V812, MANY, ""),
    "sync answer, rejected": SyncAnswer(DOC, 1, b"", b"\x00", V812, FEW, "ab", FEW, "nested deeper than 64 (100%)"),
    "repair": RepairAsk(DOC, b"\x01\x05\x07", ((5, 9), (CLIENT_ID_MAX, CLOCK_MAX))),
    "repair, many": RepairAsk(DOC, b"\x01\x05\x07", tuple((n, n + 1) for n in range(1000))),
    "beacon": Beacon(((DOC, V812, "ab"), (DocId("日本 /*>."), Version(0, 0), ""))),
    "beacon, empty": Beacon(()),
}


def encode(value: Value) -> tuple[Headers, bytes]:
    match value:
        case Change():
            return headers.encode_change(value, EPOCH)
        case Merged():
            return headers.encode_merged(value)
        case Snapshot():
            return headers.encode_snapshot(value)
        case SyncAsk():
            return headers.encode_sync_ask(value)
        case SyncAnswer():
            return headers.encode_sync_answer(value)
        case RepairAsk():
            return headers.encode_repair(value)
        case Beacon():
            return headers.encode_beacon(value)


def decoder(value: Value) -> Callable[[Headers, bytes], Value]:
    """As the receiver of such a message: the document is in the subject where the message is one document's."""
    match value:
        case Change():
            return lambda h, p: headers.decode_change(value.doc, h, p)
        case Merged():
            return lambda h, p: headers.decode_merged(value.doc, h, p)
        case Snapshot():
            return lambda h, p: headers.decode_snapshot(value.doc, h, p)
        case SyncAsk():
            return headers.decode_sync_ask
        case SyncAnswer():
            return headers.decode_sync_answer
        case RepairAsk():
            return lambda h, p: headers.decode_repair(value.doc, h, p)
        case Beacon():
            return headers.decode_beacon


def golden(format_number: int) -> dict[str, tuple[Headers, bytes]]:
    vectors = json.loads((GOLDEN / f"messages-{format_number}.json").read_text("utf-8"))
    return {name: (v["headers"], bytes.fromhex(v["payload"])) for name, v in vectors.items()}


# --- golden vectors ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", VALUES)
def test_the_encoding_is_the_one_on_record_for_this_format(name: str) -> None:
    """Where this fails the wire has changed: raise FORMAT, record messages-<FORMAT>.json, still read the old one."""
    assert encode(VALUES[name]) == golden(headers.FORMAT)[name]


@pytest.mark.parametrize("format_number", range(1, headers.FORMAT + 1))
def test_every_format_on_record_is_still_read(format_number: int) -> None:
    vectors = golden(format_number)

    assert len(vectors) >= 19
    for name, (head, payload) in vectors.items():
        assert decoder(VALUES[name])(head, payload) == VALUES[name], name


@pytest.mark.parametrize("name", VALUES)
def test_every_header_survives_a_nats_client_and_a_terminal(name: str) -> None:
    head, _ = encode(VALUES[name])

    for key, value in head.items():
        assert value.isascii(), key
        assert value.isprintable(), key
        assert value.strip() == value != "", key
    assert sum(len(key) + len(value) + 4 for key, value in head.items()) < MESSAGE_HEADROOM_BYTES


def test_a_change_reads_as_who_when_and_why() -> None:
    head, payload = encode(VALUES["change"])

    assert payload == b"\x01\x02"
    assert head == {
        "Nats-Msg-Id": "18d75b8423f30000:notes/plan%2Etxt:abc.7",
        "Skerry-Format": "1",
        "Skerry-Dot": "abc.7",
        "Skerry-Edge": "harbour",
        "Skerry-Actor": "Ada %C3%85 <ada@example.org>",
        "Skerry-Causation": "abc.6",
        "Skerry-Correlation": "click 100%25%0D%0AX: y%20",
        "Skerry-Time": "2026-09-21T14:13:20.123Z",
    }


def test_the_message_id_of_a_change_is_the_one_that_it_travels_with() -> None:
    change = VALUES["change"]
    assert isinstance(change, Change)

    assert headers.message_id(DOC, change.dot, EPOCH) == encode(change)[0]["Nats-Msg-Id"]


# --- round trips ------------------------------------------------------------------------------------------------------
texts = st.text(st.characters(codec="utf-8"), max_size=60)
documents = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=60).map(DocId)
origins = st.integers(0, ORIGIN_MAX).map(Origin)
seqs = st.integers(1, 2**53 - 1)
versions = st.builds(Version, st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1))
dot_sets = st.lists(st.tuples(st.integers(0, 3) | origins, st.integers(1, 40), st.integers(0, 9)), max_size=6).map(
    lambda ranges: dots_of(*((origin, first, first + more) for origin, first, more in ranges))
)
digests = st.binary(min_size=1, max_size=32).map(bytes.hex)
contexts = st.builds(
    Context, texts, texts, texts, texts, st.integers(-62_135_596_800_000, 253_402_300_799_999) | st.just(0)
)
values: st.SearchStrategy[Value] = st.one_of(
    st.builds(Change, documents, st.builds(Dot, origins, seqs), st.binary(), contexts, dot_sets),
    st.builds(Snapshot, documents, versions, st.binary(), dot_sets, digests),
    st.builds(SyncAsk, documents, st.integers(0, 2**53 - 1), st.binary(), st.none() | versions),
    st.builds(SyncAnswer, documents, st.integers(0, 2**53 - 1), st.binary(), st.binary(), versions, dot_sets, digests),
    st.builds(
        RepairAsk,
        documents,
        st.binary(),
        st.lists(st.tuples(st.integers(0, CLIENT_ID_MAX), st.integers(0, CLOCK_MAX)), max_size=400).map(tuple),
    ),
    st.builds(Beacon, st.lists(st.tuples(documents, versions, st.just("") | digests), max_size=5).map(tuple)),
    st.builds(
        Merged,
        documents,
        versions.map(lambda v: Version(v.epoch, v.seq // 2)),
        versions.map(lambda v: Version(v.epoch, 2**62 + v.seq // 2)),
        st.binary(),
        dot_sets,
        dot_sets,
        st.booleans(),
    ),
)


@given(values)
@settings(max_examples=250, deadline=None)
def test_what_was_sent_is_what_is_read(value: Value) -> None:
    assert decoder(value)(*encode(value)) == value


@given(texts)
@settings(max_examples=200, deadline=None)
def test_any_text_fits_into_a_header(text: str) -> None:
    change = Change(DOC, Dot(Origin(1), 1), b"", Context(correlation=text))

    head, payload = headers.encode_change(change, EPOCH)

    value = head.get("Skerry-Correlation", "")
    assert value.isascii()
    assert value.strip() == value
    assert value.isprintable()
    assert headers.decode_change(DOC, head, payload).context.correlation == text


@given(st.from_regex(r"[0-9a-f]{1,3}\.[0-9]{1,3}", fullmatch=True) | st.text(max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_dot_has_one_spelling(text: str) -> None:
    try:
        dot = headers.parse_dot(text)
    except InvalidMessage:
        return
    assert str(dot) == text


@given(st.from_regex(r"[0-9a-f]{1,3}-[0-9]{1,3}", fullmatch=True) | st.text(max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_version_has_one_spelling(text: str) -> None:
    try:
        version = headers.parse_version(text)
    except InvalidMessage:
        return
    assert str(version) == text


# --- what is refused --------------------------------------------------------------------------------------------------
REQUIRED = {
    "change": ["Skerry-Format", "Skerry-Dot"],
    "merged": ["Skerry-Format", "Skerry-Prev", "Skerry-Version"],
    "snapshot": ["Skerry-Format", "Skerry-Version", "Skerry-Digest"],
    "sync ask": ["Skerry-Format", "Skerry-Doc", "Skerry-Ask"],
    "sync answer": ["Skerry-Format", "Skerry-Doc", "Skerry-Ask", "Skerry-Version"],
    "repair": ["Skerry-Format"],
    "beacon": ["Skerry-Format"],
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in REQUIRED.items() for key in keys])
def test_a_missing_header_is_named(name: str, key: str) -> None:
    head, payload = encode(VALUES[name])
    del head[key]

    with pytest.raises(InvalidMessage, match=f"{key}: missing"):
        decoder(VALUES[name])(head, payload)


@pytest.mark.parametrize("name", VALUES)
def test_a_newer_format_is_refused_as_newer(name: str) -> None:
    head, payload = encode(VALUES[name])
    head["Skerry-Format"] = str(headers.FORMAT + 1)

    with pytest.raises(InvalidMessage, match="is newer than"):
        decoder(VALUES[name])(head, payload)


@pytest.mark.parametrize(
    ("name", "key", "bad"),
    [
        ("change", "Skerry-Format", "0"),
        ("change", "Skerry-Format", "one"),
        ("change", "Skerry-Format", "01"),
        ("change", "Skerry-Dot", "abc.0"),
        ("change", "Skerry-Dot", "ABC.1"),
        ("change", "Skerry-Dot", "20000000000000.1"),
        ("change", "Skerry-Dot", "abc.9007199254740992"),
        ("change", "Skerry-Dot", "abc.１"),
        ("change", "Skerry-Dot", "abc.1\n"),
        ("change", "Skerry-Time", "2026-02-30T00:00:00.000Z"),
        ("change", "Skerry-Time", "2026-02-28T24:00:00.000Z"),
        ("change", "Skerry-Time", "2026-02-28T23:00:00Z"),
        ("change", "Skerry-Time", "2026-02-28T23:00:00.000+01:00"),
        ("change", "Skerry-Actor", "ada%"),
        ("change", "Skerry-Actor", "ada%2"),
        ("change", "Skerry-Actor", "ada%FF"),
        ("change", "Skerry-Actor", "Å"),
        ("change", "Skerry-Actor", "a\tb"),
        ("change", "Skerry-Actor", "x" * (CONTEXT_TEXT_BYTES_MAX + 1)),
        ("change", "Skerry-Actor", "%41" * (CONTEXT_TEXT_BYTES_MAX + 1)),
        ("change", "Skerry-Actor", "x" * 1_000_000),
        ("change", "Skerry-Covers", "abc:7-1"),
        ("change", "Skerry-Covers", "abc:0-1"),
        ("change", "Skerry-Covers", "abc:1-2,abc:3-4"),
        ("change", "Skerry-Covers", "abc:1-2,abc:2-4"),
        ("change", "Skerry-Covers", "abd:1-2,abc:1-2"),
        ("change", "Skerry-Covers", "abc:1-2,"),
        ("change", "Skerry-Covers-Bytes", "3"),
        ("change", "Skerry-Covers-Bytes", "-1"),
        ("change", "Skerry-Covers-Bytes", "2"),
        ("merged", "Skerry-Prev", f"{EPOCH:x}-813"),
        ("merged", "Skerry-Version", "0-9223372036854775808"),
        ("merged", "Skerry-Version", "812"),
        ("merged", "Skerry-Fetch", "0"),
        ("merged", "Skerry-Rejected", "x"),
        ("snapshot", "Skerry-Digest", "a b"),
        ("snapshot", "Skerry-Digest", ""),
        ("snapshot", "Skerry-Digest", "a" * 129),
        ("sync ask", "Skerry-Doc", "a%00b"),
        ("sync ask", "Skerry-Doc", "a%FFb"),
        ("sync ask", "Skerry-Doc", "a" * 257),
        ("sync ask", "Skerry-Doc", "a" * 1_000_000),
        ("sync ask", "Skerry-Ask", "9" * 17),
        ("sync answer", "Skerry-State-Vector-Bytes", "6"),
        ("repair", "Skerry-Missing", "5:9,"),
        ("repair", "Skerry-Missing", f"{CLIENT_ID_MAX + 1}:9"),
        ("repair", "Skerry-Missing", f"5:{CLOCK_MAX + 1}"),
    ],
)
def test_a_malformed_header_is_named(name: str, key: str, bad: str) -> None:
    head, payload = encode(VALUES[name])
    head[key] = bad

    with pytest.raises(InvalidMessage, match=f"^{key.removesuffix('-Bytes')}") as caught:
        decoder(VALUES[name])(head, payload)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["a b c", "a b c d\n", "x\n", " 1-1 ab\n", "a 1-1 \x00\n", "é 1-1 ab\n", "\n"])
def test_a_malformed_beacon_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessage, match=r"^beacon"):
        headers.decode_beacon({"Skerry-Format": "1"}, text.encode())


def test_a_beacon_of_too_many_documents_is_refused_on_both_sides() -> None:
    docs = tuple((DocId(f"d{n}"), V812, "ab") for n in range(BEACON_DOCS_MAX + 1))

    with pytest.raises(LimitReached, match="BEACON_DOCS_MAX"):
        headers.encode_beacon(Beacon(docs))
    with pytest.raises(InvalidMessage, match="at most"):
        headers.decode_beacon({"Skerry-Format": "1"}, b"d 1-1 ab\n" * (BEACON_DOCS_MAX + 1))


def test_a_context_over_the_limit_is_refused_before_it_travels() -> None:
    fits = Context(actor="é" * (CONTEXT_TEXT_BYTES_MAX // 2))
    over = Context(actor="é" * (CONTEXT_TEXT_BYTES_MAX // 2) + "x")

    head, payload = headers.encode_change(Change(DOC, Dot(Origin(1), 1), b"", fits), EPOCH)
    assert headers.decode_change(DOC, head, payload).context == fits
    with pytest.raises(LimitReached, match="CONTEXT_TEXT_BYTES_MAX"):
        headers.encode_change(Change(DOC, Dot(Origin(1), 1), b"", over), EPOCH)


def test_a_context_that_is_no_text_is_refused_before_it_travels() -> None:
    change = Change(DOC, Dot(Origin(1), 1), b"", Context(actor="\ud800"))

    with pytest.raises(InvalidMessage, match="Skerry-Actor: not UTF-8"):
        headers.encode_change(change, EPOCH)


def test_a_header_and_a_part_of_the_same_name_are_refused() -> None:
    head, payload = encode(VALUES["change, covers many"])
    head["Skerry-Covers"] = "abc:1-2"

    with pytest.raises(InvalidMessage, match="in the headers and in the payload"):
        headers.decode_change(DOC, head, payload)


def test_more_ranges_of_dots_than_a_document_keeps_are_refused_on_both_sides() -> None:
    most = dots_of(*((n, 1, 1) for n in range(DOT_RANGES_MAX)))
    over = dots_of(*((n, 1, 1) for n in range(DOT_RANGES_MAX + 1)))

    assert parse_dots(most.to_text()) == most
    with pytest.raises(InvalidMessage, match=str(DOT_RANGES_MAX)):
        parse_dots(over.to_text())
    with pytest.raises(LimitReached, match="DOT_RANGES_MAX"):
        headers.encode_merged(Merged(DOC, V811, V812, b"", over))


@pytest.mark.parametrize("name", VALUES)
def test_no_mutation_of_a_header_or_cut_of_a_payload_gives_anything_but_a_value_or_invalid_input(name: str) -> None:
    head, payload = encode(VALUES[name])
    read = decoder(VALUES[name])
    refused = 0

    for key, value in head.items():
        places = {0, len(value) // 2, len(value) - 1} if len(value) > 40 else range(len(value))
        for place in places:
            for other in ("", "\x00", "-", ".", "0", "9", "a", "%", "\udfff", "é", ",", ":"):
                try:
                    read(head | {key: value[:place] + other + value[place + 1 :]}, payload)
                except InvalidInput:
                    refused += 1
    for size in range(min(len(payload), 64)):
        try:
            read(head, payload[:size])
        except InvalidInput:
            refused += 1

    assert refused > 0


def test_the_protocol_page_names_every_header() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")

    for value in VALUES.values():
        for key in encode(value)[0]:
            name = key if key == "Skerry-State-Vector-Bytes" else key.removesuffix("-Bytes")
            assert f"`{name}`" in page
