"""`skerry torture`: flags, progress, exit status.

Room: the command. 0 where every promise was kept and all replicas were equal after every round, 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sync.errors import SkerryError

from .campaign import Campaign, Outcome
from .child import ROOT
from .faults import KINDS, Schedule, make_schedule, read_schedule, write_schedule
from .fleet import Shape
from .ground import Ground
from .report import write_report

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep everything there (default: a temporary directory)"
    )
    parser.add_argument("--seed", type=int, help="of the schedule (default: a new one, printed)")
    parser.add_argument("--schedule", type=Path, metavar="FILE", help="repeat this one, with as many nodes")
    parser.add_argument("--rounds", type=int, default=5, help="chaos, then calm (default: 5)")
    parser.add_argument("--faults", type=int, default=7, help="of each round (default: 7)")
    parser.add_argument("--kind", action="append", choices=tuple(KINDS), help="only these kinds of faults")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin no round after so long")
    parser.add_argument("--edges", type=int, default=3)
    parser.add_argument("--leaders", type=int, default=2)
    parser.add_argument("--clients", type=int, default=2, help="with a store of their own, and as many stock ones")
    parser.add_argument("--yjs", type=Path, metavar="DIR", help="directory whose node_modules has yjs, y-websocket, ws")
    parser.add_argument("--settle", type=float, default=90.0, metavar="S", help="after a round, at most (default: 90)")
    parser.add_argument("--memory", type=int, default=400, metavar="MIB", help="of each process (default: 400)")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="no small file systems and network namespaces, also where they may be had (Linux, root, iproute2)",
    )
    parser.add_argument("--json", action="store_true", help="the report on standard output, and no progress")


def run(options: argparse.Namespace) -> int:
    if options.schedule:
        schedule = read_schedule(options.schedule)
    else:
        seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
        schedule = make_schedule(
            seed,
            options.rounds,
            options.faults,
            tuple(options.kind or KINDS),
            edges=options.edges,
            leaders=options.leaders,
            clients=options.clients,
        )
    shape = _shape(schedule, options)
    directory: Path = options.data or Path(tempfile.mkdtemp(prefix="skerry-torture-"))
    if directory.exists() and any(directory.iterdir()):
        raise SkerryError(f"{directory}: not empty; a campaign begins with nothing, name another with --data")
    directory.mkdir(parents=True, exist_ok=True)
    write_schedule(schedule, directory / "schedule.json")
    ground = Ground.plain() if options.plain else Ground.found(directory, shape.edges + shape.leaders)
    console = Console(highlight=False, soft_wrap=True, stderr=options.json)
    console.print(
        f"[bold]skerry torture[/] seed {schedule.seed}: {schedule.count} faults in {len(schedule.rounds)} rounds;"
        f" {shape.edges} edges, {shape.leaders} leaders,"
        f" {shape.clients} offline-first, {shape.clients} stock, {shape.node} Node.js clients\n"
        f"  disks get full by: {ground.disks}\n  black holes: {ground.links}\n"
        f"  data, logs, schedule: {directory}"
    )
    with Progress(
        TextColumn("faults"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=options.json,
    ) as progress:
        bar = progress.add_task("faults", total=schedule.count)

        def tell(line: str) -> None:
            if not options.json:
                progress.console.print(line if line.startswith("[bold") else escape(line))
            progress.update(bar, completed=len(campaign.outcome.injected))

        campaign = Campaign(
            directory,
            shape,
            schedule,
            settle_s=options.settle,
            memory_bytes=options.memory << 20,
            seconds=options.seconds,
            tell=tell,
            ground=ground,
        )
        try:
            outcome = asyncio.run(campaign.run())
        except KeyboardInterrupt:
            data, _ = write_report(campaign.outcome, directory)
            console.print(f"interrupted; the report so far: {data}", markup=False)
            raise
    data, plot = write_report(outcome, directory)
    if options.json:
        print(json.dumps({"kept": outcome.kept, "report": str(data), "violations": outcome.violations}))
    else:
        _show(console, outcome, data, plot, directory)
    return 0 if outcome.kept else 1


def _shape(schedule: Schedule, options: argparse.Namespace) -> Shape:
    yjs: Path = options.yjs or ROOT / "tests" / "interop"
    found = (yjs / "node_modules" / "y-websocket").is_dir() and shutil.which("node") is not None
    if options.yjs and not found:
        raise SkerryError(f"{yjs}: no node_modules with y-websocket there, or no node; npm install yjs y-websocket ws")
    return Shape(
        schedule.edges,
        schedule.leaders,
        schedule.clients,
        node=int(found),
        namespace=options.namespace or "torture",
        config=options.config,
        yjs=yjs if found else None,
    )


def _show(console: Console, outcome: Outcome, data: Path, plot: Path | None, directory: Path) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in outcome.counts.items())
    console.print(f"\n{len(outcome.injected)} faults in {outcome.seconds:.0f} s; edits: {counts}")
    console.print("largest: " + ", ".join(f"{name} {size >> 20} MiB" for name, size in outcome.rss_max.items() if size))
    if outcome.kept:
        console.print("[bold green]KEPT[/]: nothing lost, nothing doubled, all equal after every round")
    else:
        console.print(f"[bold red]NOT KEPT[/]: {len(outcome.violations)} violations")
        for line in outcome.violations[:20]:
            console.print(f"  {line}", markup=False)
    console.print(f"report: {data}, {plot or 'no plot: it wants the extra, skerry[plots]'}", markup=False)
    console.print(f"again: skerry torture --schedule {directory / 'schedule.json'}", markup=False)
