"""The README's Python program, as it stands there, against a real edge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.processes import Cluster

ROOT = Path(__file__).parent.parent


def test_the_readmes_python_program_runs_and_prints_a_token(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    with Cluster(tmp_path, ["a"]) as cluster:
        here = program.replace("127.0.0.1:8787", cluster.edges["a"].listen)
        assert here != program
        (tmp_path / "program.py").write_text(here)

        run = subprocess.run(
            [sys.executable, str(tmp_path / "program.py")],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("sk1.")
