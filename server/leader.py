"""The leader daemon: the leader machine wired to the log's consumers, the lease and the bus.

Room: performs what `sync.leader` decides. It keeps nothing: a machine whose log was replaced is thrown away.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from sync.change import Beacon, Merged, RepairAsk, SyncAnswer, SyncAsk, Unreadable, size_of
from sync.elsewhere import Work
from sync.errors import BusError
from sync.ids import ORIGIN_MAX, DocId, Origin, Version, from_subject_token, shard_of
from sync.leader import Delivery, Leader, LeaderSettings, LeaderStep
from sync.step import (
    Ack,
    AnswerSync,
    AskRepair,
    Broadcast,
    Elsewhere,
    Emit,
    LeaderEffect,
    LoadLogged,
    LookAtLog,
    Publish,
    Reject,
    Report,
    SendBeacon,
    StoreSnapshot,
)

from .bus import Bus, LogConsumer
from .clock import now_ms
from .config import Config
from .lease import Lease
from .log import named, report, scrubbed
from .log_reader import Delivered
from .record import KILLS, Record
from .streams import api, place_of
from .tasks import Tasks

__all__ = ["LeaderDaemon"]

log = logging.getLogger("skerry.leader")

TICK_S = 0.1
FETCH_COUNT = 500  # messages of one shard folded before they are broadcast together
TURN_BYTES = 64 * 1024  # of updates among them: 20 to 40 ms at worst, and none alone is folded here above FOLDED_BYTES
RETRY_S = 0.5
COUNT_S = 2.0  # how often a quiet consumer's count is compared with what was given here
INSIDE = "inside:"  # replies that stay in this process


class LeaderDaemon:
    """`start()`, `stop()`. Listens to its bus."""

    def __init__(self, config: Config, record: Record | None = None) -> None:
        self.config = config
        self._record = record
        self._heard: asyncio.Task[None] | None = None
        self.name = config.name
        self.bus = Bus(config.bus(config.name), self)
        self.bus.serve_stamp()
        self.lease = Lease(self.bus.session, config.name, self._gained, self._lost)
        self._origin = Origin(secrets.randbelow(ORIGIN_MAX) + 1)
        self.machine = Leader(LeaderSettings(config.name, self._origin))
        self.consumers: dict[int, LogConsumer] = {}
        self._pulls: dict[int, asyncio.Task[None]] = {}
        self.tasks = Tasks(log)
        self._worker = ThreadPoolExecutor(1, "skerry-fold")
        self._inside: dict[str, asyncio.Future[SyncAnswer]] = {}
        self._asked = 0
        self._leading: set[int] = set()

    # --- its life ----------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.bus.start()
        await self.lease.start()
        self.tasks.spawn(self._tick(), vital=True)
        self.tasks.spawn(self._count(), vital=True)

    async def stop(self, deadline_s: float = 5.0) -> None:
        """Give the shards back, so that another node takes them at once."""
        for task in list(self._pulls.values()):
            task.cancel()
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)
        self._do(self.machine.settle(now_ms()))
        await self.lease.stop()
        await self.tasks.stop()
        # Not waited for, which may be seconds: what a work would have found is nowhere yet. Its changes were not
        # broadcast, so they are not acknowledged, and its snapshot is not stored: who leads next finds the same.
        self._worker.shutdown(wait=False, cancel_futures=True)
        await self.bus.stop(deadline_s)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._do(self.machine.tick(now_ms()))

    async def _count(self) -> None:
        """Was somebody else given a message? Seen where the consumer is quiet and has counted further."""
        while True:
            await asyncio.sleep(COUNT_S)
            machine = self.machine
            for shard in machine.shards:
                try:
                    session = self.bus.session()
                    info = await api(session.link, f"CONSUMER.INFO.{session.layout.changes}.leader-{shard}")
                except BusError:
                    break
                if machine is self.machine and info.get("num_pending") == info.get("num_ack_pending") == 0:
                    self._do(machine.counted(shard, place_of(info, "delivered")[1], now_ms()))

    # --- the role ----------------------------------------------------------------------------------------------------
    def _gained(self, shard: int, revision: int) -> None:
        log.info("shard_gained shard=%d revision=%d", shard, revision)
        self._leading.add(shard)
        if self.bus.epoch is not None:
            self._lead(shard, self.bus.epoch)

    def _lost(self, shard: int) -> None:
        log.info("shard_lost shard=%d", shard)
        self._leading.discard(shard)
        self._leave(shard)

    def _lead(self, shard: int, epoch: int) -> None:
        if self.machine.epoch not in (0, epoch):
            self._anew()
        if shard in self._pulls:
            return
        self._do(self.machine.gained(shard, epoch, now_ms()))
        self.consumers.setdefault(shard, self.bus.consumer(shard))
        self._pulls[shard] = self._loop.create_task(self._pull(shard, self.consumers[shard]))
        self.tasks.watch(self._pulls[shard])
        self.bus.serve_sync(sorted(self._pulls), self._sync_asked)

    def _leave(self, shard: int) -> None:
        pull = self._pulls.pop(shard, None)
        if pull is not None:
            pull.cancel()
        self._do(self.machine.lost(shard, now_ms()))
        consumer = self.consumers.pop(shard, None)
        if consumer is not None:
            consumer.close()
        self.bus.serve_sync(sorted(self._pulls), self._sync_asked)

    def _anew(self) -> None:
        """Another log: what was folded from the old one means nothing here."""
        for shard in sorted(self._pulls):
            self._leave(shard)
        self.machine = Leader(LeaderSettings(self.config.name, self._origin))
        self._heard = None

    async def _pull(self, shard: int, consumer: LogConsumer) -> None:
        while True:
            try:
                delivered = await consumer.fetch(FETCH_COUNT)
            except BusError as error:
                log.debug("fetch_failed shard=%d detail=%r", shard, str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if delivered:
                for portion in portions(delivered):
                    deliveries = [Delivery(one.entry, one.consumer_seq, one.redelivered) for one in portion]
                    self._do(self.machine.delivered(shard, deliveries, now_ms()))
                    self._keep_witness()
                    await asyncio.sleep(0)  # one busy shard leaves room for the others

    def _keep_witness(self) -> None:
        witness = self.machine.witness
        if witness is not None:
            self.bus.set_witness(*witness)

    # --- what the machine wants --------------------------------------------------------------------------------------
    def _do(self, step: LeaderStep) -> None:
        for effect in step.now:
            self._perform(effect)

    def _perform(self, effect: LeaderEffect) -> None:
        match effect:
            case Broadcast(merged):
                self.bus.broadcast(merged)
            case Ack(shard, seqs):
                consumer = self.consumers.get(shard)
                if consumer is not None:
                    consumer.ack(seqs)
            case Emit(doc, version, contexts):
                changes = [
                    {
                        "dot": str(dot),
                        "edge": context.edge,
                        "actor": context.actor,
                        "causation": context.causation,
                        "correlation": context.correlation,
                        "time_ms": context.time_ms,
                    }
                    for dot, context in contexts
                ]
                self.bus.emit(doc, {"doc": doc, "version": str(version), "changes": changes})
            case AnswerSync(reply, answer):
                if reply.startswith(INSIDE):
                    waiting = self._inside.pop(reply, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(answer)
                else:
                    self.bus.answer(reply, answer)
            case LoadLogged(doc, before):
                self.tasks.spawn(self._load(self.machine, doc, before))
            case Elsewhere(work):
                self.tasks.spawn(self._work(self.machine, work))
            case LookAtLog(doc, version):
                self.bus.look_for(version, doc)
            case SendBeacon(beacon):
                self._send_beacon(beacon)
            case StoreSnapshot():
                self.tasks.spawn(self._store_snapshot(effect))
            case Publish():
                self._publish(self.machine, effect)
            case AskRepair(ask):
                log.info("repair_asked doc=%s missing=%d", named(ask.doc), len(ask.missing))
                self.bus.ask_repair(ask)
            case Reject(entry, reason):
                doc = entry.doc if isinstance(entry, Unreadable) else entry.change.doc
                log.warning("change_rejected version=%s reason=%r", entry.version, scrubbed(reason, doc))
                self.bus.reject(entry, reason)
            case Report():
                report(log, effect)

    def _publish(self, machine: Leader, effect: Publish) -> None:
        change = effect.change

        def done(result: Version | BusError) -> None:
            if isinstance(result, Version):
                self._do(machine.published(change.doc, change.dot, result, now_ms()))
            else:
                self._do(machine.publish_failed(change.doc, change.dot, now_ms()))

        self.bus.publish(change, done)

    def _send_beacon(self, beacon: Beacon) -> None:
        by_shard: dict[int, list[tuple[DocId, Version, str]]] = {}
        for entry in beacon.docs:
            by_shard.setdefault(shard_of(entry[0], self.bus.shards or 1), []).append(entry)
        for shard, docs in sorted(by_shard.items()):
            self.bus.send_beacon(shard, Beacon(tuple(docs)))

    async def _load(self, machine: Leader, doc: DocId, before: int | None) -> None:
        try:
            await self._hear_of_deaths()
            snapshot = await self.bus.load_snapshot(doc)
            if self._record is not None and self._record.distrusts(doc):
                snapshot = None
            fits = snapshot is not None and snapshot.version.epoch == self.bus.epoch
            after = snapshot.version.seq if snapshot is not None and fits else 0
            entries = await self.bus.read_log(doc, after, before)
        except BusError as error:
            log.info("log_unread doc=%s detail=%r", named(doc), scrubbed(str(error), doc))
            step = machine.log_failed(doc, now_ms())
        else:
            step = machine.logged(doc, snapshot, entries, now_ms())
        if machine is self.machine:
            self._do(step)
            self._keep_witness()

    async def _work(self, machine: Leader, work: Work) -> None:
        """In a thread of its own: the loop renews the lease and answers for other documents meanwhile."""
        try:
            found = await self._loop.run_in_executor(self._worker, work.run)
        except Exception as error:  # our own fault: its lane would wait for ever
            if not self.tasks.died.done():
                self.tasks.died.set_exception(error)
            return
        if machine is self.machine:
            self._do(machine.worked(work, found, now_ms()))
            self._keep_witness()

    async def _hear_of_deaths(self) -> None:
        """What has ended another leader twice ends this one not at all: both refuse it. Once a log. Raises BusError."""
        if self._record is None:
            return
        if self._heard is None or (self._heard.done() and (self._heard.cancelled() or self._heard.exception())):
            self._heard = self._loop.create_task(self._read_deaths(self._record))
        await asyncio.shield(self._heard)

    async def _read_deaths(self, record: Record) -> None:
        session = self.bus.session()
        subject = f"{session.layout.namespace}.rejected.>"
        async for message in session.stored(session.layout.rejected, subject, 0):
            if KILLS in message.headers.get("Skerry-Reason", ""):
                doc = from_subject_token(message.subject.rpartition(".")[2])
                record.hear(doc, await session.payload(message.headers, message.data))

    async def _store_snapshot(self, effect: StoreSnapshot) -> None:
        doc = effect.snapshot.doc
        try:
            stored = await self.bus.store_snapshot(effect.snapshot)
            log.info("snapshot doc=%s version=%s stored=%s", named(doc), effect.snapshot.version, stored)
        except BusError as error:
            log.warning("snapshot_failed doc=%s detail=%r", named(doc), scrubbed(str(error), doc))

    def _sync_asked(self, ask: SyncAsk, reply: str) -> None:
        self._do(self.machine.sync_asked(ask, shard_of(ask.doc, self.bus.shards or 1), reply, now_ms()))

    async def state_of(self, doc: DocId, deadline_s: float = 5.0) -> SyncAnswer | None:
        """The document as this leader has it; None where it does not lead its shard or could not read it in time."""
        self._asked += 1
        reply = f"{INSIDE}{self._asked}"
        waiting: asyncio.Future[SyncAnswer] = self._loop.create_future()
        self._inside[reply] = waiting
        try:
            self._sync_asked(SyncAsk(doc, 0, b"\x00", None), reply)
            if shard_of(doc, self.bus.shards or 1) not in self.machine.shards:
                return None
            async with asyncio.timeout(deadline_s):
                return await waiting
        except TimeoutError:
            return None
        finally:
            self._inside.pop(reply, None)

    # --- what the bus says (BusListener) -----------------------------------------------------------------------------
    def link_up(self, epoch: int, intact: bool) -> None:
        log.info("link_up epoch=%x intact=%s", epoch, intact)
        if self.machine.epoch not in (0, epoch) or not intact:
            self._anew()
        for shard in sorted(self._leading):
            self._lead(shard, epoch)

    def link_down(self, reason: str) -> None:
        log.warning("link_down reason=%r", reason)

    def merged(self, merged: Merged) -> None:
        """Another leader's; a leader learns from the log alone."""

    def presence(self, doc: DocId, payload: bytes) -> None: ...

    def beacon(self, beacon: Beacon) -> None: ...

    def repair_asked(self, ask: RepairAsk) -> None: ...


def portions(delivered: Sequence[Delivered]) -> Iterator[Sequence[Delivered]]:
    """In their order, what one turn of the loop takes."""
    begin = size = 0
    for at, one in enumerate(delivered):
        size += size_of(one.entry)
        if size > TURN_BYTES:
            yield delivered[begin : at + 1]
            begin, size = at + 1, 0
    if begin < len(delivered):
        yield delivered[begin:]
