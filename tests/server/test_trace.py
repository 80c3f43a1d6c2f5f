"""A trace becomes its authors' updates: exact at the end, causes first, and a bad file is one clear line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from server.trace import TRACE_ROOT, Authored, TraceError, authored_updates, read_trace
from sync.document import Document, merge
from sync.errors import InvalidInput
from sync.ids import parse_document_id
from sync.replica import Replica, Verdict
from sync.validate import check_update
from tests.traces import made_trace, write_trace

RECORDED = Path(os.environ.get("SKERRY_TRACES", Path(__file__).parents[3] / "shared" / "traces"))
"""Real traces are not part of the project: tests that want them are skipped where they are not."""


def _sequential(*patches: list[object], start: str = "", end: str = "") -> dict[str, object]:
    return {"startContent": start, "endContent": end, "txns": [{"patches": [patch]} for patch in patches]}


def _text_of(made: list[Authored]) -> str:
    document = Document()
    document.apply(merge([each.update for each in made]))
    return document.text(TRACE_ROOT)


def _replayed(path: Path) -> str:
    return _text_of(list(authored_updates(read_trace(path))))


# --- what comes out ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("packed", [True, False])
def test_a_sequential_trace_ends_at_its_end_content(tmp_path: Path, packed: bool) -> None:
    path = write_trace(
        tmp_path / "t.json.gz",
        _sequential([0, 0, "héllo"], [1, 1, "é\N{GRINNING FACE}"], [3, 2, ""], end="hé😀o"),
        packed=packed,
    )

    assert _replayed(path) == read_trace(path).end == "hé😀o"


def test_the_content_that_a_trace_starts_with_is_the_first_update(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t.json", _sequential([5, 0, "!"], start="hello", end="hello!"))

    made = list(authored_updates(read_trace(path)))

    assert [each.index for each in made] == [-1, 0]
    assert made[-1].knows == (2,)
    assert _replayed(path) == "hello!"


@pytest.mark.parametrize("seed", range(20))
def test_a_concurrent_trace_ends_at_what_ascending_client_ids_give(tmp_path: Path, seed: int) -> None:
    path = write_trace(tmp_path / "t.json.gz", made_trace(seed, agents=2 + seed % 3))

    assert _replayed(path) == read_trace(path).end


def test_updates_come_with_their_causes_first(tmp_path: Path) -> None:
    trace = read_trace(write_trace(tmp_path / "t.json.gz", made_trace(7, agents=3)))
    replica = Replica(parse_document_id("notes/plan"))
    counts = [0, 0, 0]

    for each in authored_updates(trace):
        counts[each.agent] += 1
        assert replica.take(each.update, check_update(each.update), 0).verdict is not Verdict.EARLY
        assert each.knows[each.agent] == counts[each.agent]
        assert all(known <= made for known, made in zip(each.knows, counts, strict=True))


def test_the_name_of_a_trace_is_its_files_without_endings(tmp_path: Path) -> None:
    assert read_trace(write_trace(tmp_path / "two.dots.json.gz", _sequential())).name == "two.dots"


@pytest.mark.parametrize(
    ("name", "count", "author_count"), [("friendsforever", 26_078, 2), ("sveltecomponent", 18_335, 1)]
)
def test_a_recorded_trace_ends_exactly_and_soon(name: str, count: int, author_count: int) -> None:
    path = RECORDED / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here; name its directory in SKERRY_TRACES")
    trace = read_trace(path)
    began = time.process_time()

    made = list(authored_updates(trace))

    assert time.process_time() - began < 20  # 2 s on the machine where this was written
    assert (len(made), trace.agent_count) == (count, author_count)
    assert _text_of(made) == trace.end


# --- what is refused --------------------------------------------------------------------------------------------------
def _concurrent(**changes: Any) -> dict[str, object]:
    transaction = {"agent": 0, "parents": [], "patches": [[0, 0, "a"]]} | changes
    return {"kind": "concurrent", "endContent": "a", "numAgents": 1, "txns": [transaction]}


BAD: list[tuple[object, str]] = [
    ([], "the file is not an object"),
    ({"txns": []}, "startContent and endContent are not both texts"),
    ({"endContent": ""}, "txns is not a list"),
    ({"endContent": "", "txns": [1]}, "transaction 0 is not an object"),
    ({"endContent": "", "txns": [{}]}, "transaction 0: patches is not a list"),
    (_sequential([0, 0]), r"transaction 0: a patch is not \[position, deleted, inserted\]"),
    (_sequential([0, 0, 7]), r"transaction 0: a patch is not"),
    (_sequential([-1, 0, "a"]), "transaction 0: position is not a number from 0"),
    (_sequential([True, 0, "a"]), "transaction 0: position is not a number from 0"),
    ({"kind": "concurrent", "endContent": "", "txns": []}, "numAgents is not a number from 1"),
    ({"kind": "concurrent", "endContent": "", "numAgents": 10**9, "txns": []}, "numAgents is not a number from 1"),
    (_concurrent(agent=1), "transaction 0: agent is not a number from 0 to 0"),
    (_concurrent(parents=[0]), "transaction 0: parent is not a number"),
    (_concurrent(parents=None), "transaction 0: parents is not a list"),
]


@pytest.mark.parametrize(("content", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_file_that_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: object, reason: str) -> None:
    path = write_trace(tmp_path / "bad.json.gz", content)

    with pytest.raises(TraceError, match=rf"bad\.json\.gz: {reason}.*; give an editing trace$") as refused:
        read_trace(path)

    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, InvalidInput)


def test_a_file_that_cannot_be_unpacked_or_parsed_is_refused(tmp_path: Path) -> None:
    whole = write_trace(tmp_path / "whole.json.gz", made_trace(1))
    broken = tmp_path / "broken.json.gz"
    for data, reason in (
        (whole.read_bytes()[:-20], "cannot be read"),
        (whole.read_bytes()[:40] + b"\0" * 40, "cannot be read"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ):
        broken.write_bytes(data)
        with pytest.raises(TraceError, match=reason):
            read_trace(broken)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.json: cannot be read \(No such file"):
        read_trace(tmp_path / "none.json")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path)


def test_a_position_outside_the_text_names_its_transaction(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t.json", _sequential([0, 0, "ab"], [1, 2, ""]))

    with pytest.raises(TraceError, match=r"transaction 1: .* outside its 2 characters; the trace does not fit"):
        list(authored_updates(read_trace(path)))


def test_an_author_that_branches_is_refused(tmp_path: Path) -> None:
    content = _concurrent()
    content["txns"] = [
        {"agent": 0, "parents": [], "patches": [[0, 0, "a"]]},
        {"agent": 0, "parents": [], "patches": [[0, 0, "b"]]},
    ]

    with pytest.raises(TraceError, match=r"transaction 1: author 0 has seen 1 .* do not branch$"):
        list(authored_updates(read_trace(write_trace(tmp_path / "t.json", content))))
