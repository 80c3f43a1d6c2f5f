"""Judges inputs in a process of its own, which may die of one: `campaign` reads from the progress file of which.

Run as `python -m tests.fuzz.child PROGRESS SEED`; jobs come on standard input, one a line:
`run DECODER FIRST COUNT`, or `one DECODER PATH` (a file with the input). Answers are JSON lines.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
import sys
from functools import cache
from pathlib import Path

from tests.fuzz import files
from tests.fuzz.decoders import CONVICTS, DECODERS
from tests.fuzz.judging import RSS_MIB_MAX, Decoder, Peak, judged, peak_of
from tests.fuzz.mutation import bent, large

__all__ = ["HANG_S", "input_of"]

HANG_S = 5.0  # of CPU in one input: the process ends by SIGPROF, also where Rust holds the GIL for ever
_LARGE_ONE_IN = 1_000
_PEAK_BATCH = 64
_ADDRESS_SPACE_BYTES = 4 * 1024**3  # a runaway allocation is a finding, not the machine's end


@cache
def seeds_of(decoder: Decoder) -> list[bytes]:
    found = decoder.seeds()
    assert found, decoder.name
    return found


def input_of(decoder: Decoder, seed: int, number: int) -> bytes:
    """The same bytes for the same three, on every machine."""
    rng = random.Random(f"{seed} {decoder.name} {number}")
    if decoder.large and number % _LARGE_ONE_IN == _LARGE_ONE_IN - 1:
        return large(rng, seeds_of(decoder))
    return bent(rng, seeds_of(decoder), decoder.words)


def decoder_named(name: str) -> Decoder:
    return next(each for each in (*DECODERS, *CONVICTS) if each.name == name)


def _run(decoder: Decoder, seed: int, first: int, count: int, progress: int) -> dict[str, object]:
    words = {"accepted": 0, "refused": 0}
    found: list[dict[str, object]] = []
    slowest = 0.0
    slowest_of = ""
    highest = 0.0
    for start in range(first, first + count, _PEAK_BATCH):
        numbers = range(start, min(start + _PEAK_BATCH, first + count))
        batch = [input_of(decoder, seed, number) for number in numbers]
        peak = Peak()
        for number, data in zip(numbers, batch, strict=True):
            _mark(progress, number)
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            verdict = judged(decoder, data)
            if verdict.cpu_ms > slowest:
                slowest, slowest_of = (
                    verdict.cpu_ms,
                    f"{decoder.name} input {number}, {len(data):,} bytes, {verdict.word}",
                )
            if verdict.bad:
                found.append(_finding(decoder, data, verdict.word, verdict.detail))
            else:
                words[verdict.word] += 1
        if peak.read() > RSS_MIB_MAX:  # one of them, or all together: each alone tells
            for number, data in zip(numbers, batch, strict=True):
                _mark(progress, number)
                mib = peak_of(decoder, data)
                highest = max(highest, mib)
                if mib > RSS_MIB_MAX:
                    found.append(_finding(decoder, data, "memory", f"{mib:.0f} MiB for {len(data)} bytes"))
    return {"count": count, **words, "found": found, "slowest": [slowest, slowest_of], "highest_mib": highest}


def _finding(decoder: Decoder, data: bytes, word: str, detail: str) -> dict[str, object]:
    return {"decoder": decoder.name, "hex": data.hex(), "word": word, "detail": detail}


def _mark(fd: int, number: int) -> None:
    os.pwrite(fd, struct.pack("<Q", number), 0)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    progress = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    seed = int(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        for line in sys.stdin:
            word, name, *rest = line.split()
            decoder = decoder_named(name)
            if word == "run":
                answer = _run(decoder, seed, int(rest[0]), int(rest[1]), progress)
            else:
                data = Path(rest[0]).read_bytes()
                signal.setitimer(signal.ITIMER_PROF, HANG_S)
                verdict = judged(decoder, data)
                answer = {"word": verdict.word, "detail": verdict.detail}
                if not verdict.bad and (mib := peak_of(decoder, data)) > RSS_MIB_MAX:
                    answer = {"word": "memory", "detail": f"{mib:.0f} MiB for {len(data)} bytes"}
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        files.clean_up()


if __name__ == "__main__":
    main()
