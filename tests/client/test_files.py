"""Names and contents of exported files: every document has one name, and every name leads back."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycrdt import XmlElement, XmlFragment

from client import OpenDocument, connect
from client.files import (
    FileFailed,
    Format,
    Source,
    _document_of,
    exported,
    import_into,
    name_of,
    sources,
    text_place,
    write_file,
)
from client.places import WrongKind, put, value_at
from sync.document import Document
from sync.errors import InvalidDocumentId, InvalidUpdate, NotYet
from sync.ids import DocId

IDS = st.lists(st.sampled_from(["a", "/", ".", "..", "%", "é", ".json", "\\", ":", "2E"]), min_size=1, max_size=8)


@given(IDS.map("".join), st.sampled_from(Format))
def test_a_name_leads_back_to_its_document(doc: str, format: Format) -> None:
    name = name_of(doc, format)

    assert _document_of(name) == doc
    assert not name.startswith("/")
    assert all(part and not part.startswith(".") for part in name.split("/"))
    assert PurePosixPath(name).as_posix() == name


@given(st.lists(IDS.map("".join), min_size=2, max_size=2, unique=True))
def test_two_documents_have_two_names_and_no_file_is_a_directory(docs: list[str]) -> None:
    first, second = (name_of(doc, Format.JSON) for doc in docs)

    assert first != second
    assert not second.startswith(f"{first}/")
    assert not first.startswith(f"{second}/")


def test_a_directory_is_read_by_its_names(tmp_path: Path) -> None:
    for name in ("notes/plan.txt", "notes/%2Ehidden.json", "a.yjs", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    found = {source.doc: source.format for source in sources(tmp_path, None, None)}

    assert found == {"notes/plan": Format.TEXT, "notes/.hidden": Format.JSON, "a": Format.UPDATE}
    assert [source.doc for source in sources(tmp_path, Format.TEXT, None)] == ["notes/plan"]
    assert [source.doc for source in sources(tmp_path / "README.md", Format.TEXT, "readme")] == ["readme"]


def test_files_that_cannot_be_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    (tmp_path / "a%00b.txt").write_bytes(b"")

    with pytest.raises(FileFailed, match="no such file"):
        list(sources(tmp_path / "nope", None, None))
    with pytest.raises(FileFailed, match="no format that its name tells"):
        list(sources(tmp_path / "x.bin", None, None))
    with pytest.raises(FileFailed, match="is a directory"):
        list(sources(tmp_path, None, "doc"))
    with pytest.raises(InvalidDocumentId):
        list(sources(tmp_path / "a%00b.txt", None, None))


def test_a_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_file(path, b"first", replace=False)
    with pytest.raises(FileFailed, match="--force"):
        write_file(path, b"second", replace=False)
    write_file(path, b"third", replace=True)

    assert path.read_bytes() == b"third"
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]


def test_what_is_no_file_is_written_into_and_never_replaced(tmp_path: Path) -> None:
    full, pipe, link = Path("/dev/full"), tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"first")
    with pytest.raises(FileFailed, match="No space left"):
        write_file(full, b"x", replace=True)
    assert full.is_char_device()
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    read: list[bytes] = []
    reader.start()
    write_file(pipe, b"x", replace=True)
    reader.join(10)
    write_file(link, b"second", replace=True)

    assert read == [b"x"]
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert link.read_bytes() == b"second"


def test_what_is_exported_comes_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with connect([], store=tmp_path / "notes.db") as session:
            plan = await session.open("notes/plan")
            put(plan, (), {"text": "日本 🏝\n", "set": {"a": [1, {"b": None}]}, "todo": ["x"]})
            for format, place in (
                (Format.UPDATE, None),
                (Format.JSON, None),
                (Format.TEXT, None),
                (Format.JSON, ("set",)),
            ):
                name = f"{format.value}-{place}"
                path = tmp_path / name
                path.write_bytes(exported(plan, format, place))
                copy = await session.open(f"copy/{name}")
                source = Source(path, DocId(copy.doc), format)
                assert import_into(copy, source, place)
                assert not import_into(copy, source, place)
                expected = value_at(plan, ())
                assert isinstance(expected, dict)
                if place is not None:
                    expected = {"set": expected["set"]}
                elif format is Format.TEXT:
                    expected = {"text": expected["text"]}
                assert value_at(copy, ()) == expected
            merged = await session.open("copy/update-None")
            assert merged.document.digest() == plan.document.digest()

    asyncio.run(run())


def imported(plan: OpenDocument, path: Path, data: bytes, format: Format) -> bool:
    path.write_bytes(data)
    return import_into(plan, Source(path, DocId(plan.doc), format), None)


def test_what_cannot_be_imported_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with connect([], store=tmp_path / "notes.db") as session:
            plan, other = await session.open("notes/plan"), await session.open("other")
            put(plan, ("text",), "here")
            put(other, ("text",), "1")
            before = other.state()
            late = Document(before)
            update = late.edit_text("text", 1, 0, "2")
            path = tmp_path / "file"
            with pytest.raises(FileFailed, match="file: not UTF-8"):
                imported(plan, path, b"\xff", Format.TEXT)
            with pytest.raises(FileFailed, match=r"file: .* not JSON"):
                imported(plan, path, b"{", Format.JSON)
            with pytest.raises(InvalidUpdate, match="file: byte 0"):
                imported(plan, path, b"garbage", Format.UPDATE)
            with pytest.raises(NotYet, match="clock 1"):
                imported(await session.open("third"), path, update, Format.UPDATE)
            with pytest.raises(WrongKind, match=r"file: .* object of its roots"):
                imported(plan, path, b"[]", Format.JSON)
            with pytest.raises(FileFailed, match="No such file"):
                import_into(plan, Source(tmp_path / "nope", DocId("notes/plan"), Format.TEXT), None)
            assert len(plan.status.edits) == 1
            assert value_at(plan, ()) == {"text": "here"}

    asyncio.run(run())


def test_xml_goes_as_an_update_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with connect([], store=tmp_path / "notes.db") as session:
            plan, copy = await session.open("notes/plan"), await session.open("copy")
            with plan.edit() as crdt:
                crdt.get("page", type=XmlFragment).children.append(XmlElement("p"))
            with pytest.raises(WrongKind, match="--format update"):
                imported(copy, tmp_path / "file", exported(plan, Format.JSON, None), Format.JSON)
            assert not imported(plan, tmp_path / "file", exported(plan, Format.JSON, None), Format.JSON)
            assert imported(copy, tmp_path / "file", exported(plan, Format.UPDATE, None), Format.UPDATE)
            assert copy.contents() == plan.contents()

    asyncio.run(run())


def test_the_text_is_the_only_one_there_is(tmp_path: Path) -> None:
    async def run() -> None:
        async with connect([], store=tmp_path / "notes.db") as session:
            plan = await session.open("notes/plan")
            assert text_place(plan) == ("text",)
            put(plan, (), {"body": "x", "set": {"a": 1}})
            assert text_place(plan) == ("body",)
            put(plan, (), {"title": "y"})
            with pytest.raises(WrongKind, match="/body, /set, /title, and not one text"):
                text_place(plan)

    asyncio.run(run())
