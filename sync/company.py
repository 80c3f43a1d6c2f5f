"""Who is here: the part of serving that is about presence, and what goes to all clients of a document.

Room: awareness in and out, between an edge's own clients and the other edges. Never stored, may be lost (law 10). What
a client's message means otherwise is `sync.hearing`'s.

News is gathered, and goes out as one message a document when the shell says so: two hundred cursors that move ten times
a second would be 400,000 frames a second. Who alone brought all of it is not sent it back; who brought a part of it is,
which stock clients know how to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import wire
from .errors import InvalidInput, LimitReached
from .hosted import Hosted, News
from .ids import ConnId, DocId
from .presence import encode_awareness, payloads
from .step import EdgeEffect, PresenceOut, Send
from .validate import AwarenessEntry, check_awareness

__all__ = ["Company", "Out", "fan_out"]

Out = list[EdgeEffect]


def fan_out(host: Hosted, frame: bytes, besides: Sequence[ConnId], out: Out) -> None:
    conns = tuple(conn for conn in host.conns if conn not in besides) if besides else tuple(host.conns)
    if conns:
        out.append(Send(conns, frame))


class Company:
    __slots__ = ("_hosted", "_talking", "linked")

    def __init__(self, hosted: Mapping[DocId, Hosted]) -> None:
        self.linked = False
        """Whether presence leaves the edge."""
        self._hosted = hosted
        self._talking: dict[DocId, None] = {}
        """Documents with news of presence that has not gone out."""

    def heard(self, host: Hosted, conn: ConnId, payload: bytes, now_ms: int, out: Out) -> None:
        """Awareness of a client. Raises InvalidInput, LimitReached."""
        entries = check_awareness(payload)
        self._gather(host, host.presence.merge(entries, conn, now_ms), conn, outward=True)
        corrections = host.presence.corrections(entries)
        if corrections:
            out.append(Send((conn,), wire.encode(wire.AwarenessUpdate(encode_awareness(corrections)))))

    def left(self, host: Hosted, conn: ConnId) -> None:
        self._gather(host, host.presence.leave(conn), None, outward=True)

    def expire(self, host: Hosted, now_ms: int) -> None:
        self._gather(host, host.presence.expire(now_ms), None, outward=False)

    def presence(self, doc: DocId, payload: bytes, now_ms: int, out: Out) -> None:
        """Awareness of another edge's clients; empty: that edge asks for ours."""
        host = self._hosted.get(doc)
        if host is None:
            return
        if not payload:
            self._tell_local_states(host, out)
            return
        try:
            entries = check_awareness(payload)
            news = host.presence.merge(entries, None, now_ms)
        except (InvalidInput, LimitReached):
            return  # presence may be lost (law 10)
        self._gather(host, news, None, outward=False)
        corrections = host.presence.corrections(entries)
        if corrections and self.linked:  # it left here and went there: told so, its client comes back with a new clock
            out.append(PresenceOut(doc, encode_awareness(corrections)))

    def announce_presence(self, host: Hosted, out: Out) -> None:
        """The link is back: ask the other edges, and tell them."""
        if host.conns:
            out.append(PresenceOut(host.doc, b""))
            self._tell_local_states(host, out)

    def _tell_local_states(self, host: Hosted, out: Out) -> None:
        mine = host.presence.local_states()
        if mine:
            out.append(PresenceOut(host.doc, mine))

    def send_states(self, host: Hosted, conn: ConnId, out: Out) -> None:
        """Everybody who is here, for a joiner."""
        everybody = host.presence.states()
        if everybody:
            out.append(Send((conn,), wire.encode(wire.AwarenessUpdate(everybody))))

    def _gather(self, host: Hosted, entries: Sequence[AwarenessEntry], by: ConnId | None, *, outward: bool) -> None:
        """News for the clients here, and where it is theirs, `outward`, for the other edges."""
        if not entries:
            return
        news = host.news
        if news is None:
            news = host.news = News(by)
            self._talking[host.doc] = None
        elif news.by != by:
            news.by = None
        for entry in entries:
            news.entries[entry.client] = entry
            if outward:
                news.outward[entry.client] = None

    @property
    def wants_spread(self) -> bool:
        return bool(self._talking)

    def spread(self, out: Out) -> None:
        """What was gathered goes to everybody."""
        for doc in self._talking:
            host = self._hosted.get(doc)
            if host is None or host.news is None:
                continue
            news, host.news = host.news, None
            besides = () if news.by is None else (news.by,)
            for payload in payloads(news.entries.values()):
                fan_out(host, wire.encode(wire.AwarenessUpdate(payload)), besides, out)
            if self.linked and news.outward:
                for payload in payloads(news.entries[client] for client in news.outward):
                    out.append(PresenceOut(doc, payload))
        self._talking.clear()
