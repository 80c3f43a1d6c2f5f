"""`skerry replay`: a recorded history typed by real clients at real edges, and every edge ends at its last text.

Room: options, progress, the verdict and its table. The clients are in `server.replay_client`, the history in
`server.trace`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from websockets.exceptions import WebSocketException

from sync.errors import SkerryError
from sync.ids import DocId, parse_document_id
from sync.replica import Verdict
from sync.validate import check_update

from .gateway import OPERATOR
from .replay_client import Author, Client, Typed, connected
from .trace import TRACE_ROOT, Trace, authored_updates, read_trace

__all__ = ["EdgeResult", "ReplayOptions", "ReplayResult", "add_arguments", "replay", "run"]

WAIT_S = 60.0
LOOK_S = 0.1  # between two looks at how far everything is: people see no more


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    trace: Path
    edges: tuple[str, ...]
    """`ws://host:port`, without a slash at the end."""
    doc: DocId | None = None
    cut_s: float | None = None
    rate: float | None = None
    """Updates a second, all authors together; as fast as they are acknowledged where None."""
    wait_s: float = WAIT_S
    """How long without any progress, a cut and the rate allowed for, before it gives up."""
    progress: bool = False


@dataclass(frozen=True, slots=True)
class EdgeResult:
    edge: str
    content_ok: bool
    """A client that came after the replay was shown exactly the trace's last text."""
    digest: str
    """Of what that client holds; empty where it was shown nothing."""
    bytes: int


@dataclass(frozen=True, slots=True)
class ReplayResult:
    trace: str
    doc: str
    updates: int
    characters: int
    derive_s: float
    echoed_s: float
    """From the first update until the last was acknowledged by its edge."""
    everywhere_s: float | None
    """... until every edge had shown every update; None where the time was not enough."""
    resent: int
    carried: int
    """Updates that an author brought to its own edge for another, since the edge did not show them."""
    reconnects: int
    lost_acknowledged: int
    """Updates that an edge had acknowledged and did not have later; 0, unless its disk was thrown away."""
    edges: tuple[EdgeResult, ...]

    @property
    def ok(self) -> bool:
        return all(edge.content_ok for edge in self.edges) and len({edge.digest for edge in self.edges}) == 1


