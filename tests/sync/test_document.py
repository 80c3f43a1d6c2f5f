"""What pycrdt does, pinned (docs/facts.md), so that an upgrade that changes it is noticed; then Document itself."""

from __future__ import annotations

import ast
import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Array, Doc, Map, Snapshot, Text, get_state, merge_updates

from sync.digest import decode_snapshot_bytes, digest_of, digest_of_snapshot
from sync.document import EMPTY_UPDATE, Document, byte_offset, merge
from sync.errors import DocumentBroken, InvalidInput
from sync.lib0 import write_var_uint
from sync.limits import MERGE_FAN_IN
from sync.validate import check_state_vector, check_update
from tests.sync.children import in_child, nested
from tests.sync.histories import clocks_of, content_of, life

STOCK: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "stock_updates.json").read_text())
HISTORIES = int(os.environ.get("SKERRY_HISTORIES", "60"))
ASTRAL = "\N{GRINNING FACE}"


def _typed(*edits: tuple[int, str], client_id: int = 1) -> tuple[list[bytes], Doc[Any]]:
    """Insertions in one text, and the update of each."""
    doc: Doc[Any] = Doc(client_id=client_id)
    text = doc.get("text", type=Text)
    updates: list[bytes] = []
    watch = doc.observe(lambda event: updates.append(event.update))
    for at, word in edits:
        text.insert(at, word)
    doc.unobserve(watch)
    return updates, doc


def _loaded(*updates: bytes) -> Doc[Any]:
    doc: Doc[Any] = Doc()
    for update in updates:
        doc.apply_update(update)
    return doc


def _text(doc: Doc[Any]) -> str:
    return str(doc.get("text", type=Text))


# --- facts: order (1.1 to 1.4) ----------------------------------------------------------------------------------------
OUT_OF_ORDER = ((0, "a"), (1, "b"), (1, "c"), (0, "d"))


def test_pycrdt_loses_an_operation_that_comes_before_its_cause() -> None:
    updates, author = _typed(*OUT_OF_ORDER)

    reader = _loaded(*(updates[at] for at in (0, 2, 3, 1)))

    assert (_text(author), _text(reader)) == ("dacb", "dab")


def test_a_lost_operation_shows_as_a_log_that_is_ahead_of_its_document() -> None:
    updates, _ = _typed(*OUT_OF_ORDER)

    late = _loaded(*(updates[at] for at in (0, 2, 3, 1)))
    in_order = _loaded(*updates)

    claimed = check_state_vector(get_state(merge_updates(*updates)))
    assert clocks_of(late) != claimed
    assert clocks_of(in_order) == claimed


def test_shuffled_histories_lose_and_per_origin_order_does_not() -> None:
    wrong = 0
    for seed in range(HISTORIES):
        history = life(seed)
        in_order = _loaded(*history.updates)
        assert content_of(in_order) == history.content, f"seed {seed}"
        shuffled = list(history.updates)
        random.Random(seed).shuffle(shuffled)
        wrong += content_of(_loaded(*shuffled)) != history.content

    assert wrong > HISTORIES // 2  # 238 of 300 when it was measured


def test_everything_merged_and_applied_once_is_right_in_any_order() -> None:
    for seed in range(HISTORIES):
        history = life(seed)
        shuffled = list(history.updates)
        random.Random(seed).shuffle(shuffled)

        assert content_of(_loaded(merge_updates(*shuffled))) == history.content, f"seed {seed}"


