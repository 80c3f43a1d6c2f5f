"""Leadership of shards: a key of a NATS bucket per shard, held by whoever writes it every few seconds.

Room: who leads, not what leading means. A lease is not mutual exclusion (facts 2.4): two leaders at once are
harmless by construction, and what is not is fenced with the revision that is handed out here.

1. A key is written only over the revision that was read: one of two racing nodes loses, and knows it.
2. The bucket forgets a key LEASE_TTL_S after it was written. The holder counts from before it sent the write, so by its
   own clock it always loses the lease first.
3. A release leaves a delete marker, and a marker is as good as no key: the next owner writes over its revision.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sync.errors import BusError

from .session import Session
from .streams import LEASE_TTL_S

__all__ = ["Lease"]

log = logging.getLogger("skerry.lease")

RENEW_S = 3.0  # two renewals may be lost
LOOK_S = 1.0  # how soon a free shard is seen
WRITE_S_MAX = 2.0  # one question to the bucket: three of them fit into a lease
WRONG_LAST_SEQUENCE = "wrong last sequence"


@dataclass(frozen=True, slots=True)
class _Held:
    revision: int
    written: float
    """Loop time before the write was sent."""


class Lease:
    """Takes what is free and keeps it. `gained(shard, revision)` and `lost(shard)` are called on the event loop."""

    def __init__(
        self,
        current: Callable[[], Session],
        node: str,
        gained: Callable[[int, int], None],
        lost: Callable[[int], None],
        *,
        ttl_s: float = LEASE_TTL_S,
    ) -> None:
        self._current = current
        self._node = node
        self._id = secrets.token_hex(8)  # two nodes may be named alike
        self._gained = gained
        self._lost = lost
        self._ttl_s = ttl_s
        self._held: dict[int, _Held] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def leading(self) -> frozenset[int]:
        return frozenset(self._held)

    def revision(self, shard: int) -> int | None:
        """What fences this node's writes as leader of the shard; None where it does not lead."""
        held = self._held.get(shard)
        return None if held is None else held.revision

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._take_and_renew()), loop.create_task(self._expire())]

    async def stop(self) -> None:
        """Release what is held, so that others need not wait for it to run out."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        held = dict(self._held)
        for shard in sorted(held):
            self._lose(shard, "released")  # first here: nothing is done in a lease's name that others may already have
        try:
            session = self._current()
            for shard, one in sorted(held.items()):
                await self._write(session, shard, one.revision, b"", {"KV-Operation": "DEL"})
        except BusError as error:
            log.info("lease_not_released detail=%r", str(error))

    async def owners(self) -> dict[int, str]:
        """Who leads which shard, by what the bucket says. Raises BusError."""
        session = self._current()
        found: dict[int, str] = {}
        for shard in range(session.shards):
            _, owner = await self._look(session, shard)
            if owner is not None:
                found[shard] = owner[0]
        return found

    # --- inside ------------------------------------------------------------------------------------------------------
    async def _take_and_renew(self) -> None:
        while True:
            try:
                session = self._current()
                for shard in range(session.shards):
                    await self._tend(session, shard)
            except BusError as error:  # the link is down, or slow: _expire decides what that costs
                log.debug("lease_waits detail=%r", str(error))
            except Exception:
                log.exception("lease_failed")
            await asyncio.sleep(LOOK_S)

    async def _tend(self, session: Session, shard: int) -> None:
        loop = asyncio.get_running_loop()
        held = self._held.get(shard)
        if held is not None and loop.time() - held.written < RENEW_S:
            return
        if held is not None:
            written, got = loop.time(), await self._claim(session, shard, held.revision)
        if held is None or got is None:
            # Also where a renewal was refused: the last one may have been written, and only its answer was lost.
            revision, owner = await self._look(session, shard)
            if owner is not None and owner[1] != self._id:
                if held is not None:
                    self._lose(shard, f"taken by {owner[0]}")
                return
            written, got = loop.time(), await self._claim(session, shard, revision)
        if got is None:
            self._lose(shard, "another was faster")
            return
        if held is not None and shard not in self._held:
            return  # ran out by our own clock while the answer was under way: taken anew with the next look
        self._held[shard] = _Held(got, written)
        if held is None:
            log.info("lease_gained shard=%d revision=%d", shard, got)
            _call(lambda: self._gained(shard, got))

    async def _expire(self) -> None:
        """Invariant 2."""
        while True:
            now = asyncio.get_running_loop().time()
            for shard, held in sorted(self._held.items()):
                if now - held.written >= self._ttl_s:
                    self._lose(shard, f"not renewed for {self._ttl_s:g} s")
            await asyncio.sleep(0.1)

    def _lose(self, shard: int, why: str) -> None:
        if self._held.pop(shard, None) is not None:
            log.info("lease_lost shard=%d detail=%r", shard, why)
            _call(lambda: self._lost(shard))

    async def _claim(self, session: Session, shard: int, revision: int) -> int | None:
        value = json.dumps({"node": self._node, "id": self._id}).encode()
        return await self._write(session, shard, revision, value, {})

    async def _look(self, session: Session, shard: int) -> tuple[int, tuple[str, str] | None]:
        """(revision to write over, name and id of the node that holds it or None)."""
        found = await session.last(f"KV_{session.layout.leaders}", session.layout.lease(shard))
        if found is None:
            return 0, None
        if not found.data or found.headers.get("KV-Operation") in ("DEL", "PURGE"):  # Invariant 3
            return found.seq, None
        try:
            value = json.loads(found.data)
            return found.seq, (str(value["node"]), str(value["id"]))
        except (ValueError, KeyError, TypeError):
            return found.seq, ("unknown", "")

    async def _write(
        self, session: Session, shard: int, revision: int, value: bytes, headers: dict[str, str]
    ) -> int | None:
        """The new revision; None where somebody else wrote (Invariant 1). Raises BusError where nothing is known."""
        headers = {**headers, "Nats-Expected-Last-Subject-Sequence": str(revision)}
        try:
            async with asyncio.timeout(WRITE_S_MAX):
                return await session.publish(session.layout.lease(shard), value, headers)
        except TimeoutError:
            raise BusError(f"lease of shard {shard}: no answer within {WRITE_S_MAX:g} s") from None
        except BusError as error:
            if WRONG_LAST_SEQUENCE in str(error):
                return None
            raise


def _call(notify: Callable[[], None]) -> None:
    try:
        notify()
    except Exception:
        log.exception("lease_callback")
