"""The parts of `skerry torture`, each alone: a judge that overlooks something would call every campaign kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from server.torture.campaign import Outcome, Sample
from server.torture.faults import DESTROYING, KINDS, make_schedule, read_schedule, write_schedule
from server.torture.ground import PACKETS, QUOTA, RELAY, SMALL, Ground, NotAllowed
from server.torture.judge import Judge
from server.torture.launch import make_clock, set_clock
from server.torture.relay import Frames, Relay
from server.torture.report import write_report
from sync.errors import SkerryError

DOC = "notes/1"


# --- the judge --------------------------------------------------------------------------------------------------------
class Book:
    """A journal, written as an author would."""

    def __init__(self, path: Path, author: str = "ada") -> None:
        self.path = path / f"{author}.journal"
        self.author = author
        self.judge = Judge()

    def write(self, **line: object) -> Book:
        with self.path.open("a") as file:
            file.write(json.dumps({"ms": 5, **line}) + "\n")
        return self

    def tried(self, mark: str, deletes: list[str] | None = None) -> Book:
        return self.write(**{"try": mark, "doc": DOC, "root": "text", "deletes": deletes or []})

    def safe(self, mark: str, stage: str, at: str = "edge1") -> Book:
        return self.write(safe=[mark], stage=stage, at=at)

    def verdict(self, text: str) -> list[str]:
        self.judge.read(self.author, self.path)
        return self.judge.verdict(DOC, {"text": {"kind": "text", "value": text}})


ONE, TWO = "<ada.0a.1>", "<ada.0a.2>"


def test_what_was_promised_and_is_there_is_kept(tmp_path: Path) -> None:
    assert Book(tmp_path).tried(ONE).safe(ONE, "edge").verdict(ONE) == []


@pytest.mark.parametrize("stage", ["own", "edge", "log", "merged"])
def test_what_was_promised_at_any_stage_and_is_not_there_is_lost(tmp_path: Path, stage: str) -> None:
    (wrong,) = Book(tmp_path).tried(ONE).safe(ONE, stage).verdict("")

    assert f"LOST {ONE}" in wrong


def test_what_nobody_was_promised_may_be_there_or_not(tmp_path: Path) -> None:
    book = Book(tmp_path).tried(ONE)

    assert book.verdict("") == []
    assert book.verdict(ONE) == []


def test_what_is_there_twice_is_said(tmp_path: Path) -> None:
    (wrong,) = Book(tmp_path).tried(ONE).verdict(ONE + ONE)

    assert "2 times" in wrong


def test_what_nobody_wrote_is_said(tmp_path: Path) -> None:
    (wrong,) = Book(tmp_path).verdict(ONE)

    assert "by nobody" in wrong


def test_a_deletion_that_was_promised_and_is_undone_is_said(tmp_path: Path) -> None:
    book = Book(tmp_path).tried(ONE).safe(ONE, "edge").tried(TWO, [ONE])

    assert book.verdict(ONE) == []  # nobody was promised the deletion yet
    assert book.verdict(TWO) == []
    book.safe(TWO, "edge")
    (wrong,) = book.verdict(ONE + TWO)
    assert "is back" in wrong


def test_a_lost_place_voids_its_own_promise_and_no_other(tmp_path: Path) -> None:
    book = Book(tmp_path).tried(ONE).safe(ONE, "edge").tried(TWO).safe(TWO, "edge").safe(TWO, "log")
    assert len(book.verdict("")) == 2

    book.judge.void([ONE, TWO], "edge")

    (wrong,) = book.verdict("")
    assert f"LOST {TWO}" in wrong


def test_what_an_author_hears_of_a_lost_place_after_its_loss_promises_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path).tried(ONE)
    assert book.verdict("") == []
    book.judge.void([ONE], "edge")

    assert book.safe(ONE, "edge").verdict("") == []


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    book = Book(tmp_path).tried(ONE)
    with book.path.open("a") as file:
        file.write('{"ms": 6, "safe": ["<ada')
    assert book.verdict("") == []
    with book.path.open("a") as file:
        file.write('.0a.1>"], "stage": "edge", "at": "edge1"}\n')

    assert len(book.verdict("")) == 1


def test_what_an_edge_must_have_on_its_disk_is_what_it_said_since_then(tmp_path: Path) -> None:
    book = Book(tmp_path).tried(ONE).safe(ONE, "edge", "edge1").tried(TWO).safe(TWO, "edge", "ws://127.0.0.1:1")
    book.verdict("")

    assert book.judge.on_disk(("edge1", "ws://127.0.0.1:1"), 5) == {ONE, TWO}
    assert book.judge.on_disk(("edge1",), 5) == {ONE}
    assert book.judge.on_disk(("edge1",), 6) == set()


# --- the schedule -----------------------------------------------------------------------------------------------------
def test_a_schedule_comes_from_its_seed_alone() -> None:
    assert make_schedule(7, 5, 6) == make_schedule(7, 5, 6)
    assert make_schedule(7, 5, 6) != make_schedule(8, 5, 6)


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_has_every_kind_and_destroys_one_thing_a_round(seed: int) -> None:
    schedule = make_schedule(seed, 5, 5)

    kinds = [[fault.kind for fault in one.faults] for one in schedule.rounds]
    assert {kind for one in kinds for kind in one} == KINDS.keys()
    assert schedule == make_schedule(seed, 5, 5)
    assert {sum(kind in DESTROYING for kind in one) for one in kinds} == {1}
    assert schedule.count == 25


@pytest.mark.parametrize("nothing", ["rounds", "faults", "edges", "leaders", "clients"])
def test_a_campaign_of_nothing_is_refused(nothing: str) -> None:
    def count(of: str) -> int:
        return 0 if of == nothing else 1

    with pytest.raises(SkerryError, match="at least one"):
        make_schedule(
            7,
            count("rounds"),
            count("faults"),
            edges=count("edges"),
            leaders=count("leaders"),
            clients=count("clients"),
        )


def test_a_schedule_survives_its_file(tmp_path: Path) -> None:
    schedule = make_schedule(7, 5, 6, edges=2, leaders=1, clients=3)
    write_schedule(schedule, tmp_path / "schedule.json")

    assert read_schedule(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize(
    ("old", "new"),
    [('"kill"', '"tickle"'), ('"edge1"', '"edge9"'), ('"rounds"', '"turns"'), ("{", "[")],
    ids=["kind", "process", "field", "no JSON"],
)
def test_a_file_that_is_no_schedule_is_one_line(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "schedule.json"
    write_schedule(make_schedule(7, 12, 6), path)
    path.write_text(path.read_text().replace(old, new))

    with pytest.raises(SkerryError, match="no schedule") as caught:
        read_schedule(path)
    assert "\n" not in str(caught.value)


# --- the relay --------------------------------------------------------------------------------------------------------
MERGED = b"MSG torture.merged.notes%2F1 3 5\r\nhello\r\n"
CHANGE = b"HPUB torture.changes.0.notes%2F1 _INBOX.7 12 17\r\nNATS/1.0\r\n\r\nhello\r\n"
OTHER = b"PING\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_frames_are_found_however_the_stream_is_cut(size: int) -> None:
    stream = OTHER + MERGED + CHANGE + OTHER
    frames = Frames()

    found = [one for at in range(0, len(stream), size) for one in frames.feed(stream[at : at + size])]

    assert found == [
        ("", OTHER),
        ("torture.merged.notes%2F1", MERGED),
        ("torture.changes.0.notes%2F1", CHANGE),
        ("", OTHER),
    ]


def through_relay(mischief: str, sent: bytes, up: bool, enough: Callable[[bytes], bool]) -> bytes:
    """What arrives at the other end of a relay that does this, until it is enough."""

    async def run() -> bytes:
        far: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        server = await asyncio.start_server(lambda *pair: far.put_nowait(pair), "127.0.0.1", 0)
        relay = Relay("torture", "seed")
        await relay.start(server.sockets[0].getsockname()[1])
        if mischief:
            relay.mischief.add(mischief)
        near = await asyncio.open_connection("127.0.0.1", relay.port)
        ends = [near, await far.get()]
        (reader, _), (_, writer) = ends[::-1] if up else ends
        got = b""
        try:
            writer.write(sent)
            async with asyncio.timeout(20):
                while not enough(got):
                    got += await reader.read(1 << 16)
            return got
        finally:
            await relay.stop()
            writer.transport.abort()
            server.close()

    return asyncio.run(run())


END = b"PONG\r\n"


def numbered(count: int) -> list[bytes]:
    return [b"MSG torture.merged.d 3 4\r\n%04d\r\n" % number for number in range(count)]


def test_a_relay_that_is_left_alone_passes_every_byte_on() -> None:
    sent = b"".join(numbered(200)) + CHANGE + END

    assert through_relay("", sent, False, lambda got: got.endswith(END)) == sent


def test_a_relay_loses_some_broadcasts_and_nothing_else() -> None:
    sent = numbered(200)

    got = through_relay("drop", b"".join(sent) + CHANGE + END, False, lambda got: got.endswith(END))

    here = [one for one in sent if one in got]
    assert got == b"".join(here) + CHANGE + END
    assert 50 < len(here) < 190


def test_a_relay_lets_broadcasts_overtake_and_loses_none() -> None:
    sent = numbered(100)

    got = through_relay("reorder", b"".join(sent), False, lambda got: len(got) >= len(b"".join(sent)))

    frames = [frame for _, frame in Frames().feed(got)]
    assert sorted(frames) == sent
    assert frames != sent


def test_a_relay_repeats_broadcasts() -> None:
    sent = numbered(100)

    got = through_relay("duplicate", b"".join(sent), False, lambda got: len(got) >= len(b"".join(sent)) * 1.1)

    frames = [frame for _, frame in Frames().feed(got)]
    assert set(frames) == set(sent)
    assert len(frames) > 105


def test_a_relay_repeats_changes_towards_the_log_at_once() -> None:
    got = through_relay("repeat", CHANGE * 50 + END, True, lambda got: got.endswith(END))

    assert got.count(CHANGE) > 55
    assert got == CHANGE * got.count(CHANGE) + END


def with_relay(play: Callable[[Relay, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
    """`play` has a relay to an echo server, and a connection through it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        relay = Relay("torture", "seed")
        await relay.start(server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        try:
            async with asyncio.timeout(20):
                await play(relay, reader, writer)
        finally:
            writer.transport.abort()
            await relay.stop()
            server.close()

    asyncio.run(run())


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_swallowed_direction_is_silent_until_it_is_healed(way: str) -> None:
    async def play(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"PING\r\n"
        relay.swallow(way)
        writer.write(b"PONG\r\n")
        waiting = asyncio.create_task(reader.readline())
        _, silent = await asyncio.wait({waiting}, timeout=0.2)
        assert silent
        relay.heal()
        assert await waiting == b"PONG\r\n"

    with_relay(play)


def test_a_cut_resets_the_connection() -> None:
    async def play(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"PING\r\n"
        relay.cut()
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(100):
                pass

    with_relay(play)


# --- what the machine allows ------------------------------------------------------------------------------------------
GROUND = """
import errno, json, os, pathlib, socket, sys
from server.torture.ground import DISK_BYTES, Ground, fill, keep_disk, mount_disk

directory = pathlib.Path(sys.argv[1])
ground = Ground.found(directory, 2)
found = {"disks": ground.disks, "links": ground.links, "pid": os.getpid()}
if ground.small_disks:
    disk = directory / "disk"
    mount_disk(disk, 1 << 20)
    (disk / "kept").write_text("kept")
    ballast = fill(disk)
    try:
        (disk / "more").write_bytes(b"1")
    except OSError as error:
        found["full"] = error.errno == errno.ENOSPC
    ballast.unlink()
    keep_disk(disk)
    found["kept"] = (disk / "kept").read_text()
    mount_disk(directory / "left", 1 << 20)
    (directory / "left" / "file").write_text("gone with its process")
if ground.network is not None:
    listening = ground.network.listen(1)
    near = socket.create_connection(listening.getsockname(), 5)
    far, _ = listening.accept()
    near.settimeout(0.3)
    ground.network.cut(1)
    far.sendall(b"late")
    try:
        found["silent"] = not near.recv(9)
    except TimeoutError:
        found["silent"] = True
    ground.network.heal(1)
    near.settimeout(20)
    found["arrived"] = near.recv(9).decode()
print(json.dumps(found), flush=True)
sys.stdin.read()
"""


def test_small_disks_and_links_of_packets_are_real_or_named_and_gone_with_their_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", GROUND, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        process.kill()

    if "full" in found or found["disks"] == SMALL:
        assert (found["full"], found["kept"]) == (True, "kept")
        assert (tmp_path / "disk" / "kept").read_text() == "kept"  # seen from outside, where it was kept
        assert list((tmp_path / "left").iterdir()) == []
    else:
        assert found["disks"].startswith(QUOTA)
        assert found["disks"] != QUOTA  # why, behind it
    if found["links"] == PACKETS:
        assert (found["silent"], found["arrived"]) == (True, "late")
    else:
        assert found["links"].startswith(RELAY)
        assert found["links"] != RELAY
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    ends = time.monotonic() + 20
    while devices := [name for _, name in socket.if_nameindex() if name.startswith(f"sk{found['pid']}-")]:
        assert time.monotonic() < ends, devices
        time.sleep(0.05)  # the kernel takes a namespace down behind its last process


def test_a_campaign_without_the_right_to_it_says_what_it_does_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *arguments: object) -> None:
        raise NotAllowed(f"{name}: Operation not permitted")

    monkeypatch.setattr("server.torture.ground._call", refuse)

    ground = Ground.found(tmp_path)

    assert ground.disks == f"{QUOTA} (unshare: Operation not permitted)"
    assert ground.links.startswith(RELAY)
    assert ground.network is None
    assert not ground.small_disks


# --- the clock --------------------------------------------------------------------------------------------------------
def test_a_program_is_shown_another_time_and_the_same_monotonic_clock(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    make_clock(clock)
    set_clock(clock, 86_400 * 400)
    (tmp_path / "shown.py").write_text("import time\nprint(time.time(), time.time_ns(), time.monotonic())\n")

    done = subprocess.run(
        [sys.executable, "-m", "server.torture.launch", str(clock), "shown"],
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    shown, shown_ns, monotonic = map(float, done.stdout.split())
    assert shown > time.time() + 86_400 * 399
    assert shown_ns / 1e9 > time.time() + 86_400 * 399
    assert monotonic <= time.monotonic()


# --- the report -------------------------------------------------------------------------------------------------------
def test_a_report_is_json_and_a_plot_with_every_fault_marked(tmp_path: Path) -> None:
    faults: list[dict[str, object]] = [
        {"began": 1.0, "ended": 2.0, "kind": "kill", "target": "edge1", "seconds": 1.0},
        {"began": 3.0, "kind": "cut", "target": "edge1", "seconds": 1.0},
    ]
    outcome = Outcome(7, {}, injected=faults, violations=["<lost> & gone"])
    outcome.samples = [
        Sample(float(at), {"edge1": at}, None if at == 3 else at, {"edge1": at << 20}) for at in range(5)
    ]

    data, plot = write_report(outcome, tmp_path)

    assert plot is not None
    found = json.loads(data.read_text())
    assert found["kept"] is False
    assert found["seed"] == 7
    assert len(found["samples"]) == 5
    text = ElementTree.parse(plot).getroot()
    assert text.tag.endswith("svg")
    drawn = plot.read_text()
    for words in ("kill", "cut", "outbox", "lag", "memory", "seed 7"):
        assert words in drawn, words
