"""The console blocks of README and docs, run as they stand there: real processes, each block in a fresh directory.

What is put in the place of what a page says stands in four tables: ADDRESSES and DEFAULTS of `tests.console`, SHORTER
and NOT_RUN here. What a page takes for granted (an edge runs, somebody has written) is a block's Scene.
`tests/test_client_page.py` has the blocks of docs/client.md.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.client.test_rejected import STRICT
from tests.console import Shell
from tests.processes import ROOT, record, wait_for

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

SHORTER = {
    "make demo": "make demo ARGS=--once",  # else it stays up until Ctrl-C
    "skerry bench --quick --cases 1,3": "skerry bench --quick --cases 7 --no-peers",
    "skerry bench --cases 2 --repeat 3 --out bench-results --page docs/performance.md": (
        "skerry bench --quick --cases 7 --no-peers --repeat 1 --out bench-results --page docs/performance.md"
    ),
    "skerry torture --seed 7 --rounds 40 --faults 8 --data ./campaign": (
        "skerry torture --seed 7 --rounds 1 --faults 1 --kind freeze --clients 1 --edges 2 --data ./campaign"
    ),
}
"""Commands that take minutes, in the shortest form that is still the same command."""

NOT_RUN = {
    "make test": "it runs this test",
    "make bench": "an hour, and peers from npm and PyPI; it is the last command of its block, with every case",
    "skerry torture --rounds 5 --faults 7": "minutes; it is the command below it, with a seed of its own",
}
"""Commands that are not run at all, each with the reason."""

Hook = Callable[["Shell"], None]
Check = Callable[["Shell", str], None]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a block takes for granted, and what its commands do; by command as it stands in the page."""

    begin: Hook = lambda shell: None
    before: Mapping[str, Hook] = field(default_factory=dict)
    after: Mapping[str, Check] = field(default_factory=dict)


# --- what the pages say -----------------------------------------------------------------------------------------------
def block_of(page: str, first: str) -> list[str]:
    (block,) = [commands for name, commands in blocks() if name == page and commands[0] == first]
    return block


def blocks() -> Iterator[tuple[str, list[str]]]:
    """(page, commands) of every console block but those of docs/client.md."""
    for page in PAGES:
        if page.name != "client.md":
            for block in re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.S):
                lines = block.splitlines()
                assert all(line.startswith("$ ") for line in lines), f"{page.name}: {block}"
                yield page.name, [line.removeprefix("$ ").replace(".venv/bin/", "") for line in lines]


# --- the scenes -------------------------------------------------------------------------------------------------------
BY_HAND = "make setup"
CURL = "curl 'http://127.0.0.1:8788/docs/notes%2Fplan?at_least=TOKEN&timeout=10'"
NATS = "skerry nats --data ./data --listen 127.0.0.1:4222 &"
LEADER = "skerry leader --nats nats://127.0.0.1:4222 &"
SHIP = "skerry edge --name ship --data ./ship --nats nats://127.0.0.1:4222 &"
WRITE = "skerry doc set notes/plan /body '\"Hello\"' --edge ws://127.0.0.1:8787"


def run(shell: Shell, *commands: str) -> None:
    for command in commands:
        shell.run(in_venv(command))


def in_venv(command: str) -> str:
    return re.sub(r"^skerry\b", ".venv/bin/skerry", command)


def linked(*addresses: str) -> Hook:
    """Until these edges are linked to NATS."""

    def wait(shell: Shell) -> None:
        for address in addresses:
            wait_for(partial(is_linked, shell, address), 20, f"{address}: linked")

    return wait


def is_linked(shell: Shell, address: str) -> bool:
    status, body = shell.get(address, "/status")
    assert status == 200, body
    return bool(record(record(json.loads(body))["link"])["state"] == "up")


def written_at_both(shell: Shell) -> None:
    linked("127.0.0.1:8787", "127.0.0.1:8788")(shell)
    run(shell, f"{WRITE} --confirmed merged")
    wait_for(lambda: shell.get("127.0.0.1:8788", "/docs/notes%2Fplan")[0] == 200, 20, "the document at the other edge")


def two_edges_and_a_token(shell: Shell) -> None:
    run(shell, *(command for command in block_of("README.md", BY_HAND) if command.endswith(" &")))
    linked("127.0.0.1:8787", "127.0.0.1:8788")(shell)
    store_of_readmes_program(shell)


