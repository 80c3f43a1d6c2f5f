"""The documentation holds: commands parse, links lead somewhere, make targets exist, every block is run by a test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from server.cli import build_parser

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def commands() -> list[str]:
    """Every `skerry …` in the pages' tables and console blocks."""
    found: list[str] = []
    for page in PAGES:
        for line in page.read_text("utf-8").splitlines():
            found += re.findall(r"`(skerry [^`]+)`", line)
            if line.startswith("$ .venv/bin/skerry"):
                found.append(line.removeprefix("$ .venv/bin/").removesuffix(" &"))
    return found


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_docs_is_understood(command: str) -> None:
    options = build_parser().parse_args(shlex.split(command)[1:])

    assert options.run is not None


def test_the_docs_show_commands() -> None:
    assert len(commands()) > 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")) if "://" not in link]

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_block_of_code_is_of_a_kind_that_a_test_runs() -> None:
    """console: test_docs_console; python: test_readme_client; js: interop/test_readme; client.md: test_client_page."""
    found = {
        (page.name, language)
        for page in PAGES
        for language in re.findall(r"^```(.*)$", page.read_text("utf-8"), re.M)[::2]
    }

    assert {(page, language) for page, language in found if language not in ("console", "text")} == {
        ("README.md", "python"),
        ("README.md", "js"),
        ("client.md", "python"),
        ("security.md", "js"),
    }


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"(?:`|\$ )make ([a-z]+)", (ROOT / "README.md").read_text("utf-8")))

    assert {"demo", "test", "setup", "sweep"} <= targets
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
