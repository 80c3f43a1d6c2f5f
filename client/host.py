"""What a document needs of its session, and how both end.

Room: a protocol and two errors. The session is `client.client`'s, the document `client.document`'s.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from sync.errors import SkerryError
from sync.ids import Origin

from .events import Event
from .store import Store

__all__ = ["Host", "ReadOnly", "SessionClosed"]

D = TypeVar("D", contravariant=True)
"""A document, as the session knows it."""


class ReadOnly(SkerryError):
    """An edit of a document that was opened read-only, or that the edge lets nobody write."""


class SessionClosed(SkerryError):
    """The session or the document was closed while somebody waited."""


class Host(Protocol[D]):
    """What a document needs of its session."""

    namespace: str
    actor: str
    origin: Origin
    store: Store

    @property
    def online(self) -> bool: ...

    @property
    def why_offline(self) -> str:
        """One line; empty while online."""

    def wake(self, document: D) -> None:
        """There is something to be sent."""

    def store_soon(self, document: D) -> None:
        """There is something to be stored."""

    def resume(self, document: D) -> None:
        """The edit is over: give it what came meanwhile."""

    def tell(self, event: Event) -> None: ...

    def now_ms(self) -> int:
        """Unix milliseconds."""

    def forget(self, document: D) -> None: ...
