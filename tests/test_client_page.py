"""docs/client.md as a reader would try it: every program, every piece of one, every command with what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, Cluster

PAGE = (ROOT / "docs" / "client.md").read_text("utf-8")
HERE = "ws://127.0.0.1:8787"
PIECES_BEGIN = f"""
import asyncio

from client import connect


async def main() -> None:
    async with (
        connect("{HERE}", store="ada.db", actor="ada") as session,
        connect("{HERE}", store="ben.db", actor="ben") as ben,
    ):
        plan = await session.open("notes/plan")
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def programs() -> list[str]:
    """The whole ones, and one that is made of all pieces."""
    whole = [block for block in blocks("python") if "asyncio.run(" in block]
    pieces = "\n".join(block for block in blocks("python") if block not in whole)
    return [*whole, PIECES_BEGIN + textwrap.indent(pieces, " " * 8) + "\n\nasyncio.run(main())\n"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("page"), ["a"]) as cluster:
        yield cluster


@pytest.mark.parametrize("program", programs(), ids=["whole", "pieces"])
def test_a_program_of_the_page_runs(cluster: Cluster, tmp_path: Path, program: str) -> None:
    (tmp_path / "program.py").write_text(program.replace(HERE, cluster["a"].ws), "utf-8")

    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Pack the tent." in done.stdout or "ben visit-7 a" in done.stdout


@pytest.mark.parametrize("program", programs(), ids=["whole", "pieces"])
def test_a_program_of_the_page_is_strictly_typed(tmp_path: Path, program: str) -> None:
    (tmp_path / "program.py").write_text(program, "utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(tmp_path / "program.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def steps() -> Iterator[tuple[str, str]]:
    """(command, what it prints), in the page's order."""
    for block in blocks("console"):
        for step in block.removeprefix("$ ").split("\n$ "):
            command, _, printed = step.partition("\n")
            yield command, printed


def test_the_commands_of_the_page_print_what_it_says(cluster: Cluster, tmp_path: Path) -> None:
    skerry = Path(sys.executable).with_name("skerry")
    environment = {**os.environ, "SKERRY_EDGE": cluster["a"].ws, "COLUMNS": "120"}
    count = 0
    for command, printed in steps():
        done = subprocess.run(
            command.replace(".venv/bin/skerry", str(skerry)),
            shell=True,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        expected = ".*".join(map(re.escape, squeezed(printed).split("…")))
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert re.fullmatch(expected, squeezed(done.stdout), re.S), f"{command} printed {done.stdout}"
        count += 1

    assert count > 15


def squeezed(text: str) -> str:
    return "\n".join(re.sub(r" +", " ", line).strip() for line in text.strip().splitlines())
