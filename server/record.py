"""A node that dies of an input does not die of it twice: what it is about to apply is on record before it does.

Room: three small files beside a node's others. `NAME.brink` is mapped into memory: what is written there is in the
kernel's hands at once and outlives the process, however it ends (no fsync: a power failure kills no document).
`NAME.fatal` is where Python writes when the process dies of its own signal. `NAME.deaths.json` is what was learnt.

After the first death over a document its updates are taken one by one (`sync.brink`), so that the second one names its
cause. What has killed twice is set aside and refused from then on, by what it brings: a client that sends it again
sends it in other bytes. A death from outside (SIGKILL: a person, a test, the kernel out of memory) says little, and
counts only where five in a row meet the same input.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import fcntl
import hashlib
import json
import logging
import mmap
import os
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from sync.brink import Brink, Doing
from sync.document import Document, merge
from sync.errors import InvalidInput, InvalidUpdate, StoreError
from sync.ids import DocId, parse_document_id
from sync.validate import Shape, check_update

from . import aside
from .log import named

__all__ = ["KILLS", "Death", "Record", "open_record", "place_for"]

log = logging.getLogger("skerry.record")

MAP_BYTES: Final = 1 << 20  # of one record; what is larger goes into a file of its own, `NAME.large`
THREADS: Final = 3  # that apply at one time: the loop's, an edge's that loads, a leader's that folds; a record each
BODY_AT: Final = 8
DEATHS_MAX: Final = 2  # of a signal of its own
KILLED_MAX: Final = 5  # from outside, in the midst of the same input
SLOTS_MAX: Final = 8  # nodes of one name on one machine
DEATHS_KEPT: Final = 1_000
SUSPECT_MS: Final = 24 * 3_600_000  # a document on record is taken one by one for so long
LARGE: Final = 0x80
KILLS: Final = "this has ended a node twice while it was applied; it is set aside and refused"
_CODES: Final = {Doing.LOAD: 1, Doing.APPLY: 2, Doing.READ: 3}
_DOINGS: Final = {code: doing for doing, code in _CODES.items()}
Ranges = list[tuple[int, int, int]]


@dataclass(slots=True)
class Death:
    """One or more deaths over the same input."""

    doc: str
    applied: bool
    """Updates; else the whole document, loaded or read."""
    brings: Ranges = field(default_factory=list)
    deletes: Ranges = field(default_factory=list)
    """Of what brings nothing."""
    digests: list[str] = field(default_factory=list)
    own: int = 0
    """Of a signal of its own."""
    others: int = 0
    at_ms: int = 0
    poison: bool = False

    def same(self, other: Death) -> bool:
        if (self.doc, self.applied) != (other.doc, other.applied):
            return False
        return not self.applied or bool(
            _common(self.brings, other.brings)
            or _common(self.deletes, other.deletes)
            or set(self.digests) & set(other.digests)
        )

    def again(self, other: Death) -> None:
        """The same input, seen more closely."""
        self.brings = _common(self.brings, other.brings)
        self.deletes = _common(self.deletes, other.deletes)
        self.digests = sorted({*self.digests, *other.digests})
        self.own += other.own
        self.others += other.others
        self.at_ms = other.at_ms
        self.poison = self.poison or self.own >= DEATHS_MAX or self.own + self.others >= KILLED_MAX


def _common(one: Ranges, two: Ranges) -> Ranges:
    found = []
    for client, first, following in one:
        for other, begin, end in two:
            if client == other and max(first, begin) < min(following, end):
                found.append((client, max(first, begin), min(following, end)))
    return found


def _digest(update: bytes) -> str:
    return hashlib.sha256(update).hexdigest()


def _death(doc: str, doing: Doing, updates: Sequence[bytes], *, own: bool) -> Death:
    death = Death(doc, doing is Doing.APPLY, own=int(own), others=int(not own), at_ms=time.time_ns() // 1_000_000)
    for update in updates:
        death.digests.append(_digest(update))
        try:
            shape = check_update(update)
        except InvalidUpdate:
            continue
        death.brings += shape.brings
        if not shape.brings:
            death.deletes += shape.deletes
    return death


def open_record(path: Path, kept: Path) -> Record | None:
    """The first of a few records at this path that no living process has; None, with a warning, where there is none."""
    for number in range(SLOTS_MAX):
        slot = path if number == 0 else path.with_name(f"{path.name}-{number + 1}")
        try:
            return Record(slot, kept)
        except BlockingIOError:
            continue
        except OSError as error:
            reason = error.strerror
            break
    else:
        reason = "all in use"
    log.warning("no_record detail=%r", f"{path}: {reason}; what ends this process may end it again")
    return None


def place_for(namespace: str, name: str, servers: Sequence[str]) -> Path:
    """Where a leader without a directory of its own keeps it: it has to outlive the process, not the machine.

    Raises OSError where somebody else has made that directory.
    """
    directory = Path(tempfile.gettempdir()) / f"skerry-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, f"{directory} is somebody else's; give the leader --data DIR")
    which = hashlib.sha256(",".join(servers).encode()).hexdigest()[:12]
    return directory / f"{namespace}-{name}-{which}"


class Record(Brink):
    """`Record(path)` looks at what the process before this one was doing.

    Raises OSError where the files cannot be made.
    """

    def __init__(self, path: Path, kept: Path) -> None:
        """`path`: the files' common beginning. `kept`: the directory for what is set aside."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._large = tuple(path.with_name(f"{path.name}.large{number or ''}") for number in range(THREADS))
        self._threads = {threading.get_ident(): 0}  # thread -> which record
        self._list = path.with_name(path.name + ".deaths.json")
        fatal = path.with_name(path.name + ".fatal")
        self.whole: DocId | None = None
        """The process before this one died of this document, loaded or read: `condemned` tells what to do with it."""
        self._deaths = self._known()
        self._encoded: list[tuple[DocId, bytes]] = [(DocId(""), b"")] * THREADS
        brink = path.with_name(path.name + ".brink")
        self._files = (brink, fatal, *self._large)
        self._fatal = fatal.open("a+")
        try:
            fcntl.flock(self._fatal, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two of one name on one machine
            if brink.exists():
                recorded, own = brink.read_bytes(), fatal.stat().st_size > 0
                for number, large in enumerate(self._large):
                    self._learn_of(recorded[number * MAP_BYTES :][:MAP_BYTES], large, own=own, kept=kept)
            self._fatal.truncate(0)
            faulthandler.enable(self._fatal, all_threads=False)
            with brink.open("wb") as file:
                # not a hole: a page of it that a full disk has no room for is a SIGBUS
                file.write(bytes(THREADS * MAP_BYTES))
            with brink.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), THREADS * MAP_BYTES)
        except BaseException:
            self._fatal.close()
            raise

    # --- what is being done ------------------------------------------------------------------------------------------
    def enter(self, doc: DocId, doing: Doing, updates: Sequence[bytes] = ()) -> None:
        number = self._number()
        if self._encoded[number][0] != doc:
            self._encoded[number] = doc, doc.encode()
        name = self._encoded[number][1]
        sizes = struct.pack(f"<HI{len(updates)}I", len(name), len(updates), *map(len, updates))
        body = b"".join((sizes, name, *updates))
        code = _CODES[doing]
        at = number * MAP_BYTES
        if len(body) > MAP_BYTES - BODY_AT:
            try:
                self._large[number].write_bytes(body)
            except OSError:
                return  # a full disk: nothing can be recorded, and nothing has to fail for that
            code |= LARGE
        else:
            self._map[at + BODY_AT : at + BODY_AT + len(body)] = body
        self._map[at] = code  # last: from here on, it holds

    def leave(self) -> None:
        self._map[self._number() * MAP_BYTES] = 0

    def _number(self) -> int:
        """Of this thread's record."""
        thread = threading.get_ident()
        number = self._threads.get(thread)
        if number is None:
            number = self._threads[thread] = min(len(self._threads), THREADS - 1)
        return number

    def close(self) -> None:
        """A clean end: nothing is left but what was learnt."""
        faulthandler.disable()
        self._map.close()
        for path in self._files:
            path.unlink(missing_ok=True)
        self._fatal.close()

    # --- what is known -----------------------------------------------------------------------------------------------
    @property
    def deaths(self) -> Sequence[Death]:
        return self._deaths

    def suspects(self, doc: DocId) -> bool:
        recent_ms = time.time_ns() // 1_000_000 - SUSPECT_MS
        return any(
            death.poison or (death.at_ms > recent_ms and (death.own or death.others > 1))
            for death in self._deaths
            if death.doc == doc
        )

    def refuse(self, doc: DocId, update: bytes, shape: Shape) -> None:
        for death in self._deaths:
            if not (death.poison and death.applied and death.doc == doc):
                continue
            brought, deleted = _common(death.brings, list(shape.brings)), _common(death.deletes, list(shape.deletes))
            if brought or deleted or _digest(update) in death.digests:
                raise InvalidUpdate(KILLS)

    def distrusts(self, doc: DocId) -> bool:
        """What was stored of it has ended the process, loaded or read: a leader folds the whole log instead."""
        return any(death.poison and not death.applied and death.doc == doc for death in self._deaths)

    def condemned(self, doc: DocId, pieces: Sequence[bytes]) -> bool:
        """Whether what is stored of this document is to be set aside: it has killed twice, or does in a child now.

        What is in it counts as having killed once from then on, whoever brings it again.
        """
        death = next((one for one in self._deaths if one.doc == doc and not one.applied), None)
        if death is None or not (death.poison or _kills(pieces)):
            return False
        death.poison = True
        self._keep(death)
        within = _death(doc, Doing.APPLY, pieces, own=True)
        known = next((one for one in self._deaths if one.same(within)), None)
        if known is not None:
            known.again(within)
        self._keep(known or within)
        return True

    def hear(self, doc: DocId, update: bytes) -> None:
        """Another node has died of this twice."""
        death = _death(doc, Doing.APPLY, [update], own=True)
        if not any(known.poison and known.same(death) for known in self._deaths):
            death.poison = True
            self._keep(death)

    # --- the process before this one ---------------------------------------------------------------------------------
    def _learn_of(self, recorded: bytes, large: Path, *, own: bool, kept: Path) -> None:
        code = recorded[0] if recorded else 0
        if not code:
            return
        try:
            body = large.read_bytes() if code & LARGE else recorded[BODY_AT:]
            name, updates = _decoded(body)
            doc, doing = parse_document_id(name), _DOINGS[code & ~LARGE]
        except (OSError, struct.error, UnicodeDecodeError, InvalidInput, KeyError) as error:
            log.warning("record_unreadable detail=%r", str(error))
            return
        death = _death(doc, doing, updates, own=own)
        known = next((one for one in self._deaths if one.same(death)), None)
        if known is None:
            known = death
            self._keep(death)
        else:
            known.again(death)
            self._keep(known)
        if not known.applied:
            self.whole = doc
        log.error("died_of doc=%s doing=%s deaths=%d", named(doc), doing.value, known.own + known.others)
        if not known.poison:
            return
        for update in updates:
            try:
                piece = aside.keep(kept, doc, "quarantined", update, KILLS)
                log.error("set_aside name=%s bytes=%d", piece.name, piece.bytes)
            except StoreError as error:
                log.error("not_set_aside doc=%s detail=%r", named(doc), str(error))

    def _known(self) -> list[Death]:
        try:
            found = [Death(**one) for one in json.loads(self._list.read_text("utf-8"))]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            log.warning("record_unreadable detail=%r", str(error))
            return []
        for death in found:
            death.brings = [(client, first, following) for client, first, following in death.brings]
            death.deletes = [(client, first, following) for client, first, following in death.deletes]
        return found

    def _keep(self, death: Death) -> None:
        """On disk when it returns. Where there are too many, the oldest that are no poison go first."""
        self._deaths = [one for one in self._deaths if one is not death] + [death]
        if len(self._deaths) > DEATHS_KEPT:
            self._deaths.sort(key=lambda one: (one.poison, one.at_ms))
            del self._deaths[0]
        fresh = self._list.with_name(self._list.name + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump([asdict(one) for one in self._deaths], file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._list)


def _kills(pieces: Sequence[bytes]) -> bool:
    """Loaded and read in a child, which is this process once more: does it die of a signal?"""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            faulthandler.disable()
            document = Document(merge(pieces))
            Document(document.state()).digest()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _decoded(body: bytes) -> tuple[str, list[bytes]]:
    length, count = struct.unpack_from("<HI", body)
    sizes = struct.unpack_from(f"<{count}I", body, 6)
    at = 6 + 4 * count
    name = body[at : at + length].decode()
    at += length
    updates = []
    for size in sizes:
        updates.append(body[at : at + size])
        at += size
    return name, updates
