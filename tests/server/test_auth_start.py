"""What an edge says at its start about who may come. Real processes."""

from __future__ import annotations

from pathlib import Path

from tests.processes import run_cli


def test_an_edge_that_others_reach_does_not_start_unasked(tmp_path: Path) -> None:
    ended = run_cli("edge", "--data", str(tmp_path), "--listen", "0.0.0.0:0")

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("skerry: listen: 0.0.0.0:0 can be reached from elsewhere")
    assert "--auth-keys" in line
    assert "--insecure" in line
