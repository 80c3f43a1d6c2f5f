"""The embedded nats-server as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server.nats_server import NatsServer, find_nats_server
from sync.errors import BusUnreachable

Make = Callable[[], NatsServer]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_gone(pid: int) -> None:
    ends = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < ends, f"{pid} still runs"
        time.sleep(0.02)


def test_server_starts_on_a_free_port_and_keeps_it_over_a_restart(make_nats: Make) -> None:
    server = make_nats()
    asyncio.run(server.start())
    port = server.port
    assert port > 0
    assert (server.data_dir / "jetstream").is_dir()

    asyncio.run(server.stop())
    assert not server.running
    asyncio.run(server.start())

    assert server.port == port


def test_two_servers_start_side_by_side(make_nats: Make) -> None:
    first, second = make_nats(), make_nats()

    asyncio.run(first.start())
    asyncio.run(second.start())

    assert first.port != second.port


def test_port_in_use_is_one_clear_line(make_nats: Make) -> None:
    first, second = make_nats(), make_nats()
    asyncio.run(first.start())
    second.port = first.port

    with pytest.raises(BusUnreachable, match=f"port {first.port} of 127.0.0.1 is in use") as raised:
        asyncio.run(second.start())

    assert "\n" not in str(raised.value)
    assert not second.running


def test_a_directory_serves_one_server_only(make_nats: Make) -> None:
    first = make_nats()
    asyncio.run(first.start())
    second = NatsServer(first.data_dir)

    with pytest.raises(BusUnreachable, match=rf"another nats-server \(pid {first.pid}\)"):
        asyncio.run(second.start(deadline_s=0.3))


def test_a_failing_start_shows_what_the_log_says(make_nats: Make) -> None:
    server = make_nats()
    server.host = "no such host"

    with pytest.raises(BusUnreachable, match="nats-server"):
        asyncio.run(server.start())

    assert not server.running


def test_stop_ends_a_frozen_server_too(make_nats: Make) -> None:
    server = make_nats()
    asyncio.run(server.start())
    pid = server.pid
    assert pid is not None
    server.signal(signal.SIGSTOP)

    asyncio.run(server.stop(deadline_s=5))

    assert not alive(pid)


def test_server_dies_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys, time\n"
        "from server.nats_server import NatsServer\n"
        "server = NatsServer(pathlib.Path(sys.argv[1]))\n"
        "asyncio.run(server.start())\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=root)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)

        parent.kill()

        wait_gone(child)
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout is not None:
            parent.stdout.close()


def test_binary_is_found_beside_the_interpreter() -> None:
    assert find_nats_server().name == "nats-server"
