"""The deleted ranges of one update, as the validator found them: 24 bytes each, whatever their number.

Room: a sequence of (client, first clock, next clock). As tuples of Python's they are 130 bytes each: a frame of a
megabyte of them took 40 MB before anybody had looked at it (found by fuzzing).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import overload

__all__ = ["Deletions", "Span"]

Span = tuple[int, int, int]


class Deletions(Sequence[Span]):
    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("Q")

    def adder(self) -> Callable[[Span], None]:
        """Adds one range, and is called for each of half a million."""
        return self._numbers.extend

    def __len__(self) -> int:
        return len(self._numbers) // 3

    @overload
    def __getitem__(self, at: int) -> Span: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Span, ...]: ...

    def __getitem__(self, at: int | slice) -> Span | tuple[Span, ...]:
        if isinstance(at, slice):
            return tuple(self[each] for each in range(*at.indices(len(self))))
        if at < 0:
            at += len(self)
        if not 0 <= at < len(self):
            raise IndexError(f"range {at} of {len(self)}")
        client, first, following = self._numbers[3 * at : 3 * at + 3]
        return client, first, following

    def __iter__(self) -> Iterator[Span]:
        numbers = iter(self._numbers)
        return zip(numbers, numbers, numbers, strict=True)
