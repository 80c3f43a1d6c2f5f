"""Who waits for what in one document: edits to become safe, reads to have come as far as a token.

Room: futures. What is safe and what is covered is told to it (`client.document`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sync.errors import NotYet, SkerryError
from sync.extension import Stage
from sync.ids import DocId, Dot
from sync.token import Token

__all__ = ["Waiting", "Wanted"]

AGAIN_S: Final = 0.2  # an edge waits less long than a reader may, and then it is asked again


@dataclass(slots=True)
class Wanted:
    """A read that waits for a token. `asked`: the edge was asked on the present connection."""

    number: int
    text: str
    token: Token
    until: float
    """In the event loop's time."""
    reached: asyncio.Future[None]
    asked: bool = False


@dataclass(slots=True)
class _Confirmation:
    left: set[Dot]
    stage: Stage
    done: asyncio.Future[None]


class Waiting:
    def __init__(self, doc: DocId, wake: Callable[[], None], why_offline: Callable[[], str]) -> None:
        """`wake` is called when the edge has to be asked. `why_offline`: one line; empty while online."""
        self.wanted: dict[int, Wanted] = {}
        self._doc = doc
        self._wake = wake
        self._why_offline = why_offline
        self._count = 0
        self._confirmations: list[_Confirmation] = []
        self._synced = False
        self._syncing: list[asyncio.Future[None]] = []
        self._reloading: list[asyncio.Future[None]] = []

    # --- what an edge holds ------------------------------------------------------------------------------------------
    async def until_synced(self, timeout: float | None) -> None:
        """Until an edge has sent what it holds, on the present connection or the next one. Raises NotYet."""
        if self._synced:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._syncing.append(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise NotYet(self._doc, self._there("what the store holds"), "what an edge holds") from None
        finally:
            self._syncing.remove(future)

    def synced(self, is_so: bool) -> None:
        self._synced = is_so
        for future in self._syncing if is_so else ():
            _finish(future)

    # --- the others' version -----------------------------------------------------------------------------------------
    @property
    def reloading(self) -> bool:
        """Somebody waits for all that an edge holds, to have it in the place of what is here."""
        return any(not future.done() for future in self._reloading)

    async def until_reloaded(self, timeout: float | None) -> None:
        """Raises NotYet, and what `reloaded` is given."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reloading.append(future)
        self._wake()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise NotYet(self._doc, self._there("what was rejected"), "what an edge holds") from None
        finally:
            self._reloading.remove(future)

    def reloaded(self, error: SkerryError | None = None) -> None:
        for future in self._reloading:
            if error is None:
                _finish(future)
            elif not future.done():
                future.set_exception(error)

    # --- edits -------------------------------------------------------------------------------------------------------
    async def confirmed(self, dots: Iterable[Dot], stage: Stage, timeout: float | None) -> None:
        """Until `safe` has named all of these with `stage` or later. Raises NotYet."""
        confirmation = _Confirmation(set(dots), stage, asyncio.get_running_loop().create_future())
        if not confirmation.left:
            return
        self._confirmations.append(confirmation)
        try:
            async with asyncio.timeout(timeout):
                await confirmation.done
        except TimeoutError:
            want = stage.name.lower()
            have = self._there(f"{len(confirmation.left)} edits that are not {want}")
            raise NotYet(self._doc, have, f"all {want}") from None
        finally:
            self._confirmations.remove(confirmation)

    def safe(self, stage: Stage, dots: list[Dot]) -> None:
        for confirmation in self._confirmations:
            if stage >= confirmation.stage:
                confirmation.left.difference_update(dots)
                if not confirmation.left:
                    _finish(confirmation.done)

    # --- reads -------------------------------------------------------------------------------------------------------
    async def reach(self, text: str, token: Token, timeout: float, have: Callable[[], str]) -> None:
        """Until the token is covered, as `look` or the edge says. Raises NotYet with what there is then."""
        loop = asyncio.get_running_loop()
        self._count += 1
        wanted = Wanted(self._count, text, token, loop.time() + timeout, loop.create_future())
        self.wanted[wanted.number] = wanted
        self._wake()
        try:
            async with asyncio.timeout(timeout):
                await wanted.reached
        except TimeoutError:
            raise NotYet(self._doc, self._there(have()), str(token.version or token.dot)) from None
        finally:
            del self.wanted[wanted.number]

    def look(self, covers: Callable[[Token], bool]) -> None:
        """The document has come further."""
        for wanted in self.wanted.values():
            if covers(wanted.token):
                _finish(wanted.reached)

    def answered(self, number: int, reached: bool) -> None:
        """By the edge."""
        wanted = self.wanted.get(number)
        if wanted is None:
            return
        if reached:
            _finish(wanted.reached)
        else:
            asyncio.get_running_loop().call_later(AGAIN_S, self._ask_again, wanted)

    def _ask_again(self, wanted: Wanted) -> None:
        wanted.asked = False
        self._wake()

    def _there(self, have: str) -> str:
        """With the reason, where no edge could have said more."""
        why = self._why_offline()
        return f"{have} and no edge ({why})" if why else have

    def fail(self, error: SkerryError) -> None:
        """Nobody will ever be told."""
        self.fail_confirmations(error)
        self.reloaded(error)
        for future in [*self._syncing, *(each.reached for each in self.wanted.values())]:
            if not future.done():
                future.set_exception(error)

    def fail_confirmations(self, error: SkerryError) -> None:
        """The edits that are waited for do not become safer."""
        for confirmation in self._confirmations:
            if not confirmation.done.done():
                confirmation.done.set_exception(error)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
