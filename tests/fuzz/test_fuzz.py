"""Everything that fuzzing ever found stays found; a short campaign runs with every test run; the judge can convict."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Campaign, Child, Finding, corpus, keep, minimised
from tests.fuzz.decoders import DECODERS
from tests.fuzz.judging import CPU_MS_MAX, INPUT_BYTES_MAX, RSS_MIB_MAX, Decoder, elsewhere, judged, peak_of, turn
from tests.fuzz.mutation import bent, large

SECONDS = float(os.environ.get("SKERRY_FUZZ_SECONDS", "12"))


def test_nothing_that_was_ever_found_is_found_again() -> None:
    child = Child(0)
    try:
        verdicts = [(name, *child.judge(decoder, data)) for name, decoder, data in corpus()]
    finally:
        child.close()

    assert verdicts
    assert [each for each in verdicts if each[1] not in ("accepted", "refused")] == []


def test_every_seed_is_judged_alike_by_its_decoder_and_harms_nobody() -> None:
    for decoder in DECODERS:
        verdicts = [judged(decoder, seed) for seed in decoder.seeds()]

        assert [verdict for verdict in verdicts if verdict.bad] == [], decoder.name
        assert any(verdict.word == "accepted" for verdict in verdicts), decoder.name


def test_a_short_campaign_over_every_decoder_finds_nothing() -> None:
    """Longer: SKERRY_FUZZ_SECONDS=600, or `python -m tests.fuzz --inputs 1000000`. The seed is the day."""
    seed = int(os.environ.get("SKERRY_FUZZ_SEED", str(int(time.time()) // 86_400)))

    report = Campaign(seed, 10_000_000, jobs=1).run(lambda _: None, SECONDS)

    assert [str(finding) for finding in report.findings[:10]] == [], f"python -m tests.fuzz --seed {seed}"
    assert report.inputs > 1_000
    assert len(report.by_decoder) > 10
    assert report.accepted > report.inputs // 20
    assert report.refused > report.inputs // 20


def test_the_same_seed_makes_the_same_inputs() -> None:
    decoder = DECODERS[0]
    seeds = decoder.seeds()

    for number in range(50):
        one, two = (bent(random.Random(f"1 {number}"), seeds, ()) for _ in range(2))
        assert one == two
    assert max(len(large(random.Random(number), seeds)) for number in range(20)) > 500_000


# --- the judge can convict --------------------------------------------------------------------------------------------
def _guilty(data: bytes) -> object:
    if b"\xee" in data:
        raise KeyError("xee")
    if b"\xed" in data:
        ends = time.thread_time() + 0.15
        while time.thread_time() < ends:
            pass
    if b"\xec" in data:
        return bytes(32 * 1024 * 1024).replace(b"\0", b"\1")
    if data[:1] == b"\0":
        raise ValueError("declared")
    return data


GUILTY = Decoder("guilty", lambda: [b"abcd"], _guilty, (ValueError,))


@pytest.mark.parametrize(
    ("data", "word"), [(b"a", "accepted"), (b"\0", "refused"), (b"a\xeeb", "raised"), (b"\xed", "slow")]
)
def test_a_verdict_tells_what_a_decoder_did(data: bytes, word: str) -> None:
    assert judged(GUILTY, data).word == word
    assert CPU_MS_MAX == 100


def test_what_a_thread_does_holds_nobody_up_and_the_longest_turn_counts() -> None:
    def busy(ms: float) -> None:
        ends = time.thread_time() + ms / 1000
        while time.thread_time() < ends:
            pass

    def decode(data: bytes) -> None:
        with elsewhere():
            busy(150)
        for _ in range(3):
            busy(len(data))
            turn()

    decoder = Decoder("turns", lambda: [b""], decode, ())

    assert judged(decoder, bytes(60)).word == "accepted"
    assert judged(decoder, bytes(120)).word == "slow"
    assert INPUT_BYTES_MAX == 1024 * 1024


def test_what_a_decoder_takes_of_memory_is_measured() -> None:
    held = [bytes(100_000) for _ in range(1_000)]
    above = bytes(100_000)
    del held  # what is free below another allocation is taken again without a rise, unless it was given back

    assert peak_of(GUILTY, b"a") < 4
    assert peak_of(GUILTY, b"a\xec") > 30 > RSS_MIB_MAX
    assert above


def test_a_child_that_dies_is_told_with_the_input_that_killed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that kill pycrdt, and a decoder that has no validator before it."""
    poison = bytes.fromhex("0101010100000001010180808080011b01")
    child = Child(0)
    try:
        found = Finding("unguarded", poison + b"\0" * 20, *child.judge("unguarded", poison + b"\0" * 20))
        assert found.word in ("panic", "killed")
        small = minimised(child, found, 5.0)
        hung = child.judge("endless", b"x")
    finally:
        child.close()
    monkeypatch.setattr(campaign, "CORPUS", tmp_path)
    path = keep(small)

    assert len(small.data) < len(found.data)
    assert corpus() == [(path.name, "unguarded", small.data)]
    assert hung[0] == "hung"
