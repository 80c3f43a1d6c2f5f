"""Between one node and NATS: what a line does, and, as it reads the protocol, what core NATS may do to a broadcast:
lose it, repeat it, let others overtake it.

Room: NATS' client protocol as frames, and nothing of what is in them but the subject.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

from .line import Line

__all__ = ["Relay"]

CORE = ("merged", "beacon", "presence", "repair")
LATE_S_MAX = 1.5
SHARE = 0.3
"""Of the messages that a mischief is done to."""


class Relay(Line):
    def __init__(self, namespace: str, seed: str) -> None:
        super().__init__()
        self.mischief: set[str] = set()
        """Of `drop`, `duplicate`, `reorder` (broadcasts towards the node) and `repeat` (changes towards the log)."""
        self.done_count = 0
        self._namespace = namespace
        self._chance = random.Random(seed)

    def heal(self) -> None:
        super().heal()
        self.mischief.clear()

    def passing(self, way: str, writer: asyncio.StreamWriter) -> Callable[[bytes], None]:
        frames = Frames()

        def onwards(piece: bytes) -> None:
            for subject, frame in frames.feed(piece):
                self._pass(writer, way, subject, frame)

        return onwards

    def _pass(self, writer: asyncio.StreamWriter, way: str, subject: str, frame: bytes) -> None:
        what = self._mischief(way, subject)
        if what == "drop":
            return
        if what == "reorder":
            asyncio.get_running_loop().call_later(self._chance.uniform(0, LATE_S_MAX), _write, writer, frame)
            return
        _write(writer, frame)
        if what == "duplicate":
            asyncio.get_running_loop().call_later(self._chance.uniform(0, LATE_S_MAX), _write, writer, frame)
        elif what == "repeat":
            _write(writer, frame)

    def _mischief(self, way: str, subject: str) -> str | None:
        if not self.mischief or not subject.startswith(f"{self._namespace}."):
            return None
        kind = subject.split(".", 2)[1]
        if way == "up":
            wanted = self.mischief & {"repeat"} if kind == "changes" else set()
        else:
            wanted = self.mischief - {"repeat"} if kind in CORE else set()
        if not wanted or self._chance.random() > SHARE:
            return None
        self.done_count += 1
        return self._chance.choice(sorted(wanted))


class Frames:
    """Pieces of a stream in, whole frames with their subject out (empty: no message)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[str, bytes]]:
        self._buffer += piece
        while (end := self._buffer.find(b"\r\n")) >= 0:
            words = bytes(self._buffer[:end]).split()
            size, subject = end + 2, ""
            if words and words[0].upper() in (b"MSG", b"HMSG", b"PUB", b"HPUB"):
                size += int(words[-1]) + 2
                subject = words[1].decode("utf-8", "replace")
            if len(self._buffer) < size:
                return
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield subject, frame


def _write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    if not writer.is_closing():
        writer.write(frame)
