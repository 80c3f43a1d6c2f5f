"""What `skerry doc` says of an edit or of many documents, for people or as JSON, and with which status it ends.

Room: outcomes in, lines out. Exit statuses: 0 done, 1 an error (one line says which), 3 done and kept in a store, but
on no edge yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from sync.document import JsonValue
from sync.extension import Stage

from .reaching import Outcome

__all__ = ["KEPT", "STAGES", "record_of", "report", "status_of", "told"]

KEPT: Final = 3
STAGES: Final[dict[str, Stage]] = {"edge": Stage.EDGE, "log": Stage.LOG, "merged": Stage.MERGED}
"""As `--confirmed` names them."""
_SAID: Final = {
    Stage.DISK: "on this disk only",
    Stage.EDGE: "on the edge's disk",
    Stage.LOG: "in the log",
    Stage.MERGED: "merged by the leader",
}


def told(outcome: Outcome, options: argparse.Namespace) -> int:
    """Of one document."""
    if options.json:
        print(json.dumps(record_of(outcome), ensure_ascii=False))
    elif not outcome.changed and not outcome.kept:
        print(f"{outcome.doc}: no difference")
    elif outcome.kept:
        print(f"{outcome.doc}: kept in {outcome.kept}; token {outcome.token}")
    else:
        at = f" ({outcome.edge})" if outcome.edge else ""
        asked = min(outcome.stage, STAGES[options.confirmed])  # it may be known to be safer by chance
        print(f"{outcome.doc}: {_SAID[asked]}{at}; token {outcome.token}")
    if outcome.why:
        where = f"kept in {outcome.kept}, on no edge yet" if outcome.kept else f"only {_SAID[outcome.stage]}"
        again = f"; later: skerry doc sync --offline {outcome.kept}" if outcome.kept else ""
        print(f"skerry: {outcome.doc}: {where} ({outcome.why}){again}", file=sys.stderr)
    return status_of([record_of(outcome)])


def record_of(outcome: Outcome) -> dict[str, JsonValue]:
    return {
        "doc": outcome.doc,
        "changed": outcome.changed,
        "stage": outcome.stage.name.lower(),
        "edge": outcome.edge or None,
        "token": outcome.token or None,
        "kept": outcome.kept or None,
        "why": outcome.why or None,
    }


def report(results: Sequence[dict[str, JsonValue]], options: argparse.Namespace, columns: Sequence[str]) -> None:
    failed = [result for result in results if "error" in result]
    if options.json:
        print(json.dumps(results, ensure_ascii=False, indent=2))
    else:
        table = Table(*columns, box=None)
        for result in results:
            if "error" not in result:
                table.add_row(*["-" if result.get(name) is None else str(result.get(name)) for name in columns])
        Console().print(table)
    for result in failed:
        print(f"skerry: {result['error']}", file=sys.stderr)


def status_of(results: Sequence[dict[str, JsonValue]]) -> int:
    if any("error" in result for result in results):
        return 1
    return KEPT if any(result.get("why") for result in results) else 0
