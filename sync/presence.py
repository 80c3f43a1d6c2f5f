"""Presence of one document: who is here. Newest clock wins; never stored, may be lost (law 10).

Room: checked awareness entries in (`sync.validate.check_awareness`), news and payloads out. Nothing here knows a socket
or NATS; `source` only tells whose connection speaks for a client.

Invariants:
1. A client's clock never falls while it is remembered; what comes late never brings a state back.
2. A client is spoken for by the source that last brought *news* of it. Stock clients send back what they were told,
   with the clock that they were told: no news, so an echo neither takes a client over nor keeps one alive.
3. Either all of a message is merged or nothing of it (LimitReached), and what is held stays within `sync.limits`.

The gone are remembered for PRESENCE_MS_MAX, so that a state still on its way does not come back. This has a price:
after a short break a client comes back with the clock that it had, and we said that it had gone with one clock more.
A client that is told of its own removal answers with a larger clock: `corrections` is what it has to be told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import LimitReached
from .ids import ConnId
from .lib0 import write_var_uint
from .limits import (
    AWARENESS_ENTRIES_MAX,
    CLIENT_ID_MAX,
    PRESENCE_BYTES_MAX,
    PRESENCE_ENTRIES_MAX,
    PRESENCE_MS_MAX,
    PRESENCE_PAYLOAD_BYTES_MAX,
)
from .validate import AwarenessEntry

__all__ = ["Presence", "encode_awareness", "payloads"]

_GONE = "null"


@dataclass(frozen=True, slots=True)
class _Known:
    clock: int
    state: str
    """JSON text; empty for a client that has gone."""
    source: ConnId | None
    at_ms: int
    """When the last news of it came."""
    bytes_count: int


class Presence:
    """The awareness states of one document. `source` is an own connection, or None for another edge."""

    __slots__ = ("_bytes", "_gone", "_here", "_now_ms")

    def __init__(self) -> None:
        self._here: dict[int, _Known] = {}
        self._gone: dict[int, _Known] = {}  # in the order in which they went: the oldest is forgotten first
        self._bytes = 0
        self._now_ms = 0  # the newest time that was told

    def __len__(self) -> int:
        """How many clients are here."""
        return len(self._here)

    def merge(
        self, entries: Iterable[AwarenessEntry], source: ConnId | None, now_ms: int
    ) -> tuple[AwarenessEntry, ...]:
        """Take in a message; returns what is news, in the message's order: pass on exactly that.

        Raises LimitReached, with nothing changed, where a document would hold too many clients or bytes. The newcomer
        is refused rather than the oldest dropped: else one client that invents ids drives out everybody who is here.
        """
        self._now_ms = max(self._now_ms, now_ms)
        news: dict[int, _Known] = {}
        for entry in entries:
            known = news.get(entry.client) or self._here.get(entry.client) or self._gone.get(entry.client)
            if not _is_news(entry, known):
                continue
            state = "" if _is_removal(entry) else entry.state
            news[entry.client] = _Known(entry.clock, state, source, now_ms, len(state.encode("utf-8")))
        self._check_limits(news)
        told = []
        for client, known in news.items():
            if known.state or client in self._here:  # a removal of somebody gone only moves its clock
                told.append(AwarenessEntry(client, known.clock, known.state or _GONE))
            self._remember(client, known)
        return tuple(told)

    def corrections(self, entries: Iterable[AwarenessEntry]) -> tuple[AwarenessEntry, ...]:
        """What to tell the sender of a message after `merge`: states that it holds to be present and that have gone.

        A client that reads of its own removal comes back with a larger clock; an echo of somebody gone is put right.
        """
        gone = self._gone
        return tuple(
            AwarenessEntry(entry.client, gone[entry.client].clock, _GONE)
            for entry in entries
            if not _is_removal(entry) and entry.client in gone and entry.clock <= gone[entry.client].clock
        )

    def states(self) -> bytes:
        """Payload with everybody who is here, for a joiner; empty for nobody."""
        here = sorted(self._here.items())
        return encode_awareness([AwarenessEntry(c, known.clock, known.state) for c, known in here]) if here else b""

    def all_told(self) -> bytes:
        """Payload with everybody who is here or has gone lately, for a reader that was told nothing for a while."""
        known = sorted((self._gone | self._here).items())
        return encode_awareness([AwarenessEntry(c, one.clock, one.state or _GONE) for c, one in known])

    def local_states(self) -> bytes:
        """Payload with those that own connections speak for, to answer another edge; empty for nobody.

        Within what another edge takes in one message. Whoever does not fit is heard of at the next renewal (law 10).
        """
        entries: list[AwarenessEntry] = []
        size = 0
        for client, known in sorted(self._here.items()):
            if known.source is None:
                continue
            size += known.bytes_count + 20  # three numbers
            if len(entries) == AWARENESS_ENTRIES_MAX or size > PRESENCE_PAYLOAD_BYTES_MAX:
                break
            entries.append(AwarenessEntry(client, known.clock, known.state))
        return encode_awareness(entries) if entries else b""

    def leave(self, source: ConnId) -> tuple[AwarenessEntry, ...]:
        """The connection is closed: removals, with the next clock, of the clients that it spoke for."""
        removals = []
        for client in sorted(c for c, known in self._here.items() if known.source == source):
            clock = min(self._here[client].clock + 1, CLIENT_ID_MAX)  # at the end an equal clock removes as well
            self._remember(client, _Known(clock, "", source, self._now_ms, 0))
            removals.append(AwarenessEntry(client, clock, _GONE))
        return tuple(removals)

    def expire(self, now_ms: int) -> tuple[AwarenessEntry, ...]:
        """Removals of the clients that have not renewed their state for PRESENCE_MS_MAX.

        With the clock they had: the next renewal, one higher, brings them back (browsers slow timers of hidden tabs).
        """
        self._now_ms = max(self._now_ms, now_ms)
        self._gone = {c: known for c, known in self._gone.items() if now_ms - known.at_ms < PRESENCE_MS_MAX}
        removals = []
        for client in sorted(c for c, known in self._here.items() if now_ms - known.at_ms >= PRESENCE_MS_MAX):
            known = self._here[client]
            self._remember(client, _Known(known.clock, "", known.source, now_ms, 0))
            removals.append(AwarenessEntry(client, known.clock, _GONE))
        return tuple(removals)

    def _check_limits(self, news: dict[int, _Known]) -> None:
        count, size = len(self._here), self._bytes
        for client, known in news.items():
            before = self._here.get(client)
            count += bool(known.state) - (before is not None)
            size += known.bytes_count - (before.bytes_count if before else 0)
        if count > PRESENCE_ENTRIES_MAX and count > len(self._here):
            raise LimitReached("PRESENCE_ENTRIES_MAX", count, PRESENCE_ENTRIES_MAX, "wait until somebody has left")
        if size > PRESENCE_BYTES_MAX and size > self._bytes:
            raise LimitReached("PRESENCE_BYTES_MAX", size, PRESENCE_BYTES_MAX, "put less into the awareness state")

    def _remember(self, client: int, known: _Known) -> None:
        before = self._here.pop(client, None) if not known.state else self._here.get(client)
        self._bytes += known.bytes_count - (before.bytes_count if before else 0)
        self._gone.pop(client, None)
        if known.state:
            self._here[client] = known
        else:
            self._gone[client] = known
            if len(self._gone) > PRESENCE_ENTRIES_MAX:
                del self._gone[next(iter(self._gone))]


def _is_removal(entry: AwarenessEntry) -> bool:
    return entry.state.strip() == _GONE  # JSON: white space around it means nothing


def _is_news(entry: AwarenessEntry, known: _Known | None) -> bool:
    if known is None:
        return not _is_removal(entry)  # nobody was told of it
    if entry.clock != known.clock:
        return entry.clock > known.clock  # Invariant 1.
    return _is_removal(entry) and known.state != ""  # as y-protocols: who was not heard of may be declared gone


def payloads(entries: Iterable[AwarenessEntry]) -> list[bytes]:
    """These entries as awareness payloads, each within what one message may hold."""
    found: list[bytes] = []
    part: list[AwarenessEntry] = []
    size = 0
    for entry in entries:
        bytes_count = len(entry.state) * 4 + 20  # at most, with three numbers
        if part and (len(part) == AWARENESS_ENTRIES_MAX or size + bytes_count > PRESENCE_PAYLOAD_BYTES_MAX):
            found.append(encode_awareness(part))
            part, size = [], 0
        part.append(entry)
        size += bytes_count
    if part:
        found.append(encode_awareness(part))
    return found


def encode_awareness(entries: Iterable[AwarenessEntry]) -> bytes:
    """One y-protocols awareness payload: count, then client, clock and JSON text of each."""
    parts = [b""]
    for entry in entries:
        text = entry.state.encode("utf-8")
        parts += (write_var_uint(entry.client), write_var_uint(entry.clock), write_var_uint(len(text)), text)
    parts[0] = write_var_uint(len(parts) // 4)
    return b"".join(parts)