def test_one_exchange_with_a_full_peer_is_right() -> None:
    for seed in range(HISTORIES):
        history = life(seed)
        full, behind = _loaded(history.state), _loaded(*history.updates[: len(history.updates) // 2])

        behind.apply_update(full.get_update(behind.get_state()))

        assert content_of(behind) == history.content, f"seed {seed}"


def test_an_early_update_raises_nothing_fires_an_empty_event_and_is_left_out_of_the_state() -> None:
    updates, author = _typed((0, "a"), (1, "b"))
    reader: Doc[Any] = Doc()
    events: list[bytes] = []
    watch = reader.observe(lambda event: events.append(event.update))

    reader.apply_update(updates[1])

    reader.unobserve(watch)
    assert set(events) <= {EMPTY_UPDATE}
    assert reader.get_update() == EMPTY_UPDATE
    copy = _loaded(reader.get_update(), updates[0])
    assert _text(copy) == "a"  # the early one is lost to whoever loads that state
    assert _text(author) == "ab"


def test_an_early_deletion_is_left_out_of_the_state() -> None:
    updates, author = _typed((0, "abc"))
    before = author.get_state()
    del author.get("text", type=Text)[0:2]
    deletion = author.get_update(before)

    reader = _loaded(deletion)

    assert decode_snapshot_bytes(Snapshot.from_doc(reader).encode())[1] == {}
    assert _text(_loaded(reader.get_update(), *updates)) == "abc"


def test_a_duplicate_fires_no_event() -> None:
    updates, _ = _typed((0, "a"))
    reader = _loaded(*updates)
    events: list[bytes] = []
    watch = reader.observe(lambda event: events.append(event.update))

    reader.apply_update(updates[0])

    reader.unobserve(watch)
    assert events == []


# --- facts: digests and ids (1.5, 1.6) --------------------------------------------------------------------------------
def test_a_deletion_moves_the_snapshot_and_not_the_state_vector() -> None:
    _, doc = _typed((0, "abc"))
    vector, snapshot = doc.get_state(), Snapshot.from_doc(doc).encode()

    del doc.get("text", type=Text)[1:2]

    assert doc.get_state() == vector
    assert Snapshot.from_doc(doc).encode() != snapshot


def test_snapshot_bytes_of_equal_replicas_differ_and_their_digests_do_not() -> None:
    differing = 0
    for seed in range(HISTORIES):
        history = life(seed)
        rng = random.Random(seed)
        replicas = [Document(history.state), Document(merge(rng.sample(history.updates, len(history.updates))))]
        stepwise = Document()
        for update in history.updates:
            stepwise.apply(update)
        replicas += [stepwise, Document(stepwise.state()), Document(replicas[1].diff(b"\0"))]

        assert len({replica.digest() for replica in replicas}) == 1, f"seed {seed}"
        differing += len({replica.snapshot() for replica in replicas}) > 1

    assert differing > HISTORIES // 4  # 150 of 200 when it was measured


def test_a_client_id_used_twice_diverges_with_equal_state_vectors() -> None:
    (ada,), _ = _typed((0, "ada"), client_id=7)
    (ben,), _ = _typed((0, "ben"), client_id=7)

    one, other = _loaded(ada, ben), _loaded(ben, ada)

    assert one.get_state() == other.get_state()
    assert (_text(one), _text(other)) == ("ada", "ben")


# --- facts: panics (1.7) ----------------------------------------------------------------------------------------------
PANICS = "0101010100000001010180808080011b01"
"""Accepted; then the document cannot be encoded."""


def test_a_panic_is_no_exception_and_document_makes_it_one() -> None:
    code = f"""
import pycrdt
from sync.document import Document
from sync.errors import DocumentBroken
doc = pycrdt.Doc()
doc.apply_update(bytes.fromhex("{PANICS}"))
try:
    doc.get_update()
except Exception as error:
    print("exception", type(error).__name__)
except BaseException as error:
    print("base", type(error).__name__)
document = Document(bytes.fromhex("{PANICS}"))
for read in (document.state, document.contents):
    try:
        read()
    except DocumentBroken as error:
        print(error)
"""
    child = in_child(code)

    assert child.returncode == 0, child.stderr
    broken = "document: state failed in pycrdt (PanicException); rebuild it from what is stored"
    assert child.stdout.splitlines() == ["base PanicException", broken, broken]


def test_bytes_that_are_no_update_break_a_document_too() -> None:
    with pytest.raises(DocumentBroken, match="apply failed in pycrdt"):
        Document(b"\xff")


def test_deep_nesting_of_shared_types_is_read_and_deleted_recursively() -> None:
    """Well-formed, 700 kB: deleting the outermost ends the process. `sync.nesting` bounds it before pycrdt sees it."""
    code = """
import sys
from sync.document import Document
document = Document(sys.stdin.buffer.read())
print("applied", flush=True)
document.apply(bytes.fromhex("000101010001"))
print("deleted")
"""
    check_update(nested(1_000))

    child = in_child(code, nested(100_000))

    assert child.stdout.split() == ["applied"]
    assert child.returncode < 0  # a signal


# --- facts: positions and values (1.8, 1.9) ---------------------------------------------------------------------------
def test_pycrdt_counts_text_in_utf8_bytes() -> None:
    _, doc = _typed((0, "日本語"))
    text = doc.get("text", type=Text)

    text.insert(3, "X")

    assert str(text) == "日X本語"
    assert len(text) == 10


def test_a_position_within_a_character_does_harm() -> None:
    code = """
import pycrdt
doc = pycrdt.Doc(); text = doc.get("text", type=pycrdt.Text); text.insert(0, "日本語テキスト")
try:
    text.insert(2, "X"); print(str(text) == "日X本語テキスト", str(text).count("X"), len(str(text)))
except BaseException as error:
    print(type(error).__name__)
"""
    child = in_child(code)

    assert child.stdout.strip() != "True 1 8"


@pytest.mark.parametrize("name", STOCK["v2"])
def test_v2_bytes_are_taken_as_v1_and_do_nothing_or_fail(name: str) -> None:
    doc: Doc[Any] = Doc()
    try:
        doc.apply_update(bytes.fromhex(STOCK["v2"][name]))
    except ValueError:
        return
    assert doc.get_update() == EMPTY_UPDATE


def test_bytes_behind_an_update_are_ignored() -> None:
    (update,), _ = _typed((0, "a"))

    assert _text(_loaded(update + b"behind")) == "a"


def test_an_exception_in_a_transaction_keeps_what_ran_before_it() -> None:
    _, doc = _typed((0, "a"))

    def halfway() -> None:
        with doc.transaction():
            doc.get("text", type=Text).insert(1, "b")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        halfway()

    assert _text(doc) == "ab"


def test_integers_come_back_as_floats_and_concurrent_additions_are_lost() -> None:
    ada, ben = Doc[Any](client_id=1), Doc[Any](client_id=2)
    ada.get("map", type=Map)["n"] = 1
    ben.apply_update(ada.get_update())
    for doc in (ada, ben):
        doc.get("map", type=Map)["n"] += 1
    ada.apply_update(ben.get_update())

    assert type(ada.get("map", type=Map)["n"]) is float
    assert ada.get("map", type=Map)["n"] == 2


def test_the_same_nested_container_made_twice_loses_one_side() -> None:
    ada, ben = Doc[Any](client_id=1), Doc[Any](client_id=2)
    for doc, name in ((ada, "ada"), (ben, "ben")):
        doc.get("map", type=Map)["list"] = Array([name])
    ada.apply_update(ben.get_update())

    assert len(ada.get("map", type=Map)["list"]) == 1


def test_two_replicas_order_the_keys_of_a_map_as_they_like() -> None:
    """Which is why nothing that is compared or shown is taken as pycrdt prints it."""
    texts = set()
    for _ in range(50):
        doc = Doc[Any](client_id=1)
        doc.get("map", type=Map).update({key: key for key in "abcdefgh"})
        texts.add(str(doc.get("map", type=Map)))

    assert len(texts) > 1


# --- Document ---------------------------------------------------------------------------------------------------------
def test_a_merge_of_many_in_a_tree_is_everything() -> None:
    for seed in range(0, HISTORIES, 5):
        history = life(seed, edits=3 * MERGE_FAN_IN)
        assert len(history.updates) > MERGE_FAN_IN

        merged = merge(history.updates)

        assert Document(merged).digest() == Document(history.state).digest()
        assert content_of(_loaded(merged)) == history.content


def test_a_merge_of_none_and_of_one_is_itself() -> None:
    (update,), _ = _typed((0, "a"))

    assert merge([]) == EMPTY_UPDATE
    assert merge([update]) is update


def test_a_merge_of_what_is_no_update_is_broken() -> None:
    with pytest.raises(DocumentBroken, match="merge failed"):
        merge([b"\xff", b"\xff"])


def test_the_diff_of_a_document_is_what_its_reader_lacks() -> None:
    for seed in range(HISTORIES):
        history = life(seed)
        whole, behind = Document(history.state), Document(merge(history.updates[: seed % len(history.updates)]))

        behind.apply(whole.diff(behind.state_vector()))

        assert behind.digest() == whole.digest()


def test_the_clocks_are_those_of_the_state_vector() -> None:
    history = life(3)

    assert Document(history.state).clocks() == history.clocks


def test_a_digest_leaves_out_what_says_nothing_and_tells_the_rest_apart() -> None:
    whole = digest_of({1: 5, 2: 7}, {1: [(0, 2)]})

    assert digest_of({2: 7, 3: 0, 1: 5}, {3: [], 1: [(0, 2)]}) == whole
    others = [({1: 5}, {1: [(0, 2)]}), ({1: 5, 2: 7}, {}), ({1: 5, 2: 7}, {2: [(0, 2)]}), ({1: 5, 2: 7}, {1: [(0, 1)]})]
    assert len({digest_of(clocks, deleted) for clocks, deleted in others} | {whole}) == 5


def test_a_snapshot_has_the_digest_of_what_is_read_in_it_in_whatever_order_it_is_written() -> None:
    clock_sizes = (0, 5, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**31 - 200)
    rng = random.Random(1)
    for _ in range(300):
        clients = rng.sample(range(1, 300), rng.randint(0, 4))
        written = write_var_uint(len(clients))
        for client in clients:
            starts = [rng.choice(clock_sizes) + rng.randrange(9) for _ in range(rng.randint(0, 5))]
            written += write_var_uint(client) + write_var_uint(len(starts))
            for start in starts if rng.random() < 0.5 else sorted(starts):
                written += write_var_uint(start) + write_var_uint(rng.choice((0, 1, 3, 127, 128, 190)))
        written += b"\2\7\x80\1\x09\0"

        clocks, deleted = decode_snapshot_bytes(written)

        assert clocks == {7: 128, 9: 0}
        assert all(b > a for spans in deleted.values() for a, b in spans)
        assert all(one[1] < two[0] for spans in deleted.values() for one, two in pairwise(spans))
        assert digest_of_snapshot(written) == digest_of(clocks, deleted)


# --- texts in code points ---------------------------------------------------------------------------------------------
def test_an_edit_counts_code_points_and_returns_its_update() -> None:
    document, reader = Document(), Document()
    text = ""
    rng = random.Random(4)
    for _ in range(300):
        at = rng.randint(0, len(text))
        deleted = min(len(text) - at, rng.choice((0, 0, 1, 3)))
        inserted = rng.choice(("", "a", "é", "日本", ASTRAL, f"x{ASTRAL}y"))

        update = document.edit_text("text", at, deleted, inserted)

        text = text[:at] + inserted + text[at + deleted :]
        check_update(update)
        reader.apply(update)
    assert document.text("text") == reader.text("text") == text
    assert reader.digest() == document.digest()


def test_an_edit_of_nothing_is_the_empty_update() -> None:
    assert Document().edit_text("text", 0, 0, "") == EMPTY_UPDATE


def test_a_replacement_is_one_update() -> None:
    document = Document()
    first = document.edit_text("text", 0, 0, "hello")

    second = document.edit_text("text", 1, 3, "ipp")

    assert check_update(second).deletes
    assert check_update(second).brings
    reader = Document(first)
    reader.apply(second)
    assert reader.text("text") == "hippo"


@pytest.mark.parametrize(("position", "deleted"), [(-1, 0), (0, -1), (4, 0), (0, 4), (3, 1), (2, 2)])
def test_an_edit_outside_the_text_is_refused_and_changes_nothing(position: int, deleted: int) -> None:
    document = Document()
    document.edit_text("text", 0, 0, f"é{ASTRAL}b")
    digest = document.digest()

    with pytest.raises(IndexError, match=r"text 'text': .* is outside its 3 characters"):
        document.edit_text("text", position, deleted, "X")

    assert document.digest() == digest


def test_an_edit_with_half_a_character_is_refused() -> None:
    document = Document()

    with pytest.raises(InvalidInput, match="lone surrogate"):
        document.edit_text("text", 0, 0, "a\ud83d")

    assert document.clocks() == {}


def _with_embeds() -> tuple[Document, Text]:
    """ä [1] b [2] [3] c"""
    document = Document()
    document.edit_text("text", 0, 0, "äbc")
    text = document.crdt.get("text", type=Text)
    for at, number in ((3, 3), (3, 2), (2, 1)):
        text.insert_embed(at, {"n": number})
    return document, text


def _pieces(text: Text) -> list[object]:
    return [piece if isinstance(piece, str) else int(piece["n"]) for piece, _ in text.diff()]


def test_embeds_have_no_position_and_what_is_inserted_comes_before_them() -> None:
    document, text = _with_embeds()
    assert _pieces(text) == ["ä", 1, "b", 2, 3, "c"]

    document.edit_text("text", 2, 0, "X")
    document.edit_text("text", 0, 0, "Y")

    assert document.text("text") == "YäbXc"
    assert _pieces(text) == ["Yä", 1, "bX", 2, 3, "c"]


def test_a_deletion_takes_the_embeds_within_it_and_not_those_at_its_edges() -> None:
    document, text = _with_embeds()

    document.edit_text("text", 1, 1, "")

    assert _pieces(text) == ["ä", 1, 2, 3, "c"]
    document.edit_text("text", 0, 2, "")
    assert _pieces(text) == []


def test_byte_offset_converts_within_the_text_only() -> None:
    text = f"aé日{ASTRAL}"

    assert [byte_offset(text, at) for at in range(5)] == [0, 1, 3, 6, 10]
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="the text has 4 characters"):
            byte_offset(text, outside)


# --- the room ---------------------------------------------------------------------------------------------------------
def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_only_document_imports_pycrdt() -> None:
    room = Path(__file__).resolve().parents[2] / "sync"

    importing = [path.name for path in sorted(room.glob("*.py")) if "pycrdt" in _imported(path)]

    assert importing == ["document.py"]


def test_who_holds_half_of_a_character_is_told_all_of_it() -> None:
    """pycrdt panics over a clock between the blocks of a character that was cut (tests/fuzz/corpus)."""
    cut = bytes.fromhex("0102070004010474657874" + "0661f09f988062" + "c407010703017801" + "070101" + "01")
    check_update(cut)
    raw: Doc[Any] = Doc()
    raw.apply_update(cut)
    with pytest.raises(BaseException, match="unwrap"):
        raw.get_update(b"\x01\x07\x03")

    for update in (cut, Document(client_id=7).edit_text("text", 0, 0, "a\N{GRINNING FACE}b")):
        for clock in range(6):
            whole = Document(update)
            part = Document(Document(client_id=7).edit_text("text", 0, 0, "a\ufffd\ufffdb"[:clock]))

            part.apply(whole.diff(part.state_vector()))

            assert part.clocks() == whole.clocks()
            assert part.digest() == whole.digest()
