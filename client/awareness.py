"""Who is here: the awareness of one document, as stock Yjs clients have it. Never stored, may be lost (law 10).

Room: own state and the others', by client id; payloads in and out. Nothing here knows a connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from sync.document import JsonValue
from sync.errors import InvalidInput
from sync.ids import ConnId
from sync.limits import AWARENESS_STATE_BYTES_MAX, PRESENCE_MS_MAX
from sync.presence import Presence, encode_awareness
from sync.validate import AwarenessEntry, check_awareness

__all__ = ["RENEW_MS", "Awareness"]

RENEW_MS = PRESENCE_MS_MAX // 2
"""Own state is told again this often; the others forget it after twice that."""

_LINK = ConnId(1)


class Awareness:
    """`plan.awareness`: set what the others see of this program, and see them."""

    def __init__(self, client_id: int, changed: Callable[[], None]) -> None:
        """`changed` is called when there is something to be sent."""
        self.client_id = client_id
        self._changed = changed
        self._clock = 0
        self._state: JsonValue = None
        self._told_ms = 0
        self._told_clock = 0
        self._others = Presence()
        self._callbacks: list[Callable[[dict[int, JsonValue]], None]] = []

    @property
    def state(self) -> JsonValue:
        """Own state; None: not here."""
        return self._state

    @state.setter
    def state(self, state: JsonValue) -> None:
        """Any JSON value. Raises InvalidInput where it is too large, or no JSON."""
        try:
            size = len(json.dumps(state, ensure_ascii=False, allow_nan=False).encode("utf-8"))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"awareness: {error}; set a JSON value") from None
        if size > AWARENESS_STATE_BYTES_MAX:
            raise InvalidInput(
                f"awareness: {size} bytes, at most {AWARENESS_STATE_BYTES_MAX}; keep only the cursor here"
            )
        self._state = state
        self._clock += 1
        self._changed()

    @property
    def states(self) -> dict[int, JsonValue]:
        """Client id -> state of everybody who is here, this program included."""
        here: dict[int, JsonValue] = {}
        payload = self._others.states()
        for entry in check_awareness(payload) if payload else ():
            here[entry.client] = json.loads(entry.state)
        if self._state is not None:
            here[self.client_id] = self._state
        return here

    def observe(self, callback: Callable[[dict[int, JsonValue]], None]) -> Callable[[], None]:
        """Call `callback` with what has changed of the others (None: gone); returns what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    # --- the link's side ---------------------------------------------------------------------------------------------
    def payload(self, now_ms: int) -> bytes:
        """Own state as it is sent; empty where there never was one."""
        self._told_ms = now_ms
        self._told_clock = self._clock
        if not self._clock:
            return b""
        text = json.dumps(self._state, ensure_ascii=False, separators=(",", ":"))
        return encode_awareness((AwarenessEntry(self.client_id, self._clock, text),))

    @property
    def unsaid(self) -> bool:
        """Own state is another than `payload` gave last."""
        return self._told_clock != self._clock

    def renew(self, now_ms: int) -> bool:
        """Time has passed: forget who was not heard of. True where own state has to be told again."""
        self._tell(self._others.expire(now_ms))
        if self._state is None or now_ms - self._told_ms < RENEW_MS:
            return False
        self._clock += 1
        return True

    def receive(self, payload: bytes, now_ms: int) -> bool:
        """Raises InvalidInput, LimitReached. True where others believe something else of us: tell them again."""
        entries = check_awareness(payload)
        mine = [entry for entry in entries if entry.client == self.client_id]
        self._tell(self._others.merge([e for e in entries if e.client != self.client_id], _LINK, now_ms))
        stale = any(entry.clock >= self._clock and json.loads(entry.state) != self._state for entry in mine)
        if stale:
            self._clock = max(self._clock, *(entry.clock for entry in mine)) + 1
        return stale

    def offline(self) -> None:
        """The link is down: nobody can be seen. Nothing of them is remembered: they come back with the same clocks."""
        payload = self._others.states()
        self._others = Presence()
        if payload:
            self._tell(tuple(AwarenessEntry(e.client, e.clock, "null") for e in check_awareness(payload)))

    def _tell(self, news: tuple[AwarenessEntry, ...]) -> None:
        if news:
            changed: dict[int, JsonValue] = {entry.client: json.loads(entry.state) for entry in news}
            for callback in self._callbacks:
                asyncio.get_running_loop().call_soon(callback, changed)  # what it raises is not the link's
