"""How a command comes to its documents: an edge, a store, or both; and what it can say of their safety.

Room: addresses as people write them, one session, and waiting that ends early where it is in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from sync.errors import NotYet, SkerryError, StoreError
from sync.extension import Stage

from .client import Session, Unreachable, connect
from .document import OpenDocument
from .events import Denied, Offline, Online, Refused, Stream
from .host import SessionClosed
from .link import InvalidAddress
from .parking import EditRejected

__all__ = [
    "EDGE",
    "NotGiven",
    "Outcome",
    "Reach",
    "Refusal",
    "Unknown",
    "Work",
    "at_work",
    "temporary",
    "usual",
    "ws_address",
]

EDGE: Final = "ws://127.0.0.1:8787"
PATIENCE_S: Final = 2.0  # after the first refusal: a restarting edge is waited for, a wrong address not for long
_STORE: Final = "documents.db"


class NotGiven(SkerryError):
    """What a command needs, and neither a flag nor the environment nor standard input has said."""


class Refusal(SkerryError):
    """The edge does not let this session in, or not to this document."""


class Unknown(SkerryError):
    """A document that is not in this store."""


def usual() -> tuple[str, ...]:
    """Where edges are, unless a flag says so."""
    return tuple(filter(None, os.environ.get("SKERRY_EDGE", "").split(","))) or (EDGE,)


def ws_address(edge: str) -> str:
    """`ws://…` of what people write: `http://…`, `ws://…` or `host:port`. Raises InvalidAddress."""
    parts = urlsplit(edge if "://" in edge else f"ws://{edge}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise InvalidAddress(f"{edge!r}: no address of an edge; write it as ws://127.0.0.1:8787")
    return urlunsplit((scheme, parts.netloc, "", "", ""))


@dataclass(frozen=True, slots=True)
class Reach:
    """What a command was told."""

    addresses: tuple[str, ...]
    """None: work in the store alone."""
    store: Path | None
    """None: one of its own, thrown away at the end."""
    namespace: str
    token: str
    timeout_s: float
    actor: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How safe a document's edits are at a command's end."""

    doc: str
    changed: bool
    stage: Stage
    """Of the edit that is least safe."""
    edge: str
    token: str
    kept: str
    """Path of the store, where edits are on no edge yet; else empty."""
    why: str
    """Why not safer; empty where it is as safe as was asked for."""


