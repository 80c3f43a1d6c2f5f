"""One epoch of the log as seen over one link, and what can be read and kept through it: stored messages and objects.

Room: JetStream's reading interfaces and NATS' object format. Who asks, and when the link is up, is `server.bus`.

Messages are read by batches of direct gets: one request, a thousand messages. A follower may answer them and may be
behind (facts 2.6): where a reader must not miss the newest, the stream's leader is asked for what comes after.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from nats.aio.msg import Msg

from sync.errors import BusError, BusUnreachable

from .nats_link import NatsLink
from .streams import Layout, leader_get

__all__ = ["OBJECT_HEADER", "ObjectMissing", "Session", "StoredMessage", "read_ack"]

OBJECT_HEADER = "Skerry-Object"
"""A message whose payload is in the object store: the object's name. Its own payload is empty."""

READ_COUNT = 1_000  # messages of one batch
READ_BYTES = 8 * 1024 * 1024
READ_S_MAX = 5.0  # between two messages of a batch
CHUNK_BYTES = 128 * 1024  # of an object: what NATS' own clients use
CHUNKS_AT_ONCE = 16  # 2 MB under way
OBJECT_READS_MAX = 3
OBJECT_BYTES_MAX = 512 * 1024 * 1024  # as SYNC_ANSWER_BYTES_MAX: more than any document


