"""What may be skipped, and that nothing may where SKERRY_NO_SKIP says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SKIPPING = {
    "in_a_test": "import pytest\ndef test_it():\n    pytest.skip('because')\n",
    "by_a_mark": "import pytest\n@pytest.mark.skipif(True, reason='because')\ndef test_it(): pass\n",
    "in_a_fixture": "import pytest\n@pytest.fixture\ndef it():\n    pytest.skip('because')\ndef test_it(it): pass\n",
    "a_whole_module": "import pytest\npytest.skip('because', allow_module_level=True)\n",
    "a_missing_module": "import pytest\npytest.importorskip('no_such_module', reason='because')\n",
}
OTHERS = {
    "passes": "def test_it(): pass\n",
    "is_known_to_fail": "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n",
    "reads_traces": "def test_it(traces): assert (traces / 'one').read_text() == 'trace'\n",
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Tests of somebody, and a folder of traces."""
    for name, text in (SKIPPING | OTHERS).items():
        (tmp_path / f"test_{name}.py").write_text(text)
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "one").write_text("trace")
    return tmp_path


def run_pytest(suite: Path, **environment: str) -> str:
    """What pytest prints over these tests with this project's conftest."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SKERRY_", "PYTEST_"))}
    options = ["-q", "-rs", "--continue-on-collection-errors", "-p", "tests.conftest", "--rootdir", str(suite)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(suite)],
        cwd=ROOT,
        env={**clean, "SKERRY_SHARED": str(suite), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def test_every_skip_is_a_failure_with_its_reason_where_none_is_allowed(suite: Path) -> None:
    printed = run_pytest(suite, SKERRY_NO_SKIP="1")

    for name in SKIPPING:
        assert f"test_{name}.py" in printed
    assert printed.count("because; with SKERRY_NO_SKIP=1 nothing may be skipped") >= len(SKIPPING)
    assert "1 failed, 2 passed, 1 xfailed, 4 errors in " in printed.splitlines()[-1]


def test_a_skip_is_a_skip_elsewhere(suite: Path) -> None:
    printed = run_pytest(suite)

    assert "2 passed, 5 skipped, 1 xfailed in " in printed.splitlines()[-1]
