"""What the machine lets a campaign do: a small file system for an edge's disk, and links that lose packets.

Room: Linux, with root. Everything here lives in a mount namespace of this process and in a network namespace that one
of its file descriptors holds: when it ends, however it ends, the kernel takes both away, with what is in them. Where
the machine allows neither, the campaign does it otherwise (a quota, a relay that swallows) and says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from sync.errors import SkerryError

__all__ = [
    "DISK_BYTES",
    "Ground",
    "Links",
    "NotAllowed",
    "fill",
    "keep_disk",
    "mount_disk",
    "own_mounts",
    "unmount_disk",
]

DISK_BYTES: Final = 128 * 1024 * 1024  # a campaign's store is some MiB, beside copies that its judge reads
LINKS_MAX: Final = 32  # of one campaign
BALLAST: Final = "ballast"
COMMAND_S_MAX: Final = 10.0

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 16_384, 1 << 18
_MNT_DETACH = 2
_T = TypeVar("_T")


class NotAllowed(SkerryError):
    """The machine, or who runs this, does not allow it: what it was and why."""


class Ground:
    """What is used, and in words. `Ground.found()` takes whatever may be had; `Ground.plain()` nothing."""

    def __init__(self, disks: str, links: str, network: Links | None) -> None:
        self.disks = disks
        """How a disk gets full."""
        self.links = links
        """Where packets are lost."""
        self.network = network

    @property
    def small_disks(self) -> bool:
        return self.disks == SMALL

    @classmethod
    def plain(cls, why: str = "as asked for") -> Ground:
        return cls(f"{QUOTA} ({why})", f"{RELAY} ({why})", None)

    @classmethod
    def found(cls, directory: Path, nodes: int = 1) -> Ground:
        """Call it in the main thread, before others begin: they would keep the mounts that there are."""
        network: Links | None = None
        disks, links = SMALL, PACKETS
        try:
            own_mounts()
            probe = directory / "probe"
            mount_disk(probe, 1 << 20)
            unmount_disk(probe)
            probe.rmdir()
        except NotAllowed as error:
            disks = f"{QUOTA} ({error})"
        try:
            network = Links()
            for _ in range(nodes):
                network.listen(network.add()).close()  # all that it takes
        except NotAllowed as error:
            if network is not None:
                network.close()
            network, links = None, f"{RELAY} ({error})"
        return cls(disks, links, network)

    def close(self) -> None:
        if self.network is not None:
            self.network.close()


SMALL: Final = f"a file system of {DISK_BYTES >> 20} MiB for each edge"
QUOTA: Final = "a quota of the kernel on the process's files"
PACKETS: Final = "packets between network namespaces"
RELAY: Final = "a relay that swallows both directions"


def _call(name: str, *arguments: object) -> None:
    """One of libc. Raises NotAllowed."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        raise NotAllowed(f"{name}: not on this system") from None
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise NotAllowed(f"{name}: {os.strerror(number)}")


# --- disks ------------------------------------------------------------------------------------------------------------
def own_mounts() -> None:
    """What this process and its children mount from here on, nobody else sees, and it ends with them."""
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)


def mount_disk(path: Path, size: int) -> None:
    """An empty file system of so many bytes. Only behind `own_mounts`."""
    path.mkdir(parents=True, exist_ok=True)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _call("mount", b"skerry", os.fsencode(path), b"tmpfs", flags, f"size={size},mode=700".encode())


def unmount_disk(path: Path) -> None:
    _call("umount2", os.fsencode(path), _MNT_DETACH)


def keep_disk(path: Path) -> None:
    """Unmount it, and leave what was on it in its place: the mount ends with this process."""
    kept = path.with_name(path.name + ".kept")
    shutil.copytree(path, kept, ignore=shutil.ignore_patterns(BALLAST))
    unmount_disk(path)
    path.rmdir()
    kept.rename(path)


def fill(disk: Path) -> Path:
    """Not a page is left. Returns the file to be removed again."""
    ballast = disk / BALLAST
    size = 1 << 20
    with ballast.open("wb", buffering=0) as file:
        while size >= 4096:
            try:
                if file.write(b"\0" * size) < size:
                    size //= 2
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    return ballast


# --- links ------------------------------------------------------------------------------------------------------------
class Links:
    """A network namespace for the far ends of up to LINKS_MAX pairs of devices; the near ends are where we are."""

    def __init__(self) -> None:
        """Raises NotAllowed."""
        if shutil.which("ip") is None:
            raise NotAllowed("ip: not here; it is in the package iproute2")
        self._count = 0

        def make() -> int:
            _call("unshare", _CLONE_NEWNET)
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self._fd = _in_a_thread(make)
        try:
            self._ip_there("link", "set", "lo", "up")
        except NotAllowed:
            self.close()
            raise

    def close(self) -> None:
        """The namespace goes when its sockets have gone too, and the devices with it."""
        os.close(self._fd)

    def add(self) -> int:
        """One more pair of devices; returns its number, from 0 on. Raises NotAllowed."""
        number = self._count
        if number == LINKS_MAX:
            raise NotAllowed(f"network namespaces: for {LINKS_MAX} nodes at most")
        near, far = self._device(number), f"far{number}"
        self._ip_there("link", "add", far, "type", "veth", "peer", "name", near, "netns", str(os.getpid()))
        self._count += 1
        self._ip_there("address", "add", f"{self.address(number)}/30", "dev", far)
        self._ip_there("link", "set", far, "up")
        _ip("address", "add", f"{self.address(number, 2)}/30", "dev", near)
        _ip("link", "set", near, "up")
        return number

    def address(self, number: int, end: int = 1) -> str:
        """Of the far end (1) or the near one (2): of 198.18.0.0/15, which is for measurements (RFC 2544)."""
        at = (os.getpid() % 1024 * LINKS_MAX + number) * 4 + end
        return f"198.{18 + (at >> 16)}.{at >> 8 & 255}.{at & 255}"

    def listen(self, number: int) -> socket.socket:
        """A socket that listens at the far end."""

        def make() -> socket.socket:
            return socket.create_server((self.address(number), 0))

        return self._there(make)

    def cut(self, number: int) -> None:
        """Packets vanish, both ways; nobody is told."""
        self._ip_there("link", "set", f"far{number}", "down")

    def heal(self, number: int) -> None:
        self._ip_there("link", "set", f"far{number}", "up")

    def _device(self, number: int) -> str:
        return f"sk{os.getpid()}-{number}"

    def _ip_there(self, *arguments: str) -> None:
        self._there(lambda: _ip(*arguments))

    def _there(self, work: Callable[[], _T]) -> _T:
        def enter() -> _T:
            _call("setns", self._fd, _CLONE_NEWNET)
            return work()

        return _in_a_thread(enter)


def _ip(*arguments: str) -> None:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise NotAllowed(f"ip {' '.join(arguments[:2])}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")


def _in_a_thread(work: Callable[[], _T]) -> _T:
    """A thread of its own, which ends with it: namespaces are a thread's."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
