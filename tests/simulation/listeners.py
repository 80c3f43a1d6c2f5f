"""Clients of the extension that only read: what an edge tells them of a document's place is held against what it sent.

Room: one connection after another to one document at one edge. A listener has nothing but what was sent on the present
connection; when it is told that it was sent everything up to a version (`at`), or that its token is reached, it holds
what its token stands for, deletions too (Read your writes).
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from sync import extension
from sync.document import EMPTY_UPDATE
from sync.extension import At, Await, Reached
from sync.ids import ConnId, DocId, Dot, DotSet, Version
from sync.token import Token, encode_token
from sync.wire import AwarenessUpdate, PermissionDenied, SyncStep1, SyncStep2, Update, encode

from .contents import Contents, fold_of
from .disk import Violation
from .schedule import Action

if TYPE_CHECKING:
    from .edges import EdgeNode
    from .world import World

__all__ = ["Listener"]


class Listener:
    def __init__(self, world: World, doc: DocId, node: EdgeNode) -> None:
        self.world = world
        self.doc = doc
        self.node = node
        self.name = f"a listener at {node.name}"
        self.id = ConnId(0)
        self.here = False
        self._rng = Random(f"{doc} {node.name} {world.seed}")
        """Apart from the world's: worlds without listeners stay as they were."""
        self._received: list[bytes] = []
        self._tokens: dict[int, Dot] = {}

    # --- its way -----------------------------------------------------------------------------------------------------
    def come(self) -> None:
        if self.here:
            return
        if self.node.edge is None:
            self.world.after(self._rng.randint(50, 800), self.come)
            return
        self.id, self.here = self.world.next_conn(), True
        self._received, self._tokens = [], {}
        self.node.listen(self)
        self._later((0, 0, 3, 30, 200), self._ask)
        if not self.world.calm:
            self._later((300, 1_000, 4_000), self.go)

    def go(self) -> None:
        """And it comes back."""
        self.here = False
        self.node.listens_no_more(self)
        self.world.after(self._rng.choice((0, 20, 300)), self.come)

    def broken(self) -> None:
        """The edge is gone, or has closed."""
        self.here = False
        self.world.after(self._rng.randint(50, 800), self.come)

    def _later(self, delays_ms: tuple[int, ...], action: Action) -> None:
        number = self.id
        self.world.after(self._rng.choice(delays_ms), lambda: action() if self.here and self.id == number else None)

    def _ask(self) -> None:
        self.node.hears(self, encode(SyncStep1(b"\x00")))
        self._wait()

    def _wait(self) -> None:
        """For something that somebody wrote, wherever it is by now."""
        dots = list(self.world.truth.dots[self.doc])[-5:]
        if dots:
            number = len(self._tokens) + 1
            dot = self._tokens[number] = self._rng.choice(dots)
            token = encode_token(Token("skerry", self.doc, None, dot))
            self.node.hears(self, extension.encode(Await(number, token, 2_000)))
        self._later((3, 10, 50, 300), self._wait)

    # --- what it is told ---------------------------------------------------------------------------------------------
    def frame(self, frame: bytes) -> None:
        match extension.decode(frame):
            case SyncStep2(update) | Update(update):
                self._received.append(update)
            case At(version):
                self._judge("was sent all up to a version", version, DotSet())
            case Reached(number, True, _):
                dots = DotSet()
                dots.add(self._tokens[number])
                self._judge("was told that its token is reached", None, dots)
            case PermissionDenied() | Reached() | SyncStep1():
                pass
            case AwarenessUpdate():
                pass
            case other:
                raise Violation(f"{self.name}: {self.node.name} sent {other}")

    def _judge(self, why: str, version: Version | None, dots: DotSet) -> None:
        self.world.listened_count += 1
        self.world.truth.judge(f"{self.name}, who {why}", self.doc, self._held(), version, dots)

    def _held(self) -> Contents:
        """Of what was sent, in whatever order."""
        return Contents.of(fold_of(update for update in self._received if update != EMPTY_UPDATE))