class ObjectMissing(BusError):
    """A message refers to an object that is not there, or is damaged."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    subject: str
    seq: int
    headers: dict[str, str]
    data: bytes


def read_ack(headers: dict[str, str], data: bytes) -> tuple[int, bool]:
    """(sequence, duplicate) of a PubAck. Raises BusError, BusUnreachable where no stream takes this subject."""
    if headers.get("Status") == "503":
        raise BusUnreachable("no stream takes this subject; it is being made, or JetStream is recovering")
    try:
        ack = json.loads(data)
        if "error" in ack:
            raise BusError(f"the log refuses: {ack['error'].get('description')} ({ack['error'].get('err_code')})")
        return int(ack["seq"]), bool(ack.get("duplicate", False))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BusError("an acknowledgement that is none; is something else subscribed to the log's subjects?") from None


@dataclass(frozen=True, slots=True)
class Session:
    link: NatsLink
    layout: Layout
    epoch: int
    shards: int
    replicas: int

    async def stored(
        self, stream: str, subject: str, after: int, before: int | None = None
    ) -> AsyncIterator[StoredMessage]:
        """Messages of one subject with after < seq (< before), in order; complete as of the call. Raises BusError."""
        while True:
            page, more = await self._page(stream, subject, after)
            for message in page:
                if before is not None and message.seq >= before:
                    return
                after = message.seq
                yield message
            if more:
                continue
            if self.replicas == 1:
                return
            newest = await leader_get(self.link, stream, {"seq": after + 1, "next_by_subj": subject})
            if newest is None or (before is not None and newest[3] >= before):
                return
            after = newest[3]
            yield StoredMessage(newest[0], newest[3], newest[1], newest[2])

    async def last(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message of a subject, from the stream's leader."""
        found = await leader_get(self.link, stream, {"last_by_subj": subject})
        return None if found is None else StoredMessage(found[0], found[3], found[1], found[2])

    async def publish(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> int:
        """Append one message and wait for its sequence. Raises BusError."""
        return read_ack(*await self.link.request(subject, data, headers))[0]

    async def payload(self, headers: dict[str, str], data: bytes) -> bytes:
        """A message's payload, wherever it is. Raises ObjectMissing, BusError."""
        name = headers.get(OBJECT_HEADER)
        return data if name is None else await self.get_object(name)

    async def put_object(self, name: str, data: bytes) -> None:
        """Store under a name that says what it is: the same bytes under it are stored once. Raises BusError."""
        digest = "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        meta = await self._object_meta(name)
        if meta is not None and meta.get("digest") == digest and meta.get("size") == len(data):
            return
        nuid, bucket = secrets.token_hex(11), self.layout.objects
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        for at in range(0, len(chunks), CHUNKS_AT_ONCE):
            # In a batch the order of sending is the order of the log: a request queues before it first waits.
            await asyncio.gather(
                *(self.publish(f"$O.{bucket}.C.{nuid}", chunk) for chunk in chunks[at : at + CHUNKS_AT_ONCE])
            )
        described = {
            "name": name,
            "bucket": bucket,
            "nuid": nuid,
            "size": len(data),
            "chunks": len(chunks),
            "digest": digest,
            "options": {"max_chunk_size": CHUNK_BYTES},
        }
        await self.publish(self._meta_subject(name), json.dumps(described).encode(), {"Nats-Rollup": "sub"})

    async def get_object(self, name: str) -> bytes:
        """Raises ObjectMissing, BusError."""
        for _ in range(OBJECT_READS_MAX):
            meta = await self._object_meta(name)
            if meta is None:
                raise ObjectMissing(f"object {name} is not in {self.layout.objects}; its message cannot be read")
            subject = f"$O.{self.layout.objects}.C.{meta.get('nuid')}"
            pieces: list[bytes] = []
            size = 0
            async for piece in self.stored(f"OBJ_{self.layout.objects}", subject, 0):
                pieces.append(piece.data)
                size += len(piece.data)
                if size > OBJECT_BYTES_MAX:
                    raise ObjectMissing(f"object {name} is larger than {OBJECT_BYTES_MAX} bytes: not ours")
            data = b"".join(pieces)
            if meta.get("digest") == "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode():
                return data
        raise ObjectMissing(f"object {name} of {self.layout.objects} is damaged; its message cannot be read")

    async def delete_object(self, name: str) -> None:
        """As NATS' own clients do: the description says it is deleted, the chunks are purged. Raises BusError."""
        meta = await self._object_meta(name)
        if meta is None:
            return
        gone = {"name": name, "bucket": self.layout.objects, "nuid": meta.get("nuid"), "deleted": True}
        await self.publish(self._meta_subject(name), json.dumps(gone).encode(), {"Nats-Rollup": "sub"})
        body = json.dumps({"filter": f"$O.{self.layout.objects}.C.{meta.get('nuid')}"}).encode()
        await self.link.request(f"$JS.API.STREAM.PURGE.OBJ_{self.layout.objects}", body)

    def _meta_subject(self, name: str) -> str:
        return f"$O.{self.layout.objects}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def _object_meta(self, name: str) -> dict[str, object] | None:
        found = await self.last(f"OBJ_{self.layout.objects}", self._meta_subject(name))
        try:
            meta = json.loads(found.data) if found is not None else None
        except ValueError:
            return None
        return meta if isinstance(meta, dict) and not meta.get("deleted") else None

    async def _page(self, stream: str, subject: str, after: int) -> tuple[list[StoredMessage], bool]:
        """One batch, and whether there is more."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        reply = self.link.inbox(arrived.put_nowait)
        body = {"seq": after + 1, "next_by_subj": subject, "batch": READ_COUNT, "max_bytes": READ_BYTES}
        page: list[StoredMessage] = []
        try:
            if not self.link.send(f"$JS.API.DIRECT.GET.{stream}", json.dumps(body).encode(), reply=reply):
                raise BusUnreachable(f"{stream}: the link is down or full; retry")
            while True:
                if arrived.empty():  # a timer per message would cost as much as the message
                    try:
                        async with asyncio.timeout(READ_S_MAX):  # not `wait_for`: decision 224
                            message = await arrived.get()
                    except TimeoutError:
                        raise BusUnreachable(f"{stream}: no answer within {READ_S_MAX:g} s; retry") from None
                else:
                    message = arrived.get_nowait()
                headers = message.headers or {}
                # A stored message may have a header Status of its own: what the server says has no subject.
                match None if "Nats-Subject" in headers else headers.get("Status"):
                    case None:
                        page.append(_stored(headers, message.data))
                    case "204":
                        return page, int(headers.get("Nats-Num-Pending", "0")) > 0
                    case "404":
                        return page, False
                    case "503":
                        raise BusUnreachable(f"{stream}: no server has this stream at the moment; retry")
                    case status:
                        raise BusError(f"{stream}: reading refused: {status} {headers.get('Description', '')}")
        finally:
            self.link.forget(reply)


_ADDED = ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence")


def _stored(headers: dict[str, str], data: bytes) -> StoredMessage:
    subject, seq = headers.get("Nats-Subject", ""), int(headers.get("Nats-Sequence", "0"))
    return StoredMessage(subject, seq, {k: v for k, v in headers.items() if k not in _ADDED}, data)
