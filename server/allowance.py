"""What one connection may send: a burst at once, a rate for long, and then it waits.

Room: arithmetic over a clock that is given. Two buckets, messages and bytes, fill with time; what is taken out below
the bottom is waited for. Who has to wait without a break for too long is no burst.
"""

from __future__ import annotations

from dataclasses import dataclass

from sync import limits

__all__ = ["Allowance", "Rates"]

RECOVERED = 0.1  # of a burst saved up again: what comes then is a new burst


@dataclass(frozen=True, slots=True)
class Rates:
    messages_per_s: float = limits.CLIENT_MESSAGES_PER_S
    messages_burst: float = limits.CLIENT_MESSAGES_BURST
    bytes_per_s: float = limits.CLIENT_BYTES_PER_S
    bytes_burst: float = limits.CLIENT_BYTES_BURST
    flood_s_max: float = limits.FLOOD_MS_MAX / 1000


class Allowance:
    __slots__ = ("_at_s", "_bytes", "_messages", "_over_since_s", "_rates")

    def __init__(self, rates: Rates, now_s: float) -> None:
        self._rates = rates
        self._messages = rates.messages_burst
        self._bytes = rates.bytes_burst
        self._at_s = now_s
        self._over_since_s: float | None = None

    def spend(self, messages: int, count: int, now_s: float) -> float:
        """Seconds until more may be read: 0 for none."""
        rates = self._rates
        passed_s = now_s - self._at_s
        self._at_s = now_s
        self._messages = min(rates.messages_burst, self._messages + passed_s * rates.messages_per_s)
        self._bytes = min(rates.bytes_burst, self._bytes + passed_s * rates.bytes_per_s)
        if (
            self._over_since_s is not None
            and self._messages >= RECOVERED * rates.messages_burst
            and self._bytes >= RECOVERED * rates.bytes_burst
        ):
            self._over_since_s = None
        self._messages -= messages
        self._bytes -= count
        if self._messages >= 0 and self._bytes >= 0:
            return 0.0
        if self._over_since_s is None:
            self._over_since_s = now_s
        return max(-self._messages / rates.messages_per_s, -self._bytes / rates.bytes_per_s)

    def floods(self, now_s: float) -> bool:
        """It has been slowed down without a break for longer than a burst lasts."""
        return self._over_since_s is not None and now_s - self._over_since_s > self._rates.flood_s_max
