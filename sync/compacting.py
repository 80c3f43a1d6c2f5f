"""A document's rows give way to its state, once that was seen to load: looked at elsewhere, for it takes its time.

Room: a part of the edge machine. A state of 30,000 structs costs 2 ms to take and 80 ms to check and load, which would
hold everybody's documents; so the shell does that (`Verify`) and says how it went. What is stored meanwhile is stored
once more behind the state, in the commit that brings it.
"""

from __future__ import annotations

from .company import Out
from .content import Captured
from .errors import DocumentBroken, InvalidUpdate
from .hosted import Compaction, Hosted
from .step import AppendUpdate, Compact, Report, Verify
from .writing import Writing

__all__ = ["begin", "end", "refusal_of"]


def begin(host: Hosted, out: Out) -> None:
    """All rows of this document that the next commit holds are in `state`. Raises DocumentBroken."""
    assert host.replica is not None
    captured = host.replica.capture()
    host.compaction = Compaction(host.replica, captured)
    out.append(Verify(host.doc, captured))


def end(host: Hosted | None, captured: Captured, refusal: str, writing: Writing, out: Out) -> bool:
    """False: it was refused for the first time, so what was lost in memory may be in the rows: rebuild it from them."""
    compaction = host.compaction if host is not None else None
    if host is None or compaction is None or compaction.captured is not captured:
        return True
    host.compaction = None
    if host.replica is not compaction.replica:
        return True  # rebuilt or replaced meanwhile: nothing is known of it
    if refusal:
        first, host.compaction_pause = host.compaction_pause == 1, host.compaction_pause * 2
        out.append(Report("compaction_refused", host.doc, refusal))
        return not first
    writing.add(Compact(host.doc, captured.state))
    for row in compaction.rows:
        writing.add(AppendUpdate(host.doc, row))
    host.rows, host.row_bytes = len(compaction.rows), sum(map(len, compaction.rows))
    host.compaction_pause = 1
    host.state_bytes = len(captured.state)
    return True


def refusal_of(captured: Captured) -> str:
    """Empty where a fresh document has loaded it and is equal. Pure: any thread may ask."""
    try:
        captured.verify()
    except (InvalidUpdate, DocumentBroken) as error:
        return str(error)
    return ""
