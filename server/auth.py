"""Who may: the edge's keys, a token's text and the time -> a grant, or why not.

Room: pure. No socket, no file, no clock, no log: what is decided here is a function of its arguments. Where keys and
revocations come from, and who is told, is `server.admission`.

Tokens are JWTs (docs/security.md), read by PyJWT. Invariants:
1. A key's type decides the one algorithm that it verifies. A token's header only picks a key, and never an algorithm:
   `none`, and HS256 with the bytes of a public key as the secret, cannot be meant.
2. What a token does not say it does not grant. A claim that is not understood refuses the whole token: a half-read list
   of rights is somebody else's list.
3. No message here repeats a token, a subject or a document id: it may end in a log.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from sync.errors import ConfigError, SkerryError
from sync.ids import DocId
from sync.limits import CLOCK_SKEW_S, RULES_MAX, TOKEN_BYTES_MAX

__all__ = [
    "CLAIM",
    "EVERYTHING",
    "OPERATOR_CLAIM",
    "Algorithm",
    "Expected",
    "Grant",
    "Key",
    "Keys",
    "Revoked",
    "Rule",
    "TokenRefused",
    "make_key",
    "make_token",
    "parse_keys",
    "parse_revoked",
    "parse_rules",
    "verify",
]

CLAIM = "skerry"
OPERATOR_CLAIM = "skerry-operator"
SECRET_BYTES_MIN = 32  # HS256: shorter than the hash can be guessed (RFC 7518, 3.2)
RSA_BITS_MIN = 2048
PATTERN_BYTES_MAX = 256  # a document id's
SUBJECT_BYTES_MAX = 256

Algorithm = Literal["HS256", "RS256", "EdDSA"]
May = Literal["read", "write"]


class TokenRefused(SkerryError):
    """This token does not open this edge; the text says why, to whoever sent it."""


@dataclass(frozen=True, slots=True)
class Rule:
    docs: str
    """A shell pattern of document ids, as of `--pin`; `*` also matches `/`."""
    may: May


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer of a token may do here, and until when."""

    subject: str
    expires_s: float
    """Unix seconds; infinite where nobody has to show a token."""
    rules: tuple[Rule, ...]
    operator: bool = False
    token_id: str = ""
    issued_s: float = -math.inf
    key: str = ""
    """Fingerprint of the key that signed it: a key that is taken away takes its tokens along."""

    def may_read(self, doc: DocId) -> bool:
        return any(fnmatchcase(doc, rule.docs) for rule in self.rules)

    def may_write(self, doc: DocId) -> bool:
        return any(rule.may == "write" and fnmatchcase(doc, rule.docs) for rule in self.rules)


EVERYTHING = Grant("", math.inf, (Rule("*", "write"),), operator=True)
"""Where no keys are configured."""


@dataclass(frozen=True, slots=True)
class Key:
    """Verifies, or with its private half signs. Never printed."""

    kid: str
    algorithm: Algorithm
    material: Any
    fingerprint: str
    private: bool

    def __repr__(self) -> str:
        return f"Key({self.kid!r}, {self.algorithm})"


@dataclass(frozen=True, slots=True)
class Keys:
    """In the order of the file."""

    all: tuple[Key, ...] = ()

    def pick(self, kid: str | None) -> Key:
        """Raises TokenRefused."""
        if len(self.all) == 1 and (kid is None or not self.all[0].kid):
            return self.all[0]  # a key without a name answers to any: an authority's PEM says none
        if kid is None:
            raise TokenRefused("token: names no key (kid), and this edge knows several; make it with a kid")
        for key in self.all:
            if key.kid == kid:
                return key
        raise TokenRefused("token: signed with a key that this edge does not know (kid); ask for a new token")

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(key.fingerprint for key in self.all)