def store_of_readmes_program(shell: Shell) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    (shell.directory / "program.py").write_text(shell.here(program), "utf-8")
    shell.words["TOKEN"] = shell.run(f"PYTHONPATH={shlex.quote(str(ROOT))} .venv/bin/python program.py").strip()


def remember_token(shell: Shell, printed: str) -> None:
    shell.words["TOKEN"] = printed.strip()


def asks_for_a_token(shell: Shell, printed: str) -> None:
    assert shell.get("127.0.0.1:8787", "/docs")[0] == 401
    assert shell.get("127.0.0.1:8787", "/docs", shell.words["TOKEN"])[0] == 200


def takes_it_no_more(shell: Shell, printed: str) -> None:
    token = shell.words["TOKEN"]
    wait_for(lambda: shell.get("127.0.0.1:8787", "/docs", token)[0] == 401, 15, "Ada's token is refused")


def ship_with_a_document(shell: Shell) -> None:
    run(shell, SHIP, WRITE)


def ship_lost_after_a_backup(shell: Shell) -> None:
    ship_with_a_document(shell)
    run(shell, *block_of("operations.md", BACKUP))
    shell.stop("--name ship")
    shutil.rmtree(shell.directory / "ship")


def ship_is_back(shell: Shell, printed: str) -> None:
    run(shell, SHIP)
    assert shell.get("127.0.0.1:8787", "/docs/notes%2Fplan")[0] == 200


def log_with_a_change(shell: Shell) -> None:
    run(shell, NATS, LEADER, SHIP)
    linked("127.0.0.1:8787")(shell)
    run(shell, f"{WRITE} --confirmed merged")


def log_with_a_refusal(shell: Shell) -> None:
    """The leader has a rule that its edge does not know, as one of another release may have."""
    (shell.directory / "strict").mkdir()
    (shell.directory / "strict" / "sitecustomize.py").write_text(STRICT)
    run(shell, NATS)
    shell.daemon_env["PYTHONPATH"] = str(shell.directory / "strict")
    run(shell, LEADER)
    del shell.daemon_env["PYTHONPATH"]
    run(shell, SHIP)
    linked("127.0.0.1:8787")(shell)
    shell.run(in_venv(WRITE.replace("Hello", "forbidden") + " --confirmed merged"), status=1)


def page_to_write_into(shell: Shell) -> None:
    (shell.directory / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "performance.md", shell.directory / "docs")


def prints(*wanted: str) -> Check:
    def check(shell: Shell, printed: str) -> None:
        assert all(word in printed for word in wanted), printed

    return check


BACKUP = "skerry backup edge --data ./ship --to ./ship.backup"
RESTORE = "skerry restore edge ./ship.backup --data ./ship"
TOKEN_KEY = "skerry token key --private signer.json --keys keys.json"
BENCH = "skerry bench --cases 2 --repeat 3 --out bench-results --page docs/performance.md"
STATUS_OF_ACCOUNTS = "skerry status --nats nats://127.0.0.1:4222 --nkey ./accounts/operator.nk"

SCENES = {
    ("README.md", "make demo"): Scene(after={"make demo": prints("EQUAL")}),
    ("README.md", CURL): Scene(two_edges_and_a_token, after={CURL: prints("Hello from Python. ")}),
    ("README.md", TOKEN_KEY): Scene(
        after={
            "skerry token make --key signer.json --sub ada --write 'notes/*' --read '*' --for 8h": remember_token,
            "skerry edge --name ship --listen 0.0.0.0:8787 --auth-keys keys.json &": asks_for_a_token,
            "skerry revoke --sub ada": takes_it_no_more,
        }
    ),
    ("README.md", BY_HAND): Scene(
        before={"skerry status": written_at_both},
        after={"skerry status": prints("leader", "notes/plan"), "skerry verify": prints("EQUAL")},
    ),
    ("guarantees.md", "skerry torture --rounds 5 --faults 7"): Scene(
        after={
            "skerry torture --seed 7 --rounds 40 --faults 8 --data ./campaign": prints("KEPT"),
            "skerry torture --schedule ./campaign/schedule.json": prints("KEPT"),
        }
    ),
    ("operations.md", BACKUP): Scene(ship_with_a_document),
    ("operations.md", RESTORE): Scene(ship_lost_after_a_backup, after={RESTORE: ship_is_back}),
    ("operations.md", "skerry backup log --nats nats://127.0.0.1:4222 --to ./log.backup"): Scene(log_with_a_change),
    ("operations.md", "skerry rejected ls --nats nats://127.0.0.1:4222"): Scene(
        log_with_a_refusal,
        after={
            "skerry rejected ls --nats nats://127.0.0.1:4222": prints("notes/plan", "forbidden here"),
            "skerry rejected show 1 --out refused.update": lambda shell, printed: assert_holds(
                shell.directory / "refused.update", b"forbidden"
            ),
        },
    ),
    ("performance.md", "make bench"): Scene(
        page_to_write_into,
        after={BENCH: lambda shell, printed: assert_holds(shell.directory / "bench-results" / "bench.json", b'"case"')},
    ),
    ("security.md", TOKEN_KEY): Scene(
        after={
            "skerry token make --key signer.json --sub ada --write 'team/*' --read '*' --for 8h": remember_token,
            "skerry token show TOKEN --keys keys.json": prints("ada", "team/*", "verdict    holds"),
        }
    ),
    ("security.md", "skerry nats-accounts --dir ./accounts --edge ship --edge shop"): Scene(
        before={STATUS_OF_ACCOUNTS: linked("127.0.0.1:8787")}, after={STATUS_OF_ACCOUNTS: prints("ship", "leader")}
    ),
}


