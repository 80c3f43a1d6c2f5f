"""Children at work: gives out jobs, finds what killed a child, makes findings small, keeps them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tests.fuzz.child import HANG_S, decoder_named, input_of
from tests.fuzz.decoders import DECODERS

__all__ = ["CORPUS", "Campaign", "Child", "Finding", "Report", "corpus", "keep", "minimised"]

CORPUS = Path(__file__).parent / "corpus"
_ROOT = Path(__file__).resolve().parents[2]
_BATCH = 2_000
_MINIMISE_S = 30.0
_HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Finding:
    decoder: str
    data: bytes
    word: str
    detail: str

    def __str__(self) -> str:
        shown = self.data.hex() if len(self.data) <= 100 else f"{self.data[:50].hex()}… ({len(self.data)} bytes)"
        return f"{self.decoder}: {self.word}: {self.detail}: {shown}"


@dataclass(slots=True)
class Report:
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: tuple[float, str] = (0.0, "")
    """Milliseconds of CPU, and which input took them."""
    deaths: int = 0
    seconds: float = 0.0
    by_decoder: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


class Child:
    """A process that judges; made anew when it has died."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._directory = tempfile.TemporaryDirectory(prefix="skerry-fuzz-")
        self._progress = Path(self._directory.name) / "progress"
        self._input = Path(self._directory.name) / "input"
        self._process: subprocess.Popen[str] | None = None

    def ask(self, line: str) -> dict[str, object] | None:
        """The answer; None where the child died of it (`last_number` says of which input)."""
        process = self._process
        if process is None:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child", str(self._progress), str(self._seed)],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            found: dict[str, object] = json.loads(answer)
            return found
        process.wait()
        return None

    def death(self) -> str:
        """How it died; the next question starts another one."""
        process, self._process = self._process, None
        assert process is not None
        code = process.returncode
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return f"{_HUNG}: over {HANG_S:g} s of CPU" if code == -27 else f"killed: signal or exit {code}"

    def last_number(self) -> int:
        return int.from_bytes(self._progress.read_bytes()[:8], "little")

    def judge(self, decoder: str, data: bytes) -> tuple[str, str]:
        """(word, detail) of one input."""
        self._input.write_bytes(data)
        answer = self.ask(f"one {decoder} {self._input}")
        if answer is None:
            word, _, detail = self.death().partition(": ")
            return word, detail
        return str(answer["word"]), str(answer["detail"])

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(HANG_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._directory.cleanup()


def minimised(child: Child, finding: Finding, seconds: float = _MINIMISE_S) -> Finding:
    """Fewer bytes that end in the same word."""
    ends = time.monotonic() + seconds
    data = finding.data
    step = max(1, len(data) // 2)
    while step and time.monotonic() < ends:
        at = 0
        while at < len(data) and time.monotonic() < ends:
            shorter = data[:at] + data[at + step :]
            if child.judge(finding.decoder, shorter)[0] == finding.word:
                data = shorter
            else:
                at += step
        step //= 2
    word, detail = child.judge(finding.decoder, data)
    return Finding(finding.decoder, data, word, detail) if word == finding.word else finding


def keep(finding: Finding) -> Path:
    """Into the corpus: from now on every test run judges it."""
    CORPUS.mkdir(exist_ok=True)
    name = f"{finding.decoder}-{hashlib.sha256(finding.data).hexdigest()[:12]}.hex"
    path = CORPUS / name
    path.write_text(f"# {finding.word}: {finding.detail}\n{finding.data.hex()}\n", "utf-8")
    return path


def corpus() -> list[tuple[str, str, bytes]]:
    """(file, decoder, input) of everything that was ever found."""
    found = []
    for path in sorted(CORPUS.glob("*.hex")):
        lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
        found.append((path.name, path.name.rpartition("-")[0], bytes.fromhex("".join(lines))))
    return found


class Campaign:
    def __init__(self, seed: int, inputs: int, jobs: int, decoders: Sequence[str] = ()) -> None:
        self.report = Report()
        self._seed = seed
        self._jobs = jobs
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()
        self._ends: float | None = None
        for batch in _shuffled(_batches(inputs, decoders)):
            self._work.put(batch)

    def run(self, told: Callable[[Report], None], seconds: float | None = None) -> Report:
        """Until all is judged, or time is up."""
        began = time.monotonic()
        self._ends = began + seconds if seconds is not None else None
        workers = [threading.Thread(target=self._work_through) for _ in range(self._jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(2.0)
                self.report.seconds = time.monotonic() - began
                told(self.report)
        return self.report

    def _work_through(self) -> None:
        child = Child(self._seed)
        try:
            while self._ends is None or time.monotonic() < self._ends:
                try:
                    decoder, first, count = self._work.get_nowait()
                except queue.Empty:
                    return
                self._batch(child, decoder, first, count)
        finally:
            child.close()

    def _batch(self, child: Child, decoder: str, first: int, count: int) -> None:
        while count > 0:
            answer = child.ask(f"run {decoder} {first} {count}")
            if answer is not None:
                with self._lock:
                    self._add(decoder, answer)
                return
            number = child.last_number()
            word, _, detail = child.death().partition(": ")
            data = input_of(decoder_named(decoder), self._seed, number)
            with self._lock:
                self.report.deaths += 1
                self.report.inputs += number + 1 - first
                self.report.findings.append(Finding(decoder, data, word, f"{detail} (input {number})"))
            first, count = number + 1, first + count - number - 1

    def _add(self, decoder: str, answer: dict[str, object]) -> None:
        report = self.report
        count, accepted, refused = (int(str(answer[name])) for name in ("count", "accepted", "refused"))
        report.inputs += count
        report.accepted += accepted
        report.refused += refused
        cpu_ms, which = cast("tuple[float, str]", answer["slowest"])
        report.slowest = max(report.slowest, (cpu_ms, which))
        report.by_decoder[decoder] = report.by_decoder.get(decoder, 0) + count
        found = answer["found"]
        assert isinstance(found, list)
        for one in found:
            report.findings.append(Finding(one["decoder"], bytes.fromhex(one["hex"]), one["word"], one["detail"]))


def _batches(inputs: int, names: Sequence[str]) -> Iterable[tuple[str, int, int]]:
    chosen = [decoder for decoder in DECODERS if not names or decoder.name in names]
    whole = sum(decoder.weight for decoder in chosen)
    for decoder in chosen:
        share = max(1, round(inputs * decoder.weight / whole))
        for first in range(0, share, _BATCH):
            yield decoder.name, first, min(_BATCH, share - first)


def _shuffled(batches: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Every decoder's first batch, then every one's second: a campaign that is cut short has tried all."""
    return sorted(batches, key=lambda batch: batch[1])