@dataclass(frozen=True, slots=True)
class Revoked:
    """What no longer counts, though it is signed and has not expired."""

    token_ids: frozenset[str] = frozenset()
    subjects: Mapping[str, float] | None = None
    """Subject -> Unix seconds: tokens that were issued until then are void; infinite for all of them."""

    def holds(self, grant: Grant) -> bool:
        if grant.token_id and grant.token_id in self.token_ids:
            return True
        until_s = (self.subjects or {}).get(grant.subject)
        return until_s is not None and grant.issued_s <= until_s


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token has to say of itself besides."""

    audience: str | None = None
    issuer: str | None = None


# --- tokens in --------------------------------------------------------------------------------------------------------
def verify(token: str, keys: Keys, now_s: float, expected: Expected | None = None) -> Grant:
    """Raises TokenRefused. Revocation is not looked at: it can come later, and `Revoked.holds` knows."""
    expected = expected or Expected()
    if len(token) > TOKEN_BYTES_MAX:
        raise TokenRefused(f"token: {len(token)} bytes, at most {TOKEN_BYTES_MAX}; grant by patterns, not one by one")
    try:
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        key = keys.pick(kid if isinstance(kid, str) else None)
        claims: dict[str, Any] = jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],  # Invariant 1
            audience=expected.audience,
            issuer=expected.issuer,
            # PyJWT would ask the machine's clock; the time is an argument here.
            options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "require": ["exp"]},
        )
    except TokenRefused:
        raise
    except jwt.MissingRequiredClaimError as error:
        raise TokenRefused(f"token: does not say {error.claim!r}; make one that does") from None
    except jwt.InvalidAudienceError:
        raise TokenRefused("token: made for another audience (aud); ask for one for this edge") from None
    except jwt.InvalidIssuerError:
        raise TokenRefused("token: made by another issuer (iss); ask for one for this edge") from None
    except jwt.InvalidAlgorithmError:
        raise TokenRefused("token: its algorithm is not its key's; sign it with the key that its kid names") from None
    except jwt.InvalidSignatureError:
        raise TokenRefused("token: the signature does not fit the edge's key; ask for a new token") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
        raise TokenRefused("token: no JWT that can be read; send the text that `skerry token make` prints") from None
    return _grant(claims, key, now_s)


def _grant(claims: Mapping[str, Any], key: Key, now_s: float) -> Grant:
    expires_s = _time(claims, "exp")
    assert expires_s is not None, "required above"
    if now_s >= expires_s:
        raise TokenRefused("token: expired (exp); ask for a new one")
    begins_s = _time(claims, "nbf")
    if begins_s is not None and now_s + CLOCK_SKEW_S < begins_s:
        raise TokenRefused("token: not valid yet (nbf); look at the clocks of this edge and of who made it")
    issued_s = _time(claims, "iat")
    rules = parse_rules(claims.get(CLAIM, []))
    operator = claims.get(OPERATOR_CLAIM, False)
    if not isinstance(operator, bool):
        raise TokenRefused(f"token: {OPERATOR_CLAIM} is true or false")
    if not rules and not operator:
        raise TokenRefused(f'token: grants nothing here; it needs a claim as in "{CLAIM}": ' + _EXAMPLE)
    return Grant(
        _text(claims, "sub", SUBJECT_BYTES_MAX),
        expires_s,
        rules,
        operator,
        _text(claims, "jti", SUBJECT_BYTES_MAX),
        -math.inf if issued_s is None else issued_s,
        key.fingerprint,
    )


_EXAMPLE = '[{"docs": "team/*", "may": "write"}]'


def parse_rules(claim: object) -> tuple[Rule, ...]:
    """The claim `skerry`. Raises TokenRefused where anything of it is not understood (invariant 2)."""
    if not isinstance(claim, list) or len(claim) > RULES_MAX:
        raise TokenRefused(f'token: "{CLAIM}" is a list of at most {RULES_MAX} rules, as in {_EXAMPLE}')
    rules: list[Rule] = []
    for rule in claim:
        if not isinstance(rule, dict) or set(rule) != {"docs", "may"}:
            raise TokenRefused(f'token: a rule of "{CLAIM}" has "docs" and "may" and nothing else, as in {_EXAMPLE}')
        docs, may = rule["docs"], rule["may"]
        if not isinstance(docs, str) or not 1 <= len(docs.encode("utf-8", "replace")) <= PATTERN_BYTES_MAX:
            raise TokenRefused(f'token: "docs" is a pattern of 1-{PATTERN_BYTES_MAX} bytes, as in {_EXAMPLE}')
        if may not in ("read", "write"):
            raise TokenRefused('token: "may" is "read" or "write"')
        rules.append(Rule(docs, may))
    return tuple(rules)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e12:
        raise TokenRefused(f"token: {name} is no time in seconds since 1970")
    return float(value)


def _text(claims: Mapping[str, Any], name: str, bytes_max: int) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > bytes_max:
        raise TokenRefused(f"token: {name} is a text of at most {bytes_max} bytes")
    return value


# --- tokens out -------------------------------------------------------------------------------------------------------
def make_token(
    key: Key,
    subject: str,
    rules: Sequence[Rule],
    now_s: float,
    seconds: float,
    *,
    operator: bool = False,
    audience: str | None = None,
    issuer: str | None = None,
    not_before_s: float | None = None,
) -> str:
    """A token of this key, with a fresh id (`jti`). Raises ConfigError where the key cannot sign."""
    if not key.private:
        raise ConfigError("this key only verifies; give the private one that `skerry token key` wrote")
    now = int(now_s)
    claims: dict[str, object] = {"sub": subject, "iat": now, "exp": now + int(seconds), "jti": secrets.token_hex(8)}
    claims[CLAIM] = [{"docs": rule.docs, "may": rule.may} for rule in rules]
    optional = {
        OPERATOR_CLAIM: operator or None,
        "aud": audience,
        "iss": issuer,
        "nbf": None if not_before_s is None else int(not_before_s),
    }
    claims.update({name: value for name, value in optional.items() if value is not None})
    return jwt.encode(claims, key.material, algorithm=key.algorithm, headers={"kid": key.kid} if key.kid else None)


# --- keys -------------------------------------------------------------------------------------------------------------
def make_key(algorithm: Algorithm, kid: str) -> tuple[dict[str, str], dict[str, str]]:
    """(what signs, what the edge gets), as JWKs; the same for HS256, whose secret does both."""
    if algorithm == "HS256":
        secret = {"kty": "oct", "kid": kid, "alg": algorithm, "k": _base64url(secrets.token_bytes(SECRET_BYTES_MIN))}
        return secret, secret
    private: Any
    if algorithm == "RS256":
        private = generate_private_key(public_exponent=65537, key_size=3072)
        halves = RSAAlgorithm.to_jwk(private), RSAAlgorithm.to_jwk(private.public_key())
    else:
        private = Ed25519PrivateKey.generate()
        halves = OKPAlgorithm.to_jwk(private), OKPAlgorithm.to_jwk(private.public_key())
    named = {"kid": kid, "alg": algorithm, "use": "sig"}
    signs, verifies = ({k: v for k, v in json.loads(half).items() if k != "key_ops"} | named for half in halves)
    return signs, verifies


def parse_keys(data: bytes, *, private: bool = False) -> Keys:
    """A JWKS, one JWK, or a PEM. Raises ConfigError naming which key is wrong and why.

    `private`: for signing. An edge only verifies, and does not want what can sign (HS256 cannot tell the two apart).
    """
    if data.lstrip().startswith(b"-----BEGIN"):
        keys = [_key_of_pem(data)]
    else:
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            raise ConfigError("keys: neither JSON (a JWKS) nor PEM; make some with `skerry token key`") from None
        listed = parsed.get("keys", [parsed]) if isinstance(parsed, dict) else None
        if not isinstance(listed, list) or not all(isinstance(jwk, dict) for jwk in listed):
            raise ConfigError('keys: no JWKS; it looks like {"keys": [...]}')
        keys = [_key_of_jwk(jwk, at) for at, jwk in enumerate(listed, 1) if jwk.get("use", "sig") == "sig"]
    kids = [key.kid for key in keys]
    if not keys:
        raise ConfigError("keys: none for signatures; make one with `skerry token key`")
    if len(keys) > 1 and (len(set(kids)) < len(kids) or "" in kids):
        raise ConfigError("keys: several, so each needs a name of its own (kid)")
    for key in keys:
        if private and not key.private:
            raise ConfigError("keys: this one only verifies; give the private one to sign with")
        if not private and key.private and key.algorithm != "HS256":
            raise ConfigError("keys: a private key; an edge only verifies, give it the public half")
    return Keys(tuple(keys))


def _key_of_jwk(jwk: Mapping[str, Any], at: int) -> Key:
    which = f"key {at}"
    kid = jwk.get("kid", "")
    if not isinstance(kid, str):
        raise ConfigError(f"{which}: its kid is no text")
    kind = (jwk.get("kty"), jwk.get("crv"))
    material: Any
    try:
        if kind[0] == "oct":
            material, algorithm = _unbase64url(jwk.get("k")), "HS256"
        elif kind[0] == "RSA":
            material, algorithm = RSAAlgorithm.from_jwk(dict(jwk)), "RS256"
        elif kind == ("OKP", "Ed25519"):
            material, algorithm = OKPAlgorithm.from_jwk(dict(jwk)), "EdDSA"
        else:
            raise ConfigError(f"{which}: of a kind that is not used here; HS256 (oct), RS256 (RSA), EdDSA (Ed25519)")
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise ConfigError(f"{which}: a {kind[0]} key that cannot be read; make one with `skerry token key`") from None
    if jwk.get("alg", algorithm) != algorithm:
        raise ConfigError(f"{which}: says alg {jwk['alg']!r}, but a {kind[0]} key is for {algorithm} here")
    return _key(kid, material, which)


def _key_of_pem(data: bytes) -> Key:
    try:
        material: Any = load_pem_private_key(data, None) if b"PRIVATE KEY" in data else load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"key: a PEM that cannot be read ({error}); give a public key without a password") from None
    return _key("", material, "key")


def _key(kid: str, material: Any, which: str) -> Key:
    """Invariant 1: the algorithm comes from the type."""
    if isinstance(material, bytes):
        if len(material) < SECRET_BYTES_MIN:
            raise ConfigError(f"{which}: a secret of {len(material)} bytes, at least {SECRET_BYTES_MIN} are needed")
        return Key(kid, "HS256", material, _fingerprint(material), private=True)
    if isinstance(material, (RSAPrivateKey, RSAPublicKey)):
        if material.key_size < RSA_BITS_MIN:
            raise ConfigError(f"{which}: an RSA key of {material.key_size} bits, at least {RSA_BITS_MIN} are needed")
        private = isinstance(material, RSAPrivateKey)
        return Key(kid, "RS256", material, _fingerprint(_public(material)), private)
    if isinstance(material, (Ed25519PrivateKey, Ed25519PublicKey)):
        private = isinstance(material, Ed25519PrivateKey)
        return Key(kid, "EdDSA", material, _fingerprint(_public(material)), private)
    raise ConfigError(f"{which}: of a kind that is not used here; RSA and Ed25519 are")


def _public(material: Any) -> bytes:
    public = material.public_key() if hasattr(material, "public_key") else material
    if isinstance(public, Ed25519PublicKey):
        return public.public_bytes_raw()
    numbers = public.public_numbers()
    return f"{numbers.e:x}:{numbers.n:x}".encode()


def _fingerprint(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16, person=b"skerry-key").hexdigest()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64url(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("no text")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


# --- revocations ------------------------------------------------------------------------------------------------------
def parse_revoked(lines: Iterable[str]) -> Revoked:
    """One JSON object a line: `{"jti": "…"}`, `{"sub": "…"}` or `{"sub": "…", "until": Unix seconds}`; `#` begins a
    comment. Raises ConfigError naming the line: a revocation that is not understood must not be passed over."""
    token_ids: set[str] = set()
    subjects: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            match json.loads(line):
                case {"jti": str(token_id), **rest} if token_id and not rest:
                    token_ids.add(token_id)
                case {"sub": str(subject), **rest} if set(rest) <= {"until"}:
                    until_s = float(str(rest.get("until", math.inf)))
                    subjects[subject] = max(until_s, subjects.get(subject, -math.inf))
                case _:
                    raise ValueError
        except (ValueError, TypeError, RecursionError):
            raise ConfigError(f'line {number}: no revocation, as in {{"jti": "…"}} or {{"sub": "…"}}') from None
    return Revoked(frozenset(token_ids), subjects)
