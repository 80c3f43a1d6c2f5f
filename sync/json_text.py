"""Is a text from outside JSON, bounded, and JSON that Yrs reads?

Room: one text in, a verdict out. The values are looked at and dropped.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final

__all__ = ["check_json"]

_PART: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
"""A string as a whole, or one bracket."""


def check_json(text: str, depth_max: int, *, narrow: bool) -> None:
    """Raises ValueError where `text` is no JSON (RFC 8259), or nested deeper than `depth_max`.

    `narrow`: also where Yrs 0.28 refuses a whole update over JSON that JavaScript writes or takes: numbers that
    overflow a double, integers from 2^63 to 2^64, half a surrogate pair written as an escape
    (`tests/sync/hostile.py` has one of each).
    """
    if text.count("[") + text.count("{") > depth_max:
        depth = 0
        for part in _PART.finditer(text):
            depth += 1 if part[0] in "[{" else -1 if part[0] in "]}" else 0
            if depth > depth_max:
                raise ValueError("too deep")
    try:
        if not narrow:
            json.loads(text, parse_int=float, parse_constant=_no_number)
            return
        value = json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_no_number)
        if "\\u" in text:  # the bytes were UTF-8: only an escape can be a lone surrogate
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("too deep") from None


def _int(digits: str) -> int:
    if len(digits) > 20:  # and never an integer of a million digits
        _float(digits)
    elif 2**63 <= int(digits) < 2**64:
        _no_number(digits)
    return 0


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        _no_number(digits)
    return value


def _no_number(text: str) -> None:
    raise ValueError(text)
