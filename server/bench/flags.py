"""The flags of `skerry bench`, apart from what it needs: every command of `skerry` reads this. Room: argparse."""

from __future__ import annotations

import argparse
from pathlib import Path

from sync.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", "--case", metavar="N[,N…]", help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="seconds a case: shows that it runs, not how fast")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with the peers, installed from npm and PyPI into the user's cache folder (default)",
    )
    parser.add_argument(
        "--repeat", type=int, metavar="N", help="runs of each: the median counts (default: 5, quick: 1)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write JSON and plots there; cases that are there already and not run are kept",
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="with --out: put tables and plots into this page")
    parser.add_argument("--show", action="store_true", help="run nothing: tables and plots of what --out holds")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")


def run(options: argparse.Namespace) -> int:
    try:
        from . import command
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"bench: the package {error.name} is not here; `make bench` installs it, or pip install 'skerry[bench]'"
        ) from None
    return command.run(options)
