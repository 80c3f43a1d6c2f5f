"""The outbox on its way to the log, and the warnings before it can hold no more.

Room: publishing what the machine says, and two alarms. What is in the outbox is the machine's and the store's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from sync.change import Change
from sync.edge import Edge, EdgeStep
from sync.errors import BusError
from sync.ids import Version
from sync.limits import OUTBOX_WARN_MS, OUTBOX_WARN_PERCENT
from sync.ports import Store

from .bus import Bus
from .clock import now_ms
from .config import Config

__all__ = ["Outbox"]

log = logging.getLogger("skerry.edge")

LOG_WARNING_MS = 10_000  # between two warnings that the log refuses changes


class Outbox:
    def __init__(self, config: Config, store: Store, bus: Bus, machine: Edge, do: Callable[[EdgeStep], None]) -> None:
        self._config = config
        self._store = store
        self._bus = bus
        self._machine = machine
        self._do = do
        self._shipped = asyncio.Event()
        """Set when nothing is in flight to the log any more."""
        self._filling_after_ms = 0
        self._refused_after_ms = 0

    def publish(self, change: Change) -> None:
        def done(result: Version | BusError) -> None:
            if isinstance(result, Version):
                self._do(self._machine.published(change.doc, change.dot, result, now_ms()))
            else:
                self._warn_of_log(result)
                self._do(self._machine.publish_failed(change.doc, change.dot, now_ms()))
            if not self._machine.shipping.inflight_count:
                self._shipped.set()

        self._shipped.clear()
        self._bus.publish(change, done)

    async def shipped(self, wait_s: float) -> None:
        """What can be shipped in that time."""
        if self._bus.state.state == "up" and self._machine.shipping.inflight_count:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, wait_s)):
                    await self._shipped.wait()

    def look(self) -> None:
        """Warns before it is full; then new edits are refused, with the reason, until some of it is merged."""
        totals = self._store.outbox_totals()
        full: tuple[str, int, int] | None = None
        filling = False
        for name, got, limit in (
            ("outbox_count", totals.count, self._config.outbox_count_max),
            ("outbox_bytes", totals.bytes, self._config.outbox_bytes_max),
        ):
            filling = filling or 100 * got >= OUTBOX_WARN_PERCENT * limit
            if got >= limit:
                full = (name, got, limit)
        self._machine.pressure.outbox_full = full
        if filling and now_ms() >= self._filling_after_ms:
            self._filling_after_ms = now_ms() + OUTBOX_WARN_MS
            event = "outbox_full" if full else "outbox_filling"
            log.warning("%s count=%d bytes=%d detail='link it, or free its log'", event, totals.count, totals.bytes)

    def _warn_of_log(self, error: BusError) -> None:
        """The alarm of a log that takes nothing more (its storage is full): the outbox grows until somebody acts."""
        if self._bus.state.state == "up" and now_ms() >= self._refused_after_ms:
            self._refused_after_ms = now_ms() + LOG_WARNING_MS
            log.warning("log_refuses detail=%r outbox=%d", str(error), self._store.outbox_totals().count)
