"""A node that dies of certain texts: pycrdt's apply ends the process by SIGSEGV, as it does over what nobody knows yet.

    python -m tests.faults.mortal edge --name …       dies of an update that holds "kills-edge"
    python -m tests.faults.mortal leader …            dies of one that holds "kills-leader"

Room: the dying. The product has no switch for it.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import pycrdt

from server import cli

PROGRAM = "tests.faults.mortal"


def main() -> int:
    mark = f"kills-{sys.argv[1]}".encode()
    applied = pycrdt.Doc.apply_update

    def apply_update(self: pycrdt.Doc[Any], update: bytes) -> None:
        if mark in update:
            signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)  # here and now, as a fault: not in any thread
        applied(self, update)

    pycrdt.Doc.apply_update = apply_update  # type: ignore[method-assign]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
