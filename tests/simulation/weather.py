"""How rough it is: every seed draws its own size and its own few kinds of trouble, and goes deep into those.

Room: numbers from a seed, and the chaos phase as a list of (when, what). What a fault does is the world's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

__all__ = ["FAULTS", "LARGE_LIMITS", "Weather"]

FAULTS = {
    "crash": 6,  # an edge, before or after its commit
    "power_cut": 3,  # an edge and everybody who works at it
    "cut": 5,  # the way of an edge, one direction or both
    "leader_cut": 3,
    "leader_crash": 3,
    "handover": 4,
    "two_leaders": 3,
    "no_leader": 2,
    "disk_lost": 2,
    "disk_restored": 2,
    "disk_copied": 1,
    "disk_full": 1,
    "log_tail_lost": 2,
    "log_lost": 1,
    "editor_gone": 3,
}
"""Kind -> how often it is chosen among the others of its world."""

SMALL_LIMITS = {
    "BEACON_DOCS_MAX": 1,
    "COMPACT_ROWS": 6,
    "DIGESTED_BYTES": 100,
    "DOCUMENT_IDLE_MS": 2_000,
    "DOTS_HEADER_BYTES_MAX": 40,
    "DOT_RANGES_MAX": 6,
    "FOLDED_BYTES": 30,
    "LARGE_FRAME_BYTES": 10,
    "LEADER_IDLE_MS": 2_000,
    "MERGE_FAN_IN": 2,
    "OUTBOX_WINDOW_COUNT": 3,
    "SNAPSHOT_CHANGES": 5,
    "SNAPSHOT_IDLE_CHANGES": 2,
    "SYNC_IN_FLIGHT_MAX": 1,
}
"""Limits that a small world would never reach: some of them are this small in each."""

LARGE_LIMITS = {
    "LARGE_FRAME_BYTES": 12,
    "LINE_COUNT_MAX": 5,
    "SLICE_BYTES": 24,
    "SLICE_RANGES": 1,
    "SLICE_STRUCTS": 2,
    "SPLIT_BYTES": 150,
    "SPLIT_DOCUMENT_BYTES": 60,
    "SPLIT_FRAME_BYTES": 8,
    "SPLIT_UNITS": 2,
}
"""In every third world nearly every broadcast is too large for one turn of an edge's loop."""


@dataclass(frozen=True, slots=True)
class Weather:
    edge_count: int
    leader_count: int
    doc_count: int
    shard_count: int
    editor_count: int
    chaos_ms: int
    edit_pause_ms: int
    delay_ms_max: int
    client_delay_ms_max: int
    loss: float
    repeat: float
    ack_loss: float
    window_ms: int
    ack_wait_ms: int
    pending_max: int
    page_max: int
    flush_ms: tuple[int, ...]
    """How long what is pending waits for the others: a server under load lets more of it come."""
    pinned: float
    limits: tuple[tuple[str, int], ...]
    faults: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, rng: Random, only: Sequence[str] = ()) -> Weather:
        """`only`: these kinds of trouble, instead of some."""
        chaos_ms = rng.choice((2_000, 5_000, 5_000, 10_000))
        kinds = list(only) or rng.sample(sorted(FAULTS), rng.randint(0, 5))
        weights = [FAULTS[kind] for kind in kinds]
        count = rng.randint(1, 7) if kinds else 0
        times = sorted(rng.randint(300, chaos_ms - 200) for _ in range(count))
        edges = rng.choice((2, 2, 3, 3, 4))
        docs = rng.choice((1, 1, 2, 3))
        return cls(
            edge_count=edges,
            leader_count=2,
            doc_count=docs,
            shard_count=rng.choice((1, 1, 2)),
            editor_count=rng.randint(max(2, docs), 2 + docs),
            chaos_ms=chaos_ms,
            edit_pause_ms=rng.choice((120, 300, 300, 800)) * chaos_ms // 5_000,
            delay_ms_max=rng.choice((10, 60, 400)),
            client_delay_ms_max=rng.choice((3, 30, 150)),
            loss=rng.choice((0.0, 0.02, 0.3)),
            repeat=rng.choice((0.0, 0.05, 0.3)),
            ack_loss=rng.choice((0.0, 0.0, 0.05, 0.2)),
            window_ms=rng.choice((300, 2_000, 120_000)),
            ack_wait_ms=rng.choice((700, 3_000)),
            pending_max=rng.choice((3, 50, 1_000)),
            page_max=rng.choice((1, 3, 1_000)),
            flush_ms=rng.choice(((0, 0, 1, 5), (0, 2, 12), (0, 40, 150))),
            pinned=rng.choice((0.0, 0.5, 1.0)),
            limits=tuple((name, value) for name, value in SMALL_LIMITS.items() if rng.random() < 0.4),
            faults=tuple((at_ms, rng.choices(kinds, weights)[0]) for at_ms in times),
        )
