"""Who was promised what, and was it kept: journals and voids in, violations out.

Room: marks and rules. Knows files of journals and documents' contents; no process and no link.

A mark is written by one edit and occurs nowhere else. Its promise stands while one stage that it was told to have
reached is not void; what the loss of a place voids is docs/guarantees.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MARK", "Judge", "Mark", "find_marks"]

MARK = re.compile(r"<[a-z]+[.][0-9a-f]+[.][0-9]+>")
_MARK_BYTES = re.compile(MARK.pattern.encode())


@dataclass(slots=True)
class Mark:
    doc: str
    author: str
    deletes: tuple[str, ...]
    stages: set[str] = field(default_factory=set)
    """Told to the author, and not void."""
    edges: dict[str, int] = field(default_factory=dict)
    """Name or address of the edge that said it is safe there -> when, milliseconds."""
    deleters: list[str] = field(default_factory=list)
    voided: set[str] = field(default_factory=set)
    """Stages whose place is lost: told late, by an author that was frozen say, they mean no more than told early."""

    @property
    def promised(self) -> bool:
        return bool(self.stages)


class Judge:
    def __init__(self) -> None:
        self.marks: dict[str, Mark] = {}
        self.void_count = 0
        self._places: dict[Path, int] = {}
        self._later: dict[str, list[str]] = {}
        """Deleters of marks that no journal has told of yet."""

    def read(self, author: str, journal: Path) -> None:
        """What was added since it was last read."""
        if not journal.exists():
            return
        with journal.open("rb") as file:
            file.seek(self._places.get(journal, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._places[journal] = self._places.get(journal, 0) + len(line)
                self._take(author, json.loads(line))

    def _take(self, author: str, line: dict[str, object]) -> None:
        if "try" in line:
            deletes = line["deletes"]
            assert isinstance(deletes, list)
            mark = Mark(str(line["doc"]), author, tuple(map(str, deletes)))
            self.marks[str(line["try"])] = mark
            for deleted in mark.deletes:
                if deleted in self.marks:
                    self.marks[deleted].deleters.append(str(line["try"]))
                else:  # another author's, whose journal is read later
                    self._later.setdefault(deleted, []).append(str(line["try"]))
            mark.deleters += self._later.pop(str(line["try"]), [])
        elif "safe" in line:
            safe = line["safe"]
            assert isinstance(safe, list)
            for name in safe:
                mark = self.marks[str(name)]
                if line["stage"] == "edge":
                    mark.edges.setdefault(str(line["at"]), int(str(line["ms"])))
                if str(line["stage"]) not in mark.voided:
                    mark.stages.add(str(line["stage"]))

    def void(self, names: Iterable[str], stage: str) -> None:
        """A place was lost that held these: this stage promises nothing of them any more."""
        for name in names:
            mark = self.marks.get(name)
            if mark is not None:
                mark.voided.add(stage)
                if stage in mark.stages:
                    mark.stages.discard(stage)
                    self.void_count += 1

    def void_own(self, author: str) -> None:
        """The disk of an author is gone: what it held alone is lost."""
        self.void([name for name, mark in self.marks.items() if mark.author == author], "own")

    def on_disk(self, edge: Iterable[str], since_ms: int) -> set[str]:
        """What this edge (its name and address) must have on its disk since then, but for what somebody deletes."""
        names = set(edge)
        return {
            name
            for name, mark in self.marks.items()
            if not mark.deleters and any(mark.edges.get(at, -1) >= since_ms for at in names)
        }

    def counts(self) -> dict[str, int]:
        stages = Counter(stage for mark in self.marks.values() for stage in mark.stages)
        return {"written": len(self.marks), "void": self.void_count, **dict(sorted(stages.items()))}

    def verdict(self, doc: str, contents: Mapping[str, object]) -> list[str]:
        """What of this document's promises is not kept."""
        here = Counter(find_marks(json.dumps(contents)))
        wrong = [f"{doc}: {name} was written by nobody" for name in here if name not in self.marks]
        for name, mark in self.marks.items():
            if mark.doc != doc:
                continue
            count = here[name]
            deleters = [deleter for deleter in mark.deleters if deleter in self.marks]
            told = f"{name} of {mark.author}, told {'+'.join(sorted(mark.stages)) or 'nothing'}"
            if count > 1:
                wrong.append(f"{doc}: {told}: {count} times")
            if count == 0 and mark.promised and not deleters:
                wrong.append(f"{doc}: LOST {told}")
            certain = [deleter for deleter in deleters if self.marks[deleter].promised]
            if count and certain:
                wrong.append(f"{doc}: {told}: is back, deleted by {', '.join(certain)}")
        return wrong


def find_marks(text: str | bytes) -> list[str]:
    if isinstance(text, bytes):
        return [found.decode() for found in _MARK_BYTES.findall(text)]
    return MARK.findall(text)
