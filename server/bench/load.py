"""People type at a given rate, and it is measured when the others have it and what it cost the servers.

Room: one run of one load against one server that runs already (cases 1 to 3).
"""

from __future__ import annotations

import gc
import math
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .dialect import Dialect
from .machine import core_s, cpu_s, memory_bytes
from .probe import Probe
from .records import Sample
from .servers import Target
from .statistics import quantile
from .typing import Writer, Writers
from .wires import BenchError, Client, Wires, masked

__all__ = ["Load", "run_load"]

TICK_S: Final = 0.001
SETTLE_S: Final = 0.5  # what a server still does for these updates when all have them: it counts
LATE_S: Final = 0.01
LATE_SHARE_MAX: Final = 0.02  # so many sent later than that: the generator was the bottleneck
SATURATED: Final = 0.9
OTHERS_SHARE_MAX: Final = 0.15  # the kernel itself takes some


@dataclass(frozen=True, slots=True)
class Load:
    documents: int
    writers: int
    """Per document; so are readers."""
    readers: int
    per_s: float
    """Characters per second, all writers together."""
    seconds: float
    warm_up_s: float = 1.0
    deadline_s: float = 10.0
    """For what is still on its way when the last was sent."""

    probed: int = 1_000_000
    """Readers are on the first so many documents only; the others have their writers alone."""
    name: str = "bench"
    """Of the documents, before their numbers: the same load a second time on one server needs others."""

    @property
    def work(self) -> str:
        many = "1 document" if self.documents == 1 else f"{self.documents} documents"
        writers = "1 writer" if self.writers == 1 else f"{self.writers} writers"
        each = " each" if self.documents > 1 else ""
        return f"{many}, {writers} and {self.readers} readers{each}"


class _Seat:
    """A writer at its document: its connection, and its frames to come."""

    def __init__(self, client: Client, frames: Sequence[bytes], sent: array[float]) -> None:
        self.client = client
        self.frames = frames
        self.sent = sent
        self.next = 0


def run_load(target: Target, load: Load, writers: Writers) -> Sample:
    people = writers.first(load.writers)
    seats_count = load.documents * load.writers
    warm = max(1, round(load.per_s * load.warm_up_s / seats_count))
    each = warm + max(1, round(load.per_s * load.seconds / seats_count))
    for person in people:
        person.type(each)
    with Wires() as wires:
        seats, probes = _seat(target, load, people, wires, each, warm)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            return _measure(target, load, wires, seats, probes, warm, each)
        finally:
            gc.enable()
            gc.unfreeze()


def _seat(
    target: Target, load: Load, people: Sequence[Writer], wires: Wires, each: int, warm: int
) -> tuple[list[_Seat], list[Probe]]:
    """Everybody connected and synchronised: one reader of each document holds a real one."""
    dialect = target.dialect
    seats: list[_Seat] = []
    probes: list[Probe] = []
    deaf: list[Client] = []
    docs = [f"{load.name}/{number}" for number in range(load.documents)]
    for doc in docs[: load.probed]:  # one comes first: a peer fails where many open a document at the same moment
        client = wires.connect(target.readers_at, dialect.path(doc))
        sent = {person.client_id: array("d") for person in people}
        probes.append(Probe(client, dialect, sent, warm))
        wires.all_ready([client])
        _greet(client, dialect, doc)
    wires.until(lambda: all(probe.synced for probe in probes), 30, "every probe is synchronised")
    unread: array[float] = array("d")
    for at, doc in enumerate(docs):
        coming = []
        for person in people:
            client = wires.connect(target.writers_at, dialect.path(doc))
            frames = [masked(dialect.update(doc, update)) for update in person.updates[:each]]
            seats.append(_Seat(client, frames, probes[at].sent[person.client_id] if at < len(probes) else unread))
            coming.append(client)
        if at < len(probes):
            coming += [wires.connect(target.readers_at, dialect.path(doc)) for _ in range(load.readers - 1)]
        deaf += coming
        wires.all_ready(coming)
        for client in coming:
            _greet(client, dialect, doc)
    wires.until(lambda: all(client.heard for client in deaf), 30, "every client was answered")
    wires.rest(0.2)
    wires.deafen(deaf)
    return seats, probes


