"""docs/architecture.md: each module stands in one part of its room, and imports what that part is built on."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
ROOMS = ("sync", "server", "client")


class Part(NamedTuple):
    built_on: frozenset[str]
    modules: tuple[str, ...]


def parts(room: str) -> dict[str, Part]:
    """Name of a part -> what it is built on, and its modules; a directory ends in a slash."""
    table = PAGE.split(f"\n### {room},", 1)[1].split("\n| part |", 1)[1].split("\n\n", 1)[0]
    found: dict[str, Part] = {}
    for line in table.splitlines()[2:]:
        name, built_on, modules, _ = [cell.strip() for cell in line.strip("|").split("|")]
        on = frozenset(filter(None, re.split(r", *", built_on)))
        assert on <= found.keys(), f"{name} is built on what stands below it"
        found[name] = Part(on, tuple(re.findall(r"`([\w/]+)`", modules)))
    return found


def below(room: dict[str, Part], name: str) -> frozenset[str]:
    """The part and everything that it is built on, through all parts."""
    return frozenset({name}).union(*(below(room, other) for other in room[name].built_on))


def place(path: Path) -> str:
    """As the page names it: `bench/` for everything in that directory."""
    within = path.relative_to(ROOT).parts[1:]
    return f"{within[0]}/" if len(within) > 1 else path.stem


def python_of(room: str) -> list[Path]:
    return [path for path in sorted((ROOT / room).rglob("*.py")) if "node_modules" not in path.parts]


def modules(room: str) -> list[Path]:
    return [path for path in python_of(room) if path != ROOT / room / "__init__.py"]


def imported(path: Path) -> set[str]:
    """Modules of its own room, as the page names them; also those that it imports late."""
    room = path.relative_to(ROOT).parts[0]
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            start = list(package[: len(package) - node.level + 1]) if node.level else []
            names = [*start, *(node.module or "").split(".")] if node.module else start
            full = [names] if len(names) > 1 else [[*names, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            full = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for name in full:
            if len(name) > 1 and name[0] == room and (ROOT / room / name[1]).is_dir():
                found.add(f"{name[1]}/")
            elif len(name) > 1 and name[0] == room and (ROOT / room / f"{name[1]}.py").exists():
                found.add(name[1])
            elif len(name) > 1 and name[0] == room:  # what the room shows to programs: for those outside of it
                assert len(package) > 1, f"{path} imports {name[1]} from the face of its own room"
    return found - {place(path)}


@pytest.mark.parametrize("room", ROOMS)
def test_each_module_stands_in_one_part(room: str) -> None:
    named = [module for part in parts(room).values() for module in part.modules]

    assert sorted(named) == sorted({place(path) for path in modules(room)})


@pytest.mark.parametrize("room", ROOMS)
def test_a_module_imports_from_what_its_part_is_built_on(room: str) -> None:
    table = parts(room)
    home = {module: name for name, part in table.items() for module in part.modules}
    wrong = [
        f"{path.relative_to(ROOT)} ({home[place(path)]}) imports {other} ({home[other]})"
        for path in modules(room)
        for other in sorted(imported(path))
        if home[other] not in below(table, home[place(path)])
    ]

    assert sum(len(imported(path)) for path in modules(room)) > len(modules(room))
    assert wrong == []


def test_laws_and_facts_that_comments_name_are_on_their_pages() -> None:
    facts_page = (ROOT / "docs" / "facts.md").read_text("utf-8")
    laws = set(re.findall(r"^(\d+)\. \*\*", PAGE.split("\n## Laws", 1)[1].split("\n## ", 1)[0], re.MULTILINE))
    facts = set(re.findall(r"^\*\*(\d+\.\d+)\*\*", facts_page, re.MULTILINE))
    named_laws: set[str] = set()
    named_facts: set[str] = set()
    for path in [*(ROOT / "docs").glob("*.md"), *(path for room in (*ROOMS, "tests") for path in python_of(room))]:
        text = path.read_text("utf-8")
        named_laws |= set(re.findall(r"\blaw (\d+)", text))
        named_facts |= set(re.findall(r"\bfacts?(?:\.md)?,? (\d+\.\d+)", text))

    assert len(named_laws) > 5
    assert len(named_facts) > 10
    assert named_laws <= laws
    assert named_facts <= facts
