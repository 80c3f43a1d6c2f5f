"""Questions and answers between edges and a shard's leader, in as many messages as an answer needs.

Room: splitting and joining. Each part says `Skerry-Part: <answer> <number> <count>`: two leaders may answer the same
question, and their parts are not mixed. The first part carries the answer's headers.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from sync.change import SyncAnswer, SyncAsk
from sync.errors import BusError, BusUnreachable, InvalidInput
from sync.headers import decode_sync_answer, encode_sync_answer, encode_sync_ask
from sync.limits import MESSAGE_HEADROOM_BYTES, SYNC_ANSWER_BYTES_MAX, SYNC_MS_MAX

from .session import Session

__all__ = ["ask_sync", "send_answer"]

PART_HEADER = "Skerry-Part"
ANSWERS_MAX = 4  # leaders that answer one question at once: one, or two for a moment
QUEUED_BYTES_MAX = 8 * 1024 * 1024  # of one answer in the link's queue: changes and broadcasts go in between
PART = re.compile(r"([0-9a-f]{1,16}) (\d{1,9}) (\d{1,9})", re.ASCII)


@dataclass(slots=True)
class _Answer:
    count: int
    headers: dict[str, str] | None = None
    parts: dict[int, bytes] = field(default_factory=dict)


async def ask_sync(session: Session, ask: SyncAsk, shard: int) -> SyncAnswer:
    """Raises BusError: nobody leads the shard, no answer or no next part within SYNC_MS_MAX, or not an answer."""
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    reply = session.link.inbox(arrived.put_nowait)
    answers: dict[str, _Answer] = {}
    size = 0
    try:
        headers, payload = encode_sync_ask(ask)
        subject = session.layout.of_shard("sync", shard)
        if not session.link.send(subject, payload, headers, reply):
            raise BusUnreachable(f"{ask.doc}: the question was not sent, the link is down or full; ask again")
        while True:
            try:
                async with asyncio.timeout(SYNC_MS_MAX / 1000):
                    message = await arrived.get()
            except TimeoutError:
                raise BusUnreachable(f"{ask.doc}: no answer of shard {shard}'s leader; ask again") from None
            found = message.headers or {}
            if found.get("Status") == "503":
                raise BusUnreachable(f"{ask.doc}: nobody leads shard {shard} at the moment; ask again")
            match = PART.fullmatch(found.get(PART_HEADER, ""))
            if match is None:
                raise BusError(f"{ask.doc}: the answer's {PART_HEADER} is missing; is every node of the same version?")
            name, number, count = match[1], int(match[2]), int(match[3])
            size += len(message.data)
            if size > SYNC_ANSWER_BYTES_MAX or (name not in answers and len(answers) >= ANSWERS_MAX):
                raise BusError(f"{ask.doc}: over {SYNC_ANSWER_BYTES_MAX} bytes or {ANSWERS_MAX} answers; not joined")
            answer = answers.setdefault(name, _Answer(count))
            answer.parts[number] = message.data
            if number == 0:
                answer.headers = found
            if len(answer.parts) == answer.count and answer.headers is not None:
                whole = b"".join(answer.parts[at] for at in sorted(answer.parts))
                return decode_sync_answer(answer.headers, whole)
    except InvalidInput as error:
        raise BusError(f"{ask.doc}: an answer that is none: {error}") from error
    finally:
        session.link.forget(reply)


async def send_answer(session: Session, reply: str, answer: SyncAnswer) -> None:
    """Raises BusError where the link ended meanwhile: the asker times out and asks again."""
    headers, payload = encode_sync_answer(answer)
    part_bytes = session.link.max_payload - MESSAGE_HEADROOM_BYTES
    count = max(1, -(-len(payload) // part_bytes))
    name = secrets.token_hex(8)
    queued = 0
    for number in range(count):
        part = payload[number * part_bytes : (number + 1) * part_bytes]
        marked = {**(headers if number == 0 else {}), PART_HEADER: f"{name} {number} {count}"}
        if not session.link.send(reply, part, marked):
            raise BusUnreachable(f"{answer.doc}: an answer was cut off, the link is down or full")
        queued += len(part)
        if queued >= QUEUED_BYTES_MAX:
            await session.link.sent()
            queued = 0
        else:
            await asyncio.sleep(0)
