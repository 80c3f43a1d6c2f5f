"""A line before a server, for tests of faults: the product's own (`server.torture.line`), as a context."""

from __future__ import annotations

from types import TracebackType

from server.torture.line import Line

__all__ = ["Proxy"]


class Proxy(Line):
    """`async with Proxy(host, port) as proxy:` listens on `proxy.port` of the loopback."""

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__()
        self._where = target_host, target_port

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Proxy:
        host, port = self._where
        await self.start(port, host=host)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
