"""The ways between the nodes and the NATS servers: delay, loss, repetition, reordering, cuts in one direction or both.

Room: when and whether something arrives. What stands for a request of JetStream goes in order and is lost only where
the way is cut; what stands for a message of core NATS may also be lost, repeated or late on its own.
"""

from __future__ import annotations

from random import Random

from .schedule import Action, Schedule

__all__ = ["Link", "Network"]


class Link:
    """One node's way to the servers, in two directions."""

    __slots__ = ("in_cut", "in_free_ms", "name", "out_cut", "out_free_ms")

    def __init__(self, name: str) -> None:
        self.name = name
        self.out_cut = False
        self.in_cut = False
        self.out_free_ms = 0
        self.in_free_ms = 0

    @property
    def cut(self) -> bool:
        return self.out_cut or self.in_cut


class Network:
    def __init__(self, schedule: Schedule, rng: Random, delay_ms_max: int, loss: float, repeat: float) -> None:
        self.schedule = schedule
        self.rng = rng
        self.delay_ms_max = delay_ms_max
        self.loss = loss
        self.repeat = repeat

    def calm(self) -> None:
        self.loss = self.repeat = 0.0
        self.delay_ms_max = 20

    def send(self, link: Link, action: Action) -> None:
        """To the server, behind what was sent before."""
        if link.out_cut:
            return
        now_ms = self.schedule.now_ms
        link.out_free_ms = max(link.out_free_ms, now_ms + self.rng.randint(1, 10))
        self.schedule.after(link.out_free_ms - now_ms, action)

    def deliver(self, link: Link, action: Action) -> None:
        """To the node, behind what was delivered before; lost where the way is cut when it gets there."""
        now_ms = self.schedule.now_ms
        link.in_free_ms = max(link.in_free_ms, now_ms + self.rng.randint(1, 10))
        self.schedule.after(link.in_free_ms - now_ms, lambda: None if link.in_cut else action())

    def core_send(self, link: Link, action: Action) -> None:
        self._core(action, link.out_cut)

    def core_deliver(self, link: Link, action: Action) -> None:
        self._core(lambda: None if link.in_cut else action(), False)

    def _core(self, action: Action, cut: bool) -> None:
        rng = self.rng
        if cut or rng.random() < self.loss:
            return
        self.schedule.after(rng.randint(1, self.delay_ms_max), action)
        if rng.random() < self.repeat:
            self.schedule.after(rng.randint(1, 4 * self.delay_ms_max), action)