class Work:
    """One session for one command."""

    def __init__(self, reach: Reach, session: Session, store: Path, addresses: list[str]) -> None:
        self.session = session
        self.addresses = addresses
        self.reach = reach
        self.store = store
        self.keep = reach.store is not None
        """Whether the store is left where it is."""

    @property
    def offline(self) -> bool:
        return not self.reach.addresses

    # --- coming to documents -----------------------------------------------------------------------------------------
    async def open(self, doc: str, *, needed: bool = True) -> OpenDocument:
        """The document, as the edge has it now.

        Without an edge that answers: as the store has it, where there is one that has it (and nothing is `needed`).
        Raises Unreachable, Refusal, Unknown, NotYet.
        """
        known = self.reach.store is not None and doc in self.session.documents()
        plan = await self.session.open(doc)
        if self.offline:
            if needed and not known:
                raise Unknown(f"{doc}: is not in {self.store}; fetch it with: skerry doc sync --offline STORE {doc}")
            return plan
        try:
            await self.connected()
            await self._or_vain(plan.synced(timeout=self.reach.timeout_s), doc)
        except (Unreachable, NotYet):
            if needed or self.reach.store is None:
                raise
        return plan

    async def connected(self) -> None:
        """Raises Unreachable, Refusal."""
        if self.session.online:
            return
        try:
            await self._or_vain(self.session.connected(self.reach.timeout_s))
        except Unreachable:
            tried = ", ".join(self.reach.addresses)
            raise Unreachable(
                f"no edge at {tried} ({self.session.why_offline}); is one running there? name it with --edge,"
                " or work in a store with --offline"
            ) from None

    async def _or_vain(self, wish: Coroutine[Any, Any, None], doc: str = "") -> None:
        """`wish`, or an error as soon as it is known that it cannot come true."""
        stream = self.session.events()
        wishing = asyncio.create_task(wish)
        vain = asyncio.create_task(self._vain(stream, doc))
        try:
            await asyncio.wait({wishing, vain}, return_when=asyncio.FIRST_COMPLETED)
            if wishing.done():
                wishing.result()
            else:
                vain.result()
        finally:
            stream.close()
            for task in (wishing, vain):
                task.cancel()
            await asyncio.gather(wishing, vain, return_exceptions=True)

    async def _vain(self, stream: Stream[Any], doc: str) -> None:
        """Raises Refusal, Unreachable; SessionClosed where there is nothing more to come."""
        deadline: float | None = None
        if not self.session.online and self.session.why_offline != "not connected yet":
            deadline = PATIENCE_S
        while True:
            try:
                async with asyncio.timeout(deadline):
                    event = await anext(stream)
            except TimeoutError:
                raise Unreachable(self.session.why_offline) from None
            except StopAsyncIteration:
                raise SessionClosed(f"{self.store}: the session is over") from None
            match event:
                case Denied(address, code, reason):
                    raise Refusal(f"{address}: {reason} ({code}); show a token that holds with --token")
                case Refused(of, code, reason) if of == doc:
                    raise Refusal(f"{doc}: {reason} ({code})")
                case Online():
                    deadline = None
                case Offline():
                    deadline = PATIENCE_S

    async def listed(self) -> list[str]:
        """Documents that the edge, or without one the store, has, sorted. Raises Unreachable, Refusal."""
        here = self.session.documents() if self.reach.store is not None else []
        if self.offline:
            return here
        await self.connected()
        return sorted({*here, *await asyncio.to_thread(_documents_of, self.session.address, self.reach.token)})

    async def reload(self, plan: OpenDocument) -> None:
        """What the edge holds, where something in the document was refused. Raises Refusal, Unreachable, NotYet."""
        await self._or_vain(plan.reload(timeout=self.reach.timeout_s))

    # --- leaving them ------------------------------------------------------------------------------------------------
    async def outcome(self, plan: OpenDocument, stage: Stage, *, changed: bool) -> Outcome:
        """When its edits are as safe as `stage`, or it is known that they are not. Raises ReadOnly, Refusal."""
        why = ""
        if not self.offline:
            try:
                await self._or_vain(plan.confirmed(stage, timeout=self.reach.timeout_s), plan.doc)
            except EditRejected:
                if self.reach.store is not None or plan.parked is None:
                    raise
                raise Refusal(f"{plan.doc}: {plan.parked.reason}") from None  # there is no store to be reloaded
            except (NotYet, Unreachable):
                why = self.session.why_offline or f"edge {self.session.edge} has not said so in time"
        least = min((progress.stage for progress in plan.status.edits), default=Stage.MERGED)
        if least < Stage.EDGE:
            self.keep = True
        token = plan.token if changed or plan.status.edits or plan.version is not None else ""
        kept = str(self.store) if least < Stage.EDGE else ""
        return Outcome(plan.doc, changed, least, self.session.edge, token, kept, why if least < stage else "")


@contextlib.asynccontextmanager
async def at_work(reach: Reach) -> AsyncIterator[Work]:
    """Raises InvalidAddress, StoreError and what is below it."""
    addresses = [ws_address(edge) for edge in reach.addresses]
    if reach.store is None and not addresses:
        raise InvalidAddress("neither an edge nor a store; name one with --edge, or the other with --offline")
    own = temporary() if reach.store is None else None
    store = own / _STORE if own is not None else Path(reach.store or "")
    work: Work | None = None
    try:
        token = reach.token or None
        async with connect(
            addresses, store=store, namespace=reach.namespace, actor=reach.actor, token=token
        ) as session:
            work = Work(reach, session, store, addresses)
            yield work
    finally:
        if own is not None and (work is None or not work.keep):
            shutil.rmtree(own, ignore_errors=True)


def temporary() -> Path:
    """A directory of one's own. Raises StoreError where the disk is full."""
    try:
        return Path(tempfile.mkdtemp(prefix="skerry-"))
    except OSError as error:
        raise StoreError(
            f"no place for temporary files ({error.strerror}); free some space, or name another place with TMPDIR"
        ) from None


def _documents_of(address: str, token: str) -> list[str]:
    """What the edge lists, over HTTP on the same port."""
    parts = urlsplit(address)
    url = urlunsplit(({"ws": "http", "wss": "https"}[parts.scheme], parts.netloc, "/docs", "", ""))
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            found = json.load(response)["docs"]
    except urllib.error.HTTPError as error:
        raise Refusal(f"{url}: {error.code} {error.reason}; show a token that holds with --token") from None
    except (OSError, ValueError, KeyError) as error:
        raise Unreachable(f"{url}: {getattr(error, 'reason', error)}; is an edge running there?") from None
    return [str(doc) for doc in found]
