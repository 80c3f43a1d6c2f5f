"""Who is let in, and for how long: the edge's key and revocation files, and the connections that live by them.

Room: files, their changes, the wall clock. What a token means is `server.auth`; sockets are the gateway's. Files that
have changed are read in a thread: 39,000 revocations (1 MB) take 100 ms. The rest happens on the event loop's.

1. A file that cannot be read when the edge starts stops it. One that cannot be read later changes nothing, and is named
   in the log: half a list would let somebody in, or everybody out.
2. A connection is closed within RECHECK_S of the moment in which a fresh one with its token would be refused.
3. Nothing of a token, a subject or a key reaches the log.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, parse_qs

from websockets.datastructures import Headers

from sync.errors import ConfigError

from .auth import EVERYTHING, Expected, Grant, Keys, Revoked, TokenRefused, parse_keys, parse_revoked, verify
from .config import Config, is_loopback
from .origin import FORWARDED, from_elsewhere, origin_allowed

__all__ = [
    "CLOSE_EXPIRED",
    "CLOSE_FORBIDDEN",
    "CLOSE_NO_TOKEN",
    "CLOSE_REVOKED",
    "NO_TOKEN",
    "Admission",
    "Admitted",
    "Refusal",
    "forwarded",
    "revoke",
    "target_of",
    "token_of",
]

log = logging.getLogger("skerry.auth")

CLOSE_NO_TOKEN = 4401  # none, or none that holds: come back with another
CLOSE_FORBIDDEN = 4403  # it holds, and does not grant this
CLOSE_EXPIRED = 4419  # it did hold: come back with a new one
CLOSE_REVOKED = 4423  # it was taken back, or its key was
NO_TOKEN = "no token; send one as ?token=…, as Authorization: Bearer …, or in the first message"
OPENED = "--auth-keys FILE (`skerry token key` makes one), or --insecure where that is meant"
RECHECK_S = 1.0  # files and live connections
Stamps = Mapping[Path, tuple[int, int, int] | None]
"""File -> when it was changed, its size, which one it is; None: it is not there."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Instead of an upgrade: an HTTP status, and why."""

    status: HTTPStatus
    reason: str


class Admitted:
    """One live connection and what it may. `close(code, reason)` is called at most once, when that has ended."""

    __slots__ = ("_close", "grant")

    def __init__(self, grant: Grant, close: Callable[[int, str], None]) -> None:
        self.grant = grant
        self._close = close

    def end(self, code: int, reason: str) -> None:
        self._close(code, reason)


