"""Decoders of what lies on a disk: rows of both stores, the configuration, a trace."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tempfile
from functools import lru_cache
from pathlib import Path

from client.store import Compacted, Store
from client.store import Writes as ClientWrites
from server.config import load_config
from server.store import SQLiteStore
from server.trace import read_trace
from sync.change import Context
from sync.errors import ConfigError, InvalidInput, StoreError
from sync.extension import Edit
from sync.ids import DocId, Dot, DotSet, Origin, Version
from sync.step import AppendUpdate, Compact, MarkShipped, SetVersion
from tests.fuzz.judging import Decoder

__all__ = ["FILES"]

_DOC = DocId("notes/plan")
_DOTS = DotSet({Origin(5): ((1, 7), (9, 12))})


@lru_cache(maxsize=1)
def _directory() -> Path:
    """The child's own, in memory where there is such a place."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="skerry-fuzz-", dir=shared if os.access(shared, os.W_OK) else None))


def clean_up() -> None:
    if _directory.cache_info().currsize:
        shutil.rmtree(_directory(), ignore_errors=True)


# A row's input is lines `table.column = value`; a value is `i12`, `r1.5`, `n`, `t…` (UTF-8) or `b…` (hexadecimal).
_LINE = re.compile(rb"(\w+)\.(\w+) = (.*)", re.DOTALL)

_EDGE_COLUMNS = {
    "documents": ("doc", "epoch", "seq", "dots"),
    "states": ("through", "state"),
    "changes": ("folded", "bytes"),
    "outbox": ("origin", "dot_seq", "shipped_epoch", "shipped_seq", "update_bytes", "edge", "actor", "causation",
               "correlation", "time_ms", "covers"),
    "meta": ("value",),
}  # fmt: skip
_CLIENT_COLUMNS = {
    "documents": ("doc", "epoch", "seq"),
    "states": ("through", "state"),
    "updates": ("bytes",),
    "edits": ("origin", "dot_seq", "actor", "causation", "correlation", "stage", "since_ms", "epoch", "seq"),
    "origins": ("origin", "dot_seq", "epoch", "seq"),
}
_VALUES = {
    "dots": ("t5:1-7,5:9-12", "t", "n", "i7", "t1fffffffffffff:1-1,0:3-2"),
    "covers": ("t5:1-7", "t", "bff"),
    "epoch": ("i7", "n", "t18d75b8423f30000", "t7"),
    "state": ("b0000", "n", "tx"),
    "bytes": ("b0000", "b0101", "tx", "i1"),
}


def _value(raw: bytes) -> object:
    kind, rest = raw[:1], raw[1:]
    try:
        match kind:
            case b"i":
                return max(-(2**63), min(2**63 - 1, int(rest)))
            case b"r":
                return float(rest)
            case b"t":
                return rest.decode("utf-8")
            case b"b":
                return bytes.fromhex(rest.decode("ascii"))
            case _:
                return None
    except ValueError:
        return rest


def _seeds(columns: dict[str, tuple[str, ...]]) -> list[bytes]:
    made: list[bytes] = []
    for table, names in columns.items():
        for name in names:
            for value in _VALUES.get(name, ("i1", "i-1", "n", "tab", "r1.5", "bff00", "i9223372036854775807")):
                made.append(f"{table}.{name} = {value}".encode())
    return made


def _put(path: Path, data: bytes, columns: dict[str, tuple[str, ...]]) -> bool:
    """Write the input's values over the store's rows; False where SQLite itself takes none of them."""
    run = sqlite3.connect(path, isolation_level=None)
    taken = False
    try:
        run.execute("PRAGMA synchronous = OFF")
        for line in data.split(b"\n"):
            match = _LINE.fullmatch(line)
            if match is None:
                continue
            table, column = match[1].decode(), match[2].decode()
            if column in columns.get(table, ()):
                try:
                    run.execute(f"UPDATE {table} SET {column} = ?", (_value(match[3]),))
                    taken = True
                except (sqlite3.Error, OverflowError):
                    continue
    finally:
        run.close()
    return taken


@lru_cache(maxsize=2)
def _fresh(kind: str) -> Path:
    path = _directory() / f"{kind}-whole.db"
    if kind == "edge":
        edge = SQLiteStore.open(path)
        dot = Dot(Origin(5), 7)
        edge.commit(
            [
                SetVersion(_DOC, Version(7, 812), _DOTS),
                AppendUpdate(_DOC, b"\0\0"),
                Compact(_DOC, b"\0\0"),
                AppendUpdate(_DOC, b"\0\0", dot, Context("a", "ada", "b.1", "x", 1), _DOTS),
                MarkShipped(_DOC, ((dot, Version(7, 1)),)),
            ]
        )
        edge.set_meta("witness", f"{Version(7, 812)} {dot} {_DOC}")
        edge.close()
    else:
        client = Store.open(path, "skerry")
        edit = Edit(Dot(Origin(5), 1), "ada", "", "", b"\0\0")
        client.commit([ClientWrites(_DOC, (b"\0\0",), None, 0, Version(7, 812), (), Compacted(b"\0\0", 0, 1))])
        client.commit([ClientWrites(_DOC, (b"\0\0",), edit, 1)])
        client.close()
    return path


def _copied(kind: str) -> Path:
    path = _directory() / f"{kind}.db"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(_fresh(kind), path)
    return path


def _edge_rows(data: bytes) -> object:
    path = _copied("edge")
    _put(path, data, _EDGE_COLUMNS)
    store = SQLiteStore.open(path)
    try:
        stored = store.load(_DOC)
        rows = store.outbox(0, 10, 1_000_000)
        return stored, rows, store.documents(), store.get_meta("witness"), store.outbox_totals()
    finally:
        store.close()


def _client_rows(data: bytes) -> object:
    path = _copied("client")
    _put(path, data, _CLIENT_COLUMNS)
    store = Store.open(path, "skerry")
    try:
        stored = store.load(_DOC)
        return stored, store.pending(_DOC, 0, 10, 1_000_000), store.documents(), store.unmerged_documents()
    finally:
        store.close()


def _config(data: bytes) -> object:
    path = _directory() / "skerry.toml"
    path.write_bytes(data)
    return load_config({}, path)


_TOML = (
    b'name = "a"\nlisten = "127.0.0.1:0"\nnats = "nats://127.0.0.1:4222"\nshards = 4\n',
    b'pin = ["notes/*"]\nlog_level = "debug"\nnamespace = "skerry"\ndata = "."\nreplicas = 1\ndevelopment = true\n',
)


def _trace(data: bytes) -> object:
    path = _directory() / "trace.json"
    path.write_bytes(data)
    return read_trace(path)


def _traces() -> list[bytes]:
    alone = {"startContent": "a", "endContent": "ab", "txns": [{"patches": [[1, 0, "b"]]}]}
    both = {
        "kind": "concurrent",
        "numAgents": 2,
        "endContent": "",
        "txns": [{"agent": 1, "parents": [], "patches": []}],
    }
    return [json.dumps(alone).encode(), json.dumps(both).encode(), b"\x1f\x8b\x08\0\0\0\0\0\0\3"]


FILES: tuple[Decoder, ...] = (
    Decoder("edge-store", lambda: _seeds(_EDGE_COLUMNS), _edge_rows, (StoreError,), weight=0.3, large=False),
    Decoder("client-store", lambda: _seeds(_CLIENT_COLUMNS), _client_rows, (StoreError,), weight=0.3, large=False),
    Decoder("config", lambda: list(_TOML), _config, (ConfigError,), weight=0.3),
    Decoder("trace", _traces, _trace, (InvalidInput,), weight=0.5),
)
