"""Large frames: checked in a thread, taken in pieces, in the order in which their connection sent them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import ParamSpec

import pytest

from server.large import LargeFrames, in_pieces
from sync import extension, wire
from sync.errors import InvalidUpdate, LimitReached, SkerryError
from sync.ids import ConnId, Dot, Origin
from sync.lib0 import write_var_uint
from sync.limits import LARGE_FRAME_BYTES, PENDING_BYTES_MAX, SLICE_STRUCTS, WAITING_BYTES_HELD
from sync.replica import Replica
from sync.splits import Into
from sync.validate import check_update
from tests.sync.stage import PLAN, Ada, frame
from tests.sync.test_slices import letters

ADA, BEN = ConnId(1), ConnId(2)
COUNT = 5 * SLICE_STRUCTS
LARGE = frame(letters(COUNT))
SMALL = frame(Ada(9).type("small"))


P = ParamSpec("P")


def on_a_loop(story: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    @wraps(story)
    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(story(*args, **kwargs))

    return told


class Desk:
    """What a daemon is to `LargeFrames`."""

    def __init__(self) -> None:
        self.delivered: list[tuple[ConnId, bytes]] = []
        self.refused: list[tuple[ConnId, SkerryError]] = []
        self.pending: int | None = 0
        self.document = Replica(PLAN)
        self.tasks: set[asyncio.Task[None]] = set()
        self.large = LargeFrames(
            self.spawn,
            self.deliver,
            self.refuse,
            lambda _: self.pending,
            self.begins,
            self.replica,
            lambda _: self,
        )
        self.pauses: list[str] = []
        self.begun: list[tuple[ConnId, int]] = []

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(work))

    def deliver(self, conn: ConnId, piece: bytes) -> None:
        self.delivered.append((conn, piece))

    def replica(self, conn: ConnId) -> Replica | None:
        return None if self.pending is None else self.document

    def begins(self, conn: ConnId) -> None:
        self.begun.append((conn, len(self.delivered)))

    def refuse(self, conn: ConnId, error: SkerryError) -> None:
        self.refused.append((conn, error))
        self.large.closed(conn)

    def send(self, conn: ConnId, data: bytes) -> None:
        if not self.large.takes(conn, data):
            self.deliver(conn, data)

    def pause(self) -> None:
        self.pauses.append("pause")

    def resume(self) -> None:
        self.pauses.append("resume")

    async def idle(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*self.tasks)
        self.large.stop()


def text_of(frames: list[bytes]) -> str:
    replica = Replica(PLAN)
    for each in frames:
        message = extension.decode(each)
        assert isinstance(message, wire.Update | wire.SyncStep2 | extension.Edit)
        replica.take(message.update, check_update(message.update), 0)
    return replica.materialise().text("r")


def test_pieces_say_what_the_frame_said() -> None:
    update = letters(COUNT)
    dot = Dot(Origin(3), 1)
    updates = in_pieces(frame(update), Into())
    steps = in_pieces(wire.encode(wire.SyncStep2(update)), Into())
    edits = in_pieces(extension.encode(extension.Edit(dot, "ada", "", "", update)), Into())

    assert text_of(updates) == text_of(steps) == text_of(edits) == "x" * COUNT
    assert all(isinstance(wire.decode_frame(each), wire.SyncStep2) for each in steps)
    named = [message for each in edits if isinstance(message := extension.decode(each), extension.Edit)]
    assert [(edit.dot, edit.actor) for edit in named] == [(dot, "ada")]
    assert extension.decode(edits[-1]) == named[0]


def test_one_large_text_is_one_piece() -> None:
    pasted = frame(Ada(1).type("x" * 100_000))

    assert in_pieces(pasted, Into()) == [pasted]


@on_a_loop
async def test_what_comes_behind_a_large_frame_waits_and_other_connections_do_not() -> None:
    desk = Desk()

    desk.send(ADA, LARGE)
    desk.send(ADA, SMALL)
    desk.send(BEN, SMALL)
    assert desk.delivered == [(BEN, SMALL)]
    await desk.idle()

    of_ada = [data for conn, data in desk.delivered if conn == ADA]
    assert of_ada[-1] == SMALL
    assert desk.begun == [(ADA, 1)], "before the first piece, and for none of the others"
    assert text_of(of_ada[:-1]) == "x" * COUNT
    desk.send(ADA, SMALL)
    assert desk.delivered[-1] == (ADA, SMALL)


@on_a_loop
async def test_it_is_checked_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("server.large.check_update", lambda update: seen.append(threading.get_ident()))
    desk = Desk()

    desk.send(ADA, LARGE)
    await desk.idle()

    assert len(seen) == 1
    assert seen[0] != threading.get_ident()


@on_a_loop
async def test_a_piece_waits_until_the_one_before_was_flushed() -> None:
    desk = Desk()
    desk.pending = 1
    desk.send(ADA, LARGE)
    for _ in range(20):
        desk.large.moved()
        await asyncio.sleep(0.001)
    assert desk.delivered == []

    desk.pending = 0
    desk.large.moved()
    await desk.idle()
    assert len(desk.delivered) == COUNT // SLICE_STRUCTS


@on_a_loop
async def test_a_document_that_is_being_loaded_is_waited_for() -> None:
    desk = Desk()
    desk.pending = None
    desk.send(ADA, LARGE)
    await asyncio.sleep(0.05)
    assert desk.delivered == []

    desk.pending = 0
    desk.large.moved()
    await desk.idle()
    assert text_of([data for _, data in desk.delivered]) == "x" * COUNT


def of_a_long_text() -> Replica:
    return Replica(PLAN, b"\1\1\1\0\4\1\1r" + write_var_uint(2_000_000) + b"x" * 2_000_000 + b"\0")


RANGES = [at * 8_000 for at in range(200)]
SHORT = b"\0\1\1" + write_var_uint(len(RANGES)) + b"".join(write_var_uint(at) + b"\1" for at in RANGES)
NAMED = extension.encode(extension.Edit(Dot(Origin(3), 1), "ada", "why", "whence", Ada(9).type("a")))


@on_a_loop
async def test_in_a_large_document_a_short_frame_is_cut_too_and_a_keystroke_is_not() -> None:
    desk = Desk()
    assert len(frame(SHORT)) < LARGE_FRAME_BYTES

    desk.send(ADA, frame(SHORT))
    assert desk.delivered == [(ADA, frame(SHORT))]

    desk.document = of_a_long_text()
    desk.delivered.clear()
    desk.send(BEN, SMALL)
    desk.send(BEN, NAMED)
    assert desk.delivered == [(BEN, SMALL), (BEN, NAMED)], "its name is not counted"
    desk.send(ADA, frame(SHORT))
    await desk.idle()

    pieces = [data for conn, data in desk.delivered if conn == ADA]
    assert len(pieces) > 1


@on_a_loop
async def test_while_a_document_is_loaded_nobody_knows_and_a_question_goes_on() -> None:
    desk = Desk()
    desk.pending = None
    question = wire.encode(wire.SyncStep1(b"\1\1" + write_var_uint(1 << 30) + bytes(60)))

    desk.send(BEN, question)
    desk.send(ADA, frame(SHORT))
    await asyncio.sleep(0)
    assert desk.delivered == [(BEN, question)]

    desk.document, desk.pending = of_a_long_text(), 0
    desk.large.moved()
    await desk.idle()
    assert len(desk.delivered) > 2


@on_a_loop
async def test_bad_bytes_are_refused_and_nothing_behind_them_is_taken() -> None:
    desk = Desk()

    desk.send(ADA, frame(letters(COUNT)[:-1] + b"\1"))
    desk.send(ADA, SMALL)
    await desk.idle()

    assert desk.delivered == []
    ((conn, error),) = desk.refused
    assert conn == ADA
    assert isinstance(error, InvalidUpdate)


@on_a_loop
async def test_a_connection_that_closes_takes_with_it_what_waits() -> None:
    desk = Desk()
    desk.pending = 1
    desk.send(ADA, LARGE)
    await asyncio.sleep(0.02)

    desk.large.closed(ADA)
    await desk.idle()

    assert desk.delivered == []


@on_a_loop
async def test_whose_frames_wait_is_not_read_until_they_are_worked_off() -> None:
    pasted = frame(Ada(1).type("x" * (WAITING_BYTES_HELD // 4)))
    desk = Desk()
    desk.pending = None
    for _ in range(3):
        desk.send(ADA, pasted)
    assert desk.pauses == []

    desk.send(ADA, pasted)
    desk.send(ADA, pasted)
    assert desk.pauses == ["pause"], "once"

    desk.pending = 0
    desk.large.moved()
    await desk.idle()
    assert desk.pauses == ["pause", "resume"]
    assert len(desk.delivered) == 5


@on_a_loop
@pytest.mark.parametrize("refused", [False, True])
async def test_who_closes_or_is_refused_while_it_waits_is_read_again_for_its_other_documents(refused: bool) -> None:
    desk = Desk()
    desk.pending = None
    desk.send(ADA, frame(letters(COUNT)[:-1] + b"\1"))
    for _ in range(2):
        desk.send(ADA, frame(Ada(1).type("x" * WAITING_BYTES_HELD)))
    await asyncio.sleep(0)
    assert desk.pauses == ["pause"]

    if refused:
        desk.pending = 0
        desk.large.moved()
    else:
        desk.large.closed(ADA)
    await desk.idle()

    assert desk.pauses == ["pause", "resume"]
    assert bool(desk.refused) is refused


@on_a_loop
async def test_what_waits_is_bounded() -> None:
    desk = Desk()
    desk.pending = 1
    desk.send(ADA, LARGE)
    for _ in range(PENDING_BYTES_MAX // LARGE_FRAME_BYTES + 1):
        if desk.refused:
            break
        desk.send(ADA, SMALL + bytes(LARGE_FRAME_BYTES - len(SMALL)))

    ((conn, error),) = desk.refused
    assert conn == ADA
    assert isinstance(error, LimitReached)
    await desk.idle()
