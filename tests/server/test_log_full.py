"""The log's storage is full: an alarm, nothing lost, and everything goes out when there is room."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from server.config import load_config
from server.edge import EdgeDaemon
from server.gateway import Gateway
from server.nats_server import NatsServer
from server.streams import api
from sync import wire
from sync.document import Document

from .ear import until


async def limit_log(daemon: EdgeDaemon, size: int) -> None:
    """As if the log's disk had room for so many bytes."""
    link, name = daemon.bus.session().link, daemon.bus.layout.changes
    config = (await api(link, f"STREAM.INFO.{name}"))["config"]
    assert isinstance(config, dict)
    await api(link, f"STREAM.UPDATE.{name}", {**config, "max_bytes": size})


def test_a_log_that_is_full_is_an_alarm_and_all_goes_out_when_there_is_room(
    nats: NatsServer, namespace: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "skerry.edge")

    async def run() -> None:
        flags: dict[str, object] = {"data": tmp_path / "edge", "nats": (nats.url,), "namespace": namespace}
        daemon = EdgeDaemon(load_config(flags, None))
        gateway = Gateway(daemon, ("127.0.0.1", 0))
        host, at = await gateway.start()
        await daemon.start()
        try:
            await until(lambda: daemon.bus.state.state == "up", "link up")
            await limit_log(daemon, 500_000)
            document = Document()
            async with connect(f"ws://{host}:{at}/d", compression=None, max_size=None) as ada:
                for _ in range(10):  # one change each: merged, they would be one that travels as an object
                    update = document.edit_text("t", 0, 0, os.urandom(100_000).hex())
                    await ada.send(wire.encode(wire.Update(update)))
                    while wire.decode_frame(await ada.recv(decode=False)) != wire.Update(update):
                        pass
                await until(lambda: "log_refuses" in caplog.text, "the alarm")
                assert daemon.machine.shipping.inflight_count > 0
                assert daemon.bus.state.state == "up"

                await limit_log(daemon, -1)
                await until(lambda: daemon.machine.shipping.inflight_count == 0, "all is in the log")
        finally:
            await gateway.stop()
            await daemon.stop(1.0)

    asyncio.run(run())
