"""`skerry token` and `skerry revoke`: keys, tokens, and taking them back.

Room: files and standard output. What a token means is `server.auth`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt

from sync.errors import ConfigError

from .admission import revoke
from .auth import (
    CLAIM,
    OPERATOR_CLAIM,
    Algorithm,
    Expected,
    Grant,
    Keys,
    Rule,
    TokenRefused,
    make_key,
    make_token,
    parse_keys,
    parse_rules,
    verify,
)
from .config import Config

__all__ = ["add_commands", "add_revoke", "run_revoke"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_commands(commands: Any, common: list[argparse.ArgumentParser], as_json: argparse.ArgumentParser) -> None:
    text = "make and explain the tokens that open an edge"
    tokens = commands.add_parser("token", help=text, description=text)
    tokens.set_defaults(run=None)
    actions = tokens.add_subparsers(title="commands", metavar="COMMAND")

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str, *parents: Any) -> Any:
        made = actions.add_parser(name, help=text, description=text, parents=[*common, *parents])
        made.set_defaults(run=run)
        return made

    made = action("key", _key, "make a key: one file that signs, one that edges verify with")
    made.add_argument("--private", type=Path, required=True, metavar="FILE", help="new file for what signs; keep it")
    made.add_argument("--keys", type=Path, required=True, metavar="FILE", help="JWKS for the edges; made, or added to")
    made.add_argument("--algorithm", choices=("EdDSA", "RS256", "HS256"), default="EdDSA", help="default: EdDSA")
    made.add_argument("--kid", help="the key's name (default: today's date)")
    made = action("make", _make, "make a token, and print it")
    made.add_argument("--key", type=Path, required=True, metavar="FILE", help="what `skerry token key` wrote, or a PEM")
    made.add_argument("--sub", required=True, metavar="SUBJECT", help="whose token it is")
    made.add_argument("--read", action="append", default=[], metavar="PATTERN", help="documents to read, as 'team/*'")
    made.add_argument("--write", action="append", default=[], metavar="PATTERN", help="documents to read and write")
    made.add_argument("--operator", action="store_true", help="may also operate the edge")
    made.add_argument("--for", dest="lasts", type=_seconds, default="8h", metavar="TIME", help="as 30m, 8h, 7d")
    made.add_argument("--aud", help="audience, where edges are told to expect one")
    made.add_argument("--iss", help="issuer, where edges are told to expect one")
    made = action("show", _show, "explain a token, and say whether it holds", as_json)
    made.add_argument("text", metavar="TOKEN", help="the text, or - to read it from standard input")
    made.add_argument("--keys", type=Path, metavar="FILE", help="verify with an edge's keys")
    made.add_argument("--aud", help="the audience that the edge expects")
    made.add_argument("--iss", help="the issuer that the edge expects")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no time, as in 30m, 8h or 7d")
    return float(int(match[1]) * _UNITS[match[2]])


def _key(options: argparse.Namespace) -> int:
    algorithm: Algorithm = options.algorithm
    kid = options.kid or time.strftime("%Y-%m-%d", time.gmtime())
    signs, verifies = make_key(algorithm, kid)
    listed: list[object] = []
    if options.keys.exists():
        data = _read(options.keys)
        parse_keys(data)
        try:
            listed = json.loads(data).get("keys", [])
        except ValueError:
            raise ConfigError(f"{options.keys}: is a PEM, which holds one key; name another file") from None
    whole = json.dumps({"keys": [*listed, verifies]}, indent=2).encode() + b"\n"
    parse_keys(whole)  # two of one name, say
    _write(options.private, json.dumps(signs, indent=2).encode() + b"\n", secret=True, new=True)
    _write(options.keys, whole, secret=algorithm == "HS256", new=False)
    print(f"{options.private} signs (keep it from everybody); {options.keys} is for --auth-keys; kid {kid}")
    return 0


def _make(options: argparse.Namespace) -> int:
    key = _keys(options.key, private=True).all[0]
    rules = [Rule(docs, "write") for docs in options.write] + [Rule(docs, "read") for docs in options.read]
    try:
        parse_rules([{"docs": rule.docs, "may": rule.may} for rule in rules])
    except TokenRefused as error:
        raise ConfigError(str(error)) from None
    if not rules and not options.operator:
        raise ConfigError("a token that grants nothing; add --read PATTERN, --write PATTERN or --operator")
    print(
        make_token(
            key,
            options.sub,
            rules,
            time.time(),
            options.lasts,
            operator=options.operator,
            audience=options.aud,
            issuer=options.iss,
        )
    )
    return 0


def _show(options: argparse.Namespace) -> int:
    token = (sys.stdin.readline() if options.text == "-" else options.text).strip()
    try:
        header = jwt.get_unverified_header(token)
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise ConfigError("no JWT that can be read; give the text that `skerry token make` prints") from None
    verdict, holds = "not verified: give --keys", True
    if options.keys is not None:
        try:
            grant: Grant = verify(token, _keys(options.keys), time.time(), Expected(options.aud, options.iss))
            verdict = f"holds for another {_span(grant.expires_s - time.time())}"
        except TokenRefused as error:
            verdict, holds = str(error), False
    if options.json:
        print(json.dumps({"header": header, "claims": claims, "verdict": verdict, "holds": holds}, ensure_ascii=False))
        return 0 if holds else 1
    print(f"subject    {claims.get('sub', '-')}")
    rules = claims.get(CLAIM)
    for rule in rules if isinstance(rules, list) else ():
        print(
            f"may {rule.get('may', '?'):6} {rule.get('docs', '?')}" if isinstance(rule, dict) else f"rule?      {rule}"
        )
    if claims.get(OPERATOR_CLAIM):
        print("may operate the edge")
    for name, what in (("iat", "made"), ("nbf", "from"), ("exp", "until")):
        if name in claims:
            print(f"{what:10} {_moment(claims[name])}")
    for name, what in (("iss", "issuer"), ("aud", "audience"), ("jti", "id")):
        if name in claims:
            print(f"{what:10} {claims[name]}")
    print(f"signed     {header.get('alg')} with key {header.get('kid', '(not named)')}")
    print(f"verdict    {verdict}")
    return 0 if holds else 1


def add_revoke(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sub", metavar="SUBJECT", help="every token of this subject that was made until now")
    what.add_argument("--jti", metavar="ID", help="the token with this id, as `skerry token show` says it")
    parser.add_argument("--for-ever", action="store_true", help="with --sub: also tokens that will be made")


def run_revoke(options: argparse.Namespace, config: Config) -> int:
    if options.jti is not None:
        what: dict[str, object] = {"jti": options.jti}
    else:
        what = {"sub": options.sub} | ({} if options.for_ever else {"until": math.ceil(time.time())})
    revoke(config.revoked_path, what)
    print(f"{config.revoked_path}: written; edges that read this file close those connections within seconds")
    return 0


# --- files ------------------------------------------------------------------------------------------------------------
def _keys(path: Path, *, private: bool = False) -> Keys:
    try:
        return parse_keys(_read(path), private=private)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that can be read") from None


def _write(path: Path, data: bytes, *, secret: bool, new: bool) -> None:
    """Whole or not at all, where it replaces something that an edge may be reading."""
    try:
        if new:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            return
        beside = path.with_name(path.name + ".new")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if secret else 0o644), "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already; name a new file, a key is never written over") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that can be written") from None


def _moment(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e11:
        return f"{value!r} (no time)"
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(value))} UTC"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
