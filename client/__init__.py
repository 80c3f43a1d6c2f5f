"""The offline-first Python client: documents that can be edited with no server in sight.

`connect` is where to begin; `docs/protocol.md` has what it says to an edge. Imports `sync` and websockets; never
`server`, never NATS.
"""

from sync.extension import Stage

from .awareness import Awareness
from .client import Session, Unreachable, connect
from .document import OpenDocument, ReadOnly, SessionClosed
from .events import Change, Denied, Event, Offline, Online, ReadOnlyHere, Refused, Safer, Status, StoreFailed, Stream
from .history import History
from .link import InvalidAddress
from .store import Progress

__all__ = [
    "Awareness",
    "Change",
    "Denied",
    "Event",
    "History",
    "InvalidAddress",
    "Offline",
    "Online",
    "OpenDocument",
    "Progress",
    "ReadOnly",
    "ReadOnlyHere",
    "Refused",
    "Safer",
    "Session",
    "SessionClosed",
    "Stage",
    "Status",
    "StoreFailed",
    "Stream",
    "Unreachable",
    "connect",
]
