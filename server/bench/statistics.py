"""Numbers about numbers: quantiles, medians of repeats. Room: arithmetic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["median", "medians", "quantile", "spread"]


def quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least this share is not above (nearest rank). Of nothing: not a number."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def median(values: Iterable[float]) -> float:
    """Of those that are numbers; of none: not a number."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def spread(values: Iterable[float]) -> tuple[float, float]:
    """Smallest and largest of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return (min(known), max(known)) if known else (math.nan, math.nan)


def medians(repeats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Measure by measure, over all repeats that have it."""
    names = dict.fromkeys(name for one in repeats for name in one)
    return {name: median(one[name] for one in repeats if name in one) for name in names}