def _greet(client: Client, dialect: Dialect, doc: str) -> None:
    for message in dialect.hello(doc):
        client.send(masked(message))


def _measure(
    target: Target, load: Load, wires: Wires, seats: Sequence[_Seat], probes: Sequence[Probe], warm: int, each: int
) -> Sample:
    _type(wires, seats, load.per_s, warm)
    watched = min(load.documents, load.probed) * load.writers
    _wait_for(wires, probes, warm * watched, load.deadline_s)
    began_delivered = sum(probe.delivered for probe in probes)
    before_s, busy_s, since = cpu_s(target.pids), core_s(target.core), time.perf_counter()
    own_before, began = time.process_time(), time.perf_counter()
    late_share = _type(wires, seats, load.per_s, each)
    own_s, span_s = time.process_time() - own_before, time.perf_counter() - began
    arrived = _wait_for(wires, probes, each * watched, load.deadline_s)
    wires.rest(SETTLE_S)
    spent_s, busy_s = cpu_s(target.pids) - before_s, core_s(target.core) - busy_s
    others = (busy_s - spent_s) / (time.perf_counter() - since)
    delivered = sum(probe.delivered for probe in probes) - began_delivered
    offered = (each - warm) * watched
    share = len(seats) / watched
    latencies = sorted(one for probe in probes for one in probe.latencies)
    marks = []
    if own_s / span_s > SATURATED:
        marks.append("generator saturated")
    elif late_share > LATE_SHARE_MAX:
        marks.append(f"{late_share:.0%} sent late")  # this process did not get its core, or the server its own
    if others > OTHERS_SHARE_MAX:
        marks.append(f"others had {others:.0%} of the servers' core")
    if wires.lost_count:
        marks.append(f"{wires.lost_count} connections lost: {wires.lost_why}")
    if delivered < offered:
        marks.append("not all delivered")
    return Sample(
        {
            "offered_per_s": share * offered / span_s,
            "delivered_share": 100 * delivered / offered,
            "delivered_per_s": share * delivered / max(span_s, arrived - began),
            "p50_ms": 1000 * quantile(latencies, 0.5),
            "p99_ms": 1000 * quantile(latencies, 0.99),
            "cpu_us": 1e6 * spent_s / (share * delivered) if delivered else math.nan,
            "memory_mb": memory_bytes(target.pids) / 1e6,
            "generator_share": 100 * own_s / span_s,
        },
        tuple(marks),
    )


def _type(wires: Wires, seats: Sequence[_Seat], per_s: float, until: int) -> float:
    """Everybody in turn, evenly, until each has typed so many. Returns the share that was sent late."""
    clock = time.perf_counter
    began_at = seats[0].next
    total = (until - began_at) * len(seats)
    count = len(seats)
    done = 0
    late = 0
    began = clock()
    while done < total:
        now = clock()
        due = min(total, int((now - began) * per_s) + 1)
        if due > done:
            if now - began - done / per_s > LATE_S:
                late += due - done
            if due - done >= 2 * count:  # some frames each: one write each
                rounds, rest = divmod(due - done, count)
                for at in range(count):
                    seat = seats[(done + at) % count]
                    _send(seat, rounds + (at < rest), clock())
            else:
                for at in range(done, due):
                    _send(seats[at % count], 1, now)
            done = due
        wires.turn(min(TICK_S, began + done / per_s - clock()))
        if wires.lost_count >= count:
            raise BenchError(f"all connections lost: {wires.lost_why}")
    return late / total


def _send(seat: _Seat, count: int, now: float) -> None:
    first = seat.next
    seat.next = first + count
    if count == 1:
        seat.sent.append(now)
        seat.client.send(seat.frames[first])
    else:
        seat.sent.extend([now] * count)
        seat.client.send(b"".join(seat.frames[first : seat.next]))


def _wait_for(wires: Wires, probes: Sequence[Probe], count: int, deadline_s: float) -> float:
    """Until every probe together has so many characters, or time is up. Returns when the last came."""
    ends = time.perf_counter() + deadline_s
    delivered, last = -1, time.perf_counter()
    while delivered < count and time.perf_counter() < ends:
        wires.turn(0.002)
        came = sum(probe.delivered for probe in probes)
        if came != delivered:
            delivered, last = came, time.perf_counter()
    return last
