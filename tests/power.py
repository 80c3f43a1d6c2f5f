"""A disk that loses its power: what SQLite has synced stays, of what it wrote since, any sectors may.

Room: SQLite's own system calls, as this process makes them. The default VFS's `xOpen` is replaced while this is in use,
and each file's `xSync`: what a file held when a sync of it began is durable once the sync has returned. Everything else
(locks, shared memory, reads, writes) is SQLite's own. Two assumptions: a sector of 512 bytes is written whole or not at
all, and a file that was synced is in its directory (SQLite syncs that too, with a new journal or write-ahead log).
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import pytest

__all__ = ["Power", "sync_no_commit"]

SECTOR = 512
_P = ctypes.c_void_p
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, _P, _P, _P, ctypes.c_int, _P)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.c_int)

_KEPT: list[Any] = []
"""What SQLite may call, or look at, until the last file is closed that was opened here: kept for the process' life."""


class _Vfs(ctypes.Structure):
    """`struct sqlite3_vfs`, as far as xOpen."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_bytes", ctypes.c_int),
        ("path_max", ctypes.c_int),
        ("next", _P),
        ("name", ctypes.c_char_p),
        ("app_data", _P),
        ("open", _P),
    )


class _Methods(ctypes.Structure):
    """`struct sqlite3_io_methods`, version 3."""

    _fields_ = (
        ("version", ctypes.c_int),
        *((name, _P) for name in ("close", "read", "write", "truncate", "sync")),
        ("others", _P * 13),
    )


class Power:
    """`with Power() as power:`, open stores, write; then `power.fails(directory, to, dice)`, as often as wanted."""

    def __init__(self, sync_s: float = 0.0) -> None:
        """`sync_s`: how slow the disk is."""
        self.sync_count = 0
        self.before_sync: Callable[[], None] = lambda: None
        """Called where a file has been written and its sync is about to begin."""
        self._sync_s = sync_s
        self._durable: dict[str, bytes] = {}
        self._paths: dict[int, str] = {}
        """Of SQLite's open files, by the address of each."""
        self._methods: dict[int, _Methods] = {}
        self._lock = threading.Lock()
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        self._vfs = library.sqlite3_vfs_find(None).contents
        self._open_before = self._vfs.open

    def __enter__(self) -> Power:
        opens = _OPEN(self._open_before)

        def opened(vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
            status = opens(vfs, name, file, flags, out)
            methods = ctypes.cast(file, ctypes.POINTER(_P))
            if status == 0 and name and methods[0]:
                self._paths[file] = os.fsdecode(ctypes.string_at(name))
                methods[0] = ctypes.addressof(self._watched(int(methods[0])))
            return int(status)

        callback = _OPEN(opened)
        _KEPT.append(callback)
        self._vfs.open = ctypes.cast(callback, _P)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._vfs.open = self._open_before

    def _watched(self, address: int) -> _Methods:
        if address not in self._methods:
            methods = _Methods.from_buffer_copy(ctypes.string_at(address, ctypes.sizeof(_Methods)))
            syncs = _SYNC(methods.sync)

            def sync(file: int, flags: int) -> int:
                path = self._paths[file]
                self.before_sync()
                content = _content(path)
                status = int(syncs(file, flags))
                time.sleep(self._sync_s)
                with self._lock:
                    self.sync_count += 1
                    if status == 0:
                        self._durable[path] = content
                return status

            callback = _SYNC(sync)
            _KEPT.append(callback)
            methods.sync = ctypes.cast(callback, _P)
            self._methods[address] = methods
            _KEPT.append(methods)
        return self._methods[address]

    def fails(self, directory: Path, to: Path, dice: random.Random | None = None) -> None:
        """What is in `directory` after a loss of power at this moment, as it is found in `to`.

        Without `dice`, nothing that was not synced has reached the disk; with them, any sectors of it.
        """
        to.mkdir(parents=True)
        with self._lock:
            durable = dict(self._durable)
        for path, content in durable.items():
            if Path(path).parent == directory and (Path(path).exists() or not path.endswith("-journal")):
                image = bytearray(content)
                if dice is not None:
                    _written_too(image, _content(path), dice)
                (to / Path(path).name).write_bytes(image)


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""


def _written_too(image: bytearray, now: bytes, dice: random.Random) -> None:
    share = dice.choice((0.1, 0.5, 0.9, 1.0))
    for at in range(0, len(now), SECTOR):
        sector = now[at : at + SECTOR]
        if image[at : at + SECTOR] != sector and dice.random() < share:
            image.extend(bytes(max(0, at - len(image))))
            image[at : at + len(sector)] = sector


def sync_no_commit(monkeypatch: pytest.MonkeyPatch, store: ModuleType) -> None:
    """The control: a store (of an edge, or of a client) that leaves the sync of a commit out."""
    prepare = store._prepare

    def careless(path: Path, connection: sqlite3.Connection) -> None:
        prepare(path, connection)
        connection.execute("PRAGMA synchronous = NORMAL")

    monkeypatch.setattr(store, "_prepare", careless)
