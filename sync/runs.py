"""Typing, joined: what one client typed letter by letter leaves an edge as one struct.

Room: bytes and what `check_update` read in them; no pycrdt. A hundred keystrokes are a kilobyte and a hundred structs
for everybody who merges, stores, sends and checks them; joined, they are one struct and 130 bytes.

Invariant: nobody can tell. A struct of n letters means n structs of one letter, each with the one before as its left
origin and all with the same right origin (Yjs splits and joins structs by that rule whenever it likes); only such are
joined.
"""

from __future__ import annotations

from collections.abc import Iterable

from .lib0 import write_var_uint
from .validate import Shape

__all__ = ["join_runs"]


class _Run:
    __slots__ = ("following", "head", "right", "texts")

    def __init__(self, head: bytes, right: bytes, following: int, text: bytes) -> None:
        self.head = head
        self.right = right
        self.following = following
        self.texts = [text]

    def update(self) -> bytes:
        text = b"".join(self.texts)
        return b"".join((self.head, write_var_uint(len(text)), text, b"\0"))


def join_runs(updates: Iterable[tuple[bytes, Shape | None]]) -> list[bytes]:
    """The same operations in fewer structs; what is no typing stays as it is. The order may change: merge them."""
    found: list[bytes] = []
    runs: list[_Run] = []
    last: dict[int, _Run] = {}
    for update, shape in updates:
        typed = shape.typed if shape is not None else None
        if typed is None or shape is None:
            found.append(update)
            continue
        _, right_at, text_at = typed
        client, clock, following = shape.brings[0]
        right = update[right_at:text_at]
        run = last.get(client)
        if run is not None and typed.continues and run.following == clock and run.right == right:
            run.texts.append(update[text_at + 1 : -1])
            run.following = following
        else:
            last[client] = run = _Run(update[:text_at], right, following, update[text_at + 1 : -1])
            runs.append(run)
    found.extend(run.update() for run in runs)
    return found
