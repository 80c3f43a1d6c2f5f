"""What the client's room shows, and no more."""

from __future__ import annotations

import client


def test_the_public_surface_is_this() -> None:
    assert client.__all__ == [
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
    assert [name for name in client.__all__ if not hasattr(client, name)] == []
