"""The last place of the log that this edge has seen, kept on its disk: a start asks whether the log still has it.

Room: one row of the store's `meta`. Which place it is, the machine says; what follows from it, the bus.
"""

from __future__ import annotations

from sync.edge import Edge
from sync.errors import InvalidInput
from sync.ids import DocId, Dot, Version, parse_document_id
from sync.ports import Store
from sync.text import parse_dot, parse_version

from .bus import Bus
from .salvage import NO_WITNESS
from .threads import Threads

__all__ = ["Witness"]

_KEY = "witness"


class Witness:
    def __init__(self, store: Store, bus: Bus, machine: Edge, threads: Threads) -> None:
        self._store = store
        self._bus = bus
        self._machine = machine
        self._threads = threads
        self._kept: tuple[Version, DocId, Dot] | None = None

    def recall(self) -> None:
        """Before the bus starts. Raises StoreError."""
        text = self._store.get_meta(_KEY)
        if text is not None:
            try:
                self._bus.set_witness(*_read(text))
            except (ValueError, InvalidInput):  # a damaged row: then every document is compared with the leader
                self._bus.set_witness(*_read(NO_WITNESS))

    def keep(self, quiet: bool) -> None:
        """`quiet`: all that the machine has is on the disk.

        Kept only when every document has been compared with this log: until then, the next start must sweep again.
        """
        witness = self._machine.witness
        if witness is None:
            return
        self._bus.set_witness(*witness)
        if quiet and not self._machine.sweeping and witness != self._kept:
            self._kept = witness
            version, doc, dot = witness
            text = f"{version} {dot} {doc}"
            self._threads.run(lambda: self._store.set_meta(_KEY, text), lambda _: None, again=False)


def _read(text: str) -> tuple[Version, DocId, Dot]:
    version, dot, doc = text.split(" ", 2)
    return parse_version(version), parse_document_id(doc), parse_dot(dot)