class Admission:
    """`open`, then `run()` beside the gateway. Without keys everybody may everything, and nothing is watched."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError: no keys though others can reach the edge, or files that cannot be read (rule 1)."""
        self._config = config
        self.required = config.auth_keys is not None
        self._loopback = is_loopback(config.listen_address[0])
        if not self.required and not self._loopback and not config.insecure:
            raise ConfigError(
                f"listen: {config.listen} can be reached from elsewhere, and nobody is asked who they are;"
                f" give {OPENED}"
            )
        self._expected = Expected(config.auth_audience, config.auth_issuer)
        self._live: dict[int, Admitted] = {}
        self._asked = asyncio.Event()
        self._seen = self._stamps()
        self._keys, self._revoked = self._read()
        self.tls = self._tls()

    # --- coming in ---------------------------------------------------------------------------------------------------
    def refusal(self, headers: Headers) -> Refusal | None:
        """A foreign page, or somebody for whom a proxy asks where nobody is asked who they are: turned away before
        anything else."""
        if not self.required and not self._config.insecure and forwarded(headers):
            return Refusal(HTTPStatus.FORBIDDEN, f"this edge serves its own machine; behind a proxy it needs {OPENED}")
        why = origin_allowed(
            headers.get("Origin"),
            headers.get("Host"),
            self._config.origin,
            loopback=self._loopback,
            tokens=self.required,
        )
        return None if why is None else Refusal(HTTPStatus.FORBIDDEN, why)

    def grant(self, token: str | None) -> Grant:
        """What this token allows at this moment. Raises TokenRefused."""
        if not self.required:
            return EVERYTHING
        if not token:
            raise TokenRefused(NO_TOKEN)
        grant = verify(token, self._keys, time.time(), self._expected)
        if self._revoked.holds(grant):
            raise TokenRefused("token: revoked; ask for a new one")
        return grant

    def admit(self, grant: Grant, close: Callable[[int, str], None]) -> Admitted:
        """From now on `close` is called when the grant ends; until `leave`."""
        admitted = Admitted(grant, close)
        if self.required:
            self._live[id(admitted)] = admitted
        return admitted

    def leave(self, admitted: Admitted) -> None:
        self._live.pop(id(admitted), None)

    # --- time and files ----------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Until it is cancelled."""
        if not self._files():
            await asyncio.Event().wait()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await self._asked.wait()
            await self.check()

    async def check(self) -> None:
        """Files that have changed, then whose time is over."""
        if self._asked.is_set() or self._stamps() != self._seen:
            self._asked.clear()
            await self._reload()
        now_s = time.time()
        fingerprints = self._keys.fingerprints
        for key, admitted in list(self._live.items()):
            grant = admitted.grant
            if now_s >= grant.expires_s:
                code, reason = CLOSE_EXPIRED, "the token has expired; connect again with a new one"
            elif self._revoked.holds(grant):
                code, reason = CLOSE_REVOKED, "the token was revoked; ask for a new one"
            elif grant.key not in fingerprints:
                code, reason = CLOSE_REVOKED, "the key of this token was taken back; ask for a new token"
            else:
                continue
            del self._live[key]
            log.info("grant_ended code=%d", code)
            admitted.end(code, reason)

    def reload(self) -> None:
        """Keys, revocations and the certificate are read again, changed or not (SIGHUP)."""
        self._asked.set()

    async def _reload(self) -> None:
        self._seen = self._stamps()  # before reading: a change meanwhile is seen next
        try:
            self._keys, self._revoked = await asyncio.to_thread(self._read)
            if self.tls is not None:
                assert self._config.listen_tls_cert is not None
                self._tls()  # tried on a fresh one: half a pair would leave this one without a key
                self.tls.load_cert_chain(self._config.listen_tls_cert, self._config.listen_tls_key)
        except (ConfigError, OSError) as error:
            log.error("auth_files_unread detail=%r", str(error))
        else:
            log.info("auth_files_read keys=%d", len(self._keys.all))

    def _files(self) -> list[Path]:
        config = self._config
        found = [config.auth_keys, config.listen_tls_cert, config.listen_tls_key]
        return [path for path in found if path is not None] + ([config.revoked_path] if self.required else [])

    def _stamps(self) -> Stamps:
        return {path: _stamp(path) for path in self._files()}

    def _read(self) -> tuple[Keys, Revoked]:
        """In any thread. Raises ConfigError."""
        config = self._config
        if config.auth_keys is None:
            return Keys(), Revoked()
        keys = _parsed(config.auth_keys, lambda data: parse_keys(data))
        revoked = Revoked()
        if config.revoked_path.exists():
            revoked = _parsed(config.revoked_path, lambda data: parse_revoked(io.StringIO(data.decode("utf-8"))))
        elif config.auth_revoked is not None:
            raise ConfigError(f"{config.auth_revoked}: no such file; an empty one revokes nothing")
        return keys, revoked

    def _tls(self) -> ssl.SSLContext | None:
        cert, key = self._config.listen_tls_cert, self._config.listen_tls_key
        if cert is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(cert, key)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"listen_tls_cert: {cert} and its key do not load ({error.strerror or error})") from None
        return context


def forwarded(headers: Headers) -> bool:
    """Does a proxy ask for somebody on another machine?"""
    return from_elsewhere((name, value) for name in FORWARDED for value in headers.get_all(name))


def target_of(target: str) -> SplitResult:
    """Path and query of a request line. Not `urlsplit`: it takes `//` for a host, and raises over `//]`."""
    path, _, query = target.partition("#")[0].partition("?")
    return SplitResult("", "", path, query, "")


def token_of(path: str, headers: Mapping[str, str]) -> str | None:
    """Of the `Authorization` header, or of `?token=`. None: neither is there."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    query = target_of(path).query
    if "token=" not in query:
        return None
    return parse_qs(query).get("token", [""])[0]


def revoke(path: Path, revocation: Mapping[str, object]) -> None:
    """Add a line to the file; every edge that reads it closes what it means. Raises ConfigError."""
    line = json.dumps(revocation, ensure_ascii=False)
    parse_revoked([line])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_bytes() if path.exists() else b""
        with open(path, "ab") as file:
            file.write((b"" if not old or old.endswith(b"\n") else b"\n") + line.encode("utf-8") + b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that can be written") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _parsed(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a file that can be read") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
