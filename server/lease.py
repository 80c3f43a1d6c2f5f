"""Leadership of shards: a key of a NATS bucket per shard, held by whoever writes it every few seconds; shared evenly.

Room: who leads, not what leading means. A lease is not mutual exclusion (facts 2.4): two leaders at once are
harmless by construction, and what is not is fenced with the revision that is handed out here.

1. A key is written only over the revision that was read: one of two racing nodes loses, and knows it.
2. The bucket forgets a key LEASE_TTL_S after it was written. The holder counts from before it sent the write, so by its
   own clock it always loses the lease first.
3. A release leaves a delete marker, and a marker is as good as no key: the next owner writes over its revision.
4. Every node that could lead has a key of its own, renewed like a lease. A node takes a free shard while no other has
   fewer than it; what has been free for PATIENCE_S anybody takes. Who holds two more than another gives one back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sync.errors import BusError

from .session import Session, StoredMessage
from .streams import LEASE_TTL_S

__all__ = ["Lease"]

log = logging.getLogger("skerry.lease")

RENEW_S = 3.0  # two renewals may be lost
LOOK_S = 1.0  # how soon a free shard is seen
PATIENCE_S = 2.5  # whose turn it is has looked twice by then: it takes nothing, or is gone and its own key is not yet
GIVE_AGAIN_S = 60.0  # after a shard that was given back had to be taken again: the other node takes nothing
ANSWER_S_MAX = 2.0  # one question to the bucket: three of them fit into a lease
WRONG_LAST_SEQUENCE = "wrong last sequence"

Owner = tuple[str, str]
"""Name and id of a node."""


@dataclass(frozen=True, slots=True)
class _Held:
    revision: int
    written: float
    """Loop time before the write was sent."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The bucket as it was read."""

    leases: dict[int, tuple[int, Owner | None]]
    """shard -> revision to write over, the node that holds it or None."""
    nodes: frozenset[str]
    """Ids of those that could lead."""

    def others(self, own: str) -> dict[str, int]:
        """How many shards each other node holds."""
        owners = [owner[1] for _, owner in self.leases.values() if owner is not None]
        return {node: owners.count(node) for node in {*self.nodes, *owners} - {own}}


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
        self._signed: float | None = None
        self._free_since: dict[int, float] = {}
        self._given: set[int] = set()
        """Given back, and not seen with another node since."""
        self._give_after = 0.0
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
                await self._release(session, session.layout.lease(shard), one.revision)
            await self._release(session, session.layout.candidate(self._id), None)
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
                for shard in sorted(self._held):
                    await self._renew(session, shard)
                await self._sign(session)
                await self._share(session, await self._read(session))
            except BusError as error:  # the link is down, or slow: _expire decides what that costs
                log.debug("lease_waits detail=%r", str(error))
            except Exception:
                log.exception("lease_failed")
            await asyncio.sleep(LOOK_S)

    async def _sign(self, session: Session) -> None:
        """The node's own key. Nobody else writes it: whatever was there is written over."""
        now = asyncio.get_running_loop().time()
        if self._signed is None or now - self._signed >= RENEW_S:
            await self._write(session, session.layout.candidate(self._id), None, self._value())
            self._signed = now

    async def _renew(self, session: Session, shard: int) -> None:
        loop = asyncio.get_running_loop()
        held = self._held.get(shard)
        if held is None or loop.time() - held.written < RENEW_S:
            return
        written, got = loop.time(), await self._claim(session, shard, held.revision)
        if got is None:  # the last renewal may have been written, and only its answer was lost
            revision, owner = await self._look(session, shard)
            if owner is not None and owner[1] != self._id:
                self._lose(shard, f"taken by {owner[0]}")
                return
            written, got = loop.time(), await self._claim(session, shard, revision)
        if got is None:
            self._lose(shard, "another was faster")
        elif shard in self._held:  # else it ran out by our own clock while the answer was under way
            self._held[shard] = _Held(got, written)

    async def _share(self, session: Session, seen: _Seen) -> None:
        """Invariant 4."""
        now = asyncio.get_running_loop().time()
        others = seen.others(self._id)
        fewest = min(others.values(), default=None)
        for shard in range(session.shards):
            revision, owner = seen.leases.get(shard, (0, None))
            if shard in self._held:
                continue
            if owner is not None and owner[1] != self._id:
                self._free_since.pop(shard, None)
                self._given.discard(shard)
                continue
            waited = now - self._free_since.setdefault(shard, now)
            mine = owner is not None  # and ran out by our own clock
            if mine or fewest is None or len(self._held) <= fewest or waited >= PATIENCE_S:
                await self._take(session, shard, revision)
        if fewest is not None and len(self._held) >= fewest + 2 and now >= self._give_after:
            await self._give(session, max(self._held))

    async def _take(self, session: Session, shard: int, revision: int) -> None:
        written, got = asyncio.get_running_loop().time(), await self._claim(session, shard, revision)
        if got is not None:
            self._free_since.pop(shard, None)
            if shard in self._given:
                self._given.discard(shard)
                self._give_after = written + GIVE_AGAIN_S
            self._held[shard] = _Held(got, written)
            log.info("lease_gained shard=%d revision=%d", shard, got)
            _call(lambda: self._gained(shard, got))

    async def _give(self, session: Session, shard: int) -> None:
        revision = self._held[shard].revision
        self._lose(shard, "given to a node that has fewer")
        self._given.add(shard)
        await self._release(session, session.layout.lease(shard), revision)

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

    def _value(self) -> bytes:
        return json.dumps({"node": self._node, "id": self._id}).encode()

    async def _claim(self, session: Session, shard: int, revision: int) -> int | None:
        return await self._write(session, session.layout.lease(shard), revision, self._value())

    async def _read(self, session: Session) -> _Seen:
        """Raises BusError."""
        leases: dict[int, tuple[int, Owner | None]] = {}
        nodes: dict[str, bool] = {}
        shards = {session.layout.lease(shard): shard for shard in range(session.shards)}
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                async for key in session.stored(f"KV_{session.layout.leaders}", session.layout.lease_keys, 0):
                    if key.subject in shards:
                        leases[shards[key.subject]] = (key.seq, _owner_of(key))
                    elif key.subject.startswith(session.layout.candidate("")):
                        nodes[key.subject.rpartition(".")[2]] = _owner_of(key) is not None
        except TimeoutError:
            raise BusError(f"leases: not read within {ANSWER_S_MAX:g} s") from None
        return _Seen(leases, frozenset(node for node, there in nodes.items() if there))

    async def _look(self, session: Session, shard: int) -> tuple[int, Owner | None]:
        """(revision to write over, the node that holds it or None), never stale."""
        found = await session.last(f"KV_{session.layout.leaders}", session.layout.lease(shard))
        return (0, None) if found is None else (found.seq, _owner_of(found))

    async def _release(self, session: Session, key: str, revision: int | None) -> None:
        """Invariant 3."""
        await self._write(session, key, revision, b"", {"KV-Operation": "DEL"})

    async def _write(
        self, session: Session, key: str, revision: int | None, value: bytes, headers: dict[str, str] | None = None
    ) -> int | None:
        """The new revision; None where somebody else wrote (Invariant 1). Raises BusError where nothing is known."""
        headers = dict(headers or {})
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await session.publish(key, value, headers)
        except TimeoutError:
            raise BusError(f"{key}: no answer within {ANSWER_S_MAX:g} s") from None
        except BusError as error:
            if WRONG_LAST_SEQUENCE in str(error):
                return None
            raise


def _owner_of(key: StoredMessage) -> Owner | None:
    """Invariant 3."""
    if not key.data or key.headers.get("KV-Operation") in ("DEL", "PURGE"):
        return None
    try:
        value = json.loads(key.data)
        return str(value["node"]), str(value["id"])
    except (ValueError, KeyError, TypeError):
        return "unknown", ""


def _call(notify: Callable[[], None]) -> None:
    try:
        notify()
    except Exception:
        log.exception("lease_callback")
