"""Many worlds, one after the other: `python -m tests.simulation.sweep --seeds 10000 --start 0 --jobs 2`.

Room: the command line, and how one world ends. A seed that fails is printed with its sentence and the command that
repeats it; `--seed N -v` tells that world's whole history.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .disk import Violation
from .truth import WrongRead
from .world import World

__all__ = ["Outcome", "command", "failures", "run_seed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    sentence: str
    """What was violated; empty for a world that settled."""
    trace_hash: str
    simulated_ms: int
    judged_count: int
    """Reads "covered" that were held against the truth (Read your writes); a wrong one is the sentence."""
    judged_deletions_count: int
    """Of those, reads of a write that deletes."""
    wrong_read: bool
    """One of them was wrong: it is the sentence."""


def command(seed: int) -> str:
    return f"python -m tests.simulation.sweep --seed {seed} -v"


def run_seed(seed: int, tell: Callable[[str], None] | None = None) -> Outcome:
    """One world, whatever happens in it: an error of a machine is a violation too."""
    world = World(seed, tell=tell)
    sentence = ""
    wrong_read = False
    try:
        world.run()
    except Violation as violation:
        sentence = str(violation)
        wrong_read = isinstance(violation, WrongRead)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of pycrdt is no Exception
        last = traceback.extract_tb(error.__traceback__)[-1]
        sentence = f"{type(error).__name__}: {error} ({last.filename.rpartition('/')[2]}:{last.lineno})"
        if tell is not None:
            tell("".join(traceback.format_exception(error)))
    truth = world.truth
    return Outcome(
        seed, sentence, world.trace_hash, world.now_ms, truth.judged_count, truth.judged_deletions_count, wrong_read
    )


def failures(seeds: Iterable[int]) -> list[str]:
    """A line for each seed that fails: for tests."""
    found = (run_seed(seed) for seed in seeds)
    return [f"{command(outcome.seed)}: {outcome.sentence}" for outcome in found if outcome.sentence]


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(run_seed, seeds)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_seed, seeds, chunksize=5)


def _one(console: Console, seed: int, verbose: bool) -> int:
    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    outcome = run_seed(seed, tell if verbose else None)
    if verbose:
        tell(f"{World(seed).weather}")
    tell(f"seed {seed}: {outcome.sentence or 'settled'}")
    tell(f"{outcome.simulated_ms} ms simulated, {outcome.judged_count} tokens judged, trace {outcome.trace_hash}")
    return 1 if outcome.sentence else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.sweep", description="Run simulated worlds.")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many worlds (1000)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--seed", type=int, help="this world alone")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: its whole history")
    chosen = parser.parse_args(arguments)
    console = Console()
    if chosen.seed is not None:
        return _one(console, chosen.seed, chosen.verbose)
    seeds = range(chosen.start, chosen.start + chosen.seeds)
    failed = judged = deletions = wrong = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("worlds", total=len(seeds))
        for outcome in _outcomes(seeds, chosen.jobs):
            progress.advance(task)
            judged += outcome.judged_count
            deletions += outcome.judged_deletions_count
            wrong += outcome.wrong_read
            if outcome.sentence:
                failed += 1
                console.print(f"seed {outcome.seed}: {outcome.sentence}", markup=False, highlight=False, soft_wrap=True)
                console.print(f"  {command(outcome.seed)}", markup=False, highlight=False)
                progress.update(task, description=f"worlds, {failed} failed")
    console.print(f"{len(seeds)} worlds, {failed} failed")
    console.print(f"reads covered by a token: {judged:,}, {deletions:,} of them of deletions; {wrong} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
