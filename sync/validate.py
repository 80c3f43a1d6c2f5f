"""Is this a well-formed update, state vector, awareness message; and what does an update bring and need?

Room: bytes in, a verdict out. Bounded, iterative, no pycrdt. Everything from outside passes here before Rust sees it
(law 9, FACTS.md 1.7). Fast for the ordinary keystroke: one client, one struct.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AwarenessEntry", "Shape", "check_awareness", "check_state_vector", "check_update"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What an update's bytes say about themselves. Clocks count Yjs units (UTF-16 code units for text)."""

    brings: tuple[tuple[int, int, int], ...]
    """(client, first clock, next clock) of each contiguous run of structs; a Skip ends a run and begins another."""
    needs: tuple[tuple[int, int], ...]
    """(client, next): the replica must have every clock of `client` below `next`, unless the update brings it."""
    deletes: tuple[tuple[int, int, int], ...]
    """(client, first clock, next clock) of each deleted range; needs `next` of that client too (not within `needs`)."""


def check_update(update: bytes) -> Shape:
    """Check Yjs v1 update bytes. Raises InvalidUpdate with the reason and the offset."""
    raise AssertionError("built next")


def check_state_vector(state_vector: bytes) -> dict[int, int]:
    """Client -> next clock. Raises InvalidUpdate; the claimed count is compared with the bytes that are there."""
    raise AssertionError("built next")


@dataclass(frozen=True, slots=True)
class AwarenessEntry:
    client: int
    clock: int
    state: str
    """JSON text; `null` says that the client has gone."""


def check_awareness(payload: bytes) -> tuple[AwarenessEntry, ...]:
    """The entries of a y-protocols awareness update. Raises InvalidUpdate."""
    raise AssertionError("built next")
