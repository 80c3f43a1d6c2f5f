"""Tokens: who may what, until when; and every way in which one that is not ours could look like one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from server.auth import (
    EVERYTHING,
    Expected,
    Grant,
    Keys,
    Revoked,
    Rule,
    TokenRefused,
    make_key,
    make_token,
    parse_keys,
    parse_revoked,
    verify,
)
from sync.errors import ConfigError
from sync.ids import DocId
from sync.limits import CLOCK_SKEW_S, RULES_MAX, TOKEN_BYTES_MAX

NOW = 1_790_000_000.0
TEAM = (Rule("team/*", "write"), Rule("*", "read"))
ALGORITHMS = ("HS256", "RS256", "EdDSA")
MADE = {algorithm: make_key(algorithm, algorithm.lower()) for algorithm in ALGORITHMS}  # type: ignore[arg-type]


def signing(algorithm: str) -> Any:
    return parse_keys(json.dumps(MADE[algorithm][0]).encode(), private=True).all[0]


def edge_keys(*algorithms: str) -> Keys:
    return parse_keys(json.dumps({"keys": [MADE[algorithm][1] for algorithm in algorithms]}).encode())


def signed(algorithm: str, claims: dict[str, object], **headers: str) -> str:
    key = signing(algorithm)
    return jwt.encode(claims, key.material, algorithm=key.algorithm, headers={"kid": key.kid, **headers})


def claims(**other: object) -> dict[str, object]:
    return {"sub": "ada", "exp": NOW + 60, "skerry": [{"docs": "*", "may": "write"}], **other}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_says_who_may_what_until_when(algorithm: str) -> None:
    token = make_token(signing(algorithm), "ada", TEAM, NOW, 3600)

    grant = verify(token, edge_keys(*ALGORITHMS), NOW)

    assert (grant.subject, grant.expires_s, grant.issued_s, grant.rules) == ("ada", NOW + 3600, NOW, TEAM)
    assert grant.may_write(DocId("team/plan"))
    assert grant.may_read(DocId("else"))
    assert not grant.may_write(DocId("else"))
    assert not grant.operator
    assert len(grant.token_id) == 16


def test_what_is_not_granted_is_not_allowed() -> None:
    grant = verify(make_token(signing("EdDSA"), "ada", (Rule("team/*", "write"),), NOW, 60), edge_keys("EdDSA"), NOW)

    assert not grant.may_read(DocId("other"))
    assert not grant.may_read(DocId("Team/plan"))
    assert EVERYTHING.may_write(DocId("any/thing"))


# --- algorithms cannot be confused ------------------------------------------------------------------------------------
def unsigned(header: dict[str, object], body: dict[str, object]) -> bytes:
    def part(value: object) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    return part(header) + b"." + part(body)


@pytest.mark.parametrize("none", ["none", "None", "NONE", ""])
def test_a_token_without_a_signature_is_refused(none: str) -> None:
    for kid in ({"kid": "rs256"}, {}):
        with pytest.raises(TokenRefused):
            verify((unsigned({"alg": none, **kid}, claims()) + b".").decode(), edge_keys("RS256"), NOW)


@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
def test_a_public_key_is_no_secret(form: str) -> None:
    """The classic: HS256, with the bytes of the RSA public key, which everybody has, as the secret."""
    public = edge_keys("RS256").all[0].material
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(MADE["RS256"][1]).encode(),
    }[form]
    body = unsigned({"alg": "HS256", "kid": "rs256"}, claims())
    forged = body + b"." + base64.urlsafe_b64encode(hmac.digest(secret, body, hashlib.sha256)).rstrip(b"=")

    for keys in (edge_keys("RS256"), edge_keys(*ALGORITHMS)):
        with pytest.raises(TokenRefused, match="algorithm"):
            verify(forged.decode(), keys, NOW)


def test_a_token_of_one_key_does_not_pass_as_one_of_another() -> None:
    with pytest.raises(TokenRefused, match="algorithm"):
        verify(signed("HS256", claims(), kid="eddsa"), edge_keys(*ALGORITHMS), NOW)
    with pytest.raises(TokenRefused, match=r"does not know \(kid\)"):
        verify(signed("HS256", claims(), kid="nobody's"), edge_keys(*ALGORITHMS), NOW)
    with pytest.raises(TokenRefused, match="names no key"):
        verify(jwt.encode(claims(), signing("HS256").material, "HS256"), edge_keys(*ALGORITHMS), NOW)
    other = parse_keys(json.dumps(make_key("EdDSA", "eddsa")[0]).encode(), private=True).all[0]
    with pytest.raises(TokenRefused, match="signature"):
        verify(make_token(other, "ada", TEAM, NOW, 60), edge_keys("EdDSA"), NOW)


def test_a_key_inside_the_token_is_not_used() -> None:
    signs, public = make_key("EdDSA", "eddsa")
    theirs = parse_keys(json.dumps(signs).encode(), private=True).all[0]
    forged = jwt.encode(claims(), theirs.material, "EdDSA", headers={"kid": "eddsa", "jwk": public})

    with pytest.raises(TokenRefused, match="signature"):
        verify(forged, edge_keys("EdDSA"), NOW)


def test_one_changed_bit_is_seen() -> None:
    token = make_token(signing("EdDSA"), "ada", TEAM, NOW, 60)
    for at in range(0, len(token) - 2, 7):  # the last character holds bits that mean nothing
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises(TokenRefused):
            verify(changed, edge_keys("EdDSA"), NOW)


# --- when, for whom, by whom ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"exp": NOW}, "expired"),
        ({"exp": NOW - 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"nbf": NOW + CLOCK_SKEW_S + 1}, "not valid yet"),
        ({"nbf": [1]}, "nbf"),
        ({"iat": {}}, "iat"),
        ({"aud": "elsewhere"}, "audience"),
        ({"sub": 5}, "no JWT|sub"),
        ({"sub": "x" * 257}, "sub"),
        ({"jti": 5}, "no JWT|jti"),
        ({"skerry": []}, "grants nothing"),
        ({"skerry": "*"}, "list"),
        ({"skerry": [{"docs": "*"}]}, "rule"),
        ({"skerry": [{"docs": "*", "may": "own"}]}, "may"),
        ({"skerry": [{"docs": "", "may": "read"}]}, "docs"),
        ({"skerry": [{"docs": "*", "may": "read", "unless": "secret/*"}]}, "rule"),
        ({"skerry": [{"docs": "*", "may": "read"}] * (RULES_MAX + 1)}, "list"),
        ({"skerry-operator": "yes"}, "operator"),
    ],
)
def test_a_token_that_does_not_hold_is_refused_with_the_reason(changed: dict[str, object], said: str) -> None:
    with pytest.raises(TokenRefused, match=said) as caught:
        verify(signed("EdDSA", claims(**changed)), edge_keys("EdDSA"), NOW)
    assert "ada" not in str(caught.value)


def test_clocks_may_differ_a_little_for_not_before_and_not_at_all_for_the_end() -> None:
    assert verify(signed("EdDSA", claims(nbf=NOW + CLOCK_SKEW_S)), edge_keys("EdDSA"), NOW).subject == "ada"
    assert verify(signed("EdDSA", claims()), edge_keys("EdDSA"), NOW + 59.9).subject == "ada"


def test_audience_and_issuer_are_required_where_they_are_configured() -> None:
    expected = Expected(audience="edge", issuer="https://login.example")
    fits = claims(aud=["edge", "more"], iss="https://login.example")

    assert verify(signed("EdDSA", fits), edge_keys("EdDSA"), NOW, expected).subject == "ada"
    for wrong, said in (
        ({**fits, "aud": "other"}, "audience"),
        ({**fits, "iss": "https://evil.example"}, "issuer"),
        (claims(iss="https://login.example"), "aud"),
        (claims(aud="edge"), "iss"),
    ):
        with pytest.raises(TokenRefused, match=said):
            verify(signed("EdDSA", wrong), edge_keys("EdDSA"), NOW, expected)


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "x" * (TOKEN_BYTES_MAX + 1), "\x00.\x00.\x00"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused):
        verify(text, edge_keys("EdDSA"), NOW)


def test_a_bomb_of_nested_json_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    with pytest.raises(TokenRefused):
        verify(f"{deep}.{deep}.x", edge_keys("EdDSA"), NOW)


# --- keys -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "JSON"),
        (b"[]", "JWKS"),
        (b'{"keys": []}', "none for signatures"),
        (b'{"kty": "oct", "k": "c2hvcnQ"}', "5 bytes"),
        (b'{"kty": "oct", "k": 5}', "cannot be read"),
        (b'{"kty": "EC", "crv": "P-256"}', "kind"),
        (json.dumps({**MADE["RS256"][1], "alg": "HS256"}).encode(), "alg"),
        (json.dumps({**MADE["HS256"][1], "alg": "none"}).encode(), "alg"),
        (json.dumps(MADE["RS256"][0]).encode(), "private"),
        (json.dumps(MADE["EdDSA"][0]).encode(), "private"),
        (json.dumps({"keys": [MADE["EdDSA"][1]] * 2}).encode(), "kid"),
        (b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n", "PEM"),
    ],
    ids=range(12),  # fresh keys would give every worker other names
)
def test_keys_that_cannot_be_used_are_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_keys(data)


def test_a_pem_answers_to_any_name() -> None:
    pem = (
        edge_keys("RS256")
        .all[0]
        .material.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )

    keys = parse_keys(pem)

    assert verify(signed("RS256", claims(), kid="anything"), keys, NOW).subject == "ada"
    assert keys.fingerprints == edge_keys("RS256").fingerprints


def test_a_key_is_never_printed() -> None:
    assert MADE["HS256"][0]["k"] not in repr(edge_keys("HS256"))
    assert repr(edge_keys("HS256").all[0]) == "Key('hs256', HS256)"


def test_a_public_key_cannot_sign() -> None:
    with pytest.raises(ConfigError, match="only verifies"):
        parse_keys(json.dumps(MADE["EdDSA"][1]).encode(), private=True)
    with pytest.raises(ConfigError, match="only verifies"):
        make_token(edge_keys("EdDSA").all[0], "ada", TEAM, NOW, 60)


# --- revocations ------------------------------------------------------------------------------------------------------
def test_a_token_is_revoked_by_its_id_or_with_all_of_its_subject_s_until_then() -> None:
    revoked = parse_revoked(["# of the 3rd", "", '{"jti": "lost"}', '{"sub": "ben"}', '{"sub": "ada", "until": 100}'])

    def grant(subject: str, token_id: str = "", issued_s: float = 101) -> Grant:
        return Grant(subject, math.inf, TEAM, token_id=token_id, issued_s=issued_s)

    assert revoked.holds(grant("cyd", "lost"))
    assert revoked.holds(grant("ben", "x", 1e11))
    assert revoked.holds(grant("ada", issued_s=100))
    assert revoked.holds(grant("ada", issued_s=-math.inf))
    assert not revoked.holds(grant("ada"))
    assert not revoked.holds(grant("cyd", "found"))
    assert not revoked.holds(EVERYTHING)
    assert not Revoked().holds(grant("ada"))


@pytest.mark.parametrize(
    "line", ["ada", "{}", '{"jti": ""}', '{"jti": 5}', '{"sub": "a", "before": 5}', '{"sub": "a", "until": "x"}']
)
def test_a_revocation_that_is_not_understood_is_not_passed_over(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        parse_revoked(['{"jti": "a"}', line])
