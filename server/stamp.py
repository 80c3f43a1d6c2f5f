"""The log was rolled back: whoever notices that and may not mark it asks a leader to.

Room: one question and its answer. A leader believes nobody: it looks itself whether the entry is gone. What it then
writes makes every node compare what it has with the log (docs/decisions.md, row 6): work, and never a loss, so an edge
that asks for no reason is only told no.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine

from nats.aio.msg import Msg

from sync.errors import BusError, BusUnreachable, InvalidInput
from sync.ids import DocId, Dot, Version, parse_document_id
from sync.text import parse_dot, parse_version

from .nats_link import NatsLink
from .streams import Layout, raise_epoch, read_log_state

__all__ = ["ask_stamp", "serve_stamp"]

Witness = tuple[Version, DocId, Dot]


async def ask_stamp(link: NatsLink, layout: Layout, witness: Witness) -> int:
    """The log's new epoch. Raises BusUnreachable where no leader is there, or sees it otherwise: try again."""
    version, doc, dot = witness
    question = json.dumps({"version": str(version), "doc": doc, "dot": str(dot)}).encode()
    headers, answer = await link.request(f"{layout.namespace}.stamp", question)
    if headers.get("Status") == "503":
        raise BusUnreachable("the log was rolled back, and no leader is there to mark it; start one")
    try:
        return int(json.loads(answer)["epoch"])
    except (ValueError, KeyError, TypeError):
        raise BusUnreachable("the log was rolled back, and the leader does not see it yet; asked again") from None


def serve_stamp(
    current: Callable[[], NatsLink],
    layout: Layout,
    still_there: Callable[[NatsLink, Witness], Awaitable[bool]],
    stamped: Callable[[], None],
) -> Callable[[Msg], Coroutine[object, object, None]]:
    """What answers such a question at a leader. `stamped`: there is a new epoch."""
    one_at_a_time = asyncio.Lock()  # two edges that notice at once: the second one's entry is of the epoch before

    async def answer(message: Msg) -> None:
        if not message.reply:
            return
        link = current()
        told: dict[str, object] = {}
        try:
            asked = json.loads(message.data)
            witness = (parse_version(asked["version"]), parse_document_id(asked["doc"]), parse_dot(asked["dot"]))
            async with one_at_a_time:
                state = await read_log_state(link, layout)
                if state is not None and state.epoch != witness[0].epoch:
                    told = {"epoch": state.epoch}
                elif state is not None and not await still_there(link, witness):
                    told = {"epoch": await raise_epoch(link, layout)}
                    stamped()
        except (ValueError, KeyError, TypeError, RecursionError, InvalidInput, BusError):
            told = {}
        link.send(message.reply, json.dumps(told).encode())

    return answer
