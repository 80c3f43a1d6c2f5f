"""One process' link to the log: noticing that it is cut, connecting again, looking whether the log is the one it knew.

Room: what `server.bus` does, in simulated time: sessions, witness, epoch, publishing with acknowledgements. Nothing
here knows whether an edge or a leader owns it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sync.change import Change
from sync.headers import encode_change
from sync.ids import DocId, Dot, Version
from sync.limits import PUBLISH_MS_MAX

from .network import Link
from .schedule import Action

if TYPE_CHECKING:
    from .world import World

__all__ = ["Owner", "Uplink", "Witness"]

Witness = tuple[Version, DocId, Dot]


@dataclass(frozen=True, slots=True)
class Owner:
    """What the process wants to hear and is asked."""

    up: Callable[[int, bool], None]
    down: Callable[[], None]
    witness: Callable[[], Witness | None]
    published: Callable[[DocId, Dot, Version], None]
    publish_failed: Callable[[DocId, Dot], None]


class Uplink:
    def __init__(self, world: World, name: str, owner: Owner) -> None:
        self.world = world
        self.name = name
        self.owner = owner
        self.link = Link(name)
        self.linked = False
        self.epoch = 0
        self._alive = False
        self.session = 0
        """Grows with every change of the link: what was on its way for an older one is dropped."""
        self._acked_seq = 0
        self._doubted: tuple[Version, DocId] | None = None

    # --- the process and its link ------------------------------------------------------------------------------------
    def boot(self) -> None:
        self._alive = True
        self.session += 1
        self._try(self.session, self.world.rng.randint(5, 300))

    def halt(self) -> None:
        self._alive = self.linked = False
        self.session += 1

    def cut(self, out: bool, inward: bool) -> None:
        """Nobody is told: the heartbeat notices, later."""
        self.link.out_cut, self.link.in_cut = out, inward
        self.world.after(self.world.rng.randint(200, 4_000), self._notice)

    def heal(self) -> None:
        self.link.out_cut = self.link.in_cut = False

    def drop(self) -> None:
        """The connection ends, as when the server restarts."""
        if self.linked:
            self._down()

    def _notice(self) -> None:
        if self.link.cut and self.linked:
            self._down()

    def _down(self) -> None:
        self.linked = False
        self.session += 1
        self.world.note(self.name, "link down")
        self.owner.down()
        self._try(self.session, self.world.rng.randint(20, 1_000))

    def _try(self, session: int, delay_ms: int) -> None:
        self.world.after(delay_ms, lambda: self._connect(session))

    def _connect(self, session: int) -> None:
        if session != self.session or not self._alive:
            return
        if self.link.cut:
            self._try(session, self.world.rng.randint(100, 800))
            return
        self.world.after(self.world.rng.randint(2, 20), lambda: self._judge(session))

    def _judge(self, session: int) -> None:
        """Is it the log that this process knew? Where its tail is gone, the log's epoch is raised for everybody."""
        if session != self.session:
            return
        log, witness, intact = self.world.log, self.owner.witness(), True
        if witness is not None:
            version, doc, dot = witness
            found = log.message(version.seq)
            if version.epoch != log.epoch:
                intact = False
            elif found is None or found.doc != doc or found.headers.get("Skerry-Dot") != str(dot):
                intact = False
                log.raise_epoch()
                self.world.note(self.name, f"raised the epoch to {log.epoch}")
        if self._misses():
            intact = False
            log.raise_epoch()
            self.world.note(self.name, f"raised the epoch to {log.epoch}, for another")
        self._doubted = None
        epoch = log.epoch
        self.world.after(self.world.rng.randint(1, 10), lambda: self._up(session, epoch, intact))

    def _up(self, session: int, epoch: int, intact: bool) -> None:
        if session != self.session:
            return
        if self.link.cut:
            self._try(session, self.world.rng.randint(100, 800))
            return
        intact = intact and self.epoch in (0, epoch)
        self.linked, self.epoch, self._acked_seq = True, epoch, 0
        self.world.note(self.name, f"link up, epoch {epoch}{'' if intact else ', not intact'}")
        self.owner.up(epoch, intact)
        self._look_later(session)

    def _look_later(self, session: int) -> None:
        self.world.after(self.world.rng.randint(1_000, 5_000), lambda: self._look(session, again=True))

    def look_for(self, version: Version, doc: DocId) -> None:
        """Somebody stands at this place."""
        self._doubted = (version, doc)
        self.look_now()

    def _misses(self) -> bool:
        """Is a place gone at which somebody stands?"""
        if self._doubted is None or self._doubted[0].epoch != self.world.log.epoch:
            return False
        version, doc = self._doubted
        found = self.world.log.message(version.seq)
        return found is None or found.doc != doc

    def look_now(self) -> None:
        """Something looks wrong."""
        session = self.session
        self.world.after(1, lambda: self._look(session, again=False))

    def _look(self, session: int, *, again: bool) -> None:
        """Is the log still the same?"""
        if session != self.session or not self.linked:
            return
        if not self.link.cut:
            log, witness = self.world.log, self.owner.witness()
            gone = witness is not None and witness[0].epoch == self.epoch and witness[0].seq > log.last_seq
            if log.epoch != self.epoch or gone or self._misses():
                self._down()
                return
        if again:
            self._look_later(session)

    # --- requests ----------------------------------------------------------------------------------------------------
    def in_session(self, action: Action) -> Action:
        """Nothing, once the link or the process has changed."""
        session = self.session
        return lambda: action() if session == self.session else None

    def request(
        self, at_server: Callable[[], Action | None], failed: Action | None = None, failed_after_ms: int = 0
    ) -> None:
        """Run `at_server` there, and the action that it returns here; within this session, or `failed`, or nothing."""
        waiting, session = [True], self.session

        def answer(action: Action) -> None:
            if waiting and session == self.session:
                waiting.clear()
                action()

        def arrived() -> None:
            action = at_server()
            if action is not None:
                self.world.network.deliver(self.link, lambda: answer(action))

        self.world.network.send(self.link, arrived)
        if failed is not None:
            lost = failed
            self.world.after(failed_after_ms, lambda: answer(lost))

    def publish(self, change: Change, attempt: int = 0) -> None:
        """Append to the log; the owner hears of it exactly once within this session."""
        world, epoch = self.world, self.epoch
        headers, payload = encode_change(change, epoch)
        if attempt:  # a duplicate of what is not there: under another id
            headers["Nats-Msg-Id"] += f":{attempt}"

        def append() -> Action | None:
            seq, duplicate = world.append(change.doc, headers, payload)
            if world.rng.random() < world.ack_loss:
                return None
            found = world.log.message(seq)
            true = found is not None and found.doc == change.doc and found.headers["Skerry-Dot"] == str(change.dot)
            return lambda: self._acked(change, epoch, seq, duplicate, true, attempt)

        self.request(append, lambda: self.owner.publish_failed(change.doc, change.dot), PUBLISH_MS_MAX)

    def _acked(self, change: Change, epoch: int, seq: int, duplicate: bool, true: bool, attempt: int) -> None:
        if duplicate and true:
            self.owner.published(change.doc, change.dot, Version(epoch, seq))
        elif duplicate and attempt < 3:
            self.publish(change, attempt + 1)
        elif duplicate or seq <= self._acked_seq:
            self.look_now()
            self.owner.publish_failed(change.doc, change.dot)
        else:
            self._acked_seq = seq
            self.owner.published(change.doc, change.dot, Version(epoch, seq))
