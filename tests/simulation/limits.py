"""Limits made small for one world, so that what happens at them happens here: snapshots, compaction, windows, idling.

Room: the numbers of `sync.limits` in every module that has imported one by name, and back again. One world at a time
in a process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sync import limits

__all__ = ["limits_set"]


@contextmanager
def limits_set(values: Mapping[str, int]) -> Iterator[None]:
    before = {name: getattr(limits, name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, int]) -> None:
    modules = [module for name, module in sys.modules.items() if name.startswith("sync.")]
    for name, value in values.items():
        for module in modules:
            if hasattr(module, name):
                setattr(module, name, value)
