"""A document of which has to be found where everything stands, before what has come can be judged (`sync.nesting`).

Room: a part of the edge machine. It takes Python a second, so a thread does it, and what comes for the document waits:
frames of its clients as while it is being loaded, the leader's broadcasts in line. Others go on.
"""

from __future__ import annotations

from collections.abc import Callable

from .company import Out
from .errors import DocumentBroken
from .hosted import Hosted
from .step import FindPlaces

__all__ = ["seek"]


def seek(host: Hosted, rebuild: Callable[[Hosted, str, Out], None], out: Out) -> None:
    """Answered by `places_found`. Where its state cannot be read, it is rebuilt, and that is waited for."""
    assert host.replica is not None
    try:
        state = host.replica.begin_places(wanted=True)
    except DocumentBroken as error:
        rebuild(host, str(error), out)
        return
    host.seeking = True
    if state is not None:  # else they are being found
        out.append(FindPlaces(host.doc, host.replica, state))
