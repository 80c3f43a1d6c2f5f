"""Undo and redo of own edits in one document.

Room: whose edits and which roots. What is undone is an edit like any other (`OpenDocument.step`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import sync.document

__all__ = ["History", "Undoable"]


class Undoable(Protocol):
    """What history needs of an open document."""

    @property
    def crdt(self) -> sync.document.Crdt: ...

    @property
    def document(self) -> sync.document.Document: ...

    def step(self, step: Callable[[], list[bytes]]) -> bool: ...


class History:
    """Others' changes stay as they are. Holds what was deleted, so it costs memory with every edit.

    Where the CRDT is another one (`OpenDocument.crdt`), history begins anew.
    """

    def __init__(self, document: Undoable, roots: Sequence[str]) -> None:
        self._document = document
        self._roots = tuple(roots)
        self._of = document.crdt
        self._history = sync.document.History(document.document, self._roots)

    def _current(self) -> sync.document.History:
        if self._of is not self._document.crdt:
            self._of = self._document.crdt
            self._history = sync.document.History(self._document.document, self._roots)
        return self._history

    @property
    def can_undo(self) -> bool:
        return self._current().can_undo

    @property
    def can_redo(self) -> bool:
        return self._current().can_redo

    def undo(self) -> bool:
        """Take back the newest edit. False where there was nothing. Raises as `edit()`."""
        return self._document.step(self._current().undo)

    def redo(self) -> bool:
        """Take back the newest undo. False where there was nothing. Raises as `edit()`."""
        return self._document.step(self._current().redo)
