"""Who is connected to an edge, by number; and whose socket is not read.

Room: numbers and connections. What is said on them is the machine's, how it gets there the gateway's.

1. A number is never used again.
2. A pause is undone once: by `resume`, or when the connection is gone (its socket may have other documents, which are
   read on).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from sync.ids import ConnId

__all__ = ["Connection", "Connections"]


class Connection(Protocol):
    """One websocket client, as the gateway hands it over."""

    def send(self, frame: bytes) -> None:
        """Never blocks; a reader that is too slow is closed by the connection itself."""
        ...

    def close(self, code: int, reason: str) -> None: ...

    def pause(self) -> None:
        """Read nothing more until `resume`: what comes would only wait here. Each is undone once."""
        ...

    def resume(self) -> None: ...


class Connections:
    def __init__(self) -> None:
        self._by_number: dict[ConnId, Connection] = {}
        self._paused: dict[ConnId, Connection] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[ConnId]:
        return iter(list(self._by_number))

    def __contains__(self, conn: ConnId) -> bool:
        return conn in self._by_number

    def get(self, conn: ConnId) -> Connection | None:
        return self._by_number.get(conn)

    def add(self, connection: Connection) -> ConnId:
        self._last += 1
        conn = ConnId(self._last)
        self._by_number[conn] = connection
        return conn

    def remove(self, conn: ConnId) -> Connection | None:
        """None where it is gone already."""
        self.resume(conn)
        return self._by_number.pop(conn, None)

    def send(self, conns: Iterable[ConnId], frame: bytes) -> None:
        """To those of them that are still here."""
        for conn in conns:
            connection = self._by_number.get(conn)
            if connection is not None:
                connection.send(frame)

    def pause(self, conn: ConnId) -> None:
        connection = self._by_number.get(conn)
        if connection is not None:
            self._paused[conn] = connection
            connection.pause()

    def resume(self, conn: ConnId) -> None:
        paused = self._paused.pop(conn, None)
        if paused is not None:
            paused.resume()
