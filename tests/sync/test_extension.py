"""The skerry extension: golden vectors, round trips, hostile and truncated bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sync import extension, wire
from sync.change import Context
from sync.errors import InvalidDocumentId, InvalidFrame, InvalidInput
from sync.extension import (
    At,
    Await,
    Changed,
    CloseChannel,
    Edit,
    Hello,
    Message,
    Open,
    Reached,
    Rejected,
    Safe,
    Stage,
    decode,
    decode_channel,
    encode,
    on_channel,
)
from sync.ids import ORIGIN_MAX, DocId, Dot, Origin, Version
from sync.lib0 import write_var_uint
from sync.limits import CONTEXT_TEXT_BYTES_MAX, FRAME_BYTES_MAX, REASON_BYTES_MAX

GOLDEN = json.loads((Path(__file__).parent / "golden" / "extension.json").read_text("utf-8"))

DOT = Dot(Origin(0xABC), 7)
VERSION = Version(0x18D75B8423F30000, 812)
MESSAGES: dict[str, Message | wire.Message] = {
    "open": Open(DocId("notes/plan")),
    "close": CloseChannel(4422, "update: byte 3: ends too early"),
    "edit": Edit(DOT, "ada", "abc.6", "trip-42", b"\x00\x00"),
    "edit, nobody said who": Edit(Dot(Origin(0), 1), "", "", "", b"\x00\x00"),
    "safe at the edge": Safe(Stage.EDGE, (DOT, Dot(Origin(0xABC), 8)), None),
    "safe in the log": Safe(Stage.LOG, (DOT,), VERSION),
    "merged": Safe(Stage.MERGED, (DOT,), VERSION),
    "at": At(VERSION),
    "await": Await(3, "sk1.AAAA", 5_000),
    "reached": Reached(3, True, "18d75b8423f30000-812"),
    "time is up": Reached(4, False, "nothing yet"),
    "changed": Changed(((DOT, Context("harbour", "ben", "abc.6", "trip-42 🏝", 1_790_000_000_123)),)),
    "hello": Hello(1, "skerry", "harbour"),
    "hello of a client": Hello(2, "", ""),
    "rejected": Rejected((DOT, Dot(Origin(0xABC), 9)), "update: values nested deeper than 64"),
    "update": wire.Update(b"\x00\x00"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_the_one_on_record(name: str) -> None:
    inner = bytes.fromhex(GOLDEN[name])

    assert encode(MESSAGES[name]) == inner
    assert decode(inner) == MESSAGES[name]


def test_every_kind_of_message_is_on_record() -> None:
    assert {type(MESSAGES[name]) for name in GOLDEN} == {*extension.Message.__args__, wire.Update}


texts = st.text(st.characters(codec="utf-8"), max_size=CONTEXT_TEXT_BYTES_MAX // 4)
dots = st.builds(Dot, st.integers(0, ORIGIN_MAX), st.integers(1, 2**53 - 1))
versions = st.builds(Version, st.integers(1, 2**64 - 1), st.integers(0, 2**63 - 1))
numbers = st.integers(0, 2**31 - 1)
contexts = st.builds(Context, texts, texts, texts, texts, st.integers(0, 2**53 - 1))
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Open, names),
    st.builds(CloseChannel, numbers, texts),
    st.builds(Edit, dots, texts, texts, texts, st.binary()),
    st.builds(
        Safe,
        st.sampled_from([Stage.EDGE, Stage.LOG, Stage.MERGED]),
        st.lists(dots, max_size=5).map(tuple),
        st.none() | versions,
    ),
    st.builds(At, versions),
    st.builds(Await, numbers, st.text("sk1.AZ_-", max_size=100), numbers),
    st.builds(Reached, numbers, st.booleans(), texts),
    st.builds(Changed, st.lists(st.tuples(dots, contexts), max_size=3).map(tuple)),
    st.builds(Hello, numbers, texts, texts),
    st.builds(Rejected, st.lists(dots, max_size=5).map(tuple), texts),
)


@given(messages, st.integers(0, extension.CHANNEL_MAX))
@example(Edit(DOT, "", "", "", b"x" * 70_000), 1)
@settings(max_examples=200, deadline=None)
def test_what_was_sent_is_what_is_read(message: Message, channel: int) -> None:
    read_channel, inner = decode_channel(on_channel(channel, encode(message)))

    assert read_channel == channel
    assert decode(inner) == message


@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([*range(100, 110), 0, 1, 2, 3, 0x7F, 0x80, 0xFF]), max_size=14).map(bytes)
)
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_message_with_one_spelling_or_refused(inner: bytes) -> None:
    try:
        message = decode(inner)
    except (InvalidFrame, InvalidDocumentId):
        return
    assert encode(message) == inner


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_is_cut_short_is_refused(name: str) -> None:
    inner = encode(MESSAGES[name])

    for end in range(len(inner)):
        with pytest.raises(InvalidInput):
            decode(inner[:end])


@pytest.mark.parametrize("name", MESSAGES)
def test_bytes_behind_a_message_are_refused(name: str) -> None:
    with pytest.raises(InvalidFrame, match="behind the message"):
        decode(encode(MESSAGES[name]) + b"\x00")


def text(spelled: bytes) -> bytes:
    return write_var_uint(len(spelled)) + spelled


LONG = b"x" * (CONTEXT_TEXT_BYTES_MAX + 1)


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        (b"\x6e", "unknown message type 110"),
        (b"\xe4\x00", "unknown message type 228"),
        (b"\x66\x01\x00", "number 0"),
        (b"\x66" + write_var_uint(2**53) + b"\x01\x00\x00\x00\x00", "number over"),
        (b"\x66\x01\x01" + text(LONG), "257 bytes, at most 256"),
        (b"\x66\x01\x01" + text(b"\xff"), "not UTF-8"),
        (b"\x67\x00\x00\x00\x00", "unknown stage 0"),
        (b"\x67\x04\x00\x00\x00", "unknown stage 4"),
        (b"\x67\x01\xff\xff\xff\x7f\x01\x01", "entries claimed"),
        (b"\x69\x01" + text(b"s" * 101) + b"\x00", "101 bytes, at most 100"),
        (b"\x6a\x01\x02\x00", "number over 1"),
        (b"\x6b\xff\xff\xff\x7f", "entries claimed"),
        (b"\x65\x01" + text(b"x" * (REASON_BYTES_MAX + 1)), "at most 1024"),
        (b"\x68\x80\x00\x01", "longer than needed"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(inner: bytes, why: str) -> None:
    with pytest.raises(InvalidFrame, match=why):
        decode(inner)


@pytest.mark.parametrize("name", [b"", b"a\x00b", b"x" * 257])
def test_a_document_id_that_cannot_be_is_told_from_a_bad_frame(name: bytes) -> None:
    with pytest.raises(InvalidDocumentId):
        decode(b"\x64" + text(name))


def test_a_channel_is_bounded() -> None:
    with pytest.raises(InvalidFrame, match="number over"):
        decode_channel(write_var_uint(2**31) + b"\x03")
    with pytest.raises(InvalidFrame, match="ends within a number"):
        decode_channel(b"")


def test_a_frame_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidFrame, match="smaller pieces"):
        decode_channel(bytes(FRAME_BYTES_MAX + 1))
    with pytest.raises(InvalidFrame, match="smaller pieces"):
        decode(b"\x66" + bytes(FRAME_BYTES_MAX))


def test_a_reason_is_cut_at_a_whole_character() -> None:
    inner = encode(CloseChannel(4429, "🏝" * REASON_BYTES_MAX))

    read = decode(inner)

    assert read == CloseChannel(4429, "🏝" * (REASON_BYTES_MAX // 4))
