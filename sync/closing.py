"""Why an edge closes a connection: the codes of its own (docs/protocol.md). Those of who may are `server.admission`'s.

Room: numbers.
"""

from __future__ import annotations

__all__ = [
    "CLOSE_BAD_FRAME",
    "CLOSE_BAD_UPDATE",
    "CLOSE_CANNOT_STORE",
    "CLOSE_CLIENT_ID",
    "CLOSE_GAP",
    "CLOSE_LIMIT",
]

CLOSE_BAD_FRAME = 4400
CLOSE_GAP = 4409
CLOSE_CLIENT_ID = 4410
CLOSE_BAD_UPDATE = 4422
CLOSE_LIMIT = 4429
CLOSE_CANNOT_STORE = 4507
