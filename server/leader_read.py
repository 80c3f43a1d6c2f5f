"""A document as the leader has it, for a person: the question that edges ask, and a token that is waited for.

Room: one reading over NATS. It keeps nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

from sync.change import SyncAnswer, SyncAsk
from sync.document import Document
from sync.errors import BusUnreachable, NotYet, SkerryError
from sync.ids import DocId, shard_of
from sync.token import Token, decode_token
from sync.validate import check_update

from .bus import Bus

__all__ = ["read_at_leader"]

_PAUSE_S_MAX: Final = 0.5
_NOTHING: Final = b"\x00"  # the state vector of who has nothing: the answer is the whole document


async def read_at_leader(
    bus: Bus, doc: DocId, namespace: str, at_least: str | None, wait_s: float, *, contents: bool
) -> dict[str, object]:
    """As an edge's `GET /docs/<doc>`, when the leader has come as far as the token.

    Raises InvalidToken, NotYet when `wait_s` is over or the leader has refused that write, BusError, SkerryError.
    """
    token = decode_token(at_least, namespace, doc) if at_least is not None else None
    ends = time.monotonic() + wait_s
    pause_s = 0.02
    while True:
        left_s = ends - time.monotonic()
        try:
            answer = await bus.ask_sync(
                SyncAsk(doc, secrets.randbits(40), _NOTHING, None), shard_of(doc, bus.shards or 1)
            )
        except BusUnreachable:
            if left_s <= 0:
                raise
        else:
            if token is None or _covers(answer, token):
                return _reading(answer, contents=contents)
            if token.dot is not None and token.dot in answer.rejected:
                raise NotYet(doc, f"{answer.version}, and the leader has refused it ({answer.reason})", str(at_least))
            if left_s <= 0:
                raise NotYet(doc, str(answer.version), str(at_least))
        await asyncio.sleep(min(pause_s, max(0.0, left_s)))
        pause_s = min(_PAUSE_S_MAX, 2 * pause_s)


def _covers(answer: SyncAnswer, token: Token) -> bool:
    if token.dot is not None and token.dot in answer.dots:
        return True
    return token.version is not None and answer.version.covers(token.version)


def _reading(answer: SyncAnswer, *, contents: bool) -> dict[str, object]:
    check_update(answer.update)
    document = Document(answer.update)
    if not document.clocks():
        raise SkerryError(f"{answer.doc}: the leader has no such document; ask an edge that may have it, with --edge")
    found: dict[str, object] = {
        "doc": answer.doc,
        "version": str(answer.version),
        "digest": document.digest(),
        "outbox": 0,
    }
    return found | ({"content": document.contents()} if contents else {})
