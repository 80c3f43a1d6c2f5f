"""A small Yjs client in Python for the demo: types into one text over a websocket, as an editor would.

Room: the ordinary y-websocket protocol and nothing of Skerry's inside. The offline-first client is `client/`.
"""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from sync import wire
from sync.document import Document
from sync.ids import DocId

from .http_client import credentials

__all__ = ["Typist"]

_ROOT = "text"


class Typist:
    """`async with Typist(address, doc) as typist:`, then `type`; `text` is what it shows."""

    def __init__(self, address: str, doc: DocId) -> None:
        self._url = f"ws://{address}/{quote(doc, safe='')}"
        self._document = Document()
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Typist:
        self._socket = await connect(self._url, additional_headers=credentials(), compression=None, max_size=None)
        self._reader = asyncio.get_running_loop().create_task(self._read(self._socket))
        await self._send(wire.SyncStep1(self._document.state_vector()))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        if self._socket is not None:
            await self._socket.close()

    @property
    def text(self) -> str:
        return self._document.text(_ROOT)

    async def type(self, inserted: str) -> None:
        """Append, and send what that made."""
        await self._send(wire.Update(self._document.edit_text(_ROOT, len(self.text), 0, inserted)))

    async def until(self, condition: str, deadline_s: float) -> None:
        """Wait until the text contains this. Raises TimeoutError."""
        async with asyncio.timeout(deadline_s), self._news:
            await self._news.wait_for(lambda: condition in self.text)

    async def _send(self, message: wire.Message) -> None:
        assert self._socket is not None
        await self._socket.send(wire.encode(message))

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                frame = await socket.recv(decode=False)
                match wire.decode_frame(frame):
                    case wire.SyncStep1(state_vector):
                        await self._send(wire.SyncStep2(self._document.diff(state_vector)))
                    case wire.SyncStep2(update) | wire.Update(update):
                        self._document.apply(update)
                        async with self._news:
                            self._news.notify_all()
                    case _:
                        pass
