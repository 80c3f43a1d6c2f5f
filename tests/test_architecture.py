"""The house: imports run one way, the engine is pure, one file knows pycrdt, what is public is named."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("sync", "server", "client")
ALLOWED = {"sync": {"sync"}, "server": {"sync", "server"}, "client": {"sync", "client"}}
IMPURE = {
    "asyncio",
    "datetime",
    "logging",
    "nats",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "threading",
    "time",
    "uuid",
    "websockets",
}
PURE_EXCEPTIONS = {("text.py", "datetime")}  # spells a given time as RFC 3339; `now` is refused below


def imports_of(path: Path) -> set[str]:
    """Top-level names that a module imports; a relative import counts as its own room."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(room_of(path) if node.level else (node.module or "").partition(".")[0])
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): bad
        for path in modules(room)
        if (bad := (imports_of(path) & (set(ROOMS) | {"tests"})) - ALLOWED[room])
    }

    assert modules(room)
    assert wrong == {}


def test_the_engine_is_pure() -> None:
    wrong = [
        f"{path.name}: {name}"
        for path in modules("sync")
        for name in sorted(imports_of(path) & IMPURE)
        if (path.name, name) not in PURE_EXCEPTIONS
    ]

    assert wrong == []
    assert ".now(" not in (ROOT / "sync" / "text.py").read_text("utf-8")


def test_only_document_knows_pycrdt() -> None:
    knowing = [str(path.relative_to(ROOT)) for room in ROOMS for path in modules(room) if "pycrdt" in imports_of(path)]

    assert knowing == ["sync/document.py"]


@pytest.mark.parametrize("path", [p for room in ROOMS for p in modules(room)], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_its_room_and_what_is_public(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))

    assert ast.get_docstring(tree), "a module opens with its room"
    if path.name in ("__init__.py", "limits.py"):  # limits: every constant is public
        return
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert module.__all__, "public means exported"
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_a_module_is_one_thing() -> None:
    crowded = {
        str(path.relative_to(ROOT)): count
        for room in ROOMS
        for path in modules(room)
        if (count := lines_of(path)) > 580
    }

    assert crowded == {}


def lines_of(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())
