"""Case 7: people move cursors in one document. Room: awareness messages.

A move counts as delivered when a reader has seen it or a newer one of the same person: presence may be left out.
"""

from __future__ import annotations

import json
import random
import time
from array import array
from typing import Final

from sync.lib0 import read_var_uint, write_var_uint

from .case_typing import alone
from .dialect import Dialect, Kind
from .machine import cpu_s
from .records import Sample
from .servers import Server
from .stage import Case, Plan, Run, Stage
from .statistics import quantile
from .wires import Client, Wires, masked

__all__ = ["PRESENCE"]

DOC: Final = "bench/presence"
MOVES_PER_S: Final = 10
_LIMIT: Final = 2**53


class _Watcher:
    """A client that reads who is where."""

    def __init__(self, client: Client, dialect: Dialect, sent: dict[int, array[float]]) -> None:
        self.latencies: list[float] = []
        self.seen = dict.fromkeys(sent, 0)
        self._dialect = dialect
        self._sent = sent
        client.hear = self._hear

    def _hear(self, message: bytes) -> None:
        heard = self._dialect.read(message)
        if heard.kind is not Kind.PRESENCE:
            return
        now = time.perf_counter()
        count, at = read_var_uint(heard.body, 0, _LIMIT)
        for _ in range(count):
            person, at = read_var_uint(heard.body, at, _LIMIT)
            clock, at = read_var_uint(heard.body, at, _LIMIT)
            length, at = read_var_uint(heard.body, at, _LIMIT)
            at += length
            since = self.seen.get(person, clock)
            if clock > since:
                self.seen[person] = clock
                self.latencies += [now - one for one in self._sent[person][since:clock]]


def _move(dialect: Dialect, person: int, clock: int) -> bytes:
    place = (person * 31 + clock * 7) % 10_000
    state = json.dumps({"user": {"name": f"guest {person % 1000}", "color": "#30bced"}, "cursor": [place, place]})
    body = state.encode()
    states = b"\x01" + write_var_uint(person) + write_var_uint(clock) + write_var_uint(len(body)) + body
    return masked(dialect.presence(DOC, states))


def _measure(stage: Stage, people: int, seconds: float) -> Sample:
    dialect, target = stage.target.dialect, stage.target
    dice = random.Random(7)
    ids = [dice.getrandbits(32) | 1 for _ in range(people)]
    sent = {person: array("d") for person in ids}
    rounds = max(2, round(seconds * MOVES_PER_S))
    frames = [[_move(dialect, person, clock) for clock in range(1, rounds + MOVES_PER_S + 1)] for person in ids]
    with Wires() as wires:
        clients = []
        for _ in ids:
            client = wires.connect(target.readers_at, dialect.path(DOC))
            wires.all_ready([client])
            for message in dialect.hello(DOC):
                client.send(masked(message))
            clients.append(client)
        watching = clients[0]
        watcher = _Watcher(watching, dialect, sent)
        wires.until(lambda: all(client.heard for client in clients), 30, "every client was answered")
        wires.deafen(client for client in clients if client is not watching)
        _move_all(wires, clients, ids, frames, sent, 0, MOVES_PER_S)  # a second before the clock starts
        watcher.latencies.clear()
        before_s, own_s, began = cpu_s(target.pids), time.process_time(), time.perf_counter()
        _move_all(wires, clients, ids, frames, sent, MOVES_PER_S, rounds)
        own_s = time.process_time() - own_s
        span_s = time.perf_counter() - began
        ends = time.perf_counter() + 5
        last = rounds + MOVES_PER_S
        while any(watcher.seen[one] < last for one in ids[1:]) and time.perf_counter() < ends:
            wires.turn(0.005)
        wires.rest(0.3)
        spent_s = cpu_s(target.pids) - before_s
        lost = [f"{wires.lost_count} connections lost: {wires.lost_why}"] if wires.lost_count else []
    moves = rounds * (people - 1)  # a watcher's own come back from some servers and not from others
    own = {one for one in ids[1:] if watcher.seen[one] >= last}
    latencies = sorted(watcher.latencies)
    return Sample(
        {
            "offered_per_s": people * rounds / span_s,
            "delivered_share": 100 * min(1.0, len(latencies) / moves),
            "settled_share": 100 * len(own) / (people - 1),
            "p50_ms": 1000 * quantile(latencies, 0.5),
            "p99_ms": 1000 * quantile(latencies, 0.99),
            "cpu_us": 1e6 * spent_s / (people * rounds),
            "cpu_share": 100 * spent_s / span_s,
            "generator_share": 100 * own_s / span_s,
        },
        tuple(lost),
    )


def _move_all(
    wires: Wires,
    clients: list[Client],
    ids: list[int],
    frames: list[list[bytes]],
    sent: dict[int, array[float]],
    first: int,
    rounds: int,
) -> None:
    """Everybody in turn, evenly."""
    count = len(clients)
    began = time.perf_counter()
    done, total = 0, rounds * count
    while done < total:
        now = time.perf_counter()
        due = min(total, int((now - began) * MOVES_PER_S * count) + 1)
        for at in range(done, due):
            who = at % count
            sent[ids[who]].append(now)
            clients[who].send(frames[who][first + at // count])
        done = due
        wires.turn(0.001)


def _runs(plan: Plan, servers: list[Server]) -> list[Run]:
    people, seconds = (50, 1.0) if plan.quick else (200, 3.0)
    work = f"{people} people, {MOVES_PER_S} moves a second each"
    return [Run(server, work, people, lambda stage: _measure(stage, people, seconds)) for server in servers]


PRESENCE: Final = Case(7, "presence in one document", "people", alone, _runs)
