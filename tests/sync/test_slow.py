"""A reader that is slower than its document costs a difference, never a queue (law 8)."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pycrdt
import pytest

from sync import extension, limits, wire
from sync.closing import CLOSE_LIMIT
from sync.edge import EdgeStep
from sync.ids import ConnId, Dot, Origin
from sync.presence import encode_awareness
from sync.slow import Readers
from sync.step import Close, Send, Step
from sync.validate import AwarenessEntry, check_state_vector
from tests.sync.stage import PLAN, Ada, Island, Sea, frame

ADA, BEN, CYD = 1, 2, 3


@dataclass
class Shore(Island):
    """An edge whose readers may be slow; what each was sent, as bytes and in order."""

    raw: dict[int, list[bytes]] = field(default_factory=dict)
    extended: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.readers = Readers(self.edge)

    def do(self, step: EdgeStep) -> None:
        self.perform(self.readers.sift(step, self.now) if self.readers else step)

    def perform(self, step: EdgeStep) -> None:
        for effect in step.now:
            if isinstance(effect, Send):
                for conn in effect.conns:
                    self.raw.setdefault(conn, []).append(effect.frame)
            elif isinstance(effect, Close):
                self.closed[effect.conn] = (effect.code, effect.reason)
        rest = tuple(effect for effect in step.now if not isinstance(effect, Send | Close))
        super().do(Step(rest, step.commit))

    def send(self, conn: int, data: bytes) -> None:
        if not self.readers.heard(ConnId(conn), data):
            super().send(conn, data)

    def join(self, conn: int, extended: bool = False, read_only: bool = False) -> None:
        self.do(self.edge.opened(ConnId(conn), PLAN, self.now, extended, read_only))
        self.send(conn, wire.encode(wire.SyncStep1(b"\x00")))

    def flush(self) -> None:
        if self.edge.wants_flush:
            step = self.edge.flush(self.now, 1_000_000 + self.now)
            self.perform(self.readers.flushed(step, self.now) if self.readers else step)

    def end_commits(self) -> None:
        commits, self.commits = self.commits, []
        for commit in commits:
            self.store.commit(commit.writes)
            step = self.edge.committed(commit.ticket, self.now)
            self.perform(self.readers.committed(commit.ticket, step, self.now))

    def commit(self) -> None:
        while self.edge.wants_flush or self.commits:
            self.flush()
            self.end_commits()

    def slow(self, conn: int) -> None:
        self.readers.slow(ConnId(conn))

    def drained(self, conn: int) -> None:
        self.perform(self.readers.drained(ConnId(conn), self.now))

    def messages(self, conn: int) -> list[object]:
        return [extension.decode(data) for data in self.raw.get(conn, [])]

    def seen(self, conn: int) -> str:
        """The text of a client that has applied all that it was sent, in order."""
        crdt: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc()
        for message in self.messages(conn):
            if isinstance(message, wire.Update | wire.SyncStep2):
                crdt.apply_update(message.update)
        return str(crdt.get("text", type=pycrdt.Text))

    def forget(self, conn: int) -> None:
        self.raw[conn] = []


@pytest.fixture
def shore() -> Shore:
    return Shore("a", 1)


def test_a_slow_reader_is_sent_nothing_and_then_one_difference(shore: Shore) -> None:
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    shore.send(ADA, frame(ada.type("before ")))
    shore.commit()

    shore.slow(BEN)
    sent = len(shore.raw[BEN])
    for letter in "while it is slow":
        shore.send(ADA, frame(ada.type(letter)))
        shore.commit()
    assert len(shore.raw[BEN]) == sent

    shore.drained(BEN)
    assert len(shore.raw[BEN]) == sent + 1
    assert len(shore.raw[BEN][-1]) < 80  # not the document: what it lacked, as one
    assert shore.seen(BEN) == str(ada.text)
    assert not shore.readers

    shore.send(ADA, frame(ada.type(", after")))
    shore.commit()
    assert len(shore.raw[BEN]) == sent + 2
    assert shore.seen(BEN) == str(ada.text)


def test_a_deletion_alone_reaches_a_reader_that_was_slow(shore: Shore) -> None:
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    shore.send(ADA, frame(ada.type("abc")))
    shore.commit()

    shore.slow(BEN)
    shore.send(ADA, frame(ada.delete_first()))
    shore.commit()
    shore.drained(BEN)

    assert shore.seen(BEN) == "bc"


def test_what_was_let_in_before_and_not_yet_sent_is_in_the_difference(shore: Shore) -> None:
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    shore.send(ADA, frame(ada.type("pending")))

    shore.slow(BEN)
    shore.commit()
    assert shore.seen(BEN) == ""

    shore.drained(BEN)
    assert shore.seen(BEN) == "pending"


def test_a_writer_that_reads_slowly_sees_its_own_only_from_the_disk(shore: Shore) -> None:
    """Invariant 2, while others keep the disk busy all the time."""
    ada, ben = Ada(11), Ada(12)
    shore.join(ADA)
    shore.join(BEN)
    shore.commit()
    shore.slow(ADA)
    shore.send(ADA, frame(ada.type("mine ")))
    shore.flush()  # on its way
    shore.send(BEN, frame(ben.type("yours ")))

    shore.drained(ADA)
    assert shore.seen(ADA) == ""
    shore.end_commits()  # the disk has the first, and the second is pending
    assert shore.seen(ADA) == ""
    shore.flush()
    shore.send(BEN, frame(ben.type("later ")))
    assert shore.seen(ADA) == ""
    shore.end_commits()

    assert sorted(shore.seen(ADA).split()) == ["mine", "yours"]
    shore.commit()
    assert sorted(shore.seen(ADA).split()) == ["later", "mine", "yours"]
    assert not shore.readers


def test_a_difference_holds_nothing_that_is_on_its_way_to_the_disk(shore: Shore) -> None:
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    shore.slow(ADA)
    shore.send(BEN, frame(Ada(12).type("yours ")))
    shore.commit()
    shore.send(ADA, frame(ada.type("mine ")))
    shore.flush()

    shore.drained(ADA)  # on its way, and nothing pending
    assert shore.seen(ADA) == ""

    shore.end_commits()
    assert sorted(shore.seen(ADA).split()) == ["mine", "yours"]
    assert not shore.readers


def test_what_came_from_the_log_waits_for_the_disk_as_well(shore: Shore) -> None:
    """Else a writer that roamed would take it for the echo that says "on disk"."""
    other = Island("b", 2)
    sea = Sea(shore, other)
    ada = Ada(11)
    other.open(9)
    shore.join(ADA)
    sea.settle()
    shore.slow(ADA)
    other.send(9, frame(ada.type("mine")))
    other.commit()
    (change,) = other.published
    version = sea.log.append(change)
    sea.chair.deliver(version.seq)
    shore.do(shore.edge.merged(sea.chair.said.pop(), shore.now))

    shore.drained(ADA)
    assert shore.seen(ADA) == ""
    shore.commit()
    assert shore.seen(ADA) == "mine"


def test_the_echo_of_a_repeat_is_owed_too(shore: Shore) -> None:
    """A client that repeats what is here long since waits for it to be "on disk" all the same."""
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    typed = ada.type("again")
    shore.send(ADA, frame(typed))
    shore.commit()
    shore.forget(ADA)

    shore.slow(ADA)
    shore.send(BEN, frame(Ada(12).type("so that the clocks of the slow one are exact")))
    shore.commit()
    shore.send(ADA, frame(typed))
    shore.commit()
    shore.drained(ADA)

    assert "again" in shore.seen(ADA)


def test_a_slow_readers_question_is_answered_when_it_reads_again(shore: Shore) -> None:
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    shore.send(ADA, frame(ada.type("abc")))
    shore.commit()
    shore.forget(BEN)

    shore.slow(BEN)
    has = ada.crdt.get_state()
    shore.send(ADA, frame(ada.type("def")))
    shore.commit()
    for _ in range(100):
        shore.send(BEN, wire.encode(wire.SyncStep1(has)))
    assert shore.raw[BEN] == []
    shore.drained(BEN)

    (answer,) = shore.messages(BEN)
    assert isinstance(answer, wire.SyncStep2)
    ben: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc()
    ben.apply_update(answer.update)
    assert str(ben.get("text", type=pycrdt.Text)) == ""  # the end alone, as it asked
    ada.crdt.apply_update(answer.update)
    assert str(ada.text) == "abcdef"


def test_a_question_from_before_is_answered_when_it_may_be(shore: Shore) -> None:
    """The first open of an unknown document waits for the leader, slow or not."""
    shore.link()
    shore.join(BEN)
    shore.slow(BEN)
    shore.send(BEN, wire.encode(wire.SyncStep1(b"\x00")))
    shore.drained(BEN)
    assert shore.raw.get(BEN, []) == []

    shore.tick(limits.FIRST_OPEN_MS_MAX)
    assert any(isinstance(message, wire.SyncStep2) for message in shore.messages(BEN))


def test_presence_that_a_slow_reader_missed_is_told_as_it_is_now(shore: Shore) -> None:
    def says(client: int, clock: int, state: object) -> bytes:
        entry = AwarenessEntry(client, clock, json.dumps(state))
        return wire.encode(wire.AwarenessUpdate(encode_awareness([entry])))

    for conn in (ADA, BEN, CYD):
        shore.join(conn)
    shore.send(CYD, says(13, 1, {"name": "cyd"}))
    shore.forget(BEN)

    shore.slow(BEN)
    for clock in range(1, 1000):
        shore.send(ADA, says(11, clock, {"at": clock}))
    shore.do(shore.edge.closed(ConnId(CYD), shore.now))
    assert shore.raw[BEN] == []
    shore.drained(BEN)

    (told,) = shore.raw[BEN]
    assert len(told) < 100
    assert b'"at": 999' in told
    assert b"null" in told  # cyd has gone


def test_edits_of_a_slow_client_of_the_extension_are_told_safe_in_order(shore: Shore) -> None:
    sea = Sea(shore)
    ada = Ada(11)
    shore.join(ADA, extended=True)
    sea.settle()
    shore.forget(ADA)

    shore.slow(ADA)
    dots = [Dot(Origin(77), seq) for seq in (1, 2)]
    for dot, text in zip(dots, ("one ", "two "), strict=True):
        shore.send(ADA, extension.encode(extension.Edit(dot, "ada", "", "", ada.type(text))))
        sea.settle()
    assert shore.raw[ADA] == []
    shore.drained(ADA)

    messages = shore.messages(ADA)
    assert isinstance(messages[0], wire.Update)
    assert isinstance(messages[1], extension.At)
    told = [(m.stage.name, dot.seq) for m in messages if isinstance(m, extension.Safe) for dot in m.dots]
    assert told == [(stage, seq) for seq in (1, 2) for stage in ("EDGE", "LOG", "MERGED")]
    versions = [m.version for m in messages if isinstance(m, extension.Safe) and m.version is not None]
    assert messages[1].version == max(versions)


def test_who_writes_and_never_reads_is_closed_when_too_much_is_owed(
    shore: Shore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READER_KEPT_BYTES_MAX", 5_000)
    ada, ben = Ada(11), Ada(12)
    shore.join(ADA, extended=True)
    shore.join(BEN)
    shore.slow(ADA)

    for seq in range(1, 1_000):
        shore.send(ADA, extension.encode(extension.Edit(Dot(Origin(77), seq), "ada", "", "", ada.type("x"))))
        shore.commit()
        if ADA in shore.closed:
            break

    code, reason = shore.closed[ADA]
    assert code == CLOSE_LIMIT
    assert "retry after" in reason
    assert 20 < seq < 200
    assert not shore.readers
    shore.send(BEN, frame(ben.type("goes on")))
    shore.commit()
    assert "goes on" in shore.seen(BEN)


def test_slow_again_before_the_difference_has_gone_out(shore: Shore) -> None:
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    shore.slow(BEN)
    shore.send(ADA, frame(ada.type("one ")))
    shore.drained(BEN)
    shore.flush()
    shore.slow(BEN)
    shore.end_commits()
    assert shore.seen(BEN) == "one "  # it was made already

    shore.send(ADA, frame(ada.type("two ")))
    shore.commit()
    assert shore.seen(BEN) == "one "
    shore.drained(BEN)
    assert shore.seen(BEN) == "one two "


def test_a_slow_reader_whose_document_is_read_anew_gets_all_of_it(shore: Shore) -> None:
    ada = Ada(11)
    shore.join(ADA)
    shore.join(BEN)
    shore.send(ADA, frame(ada.type("kept ")))
    shore.commit()

    shore.slow(BEN)
    shore.forget(BEN)
    host = shore.edge.hosted[PLAN]
    shore.do(shore.edge.broken(host, "pycrdt broke"))
    shore.send(ADA, frame(ada.type("and more")))
    shore.commit()
    shore.drained(BEN)

    assert shore.seen(BEN) == "kept and more"


def test_a_closed_connection_is_owed_nothing(shore: Shore) -> None:
    shore.join(ADA)
    shore.slow(ADA)
    shore.readers.closed(ConnId(ADA))
    assert not shore.readers


@pytest.mark.parametrize("seed", range(40))
def test_whoever_is_slow_whenever_ends_equal_and_hears_its_own_from_the_disk_only(seed: int) -> None:
    chance = random.Random(seed)
    shore, other = Shore("a", 1), Island("b", 2)
    sea = Sea(shore, other)
    editors = {conn: Ada(10 + conn) for conn in (ADA, BEN, CYD)}
    far = Ada(20)
    for conn in editors:
        shore.join(conn)
    other.open(9)
    sea.settle()
    checked = 0
    for _ in range(120):
        conn = chance.choice(list(editors))
        match chance.choice(("type", "type", "delete", "far", "slow", "drained", "flush", "end", "settle", "read")):
            case "type":
                shore.send(conn, frame(editors[conn].type(chance.choice("abc"))))
            case "delete" if len(editors[conn].text):
                shore.send(conn, frame(editors[conn].delete_first()))
            case "far":
                other.send(9, frame(far.type("F")))
                other.commit()
            case "slow":
                shore.slow(conn)
            case "drained":
                shore.drained(conn)
            case "flush":
                shore.flush()
            case "end":
                shore.end_commits()
            case "settle":
                sea.settle()
            case "read":  # one whose echo came has it on the disk
                on_disk = pycrdt.Doc[pycrdt.Text]()
                stored = shore.store.load(PLAN)
                for update in [*([stored.state] if stored.state else []), *stored.updates] if stored else []:
                    on_disk.apply_update(update)
                has = _clocks(on_disk)
                echoed: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc()
                for message in shore.messages(conn):
                    if isinstance(message, wire.Update | wire.SyncStep2):
                        echoed.apply_update(message.update)
                own = 10 + conn
                assert _clocks(echoed).get(own, 0) <= has.get(own, 0)
                checked += 1
    for conn in editors:
        shore.drained(conn)
    sea.settle()
    for conn in editors:
        shore.drained(conn)

    assert not shore.readers
    host = shore.edge.hosted[PLAN]
    assert host.replica is not None
    for conn in editors:
        crdt: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc()
        for message in shore.messages(conn):
            if isinstance(message, wire.Update | wire.SyncStep2):
                crdt.apply_update(message.update)
        editors[conn].crdt.apply_update(crdt.get_update())
        assert str(editors[conn].text) == str(host.replica.materialise().crdt.get("text", type=pycrdt.Text)), conn
        assert _clocks(crdt) == _clocks(editors[conn].crdt)  # also its own came back
    assert checked


def _clocks(crdt: pycrdt.Doc[pycrdt.Text]) -> dict[int, int]:
    return {client: clock for client, clock in check_state_vector(crdt.get_state()).items() if clock}
