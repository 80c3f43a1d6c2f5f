"""The log as JetStream keeps it: sequences, duplicate window, durable consumers, snapshots; and how it is lost.

Room: headers and bytes, as a server has them; the nodes' codecs read and write them. What it does wrong, it does as
facts 2.2 and 2.3: old duplicates land twice, redelivery breaks order, a known id may be acknowledged as a duplicate of
a message that is gone, and a restored server has forgotten its tail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from sync.ids import DocId, shard_of

__all__ = ["Consumer", "Headers", "Log", "Message"]

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Message:
    seq: int
    doc: DocId
    headers: Headers
    payload: bytes


@dataclass(slots=True)
class Consumer:
    """Durable, of one shard, shared by everybody who pulls from it; every message is acknowledged by itself."""

    next_seq: int = 1
    """Of the log: the newest that was never delivered."""
    delivered: int = 0
    """Deliveries counted, repeats too."""
    pending: dict[int, int] = field(default_factory=dict)
    """Log sequence -> when it is delivered again."""


class Log:
    def __init__(self, rng: Random, shard_count: int, window_ms: int, ack_wait_ms: int, pending_max: int) -> None:
        self.rng = rng
        self.shard_count = shard_count
        self.window_ms = window_ms
        self.ack_wait_ms = ack_wait_ms
        self.pending_max = pending_max
        self.epoch = 1_000
        self.messages: list[Message] = []
        self.consumers = {shard: Consumer() for shard in range(shard_count)}
        self.snapshots: dict[DocId, tuple[Headers, bytes]] = {}
        self.rolled_back = False
        """The tail is gone and nobody has noticed: until the epoch is raised, a version may name two changes."""
        self._ids: dict[str, tuple[int, int]] = {}

    @property
    def last_seq(self) -> int:
        return len(self.messages)

    def append(self, doc: DocId, headers: Headers, payload: bytes, now_ms: int) -> tuple[int, bool]:
        """(sequence, duplicate). A duplicate's sequence is the one that the window remembers."""
        name = headers["Nats-Msg-Id"]
        known = self._ids.get(name)
        if known is not None and now_ms - known[1] <= self.window_ms:
            return known[0], True
        self.messages.append(Message(self.last_seq + 1, doc, headers, payload))
        self._ids[name] = (self.last_seq, now_ms)
        return self.last_seq, False

    def message(self, seq: int) -> Message | None:
        return self.messages[seq - 1] if 1 <= seq <= self.last_seq else None

    def documents(self) -> list[DocId]:
        return sorted({message.doc for message in self.messages})

    # --- consumers ---------------------------------------------------------------------------------------------------
    def take(self, shard: int, count_max: int, now_ms: int) -> list[tuple[Message, int, bool]]:
        """(message, consumer sequence, redelivered): what was not acknowledged in time, in any order; then new ones."""
        consumer = self.consumers[shard]
        late = [seq for seq, due_ms in consumer.pending.items() if due_ms <= now_ms]
        self.rng.shuffle(late)
        taken = [(seq, True) for seq in late[:count_max]]
        while consumer.next_seq <= self.last_seq and len(taken) < count_max:
            seq = consumer.next_seq
            if shard_of(self.messages[seq - 1].doc, self.shard_count) == shard:
                if len(consumer.pending) >= self.pending_max:
                    break
                taken.append((seq, False))
                consumer.pending[seq] = 0
            consumer.next_seq += 1
        deliveries = []
        for seq, again in taken:
            consumer.pending[seq] = now_ms + self.ack_wait_ms
            consumer.delivered += 1
            deliveries.append((self.messages[seq - 1], consumer.delivered, again))
        return deliveries

    def acknowledge(self, shard: int, seqs: tuple[int, ...]) -> None:
        for seq in seqs:
            self.consumers[shard].pending.pop(seq, None)

    # --- how it is lost ----------------------------------------------------------------------------------------------
    def raise_epoch(self) -> None:
        """A node has noticed that the tail is gone, and notes it in the log itself."""
        self.epoch += 1_000
        self.rolled_back = False

    def lose_tail(self, count: int) -> None:
        """A restored server: shorter by so many messages, with consumers and window as the server finds them."""
        keep = max(0, self.last_seq - count)
        del self.messages[keep:]
        self.rolled_back = True
        if self.rng.random() < 0.5:  # else the window outlives what it names, as after a purge
            self._ids = {name: known for name, known in self._ids.items() if known[0] <= keep}
        behind = self.rng.randint(0, min(5, keep)) if self.rng.random() < 0.5 else 0
        for consumer in self.consumers.values():
            consumer.next_seq = min(consumer.next_seq, keep + 1 - behind)
            consumer.pending = {seq: due for seq, due in consumer.pending.items() if seq < consumer.next_seq}

    def lose_everything(self, with_snapshots: bool) -> None:
        """The stream is gone and made anew: it counts from 1."""
        self.messages.clear()
        self._ids.clear()
        self.consumers = {shard: Consumer() for shard in range(self.shard_count)}
        if with_snapshots:
            self.snapshots.clear()
        self.epoch += 1_000_000
        self.rolled_back = False