TABLE_NOT_RUN = {
    "skerry doc edit notes/plan": "wants an editor; docs/client.md",
    "skerry doc watch notes/plan": "stays until Ctrl-C; tests/client/test_cli.py",
    "skerry rejected show 1": "wants a refused change; docs/operations.md",
    "skerry rejected release 1": "wants a refused change; docs/operations.md",
    "skerry replay TRACE --edges ws://127.0.0.1:8787 ws://127.0.0.1:8788 --cut 5": "tests/server/test_replay.py",
    "skerry torture --rounds 5": "minutes; docs/guarantees.md",
    "skerry bench --cases 1,3 --quick": "minutes; docs/performance.md",
    "skerry demo --once": "make demo, above",
    "skerry token make --key signer.json --sub ada --write 'team/*'": "its block, above",
}
"""Commands of README's table that are run elsewhere, or cannot be."""


def commands_of_the_table() -> list[str]:
    rows = [line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("| `skerry")]
    return [command for row in rows for command in re.findall(r"`(skerry [^`]+)`", row.split(" | ")[0])]


def assert_holds(file: Path, content: bytes) -> None:
    assert content in file.read_bytes()


# --- the tests --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("page", "block"), [pytest.param(*each, id=f"{each[0]}-{each[1][0]}") for each in blocks()])
def test_a_console_block_runs_as_it_stands(tmp_path: Path, page: str, block: list[str]) -> None:
    scene = SCENES[page, block[0]]
    with Shell(tmp_path / "here") as shell:
        scene.begin(shell)
        for command in block:
            if command in NOT_RUN:
                continue
            if command in scene.before:
                scene.before[command](shell)
            printed = shell.run(in_venv(SHORTER.get(command, command)))
            if command in scene.after:
                scene.after[command](shell, printed)


def test_the_commands_of_readmes_table_run_as_they_stand(tmp_path: Path) -> None:
    """In its order, in one directory: an edge called ship, and the store of README's program."""
    commands = commands_of_the_table()
    assert TABLE_NOT_RUN.keys() <= set(commands)
    with Shell(tmp_path / "here") as shell:
        for command in commands:
            if command in TABLE_NOT_RUN:
                continue
            daemon = re.match(r"skerry (serve|nats|leader|edge) ", command) is not None
            printed = shell.run(in_venv(command + " &" if daemon else command))
            if " serve " in command:
                store_of_readmes_program(shell)
                shell.stop("skerry serve")
            elif " edge --name ship" in command:
                linked("127.0.0.1:8788")(shell)
                shell.env_more["SKERRY_EDGE"] = shell.here("http://127.0.0.1:8788")
                run(shell, WRITE.replace("127.0.0.1:8787", "127.0.0.1:8788") + " --confirmed merged")
            elif " verify" in command:
                assert "EQUAL" in printed
        assert len(commands) - len(TABLE_NOT_RUN) > 15


def test_what_is_run_otherwise_or_not_at_all_is_in_the_pages() -> None:
    there = {command for _, block in blocks() for command in block}

    assert {*SHORTER, *NOT_RUN} - there == set()
    assert len(NOT_RUN) == 3


def test_every_scene_is_one_of_the_pages() -> None:
    there = {(page, block[0]): block for page, block in blocks()}

    assert SCENES.keys() == there.keys()
    for key, scene in SCENES.items():
        assert {*scene.before, *scene.after} <= set(there[key]), key
