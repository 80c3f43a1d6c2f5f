"""An edge with law 2 turned round: it says "safe", and writes a while later.

    python -m tests.faults.broken edge --name …           one such edge
    python -m tests.faults.broken torture --rounds 30     a campaign in which all edges are such

Room: the breaking. The product has no switch for it; who must notice is `skerry torture`.
"""

from __future__ import annotations

import functools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from server import cli
from server.flushing import Flushing
from server.torture import command
from server.torture.fleet import Shape
from sync.step import Commit

LATE_S = 1.0
PROGRAM = ("tests.faults.broken",)

_later = ThreadPoolExecutor(1, "late")


def _acknowledge_then_commit(flushing: Flushing, commit: Commit) -> None:
    due = time.monotonic() + LATE_S

    def write() -> None:
        time.sleep(max(0.0, due - time.monotonic()))
        flushing._store.commit(commit.writes)

    _later.submit(write)
    flushing._loop.call_soon_threadsafe(flushing._committed, commit.ticket, None)


def main() -> int:
    Flushing._commit = _acknowledge_then_commit  # type: ignore[assignment,method-assign]
    command.Shape = functools.partial(Shape, edge_program=PROGRAM)  # type: ignore[assignment,attr-defined]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
