"""Streams and buckets of a namespace."""

from __future__ import annotations

import asyncio

import pytest

from server.bus import Bus, BusConfig
from server.nats_link import LinkOptions, NatsLink
from server.nats_server import NatsServer
from server.streams import Layout, api, ensure_streams, raise_epoch, read_log_state
from sync.errors import ConfigError, StreamDiffers
from sync.ids import DocId

from .ear import Ear, running

OPTIONS = LinkOptions("test", None, None, None, None)


def test_everything_is_made_once_and_found_again(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        link = await NatsLink.open(nats.url, OPTIONS)
        layout = Layout(namespace)

        made = await ensure_streams(link, layout, shards=None, replicas=1, development=False)
        found = await ensure_streams(link, layout, shards=None, replicas=1, development=False)

        assert made == found
        assert made.shards == 4
        config = (await api(link, f"STREAM.INFO.{namespace.upper()}_CHANGES"))["config"]
        assert isinstance(config, dict)
        assert config["discard"] == "new"
        assert config["deny_delete"] is config["deny_purge"] is config["allow_direct"] is True
        assert config["compression"] == "s2"
        link.abort("done")

    asyncio.run(run())


def test_a_stream_of_another_shape_is_named_field_by_field_and_left_alone(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        link = await NatsLink.open(nats.url, OPTIONS)
        name = f"{namespace.upper()}_CHANGES"
        theirs = {"name": name, "subjects": [f"{namespace}.changes.*.*"], "discard": "old", "storage": "memory"}
        await api(link, f"STREAM.CREATE.{name}", theirs)

        with pytest.raises(StreamDiffers) as raised:
            await ensure_streams(link, Layout(namespace), shards=None, replicas=1, development=False)

        text = str(raised.value)
        assert f'{name}: discard is "old", want "new"' in text
        assert f'{name}: storage is "memory", want "file"' in text
        assert "skerry-shards" in text
        config = (await api(link, f"STREAM.INFO.{name}"))["config"]
        assert isinstance(config, dict)
        assert config["discard"] == "old"
        link.abort("done")

    asyncio.run(run())


def test_a_bus_that_meets_other_streams_says_so_and_stays_down(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        async with running(nats.url, namespace, shards=2) as first:
            assert first.shards == 2
        async with running(nats.url, namespace) as second:
            assert second.shards == 2
        third = Bus(BusConfig((nats.url,), namespace, shards=8, development=True), Ear())
        await third.start()
        assert third.fatal is not None

        with pytest.raises(StreamDiffers, match="skerry-shards is 2, want 8"):
            await asyncio.wait_for(third.fatal, 10)

        assert third.state.state == "down"
        await third.stop()

    asyncio.run(run())


def test_nodes_that_start_together_agree(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        links = [await NatsLink.open(nats.url, OPTIONS) for _ in range(4)]

        states = await asyncio.gather(
            *(ensure_streams(link, Layout(namespace), shards=None, replicas=1, development=False) for link in links)
        )

        assert len({state.epoch for state in states}) == 1
        for link in links:
            link.abort("done")

    asyncio.run(run())


def test_a_raised_epoch_is_seen_by_everybody_and_is_larger(nats: NatsServer, namespace: str) -> None:
    async def run() -> None:
        link = await NatsLink.open(nats.url, OPTIONS)
        layout = Layout(namespace)
        before = await ensure_streams(link, layout, shards=3, replicas=1, development=False)

        epoch = await raise_epoch(link, layout)

        after = await read_log_state(link, layout)
        assert after is not None
        assert after.epoch == epoch > before.epoch
        assert after.shards == 3
        again = await ensure_streams(link, layout, shards=3, replicas=1, development=False)
        assert again.epoch == epoch
        link.abort("done")

    asyncio.run(run())


@pytest.mark.parametrize("namespace", ["", "a.b", "a b", "a*", "a>", "a/b", "ü", "x" * 65])
def test_a_namespace_that_nats_cannot_have_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigError):
        Layout(namespace)


def test_subjects_carry_the_document_as_one_token() -> None:
    layout = Layout("my-ns")

    assert layout.changes == "MY-NS_CHANGES"
    assert layout.change(3, DocId("notes/a.b c")) == "my-ns.changes.3.notes/a%2Eb%20c"
