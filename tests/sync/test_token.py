"""Tokens: golden texts, round trips, and in words which way one is wrong."""

from __future__ import annotations

import json
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import InvalidToken
from sync.ids import ORIGIN_MAX, DocId, Dot, Origin, Version
from sync.token import Token, decode_token, encode_token

PLAN = DocId("notes/plan")
TOKENS = {
    "version": Token("skerry", PLAN, Version(1_790_000_000_000_000_000, 812), None),
    "dot": Token("skerry", PLAN, None, Dot(Origin(0xABC), 7)),
    "both": Token("skerry", DocId("日本 🏝"), Version(0, 0), Dot(Origin(0), 1)),
    "largest": Token("küste", PLAN, Version(2**64 - 1, 2**63 - 1), Dot(Origin(ORIGIN_MAX), 2**53 - 1)),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_is_the_one_on_record_for_its_format(name: str) -> None:
    """People keep tokens. Where this fails, the format needs another number, and sk1 is still read."""
    text = json.loads((Path(__file__).parent / "golden" / "tokens.json").read_text("utf-8"))["sk1"][name]
    token = TOKENS[name]

    assert encode_token(token) == text
    assert decode_token(text, token.namespace, token.doc) == token


versions = st.builds(Version, st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1))
dots = st.builds(Dot, st.integers(0, ORIGIN_MAX).map(Origin), st.integers(1, 2**53 - 1))
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
tokens = st.one_of(
    st.builds(Token, names, names.map(DocId), versions, st.none() | dots),
    st.builds(Token, names, names.map(DocId), st.none(), dots),
)


@given(tokens)
@settings(max_examples=200, deadline=None)
def test_what_was_given_is_what_is_read(token: Token) -> None:
    text = encode_token(token)

    assert decode_token(text, token.namespace, token.doc) == token
    assert len(text) <= 71
    assert all(c.isascii() and (c.isalnum() or c in "-_.") for c in text)  # fits a URL, a header and a double click


def test_a_token_of_another_namespace_is_refused_as_such() -> None:
    text = encode_token(TOKENS["both"])

    with pytest.raises(InvalidToken, match="another namespace than harbour"):
        decode_token(text, "harbour", TOKENS["both"].doc)


def test_a_token_of_another_document_is_refused_as_such() -> None:
    text = encode_token(TOKENS["version"])

    with pytest.raises(InvalidToken, match="another document than notes/plans"):
        decode_token(text, "skerry", DocId("notes/plans"))


def test_a_token_cut_short_or_with_a_wrong_character_is_refused() -> None:
    text = encode_token(TOKENS["version"])

    for size in range(len(text)):
        with pytest.raises(InvalidToken):
            decode_token(text[:size], "skerry", PLAN)
    for place in range(len(text)):
        for other in "Aa0_-.= é\n\x00\ud800":
            if other != text[place]:
                with pytest.raises(InvalidToken):
                    decode_token(text[:place] + other + text[place + 1 :], "skerry", PLAN)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not start with sk1"),
        ("notes/plan", "does not start with sk1"),
        ("18d7-812", "does not start with sk1"),
        ("sk2.AAAA", "format 'sk2', this program reads sk1"),
        ("sk1.", "cut short"),
        ("sk1.AAAAAAAAAAAA", "cut short"),
        ("sk1." + "A" * 32, "check does not fit"),
        ("sk1." + "!" * 32, "characters that no token has"),
        ("sk1." + "A" * 33, "characters that no token has, or misses some"),
        ("sk1." + "A" * 1_000_000, "1000004 characters, at most"),
    ],
)
def test_what_is_no_token_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(InvalidToken, match=why) as caught:
        decode_token(text, "skerry", PLAN)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("bits", "numbers"),
    [(0, b""), (4, b""), (1, b""), (1, b"\x01"), (1, b"\x01\x01\x01"), (1, b"\x81\x00\x01"), (2, b"\x01\x00")],
)
def test_a_forged_token_with_a_right_check_is_refused(bits: int, numbers: bytes) -> None:
    genuine = encode_token(TOKENS["version"])[4:]
    head = urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4))[1:9]
    body = bytes((bits,)) + head + numbers
    forged = urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4, "big")).rstrip(b"=").decode()

    with pytest.raises(InvalidToken, match="not made by this program"):
        decode_token("sk1." + forged, "skerry", PLAN)
