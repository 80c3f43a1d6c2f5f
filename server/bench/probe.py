"""A client with a real document: a character counts as delivered when its state vector first covers it.

Room: what was sent when, and what has arrived. All servers are judged by this rule, whether they merge or forward.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping

from sync.document import Document, merge

from .dialect import Dialect, Kind
from .wires import Client

__all__ = ["Probe"]


class Probe:
    """`sent`: per client id of a writer, when each of its characters was sent (appended to by who sends)."""

    def __init__(self, client: Client, dialect: Dialect, sent: Mapping[int, array[float]], first: int = 0) -> None:
        """Characters before `first` of each writer are delivered and not timed: they warm the server up."""
        self.document = Document()
        self.delivered = 0
        self.latencies: list[float] = []
        self.synced = False
        self._dialect = dialect
        self.sent = sent
        self._first = first
        self._seen = dict.fromkeys(sent, 0)
        self._came: list[bytes] = []
        client.hear = self._hear
        client.turned = self._turned

    def _hear(self, message: bytes) -> None:
        heard = self._dialect.read(message)
        if heard.kind in (Kind.UPDATE, Kind.STATE):
            self._came.append(heard.body)
            self.synced = self.synced or heard.kind is Kind.STATE

    def _turned(self) -> None:
        """What was read in one go is merged in at once, as a client under load would."""
        if not self._came:
            return
        self.document.apply(merge(self._came) if len(self._came) > 1 else self._came[0])
        self._came.clear()
        clocks = self.document.clocks()
        now = time.perf_counter()
        for writer, sent in self.sent.items():
            until = clocks.get(writer, 0)
            since = self._seen[writer]
            if until > since:
                self._seen[writer] = until
                self.delivered += until - since
                timed = sent[max(since, self._first) : until]
                self.latencies += [now - one for one in timed]
