"""What a process was doing when it died is on record, whatever it died of."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.record import KILLED_MAX, KILLS, MAP_BYTES, THREADS, Death, Record, open_record
from sync.brink import Doing
from sync.document import Document, merge
from sync.errors import InvalidUpdate
from sync.ids import DocId
from sync.validate import check_update
from tests.sync.children import in_child

DOC = DocId("notes/plan")
DIES = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from server.record import Record
from sync.brink import Doing
from sync.ids import DocId
path, doing, number = sys.argv[1:] if len(sys.argv) > 1 else {arguments!r}
record = Record(Path(path), Path(path + "-aside"))
record.enter(DocId({doc!r}), Doing(doing), [sys.stdin.buffer.read()])
os.kill(os.getpid(), int(number))
"""


def die(path: Path, update: bytes, number: int = signal.SIGSEGV, doing: Doing = Doing.APPLY) -> None:
    arguments = [str(path), doing.value, str(int(number))]
    child = in_child(DIES.format(arguments=arguments, doc=str(DOC)), update)
    assert child.returncode == -number, child.stderr


def looked_at(path: Path) -> list[Death]:
    """As the next process sees it, which then ends cleanly."""
    record = Record(path, Path(f"{path}-aside"))
    record.close()
    return list(record.deaths)


def typed(client_id: int, text: str) -> bytes:
    return Document(client_id=client_id).edit_text("text", 0, 0, text)


def is_refused(path: Path, update: bytes) -> bool:
    record = Record(path, Path(f"{path}-aside"))
    try:
        record.refuse(DOC, update, check_update(update))
    except InvalidUpdate as error:
        return str(error) == KILLS
    finally:
        record.close()
    return False


def test_a_clean_end_leaves_nothing_on_record(tmp_path: Path) -> None:
    record = Record(tmp_path / "edge", tmp_path)
    record.enter(DOC, Doing.APPLY, [typed(1, "a")])
    record.leave()
    record.close()

    assert looked_at(tmp_path / "edge") == []
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_between_two_pieces_of_work_leaves_nothing_on_record(tmp_path: Path) -> None:
    code = DIES.replace("os.kill", "record.leave()\nos.kill")
    in_child(code.format(arguments=[str(tmp_path / "edge"), "apply", "11"], doc=str(DOC)), typed(1, "a"))

    assert looked_at(tmp_path / "edge") == []


def test_the_second_death_over_the_same_content_is_one_too_many_however_it_was_sent(tmp_path: Path) -> None:
    """First in a flush with others', then in a step 2 with more of its own: what both brought is refused."""
    path = tmp_path / "edge"
    killer = Document(client_id=1)
    first = killer.edit_text("text", 0, 0, "ab")
    more = killer.edit_text("text", 2, 0, "cd")

    die(path, merge([typed(2, "good"), first]))
    assert not is_refused(path, first)
    die(path, merge([first, more]))

    assert is_refused(path, first)
    assert is_refused(path, merge([first, more, typed(3, "x")]))
    assert not is_refused(path, typed(2, "good"))
    assert not is_refused(path, more)


def test_two_deaths_over_different_content_are_one_each(tmp_path: Path) -> None:
    path = tmp_path / "edge"
    die(path, typed(1, "a"))
    die(path, typed(2, "b"))

    assert [(death.own, death.poison) for death in looked_at(path)] == [(1, False), (1, False)]


def test_what_only_deletes_is_known_by_what_it_deletes(tmp_path: Path) -> None:
    path = tmp_path / "edge"
    document = Document(client_id=1)
    document.edit_text("text", 0, 0, "abc")
    deletion = document.edit_text("text", 0, 1, "")
    die(path, deletion)
    die(path, deletion)

    assert is_refused(path, merge([typed(5, "x"), deletion]))
    assert not is_refused(path, typed(1, "abc"))


def test_a_death_from_outside_counts_only_where_many_meet_the_same_input(tmp_path: Path) -> None:
    path = tmp_path / "edge"
    update = typed(1, "a")
    for count in range(1, KILLED_MAX + 1):
        assert not is_refused(path, update)
        die(path, update, signal.SIGKILL)
        (death,) = looked_at(path)
        assert (death.own, death.others) == (0, count)

    assert is_refused(path, update)


def test_an_update_larger_than_the_mapped_file_is_on_record_too(tmp_path: Path) -> None:
    path = tmp_path / "edge"
    update = typed(1, "x" * (MAP_BYTES + 1))
    die(path, update)
    die(path, update)

    assert is_refused(path, typed(1, "x"))
    assert not is_refused(path, typed(2, "x"))


def test_a_document_that_killed_is_condemned_when_it_kills_a_child_as_well(tmp_path: Path) -> None:
    path = tmp_path / "edge"
    die(path, b"", doing=Doing.LOAD)
    record = Record(path, tmp_path / "aside")

    assert record.whole == DOC
    assert not record.condemned(DOC, [typed(1, "sound")])
    record.close()

    die(path, b"", doing=Doing.LOAD)
    record = Record(path, tmp_path / "aside")
    assert record.condemned(DOC, [typed(1, "sound")])  # twice is enough, whatever a child says
    record.close()


def test_files_that_are_damaged_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "edge"
    for at in range(40):
        (tmp_path / "edge.brink").write_bytes(bytes([at % 5]) + bytes([255 - at]) * (at + 5))
        (tmp_path / "edge.deaths.json").write_text("{" * at)
        assert looked_at(path) == []


def test_two_nodes_of_one_name_have_a_record_each(tmp_path: Path) -> None:
    first = open_record(tmp_path / "leader", tmp_path / "aside")
    second = open_record(tmp_path / "leader", tmp_path / "aside")
    assert first is not None
    assert second is not None
    first.enter(DOC, Doing.READ)
    second.leave()

    first.close()
    second.close()


def test_a_node_that_can_keep_no_record_works_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    assert open_record(tmp_path / "file" / "leader", tmp_path) is None


@pytest.fixture(autouse=True)
def _pytests_own() -> object:
    """pytest's own fault handler comes back after each test."""
    import faulthandler

    yield None
    faulthandler.enable()


def test_a_record_has_its_room_on_the_disk_before_it_is_written(tmp_path: Path) -> None:
    """A page of a mapped file that a full disk has no room for ends the process: a campaign's edges died of it."""
    record = Record(tmp_path / "edge", tmp_path / "aside")

    assert (tmp_path / "edge.brink").stat().st_blocks * 512 >= MAP_BYTES
    record.close()


def test_each_thread_that_applies_has_a_record_of_its_own(tmp_path: Path) -> None:
    """An edge and a leader in one process: the loop, the edge's reader and the leader's thread, all at once."""
    record = Record(tmp_path / "edge", tmp_path)
    docs = [DocId("loop"), DocId("reader"), DocId("fold")]

    def recorded() -> list[DocId]:
        found = (tmp_path / "edge.brink").read_bytes()
        maps = [found[at * MAP_BYTES :][:MAP_BYTES] for at in range(THREADS)]
        return [doc for doc, each in zip(docs, maps, strict=True) if each[0] and doc.encode() in each]

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as fold:
        record.enter(docs[0], Doing.APPLY, [typed(1, "a")])
        reader.submit(record.enter, docs[1], Doing.LOAD).result()
        fold.submit(record.enter, docs[2], Doing.APPLY, [typed(2, "b")]).result()
        assert recorded() == docs

        fold.submit(record.leave).result()
        assert recorded() == docs[:2]
        reader.submit(record.leave).result()
        assert recorded() == docs[:1]
    record.close()
