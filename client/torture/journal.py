"""An author's journal: what it was about to write, and how safe it was told that this is. JSON lines, fsynced.

Room: one file. Who judges it is another program (`skerry torture`); each line has `ms`, the machine's monotonic clock.

    {"begin": name, "pid": n}                                            the program starts
    {"try": mark, "doc": d, "root": r, "deletes": [marks]}               written before the edit is made
    {"dot": "abc.7", "doc": d, "of": mark}                               the client's own name for it
    {"safe": [marks], "stage": "own" | "edge" | "log" | "merged", "at": edge}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["Journal", "read_lines"]


class Journal:
    def __init__(self, path: Path, name: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._write({"begin": name, "pid": os.getpid()})

    def trying(self, mark: str, doc: str, root: str, deletes: Iterable[str]) -> None:
        self._write({"try": mark, "doc": doc, "root": root, "deletes": list(deletes)})

    def named(self, mark: str, doc: str, dot: str) -> None:
        self._write({"dot": dot, "doc": doc, "of": mark})

    def safe(self, marks: Iterable[str], stage: str, at: str) -> None:
        self._write({"safe": list(marks), "stage": stage, "at": at})

    def _write(self, line: dict[str, object]) -> None:
        """One write, so that a killed author leaves no half a line before another one."""
        text = json.dumps({"ms": time.monotonic_ns() // 1_000_000, **line}, separators=(",", ":"))
        os.write(self._descriptor, text.encode() + b"\n")
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read_lines(path: Path) -> Iterator[dict[str, object]]:
    """What is there; a last line that is cut short is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                found = json.loads(line)
                assert isinstance(found, dict)
                yield found