# --- the command ------------------------------------------------------------------------------------------------------
def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, metavar="TRACE", help="editing trace, JSON or gzipped JSON")
    parser.add_argument(
        "--edges", nargs="+", required=True, metavar="URL", help="edges, as in ws://127.0.0.1:8787; author i at i mod n"
    )
    parser.add_argument("--doc", metavar="ID", help="a document that is new (default: replay/<trace>-<random>)")
    parser.add_argument("--cut", type=float, metavar="SECONDS", help="cut the second edge's link halfway, for so long")
    parser.add_argument("--rate", type=float, metavar="N", help="updates a second (default: as fast as acknowledged)")
    parser.add_argument(
        "--wait",
        type=float,
        default=WAIT_S,
        metavar="SECONDS",
        help=f"give up after no progress for so long (default: {WAIT_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 only if every edge shows exactly the trace's last text."""
    options = ReplayOptions(
        trace=arguments.trace,
        edges=tuple(_edge_url(text) for text in arguments.edges),
        doc=parse_document_id(arguments.doc) if arguments.doc else None,
        cut_s=arguments.cut,
        rate=arguments.rate,
        wait_s=arguments.wait,
        progress=not arguments.json and sys.stderr.isatty(),
    )
    result = asyncio.run(replay(options))
    if arguments.json:
        print(json.dumps({"ok": result.ok, **asdict(result)}, ensure_ascii=False))
    else:
        _print(result)
    return 0 if result.ok else 1


def _edge_url(text: str) -> str:
    """`ws://host:port` of an address as people write it. Raises SkerryError."""
    parts = urlsplit(text if "://" in text else f"ws://{text}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc:
        raise SkerryError(f"{text}: no address of an edge; give one as in ws://127.0.0.1:8787")
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _print(result: ReplayResult) -> None:
    console = Console(highlight=False)
    table = Table("edge", "content", "digest", "bytes", box=None, pad_edge=False)
    for edge in result.edges:
        shown = "[green]exact[/]" if edge.content_ok else "[red]differs[/]" if edge.digest else "[red]no answer[/]"
        table.add_row(escape(edge.edge), shown, edge.digest[:12] or "-", f"{edge.bytes:,}")
    console.print(table)
    everywhere = "not within --wait" if result.everywhere_s is None else f"after {result.everywhere_s:.1f} s"
    console.print(
        f"{escape(result.doc)}: {result.updates:,} updates, on the edges' disks after {result.echoed_s:.1f} s "
        f"({result.updates / max(result.echoed_s, 1e-9):,.0f} a second), seen by every edge {everywhere}; "
        f"{result.reconnects} reconnects, {result.resent} sent again, {result.carried} carried over, "
        f"{result.lost_acknowledged} acknowledged ones lost",
        markup=False,
    )
    if result.ok:
        console.print(f"[bold green]EQUAL[/]: {result.characters:,} characters, exactly the trace's last text")
    else:
        console.print("[bold red]NOT EQUAL[/]: was the document empty before? give a new --doc, or more --wait")


# --- the replay -------------------------------------------------------------------------------------------------------
async def replay(options: ReplayOptions) -> ReplayResult:
    """Type the trace at the edges and compare what each edge shows in the end.

    Raises TraceError for a bad file and SkerryError where an edge was never there or refuses these clients.
    """
    _check(options)
    trace = read_trace(options.trace)
    began = time.monotonic()
    typed = await asyncio.to_thread(_typed, trace)
    derive_s = time.monotonic() - began
    doc = options.doc or parse_document_id(f"replay/{trace.name}-{secrets.token_hex(4)}")
    performance = _Performance(options, trace, typed, doc)
    return await performance.play(derive_s)


def _check(options: ReplayOptions) -> None:
    if options.rate is not None and not options.rate > 0:
        raise SkerryError(f"--rate {options.rate:g}: give a number of updates a second above 0")
    if options.wait_s < 0:
        raise SkerryError(f"--wait {options.wait_s:g}: give a number of seconds, at least 0")
    if options.cut_s is not None and not options.cut_s > 0:
        raise SkerryError(f"--cut {options.cut_s:g}: give a number of seconds above 0")
    if options.cut_s is not None and len(options.edges) < 2:
        raise SkerryError("--cut cuts the second edge's link; give two --edges")


def _typed(trace: Trace) -> list[Typed]:
    return [
        Typed(order, each.agent, each.update, check_update(each.update), each.knows)
        for order, each in enumerate(authored_updates(trace))
    ]


class _Performance:
    """One replay: its clients, and how far they are."""

    def __init__(self, options: ReplayOptions, trace: Trace, typed: Sequence[Typed], doc: DocId) -> None:
        self._options = options
        self._trace = trace
        self._typed = typed
        self._doc = doc
        self._began = time.monotonic()
        edges = options.edges
        self._authors: list[Author] = []
        for agent in range(trace.agent_count):
            mine = [each for each in typed if each.agent == agent]
            self._authors.append(Author(edges[agent % len(edges)], doc, mine, self._authors, self._due))
        self._readers = [Client(edge, doc) for edge in edges]
        self._seen = [0] * len(edges)

    async def _due(self, order: int) -> None:
        if self._options.rate is not None:
            wait_s = self._began + order / self._options.rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)

    async def play(self, derive_s: float) -> ReplayResult:
        clients: list[Client] = [*self._authors, *self._readers]
        async with _running([client.run() for client in clients]) as failed:
            with _Bars(len(self._typed), len(self._options.edges), self._options.progress) as bars:
                echoed_s, everywhere_s = await self._follow(bars, failed)
            edges = await self._compare(everywhere_s is not None)
        return ReplayResult(
            trace=self._trace.name,
            doc=self._doc,
            updates=len(self._typed),
            characters=len(self._trace.end),
            derive_s=round(derive_s, 3),
            echoed_s=round(echoed_s, 3),
            everywhere_s=None if everywhere_s is None else round(everywhere_s, 3),
            resent=sum(author.resent for author in self._authors),
            carried=sum(author.carried for author in self._authors),
            reconnects=sum(max(0, client.connections - 1) for client in clients),
            lost_acknowledged=sum(author.taken_back for author in self._authors),
            edges=edges,
        )

    async def _follow(self, bars: _Bars, failed: asyncio.Future[list[None]]) -> tuple[float, float | None]:
        """Until everything is seen everywhere, or nothing moves for too long: the seconds of `ReplayResult`."""
        self._began = moved = time.monotonic()
        options, total = self._options, len(self._typed)
        patience_s = options.wait_s + (options.cut_s or 0.0) + (1 / options.rate if options.rate else 0.0)
        cut: asyncio.Task[None] | None = None
        echoed_s: float | None = None
        before = (0, 0, 0)
        while True:
            sent = sum(author.sent for author in self._authors)
            echoed = sum(author.acknowledged for author in self._authors)
            seen = min(self._look())
            now = time.monotonic()
            bars.show(sent, echoed, seen)
            if cut is None and options.cut_s is not None and 2 * sent >= total:
                cut = asyncio.create_task(_cut(options.edges[1], options.cut_s))
            if cut is not None and cut.done():
                cut.result()
            if echoed == total and echoed_s is None:
                echoed_s = now - self._began
            if echoed_s is not None and echoed == seen == total and (cut is None or cut.done()):
                return echoed_s, now - self._began
            if (sent, echoed, seen) != before:
                before, moved = (sent, echoed, seen), now
            if now - moved > patience_s:
                return echoed_s if echoed_s is not None else now - self._began, None
            await asyncio.wait([failed], timeout=LOOK_S)
            if failed.done():
                failed.result()

    def _look(self) -> list[int]:
        """How many updates of the trace, from its first, the reader at each edge was shown."""
        for at, reader in enumerate(self._readers):
            seen = self._seen[at]
            while seen < len(self._typed) and reader.replica.judge(self._typed[seen].shape).verdict is Verdict.SEEN:
                seen += 1
            self._seen[at] = seen
        return self._seen

    async def _compare(self, settled: bool) -> tuple[EdgeResult, ...]:
        """What a client that comes now is shown by each edge; waited for, where everything else was in time."""
        patience_s = self._options.wait_s if settled else 1.0
        visitors = [Client(edge, self._doc) for edge in self._options.edges]
        async with _running([visitor.run() for visitor in visitors]) as failed:
            waiting = [asyncio.create_task(each.until(partial(self._exact, each))) for each in visitors]
            whole = asyncio.gather(*waiting)
            await asyncio.wait([whole, failed], timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            whole.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return tuple(self._result(visitor) for visitor in visitors)

    def _exact(self, visitor: Client) -> bool:
        return visitor.document.text(TRACE_ROOT) == self._trace.end

    def _result(self, visitor: Client) -> EdgeResult:
        shown = bool(visitor.replica.clocks)
        state = visitor.document.state() if shown else b""
        digest = visitor.document.digest() if shown else ""
        return EdgeResult(visitor.edge, self._exact(visitor), digest, len(state))


async def _cut(edge: str, seconds: float) -> None:
    """Ask the edge, as an operator, to cut its link to NATS."""
    try:
        async with await connected(f"{edge}/", (OPERATOR,)) as socket:
            await socket.send(json.dumps({"op": "cut", "seconds": seconds}))
            answer: object = json.loads(await socket.recv())
    except (OSError, TimeoutError, WebSocketException, ValueError) as error:
        raise SkerryError(f"{edge}: cannot be cut ({error or type(error).__name__}); is it an edge?") from None
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        raise SkerryError(f"{edge}: would not be cut ({answer}); operators connect from the edge's own machine")


@asynccontextmanager
async def _running(lives: Sequence[Coroutine[None, None, None]]) -> AsyncIterator[asyncio.Future[list[None]]]:
    """Clients in the background; the future fails as soon as one of them does."""
    tasks = [asyncio.create_task(life) for life in lives]
    failed = asyncio.gather(*tasks)  # ends at the first that raises; none ends otherwise
    try:
        yield failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(failed, *tasks, return_exceptions=True)


class _Bars:
    """What has been sent, what is on the edges' disks, what every edge has shown."""

    def __init__(self, total: int, edge_count: int, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        names = (
            "sent",
            "on its edge's disk",
            f"seen by all {edge_count} edges" if edge_count > 1 else "seen by the edge",
        )
        self._tasks = [self._progress.add_task(name, total=total) for name in names]

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, *counts: int) -> None:
        for task, count in zip(self._tasks, counts, strict=True):
            self._progress.update(task, completed=count)
