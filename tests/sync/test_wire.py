"""Websocket frames: golden vectors (checked against lib0's encoder), round trips, hostile bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sync import wire
from sync.errors import InvalidFrame
from sync.limits import FRAME_BYTES_MAX
from sync.wire import (
    Authenticate,
    AwarenessUpdate,
    Message,
    PermissionDenied,
    QueryAwareness,
    SyncStep1,
    SyncStep2,
    Update,
    decode_frame,
    encode,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "frames.json").read_text("utf-8"))

MESSAGES: dict[str, Message] = {
    "sync step 1": SyncStep1(b"\x01\x05\x07"),
    "sync step 2": SyncStep2(b"\x00\x00"),
    "update": Update(b"\x00\x00"),
    "update, nothing": Update(b""),
    "update, length of two bytes": Update(b"\x09" * 200),
    "awareness": AwarenessUpdate(b"\x01\x05\x03\x02{}"),
    "query awareness": QueryAwareness(),
    "authenticate": Authenticate("a.b.c"),
    "permission denied": PermissionDenied("nein, Jürgen 🏝"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_frame_is_the_one_on_record(name: str) -> None:
    """The bytes are y-websocket's: where this fails, stock clients are lost."""
    frame = bytes.fromhex(GOLDEN[name])

    assert encode(MESSAGES[name]) == frame
    assert decode_frame(frame) == MESSAGES[name]


messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(SyncStep1, st.binary()),
    st.builds(SyncStep2, st.binary()),
    st.builds(Update, st.binary(max_size=400)),
    st.builds(AwarenessUpdate, st.binary()),
    st.just(QueryAwareness()),
    st.builds(Authenticate, st.text(st.characters(codec="utf-8"))),
    st.builds(PermissionDenied, st.text(st.characters(codec="utf-8"))),
)


@given(messages)
@example(Update(b"x" * 127))
@example(Update(b"x" * 128))
@example(Update(b"x" * 16_383))
@example(Update(b"x" * 16_384))
@example(SyncStep2(b"x" * 70_000))
@settings(max_examples=200, deadline=None)
def test_what_was_sent_is_what_is_read(message: Message) -> None:
    assert decode_frame(encode(message)) == message


@given(st.binary(max_size=40) | st.lists(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]), max_size=12).map(bytes))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_message_with_one_spelling_or_an_invalid_frame(frame: bytes) -> None:
    try:
        message = decode_frame(frame)
    except InvalidFrame:
        return
    assert encode(message) == frame


@pytest.mark.parametrize("name", MESSAGES)
def test_no_single_byte_mutation_gives_anything_but_a_message_or_an_invalid_frame(name: str) -> None:
    frame = encode(MESSAGES[name])
    refused = 0

    for place in range(min(len(frame), 32)):
        for byte in range(256):
            mutant = frame[:place] + bytes((byte,)) + frame[place + 1 :]
            try:
                assert encode(decode_frame(mutant)) == mutant
            except InvalidFrame:
                refused += 1

    assert refused > 0


@pytest.mark.parametrize("name", MESSAGES)
def test_a_frame_cut_short_is_refused(name: str) -> None:
    frame = encode(MESSAGES[name])

    for size in range(len(frame)):
        with pytest.raises(InvalidFrame):
            decode_frame(frame[:size])


@pytest.mark.parametrize("name", MESSAGES)
def test_bytes_behind_a_message_are_refused(name: str) -> None:
    with pytest.raises(InvalidFrame, match="bytes behind the message; send one message a frame"):
        decode_frame(encode(MESSAGES[name]) + b"\x00")


@pytest.mark.parametrize("claimed", [1, 127, 128, 129, 255, 256, 300, 16_383, 16_384])
@pytest.mark.parametrize("wrong_by", [-256, -128, -1, 1, 128, 256])
def test_a_claimed_length_is_the_length(claimed: int, wrong_by: int) -> None:
    """Among them the sums that a reader gets who forgets to take the top bit off."""
    head = encode(Update(bytes(claimed)))[:-claimed]

    with pytest.raises(InvalidFrame, match=r"claimed|behind"):
        decode_frame(head + bytes(max(0, claimed + wrong_by)))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "ends within a number"),
        (b"\x00\x02\x05\x00\x00", "5 bytes claimed, 2 there"),
        (b"\x00\x02\xff\xff\xff\xff\x07\x00", "2147483647 bytes claimed, 1 there"),
        (b"\x00\x02" + b"\xff" * 9 + b"\x01", "number over"),
        (b"\x00\x02\x82\x00\x00\x00", "longer than needed"),
        (b"\x00\x03\x00", "unknown sync message 3"),
        (b"\x02\x02\x00", "unknown auth message 2"),
        (b"\x02\x00\x01\xff", "not UTF-8"),
        (b"\x04", "unknown message type 4"),
        (b"\x64\x00", "needs the subprotocol skerry.v1"),
    ],
)
def test_a_frame_that_is_no_message_is_refused_with_the_reason(frame: bytes, why: str) -> None:
    with pytest.raises(InvalidFrame, match=why):
        decode_frame(frame)


def test_a_frame_over_the_limit_is_refused_whatever_it_says() -> None:
    over = encode(Update(bytes(FRAME_BYTES_MAX)))
    fits = encode(Update(bytes(FRAME_BYTES_MAX - 6)))

    assert len(fits) == FRAME_BYTES_MAX
    assert isinstance(decode_frame(fits), Update)
    with pytest.raises(InvalidFrame, match=f"at most {FRAME_BYTES_MAX}"):
        decode_frame(over)


def test_the_extension_has_types_that_no_stock_client_uses() -> None:
    assert max(encode(message)[0] for message in MESSAGES.values()) < wire.EXTENSION_TYPE_MIN
