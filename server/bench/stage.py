"""What a case is made of: runs, each on a stage of its own, and the plan that says how much of it.

Room: the words of the bench. What each case measures is in the module that bears its name.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .machine import Cores
from .records import Sample
from .servers import Server, Target
from .typing import Writers

__all__ = ["Case", "Plan", "Run", "Stage"]


@dataclass(frozen=True, slots=True)
class Plan:
    quick: bool = False
    repeat: int = 1
    with_peers: bool = True
    writers: Writers = field(default_factory=Writers)


class Stage:
    """One server on files of its own, which are gone afterwards: `with Stage(server, cores) as stage:`."""

    target: Target

    def __init__(self, server: Server, cores: Cores) -> None:
        self.server = server
        self.cores = cores
        self.folder = Path(tempfile.mkdtemp(prefix="skerry-bench-"))

    def __enter__(self) -> Stage:
        try:
            self.target = self.server.start(self.folder, self.cores)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """Ended in good order, begun again on what it has on disk."""
        self.server.stop()
        self.target = self.server.start(self.folder, self.cores)


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement, to be repeated."""

    server: Server
    work: str
    at: float
    """Where it stands on the plot's axis: the offered load, a number of connections, of documents."""
    measure: Callable[[Stage], Sample]


@dataclass(frozen=True, slots=True)
class Case:
    number: int
    title: str
    axis: str
    """What `at` counts."""
    servers: Callable[[], list[Server]]
    """Skerry's own first, then the peers."""
    runs: Callable[[Plan, list[Server]], Sequence[Run]]
