"""Counts calls, Python's and C's: work that is the same on every machine, as seconds are not."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["calls", "calls_by_name"]


@contextmanager
def calls_by_name() -> Iterator[Counter[str]]:
    """Every call that this thread makes within the block, by the name of what is called."""
    found: Counter[str] = Counter()

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            found[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            found[getattr(argument, "__qualname__", str(argument))] += 1

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(before)


def calls(work: Callable[[], object]) -> int:
    with calls_by_name() as found:
        work()
    return found.total()
