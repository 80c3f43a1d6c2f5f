"""Many updates become a document a slice at a time, so that no call of pycrdt lasts: it never lets others run.

Room: bytes that are trusted: the gate has let them in, or they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

from . import limits
from .document import Document, merge_mended
from .errors import InvalidUpdate
from .limits import SLICE_BYTES, SLICE_RANGES, SLICE_STRUCTS, SPLIT_DOCUMENT_BYTES, UPDATE_VALUES_MAX, WHOLE_BYTES
from .slices import Weighed, weighed
from .splits import Into, at_once_bytes
from .structs import NOBODY, Read, read_structs
from .validate import _deletes  # the same grammar, and it must not be written twice

__all__ = ["apply_in_order", "document_of"]


_DELETION: Final = 8  # a byte of what only deletes counts so much: each range may cut a long list


def apply_in_order(document: Document, updates: Sequence[bytes]) -> None:
    """Updates in the gate's order, a slice at a time: twenty times as fast as one by one, and never quadratic."""
    for group in _slices(document.mended(updates)):
        if document.applied_bytes <= SPLIT_DOCUMENT_BYTES:
            document.apply_mended(*group)
        else:
            _apply_to_large(document, group)


def _apply_to_large(document: Document, group: Sequence[bytes], read: Read | None = None) -> None:
    """A slice, where it may cost more than its bytes say (`sync.splits`): in pieces. `read`: of it, where it is one."""
    held = document.applied_bytes
    if sum(map(len, group)) <= at_once_bytes(held):
        document.apply_mended(*group)
        return
    whole = merge_mended(group)
    try:
        pieces = weighed(whole, {}, Into(held, document.clocks()), read)
    except InvalidUpdate:
        document.apply_mended(whole)  # stored by a version that refused less
        return
    for piece in pieces:
        document.apply_mended(piece.update)


def _slices(updates: Sequence[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for update in updates:
        weight = len(update) * (_DELETION if update[:1] == b"\0" else 1)
        if group and (size + weight > SLICE_BYTES or len(group) >= SLICE_STRUCTS):
            yield group
            group, size = [], 0
        group.append(update)
        size += weight
    if group:
        yield group


def document_of(state: bytes | None, updates: Sequence[bytes]) -> Document:
    """From what is stored. The rows of one commit need not be in the gate's order: a slice that is not whole in itself
    is taken together with the next one. Raises DocumentBroken."""
    document = _loaded(state)
    clocks = document.clocks()
    held: list[bytes] = []
    for group in _slices(document.mended(updates)):
        whole = merge_mended([*held, *group])
        large = document.applied_bytes > SPLIT_DOCUMENT_BYTES
        read = _read(whole, clocks) if large or len(group) < len(updates) else None
        if large and read is not None:
            _apply_to_large(document, [whole], read)
        elif read is not None or (len(group) == len(updates) and not large):
            document.apply_mended(whole)
        else:
            held = [whole]
            continue
        held = []
    if held:
        document.apply_mended(held[0])
    return document


def _loaded(state: bytes | None) -> Document:
    """A large one in pieces: loaded by a thread or not, a call of pycrdt holds everybody."""
    if state is None or len(state) <= WHOLE_BYTES:
        return Document(state)
    try:
        pieces = weighed(state, {}, Into())
    except InvalidUpdate:
        return Document(state)  # stored by a version that refused less
    document = Document()
    mended = iter(document.mended([piece.update for piece in pieces]))
    for count in _together(pieces):
        document.apply_mended(*islice(mended, count))
    return document


def _together(pieces: Sequence[Weighed]) -> Iterator[int]:
    """How many at a time: small ones, as long as they are no more than one piece may be, in whatever order."""
    count = size = parts = cuts = dearest = 0
    for piece in pieces:
        size += len(piece.update)
        parts += piece.parts
        cuts += piece.cuts
        dearest = max(dearest, piece.dearest)
        many = size > SLICE_BYTES or parts > SLICE_STRUCTS or cuts > 2 * SLICE_RANGES
        if count and (many or cuts * dearest > limits.SPLIT_BYTES):
            yield count
            count, size, parts, cuts, dearest = 0, len(piece.update), piece.parts, piece.cuts, piece.dearest
        count += 1
    if count:
        yield count


def _read(update: bytes, clocks: dict[int, int]) -> Read | None:
    """What is in it, if a document with these clocks has all that it needs; then they are moved on.

    None too where `check_update` would refuse it, stored by a version that refused less: in one piece, as ever.
    """
    try:
        read = structs, deletes_at = read_structs(update)
        deletes, end = _deletes(update, deletes_at, UPDATE_VALUES_MAX)
    except (InvalidUpdate, IndexError, ValueError, OverflowError):
        return None
    ahead, wanted = dict(clocks), dict[int, int]()
    for client, own in structs.items():
        following = ahead.get(client, 0)
        last = 0
        for clock, next_ in zip(own.clocks, own.followings, strict=True):
            if clock > following or not last <= clock < next_:
                return None
            last = next_
            if next_ > following:
                following = next_
        ahead[client] = following
        for of, at, clock in chain(
            zip(own.left, own.left_at, own.clocks, strict=True), zip(own.right, own.right_at, own.clocks, strict=True)
        ):
            if of == client:
                if at >= clock:
                    return None
            elif of != NOBODY and at >= wanted.get(of, 0):
                wanted[of] = at + 1
    for client, _, following in deletes:
        if following > wanted.get(client, 0):
            wanted[client] = following
    if end != len(update) or any(ahead.get(client, 0) < following for client, following in wanted.items()):
        return None
    clocks.update(ahead)
    return read
