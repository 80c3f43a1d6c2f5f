"""The tree of errors. Every error of the world says what, which one, and what to do now.

    SkerryError
    ├── InvalidInput            bytes or names from outside that cannot be
    │   ├── InvalidDocumentId
    │   ├── InvalidToken
    │   ├── InvalidFrame        a websocket frame that is no message
    │   ├── InvalidUpdate       update, state vector or awareness bytes that pycrdt must never see
    │   │   └── ClientIdClash   two writers use one client id
    │   └── InvalidMessage      a NATS message whose headers are not ours
    ├── LimitReached            a named limit (`sync.limits`), with its value
    ├── NotYet                  a read asked for more than this node has
    ├── DocumentBroken          pycrdt panicked or lost an operation: rebuild from what is stored
    ├── StoreError              the disk
    │   ├── StoreBusy           somebody else has it open
    │   ├── StoreDamaged
    │   └── StoreTooNew         written by a newer format
    ├── BusError                NATS
    │   ├── BusUnreachable
    │   ├── BusRefused          credentials, permissions
    │   └── StreamDiffers       a stream exists with another configuration
    └── ConfigError             all mistakes of a configuration, together

Our own faults are `assert`s and are never caught.
"""

from __future__ import annotations

__all__ = [
    "BusError",
    "BusRefused",
    "BusUnreachable",
    "ClientIdClash",
    "ConfigError",
    "DocumentBroken",
    "InvalidDocumentId",
    "InvalidFrame",
    "InvalidInput",
    "InvalidMessage",
    "InvalidToken",
    "InvalidUpdate",
    "LimitReached",
    "NotYet",
    "SkerryError",
    "StoreBusy",
    "StoreDamaged",
    "StoreError",
    "StoreTooNew",
    "StreamDiffers",
]


class SkerryError(Exception):
    """One line: what, which one, and what to do now."""


class InvalidInput(SkerryError):
    """Bytes or names from outside that cannot be; nothing was changed by them."""


class InvalidDocumentId(InvalidInput):
    """Not UTF-8 of 1-256 bytes without control characters."""


class InvalidToken(InvalidInput):
    """Damaged, or made by another namespace."""


class InvalidFrame(InvalidInput):
    """A websocket frame that is no message of the protocol."""


class InvalidUpdate(InvalidInput):
    """Update, state vector or awareness bytes that are refused before pycrdt sees them."""


class ClientIdClash(InvalidUpdate):
    """Well-formed, and other content than what this client id has written under the same clocks before."""

    def __init__(self, client: int, clock: int) -> None:
        super().__init__(
            f"client {client} has written something else at clock {clock} before: a second writer uses its id (a copied"
            " profile, a restored backup?); reload to take a new one"
        )
        self.client = client


class InvalidMessage(InvalidInput):
    """A NATS message whose headers or payload are not ours."""


class LimitReached(SkerryError):
    """A limit of `sync.limits` was reached; `name` is the limit's."""

    def __init__(self, name: str, got: int, limit: int, advice: str) -> None:
        super().__init__(f"{name}: {got} is over the limit of {limit}; {advice}")
        self.name = name
        self.got = got
        self.limit = limit


class NotYet(SkerryError):
    """A read asked for more than this node has: `have` and `want` are tokens as text."""

    def __init__(self, doc: str, have: str, want: str) -> None:
        super().__init__(f"{doc}: have {have}, want {want}; retry, or ask another edge")
        self.have = have
        self.want = want


class DocumentBroken(SkerryError):
    """pycrdt panicked over this document or lost an operation: discard it, rebuild it from what is stored."""


class StoreError(SkerryError):
    """The disk said no; what was acknowledged before is still there."""


class StoreBusy(StoreError):
    """Another process has this store open."""


class StoreDamaged(StoreError):
    """The file is not a readable store."""


class StoreTooNew(StoreError):
    """The file was written by a newer format than this program reads."""


class BusError(SkerryError):
    """NATS said no, or nothing."""


class BusUnreachable(BusError):
    """No server answers at these addresses."""


class BusRefused(BusError):
    """The server refuses these credentials or this subject."""


class StreamDiffers(BusError):
    """A stream or bucket exists with another configuration than Skerry asks for.

    `waits`: its owner can edit it, and who needs it may wait for that.
    """

    def __init__(self, text: str, *, waits: bool = False) -> None:
        super().__init__(text)
        self.waits = waits


class ConfigError(SkerryError):
    """All mistakes of a configuration, one a line."""
