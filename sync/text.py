"""Dots, versions, times and free text as printable ASCII: what a NATS header may hold. Strict on the way back.

Room: one value and its one spelling. Which header holds a value is `sync.headers`'; errors name it if told.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from .errors import InvalidMessage, LimitReached
from .ids import ORIGIN_MAX, Dot, DotSet, Origin, Version
from .limits import CONTEXT_TEXT_BYTES_MAX, DOT_RANGES_MAX

__all__ = [
    "context_text",
    "context_text_of",
    "parse_dot",
    "parse_dots",
    "parse_time",
    "parse_version",
    "shown",
    "time_text",
]

_SEQ_MAX = 2**53 - 1  # of a dot
_STREAM_SEQ_MAX = 2**63 - 1  # the broker's are 64 bits; an SQLite integer is 63

_DOT = re.compile(r"(0|[1-9a-f][0-9a-f]{0,13})\.([1-9][0-9]{0,15})", re.ASCII)
_VERSION = re.compile(r"(0|[1-9a-f][0-9a-f]{0,15})-(0|[1-9][0-9]{0,18})", re.ASCII)
_RANGE = re.compile(r"(0|[1-9a-f][0-9a-f]{0,13}):([1-9][0-9]{0,15})-([1-9][0-9]{0,15})", re.ASCII)
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]{3})Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_dot(text: str) -> Dot:
    """Inverse of `str(dot)`. Raises InvalidMessage."""
    match = _DOT.fullmatch(text)
    if match:
        origin, seq = int(match[1], 16), int(match[2])
        if origin <= ORIGIN_MAX and seq <= _SEQ_MAX:
            return Dot(Origin(origin), seq)
    raise InvalidMessage(f"dot {shown(text)}: not <origin in hexadecimal>.<number>; write it as it was given to you")


def parse_version(text: str) -> Version:
    """Inverse of `str(version)`. Raises InvalidMessage."""
    match = _VERSION.fullmatch(text)
    if match:
        epoch, seq = int(match[1], 16), int(match[2])
        if seq <= _STREAM_SEQ_MAX:
            return Version(epoch, seq)
    raise InvalidMessage(f"version {shown(text)}: not <epoch in hexadecimal>-<number>; write it as it was given to you")


def parse_dots(text: str) -> DotSet:
    """Inverse of `DotSet.to_text` but for the empty set. Raises InvalidMessage.

    One pass: ranges have to ascend and neither touch nor overlap.
    `DotSet.from_text` takes any order and pays for it with a pass over the set a range: seconds, for a hostile header.
    """
    if text.count(",") >= DOT_RANGES_MAX:
        raise InvalidMessage(f"dots: more than {DOT_RANGES_MAX} ranges; the sender is at fault")
    ranges: dict[Origin, list[tuple[int, int]]] = {}
    before = (-1, 0)
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise InvalidMessage(f"dots: {shown(part)} is no <origin>:<first>-<last>; the sender is at fault")
        origin, first, last = int(match[1], 16), int(match[2]), int(match[3])
        if not (origin <= ORIGIN_MAX and first <= last <= _SEQ_MAX):
            raise InvalidMessage(f"dots: {shown(part)} is no <origin>:<first>-<last>; the sender is at fault")
        if origin < before[0] or (origin == before[0] and first <= before[1] + 1):
            raise InvalidMessage(f"dots: {shown(part)} is out of order; the sender is at fault")
        ranges.setdefault(Origin(origin), []).append((first, last))
        before = (origin, last)
    return DotSet({origin: tuple(of) for origin, of in ranges.items()})


@lru_cache(maxsize=16)
def _second_text(second: int) -> str:
    """`2026-01-31T23:59:59`; one edge ships many changes a second."""
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]


@lru_cache(maxsize=16)
def _second_of(text: str) -> int:
    return round((datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH).total_seconds())


_MS_TEXT = tuple(f".{ms:03}Z" for ms in range(1000))  # formatting costs 0.6 us, and every change has a time


def time_text(time_ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC: `2026-01-31T23:59:59.123Z`."""
    return _second_text(time_ms // 1000) + _MS_TEXT[time_ms % 1000]


def parse_time(text: str) -> int:
    """Inverse of `time_text`. Raises InvalidMessage."""
    match = _TIME.fullmatch(text)
    if match:
        try:
            return _second_of(match[1]) * 1000 + int(match[2])
        except ValueError:  # 30 February
            pass
    raise InvalidMessage(f"time {shown(text)}: not as 2026-01-31T23:59:59.123Z; the sender is at fault")


# --- texts as header values -------------------------------------------------------------------------------------------
def context_text(name: str, text: str) -> str:
    """A text as a header's value. Raises LimitReached, and InvalidMessage for what is no UTF-8."""
    if text.isascii() and text.isprintable() and "%" not in text and text[0] != " " and text[-1] != " ":
        size, value = len(text), text  # the ordinary case
    else:
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            raise InvalidMessage(f"{name}: not UTF-8; use well-formed text") from None
        body = text.strip(" ")  # NATS clients strip values
        lead = len(text) - len(text.lstrip(" "))
        value = "%20" * lead + quote(body, safe=_PRINTABLE) + "%20" * (len(text) - lead - len(body))
    if size > CONTEXT_TEXT_BYTES_MAX:
        raise LimitReached("CONTEXT_TEXT_BYTES_MAX", size, CONTEXT_TEXT_BYTES_MAX, f"give a shorter {name}")
    return value


_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def context_text_of(name: str, value: str) -> str:
    """Inverse of `context_text`. Raises InvalidMessage."""
    if len(value) <= CONTEXT_TEXT_BYTES_MAX and value.isascii() and value.isprintable() and "%" not in value:
        return value
    if len(value) > 3 * CONTEXT_TEXT_BYTES_MAX:
        raise InvalidMessage(f"{name}: {len(value)} characters; send at most {CONTEXT_TEXT_BYTES_MAX} bytes of UTF-8")
    if not (value.isascii() and value.isprintable()) or _BAD_PERCENT.search(value):
        raise InvalidMessage(f"{name}: {shown(value)} is not percent-encoded; encode all but printable ASCII")
    data = unquote_to_bytes(value)
    if len(data) > CONTEXT_TEXT_BYTES_MAX:
        raise InvalidMessage(f"{name}: {len(data)} bytes, at most {CONTEXT_TEXT_BYTES_MAX}; send a shorter one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidMessage(f"{name}: {shown(value)} is not UTF-8; send it as UTF-8, percent-encoded") from None


_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)


def shown(text: str) -> str:
    """For an error's one line: quoted, and short whatever came."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
