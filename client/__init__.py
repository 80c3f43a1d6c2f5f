"""The offline-first Python client: documents that can be edited with no server in sight.

`connect` is where to begin; `docs/protocol.md` has what it says to an edge. Imports `sync` and websockets; never
`server`, never NATS.
"""

from sync.extension import Stage

from .awareness import Awareness
from .client import Session, Unreachable, connect
from .document import OpenDocument
from .events import (
    Change,
    Denied,
    Event,
    Offline,
    Online,
    ReadOnlyHere,
    Refused,
    Rejected,
    Safer,
    Status,
    StoreFailed,
    Stream,
)
from .history import History
from .host import ReadOnly, SessionClosed
from .link import InvalidAddress
from .parking import Aside, EditRejected
from .store import Parked, Progress, Rejection

__all__ = [
    "Aside",
    "Awareness",
    "Change",
    "Denied",
    "EditRejected",
    "Event",
    "History",
    "InvalidAddress",
    "Offline",
    "Online",
    "OpenDocument",
    "Parked",
    "Progress",
    "ReadOnly",
    "ReadOnlyHere",
    "Refused",
    "Rejected",
    "Rejection",
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
