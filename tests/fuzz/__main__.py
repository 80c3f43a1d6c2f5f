"""`python -m tests.fuzz --inputs 1000000 --jobs 2 --seed 1`: fuzz every decoder, or those named."""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.campaign import Campaign, Child, Report, keep, minimised
from tests.fuzz.decoders import DECODERS


def main() -> int:
    names = [decoder.name for decoder in DECODERS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what meets the outside.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--decoder", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--no-keep", action="store_true", help="do not write findings to the corpus")
    options = parser.parse_args()

    told = [0.0]

    def tell(report: Report) -> None:
        if time.monotonic() - told[0] < (2 if sys.stderr.isatty() else 30):
            return
        told[0] = time.monotonic()
        rate = report.inputs / max(report.seconds, 0.001)
        line = f"{report.inputs:,} of {options.inputs:,} inputs, {rate:,.0f}/s, {len(report.findings)} findings"
        print(line, file=sys.stderr, flush=True)

    campaign = Campaign(options.seed, options.inputs, options.jobs, options.decoder or ())
    report = campaign.run(tell, options.seconds)
    child = Child(options.seed)
    kept: set[tuple[str, str, str]] = set()
    try:
        for finding in report.findings:
            sort = (finding.decoder, finding.word, finding.detail.partition(":")[0])
            if sort in kept:
                continue
            kept.add(sort)
            small = minimised(child, finding)
            print(f"FOUND {small}" + ("" if options.no_keep else f"\n  kept as {keep(small).name}"), flush=True)
    finally:
        child.close()
    for name, count in sorted(report.by_decoder.items()):
        print(f"  {name:14} {count:>9,}")
    cpu_ms, which = report.slowest
    print(
        f"{report.inputs:,} inputs in {report.seconds:,.0f} s with seed {options.seed}: {report.accepted:,} accepted,"
        f" {report.refused:,} refused, {report.deaths} deaths, slowest decode {cpu_ms:.0f} ms"
        f" of CPU ({which}), {len(report.findings)} findings"
    )
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
