"""What can go wrong, and a campaign's schedule of it: made from a seed, written to a file, read back.

Room: values. Who breaks what is `server.torture.fleet`. One fault of a round at most destroys something that holds
changes (`DESTROYING`): what two such losses at once leave is not promised by anybody (docs/guarantees.md).
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from sync.errors import SkerryError

__all__ = [
    "AUTHORS",
    "DESTROYING",
    "KINDS",
    "Fault",
    "Round",
    "Schedule",
    "make_schedule",
    "read_schedule",
    "targets_of",
    "write_schedule",
]

AUTHORS = ("ada", "ben", "cyd", "dag", "eve", "fay", "gil", "hal", "ida")

# kind -> (what it is done to, shortest and longest duration in seconds)
KINDS: dict[str, tuple[tuple[str, ...], float, float]] = {
    "kill": (("edge", "leader", "nats", "author"), 0.0, 2.0),
    "freeze": (("edge", "leader", "nats", "author"), 0.5, 5.0),
    "cut": (("edge", "leader"), 0.5, 6.0),
    "black-hole": (("edge", "leader"), 1.0, 6.0),
    "cut-up": (("edge", "leader"), 1.0, 6.0),
    "cut-down": (("edge", "leader"), 1.0, 6.0),
    "delay": (("edge", "leader"), 2.0, 6.0),
    "drop": (("edge",), 2.0, 6.0),
    "duplicate": (("edge",), 2.0, 6.0),
    "reorder": (("edge",), 2.0, 6.0),
    "repeat": (("edge",), 2.0, 6.0),
    "clock": (("edge", "leader", "author"), 1.0, 5.0),
    "disk-full": (("edge",), 1.0, 5.0),
    "deaf-client": (("edge",), 3.0, 8.0),
    "flood": (("edge",), 1.0, 4.0),
    "roam": (("author",), 0.0, 0.0),
    "two-leaders": (("leader",), 12.0, 14.0),
    "store-copied": (("edge",), 2.0, 6.0),
    "author-lost": (("author",), 0.0, 0.0),
    "store-lost": (("edge",), 0.0, 2.0),
    "store-rolled-back": (("edge",), 2.0, 6.0),
    "store-damaged": (("edge",), 0.0, 2.0),
    "log-lost": (("nats",), 0.0, 2.0),
    "log-rolled-back": (("nats",), 2.0, 6.0),
}
DESTROYING = frozenset({"store-lost", "store-rolled-back", "store-damaged", "log-lost", "log-rolled-back"})
CLOCK_JUMPS_S = (-86_400, -3_600, -30, 30, 3_600, 86_400 * 400)


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    """Seconds from the beginning of the round."""
    kind: str
    target: str
    """A process: `nats`, or a name as in the fleet."""
    seconds: float
    value: float = 0.0
    """Of a delay: seconds; of a clock: seconds that it jumps; else a seed of the fault's own."""


@dataclass(frozen=True, slots=True)
class Round:
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    rounds: tuple[Round, ...]
    edges: int
    leaders: int
    clients: int
    """Offline-first ones; there are as many stock ones, and one more under Node.js where it is."""

    @property
    def count(self) -> int:
        return sum(len(one.faults) for one in self.rounds)


def targets_of(edges: int, leaders: int, clients: int, node: int) -> dict[str, tuple[str, ...]]:
    """Role -> names. Raises SkerryError."""
    if min(edges, leaders, clients) < 1 or 2 * clients + 1 > len(AUTHORS):
        raise SkerryError(f"torture: at least one of each, and at most {(len(AUTHORS) - 1) // 2} --clients")
    authors = AUTHORS[: 2 * clients + node]
    return {
        "nats": ("nats",),
        "leader": tuple(f"leader{number}" for number in range(1, leaders + 1)),
        "edge": tuple(f"edge{number}" for number in range(1, edges + 1)),
        "author": authors,
        "offline": authors[:clients],
    }


def make_schedule(
    seed: int,
    rounds: int,
    faults: int,
    kinds: tuple[str, ...] = tuple(KINDS),
    *,
    edges: int = 3,
    leaders: int = 2,
    clients: int = 2,
) -> Schedule:
    """Kinds come in turn, shuffled, and one in a round that destroys: five rounds of five have every kind. The same for
    the same arguments.

    The author under Node.js is nobody's target: a schedule can be repeated where there is none. Raises SkerryError.
    """
    if min(rounds, faults) < 1:
        raise SkerryError("torture: without --rounds and --faults nothing is tried; give at least one of each")
    targets = targets_of(edges, leaders, clients, 0)
    chance = random.Random(seed)
    decks: dict[bool, list[str]] = {True: [], False: []}
    """Destroying or not -> kinds to come; each is dealt out whole before it is shuffled anew."""

    def draw(destroying: bool) -> list[str]:
        deck = decks[destroying]
        if not deck:
            deck += [kind for kind in kinds if (kind in DESTROYING) == destroying]
            chance.shuffle(deck)
        return [deck.pop()] if deck else []

    made: list[Round] = []
    for _ in range(rounds):
        of_round = draw(True)
        while len(of_round) < faults and (more := draw(False)):
            of_round += more
        chance.shuffle(of_round)
        made.append(Round(tuple(_fault(chance, kind, number, targets) for number, kind in enumerate(of_round))))
    return Schedule(seed, tuple(made), edges, leaders, clients)


def _fault(chance: random.Random, kind: str, number: int, targets: dict[str, tuple[str, ...]]) -> Fault:
    roles, shortest, longest = KINDS[kind]
    names = [name for role in roles for name in targets[role]]
    if kind == "author-lost":
        names = list(targets["offline"])
    value = chance.random()
    if kind == "delay":
        value = chance.uniform(0.05, 0.8)
    elif kind == "clock":
        value = float(chance.choice(CLOCK_JUMPS_S))
    at = round(number * 1.2 + chance.uniform(0, 1.2), 2)
    return Fault(at, kind, chance.choice(names), round(chance.uniform(shortest, longest), 2), round(value, 3))


def write_schedule(schedule: Schedule, path: Path) -> None:
    path.write_text(json.dumps(asdict(schedule), indent=1) + "\n", "utf-8")


def read_schedule(path: Path) -> Schedule:
    """Raises SkerryError."""
    try:
        found = json.loads(path.read_text("utf-8"))
        rounds = tuple(Round(tuple(Fault(**fault) for fault in one["faults"])) for one in found["rounds"])
        unknown = {fault.kind for one in rounds for fault in one.faults} - KINDS.keys()
        if unknown:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        edges, leaders, clients = (int(found[name]) for name in ("edges", "leaders", "clients"))
        schedule = Schedule(int(found["seed"]), rounds, edges, leaders, clients)
        known = {name for names in targets_of(edges, leaders, clients, 0).values() for name in names}
        unknown = {fault.target for one in rounds for fault in one.faults} - known
        if unknown:
            raise ValueError(f"no such process: {', '.join(sorted(unknown))}")
        return schedule
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SkerryError(
            f"{path}: no schedule ({error}); give a schedule.json that skerry torture has written"
        ) from None
