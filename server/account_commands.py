"""`skerry nats-accounts`: keys and a nats-server's configuration, in a directory.

Room: files and standard output. Who may what is `server.accounts`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nkeys

from sync.errors import ConfigError

from .accounts import USER_NAME, accounts_config
from .config import Config

__all__ = ["add_arguments", "make_accounts", "run_accounts"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="for keys (*.nk) and accounts.conf")
    for role, what in (("leader", "a leader"), ("operator", "an operator"), ("edge", "an edge")):
        parser.add_argument(f"--{role}", action="append", default=[], metavar="NAME", help=f"a user for {what}")


def run_accounts(options: argparse.Namespace, config: Config) -> int:
    made = make_accounts(
        options.dir, config.namespace, options.leader or ["leader"], options.operator or ["operator"], options.edge
    )
    users = " ".join(sorted(path.stem for path in options.dir.glob("*.nk")))
    print(f"{made}: for nats-server, or `skerry nats --accounts`; keys for --nkey beside it: {users}")
    return 0


def make_accounts(directory: Path, namespace: str, leaders: list[str], operators: list[str], edges: list[str]) -> Path:
    """Keys that exist stay as they are, so that an edge can be added. Raises ConfigError."""
    names = [*leaders, *operators, *edges]
    if len(set(names)) < len(names):
        raise ConfigError("two users of one name; each has a key of its own")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys = {name: _public(directory, name) for name in names}
        path = directory / "accounts.conf"
        path.write_text(
            accounts_config(
                namespace,
                {name: keys[name] for name in leaders},
                {name: keys[name] for name in operators},
                {name: keys[name] for name in edges},
            ),
            encoding="utf-8",
        )
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}; name a directory that can be written") from None
    return path


def _public(directory: Path, name: str) -> str:
    if not USER_NAME.fullmatch(name):
        raise ConfigError(f"{name!r}: no name for a user; use 1-64 letters, digits, '-' and '_'")
    path = directory / f"{name}.nk"
    if not path.exists():
        seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(seed)
    try:
        return str(nkeys.from_seed(path.read_bytes().strip()).public_key.decode())
    except (nkeys.NkeysError, ValueError):
        raise ConfigError(f"{path}: no nkey of a user; remove it to have one made") from None
