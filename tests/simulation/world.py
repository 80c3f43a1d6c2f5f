"""One seed, one world: edges, leaders, editors, a log and a bus; first chaos, then calm.

Room: putting the parts together, and the two phases. In chaos every step is checked (`edges`, `leaders`, `disk`,
`truth`). Then all ways are open, nothing fails, and the world must settle within SETTLE_MS_MAX: every replica equal,
every outbox empty; else it says in words what does not. At the end what all agree on is held against what was written.

    World(7).run()          # raises Violation, its message is the sentence
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from random import Random

from sync.change import LogEntry, Logged, Snapshot
from sync.errors import InvalidMessage
from sync.headers import decode_change, decode_snapshot
from sync.ids import ConnId, DocId, Version, shard_of
from sync.limits import DOCUMENT_IDLE_MS

from .bus import Bus
from .disk import Image, Violation
from .edges import EdgeNode
from .editors import Editor
from .faults import do_fault
from .leaders import LeaderNode
from .limits import limits_set
from .listeners import Listener
from .log import Headers, Log, Message
from .network import Network
from .schedule import Action, Schedule
from .settle import differences
from .truth import Truth
from .weather import LARGE_LIMITS, Weather

__all__ = ["SETTLE_MS_MAX", "World"]

SETTLE_MS_MAX = 30_000  # several retries of 10 s; what only the look of last resort finds (RECHECK_MS) is a fault
DOCS = (DocId("notes/plan"), DocId("été 日本 *.>"), DocId("c"))


class World:
    def __init__(
        self,
        seed: int,
        *,
        edge_node: type[EdgeNode] = EdgeNode,
        faults: Sequence[str] = (),
        settle_ms_max: int = SETTLE_MS_MAX,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.weather = Weather.of(self.rng, faults)
        self.reports: Counter[str] = Counter()
        self.notes = 0
        self._settle_ms_max = settle_ms_max
        self._tell = tell
        self._hash = blake2b(digest_size=16)
        weather = self.weather
        self.schedule = Schedule()
        self.after = self.schedule.after
        self.shard_count = weather.shard_count
        self.page_max = weather.page_max
        self.client_delay_ms_max = weather.client_delay_ms_max
        self.ack_loss = weather.ack_loss
        self.calm = False
        self.forgets_dots = any(name == "DOT_RANGES_MAX" for name, _ in weather.limits)
        """Then a change may be told of once more: its dot was forgotten."""
        self.network = Network(self.schedule, self.rng, weather.delay_ms_max, weather.loss, weather.repeat)
        self.log = Log(self.rng, weather.shard_count, weather.window_ms, weather.ack_wait_ms, weather.pending_max)
        self.bus = Bus(self)
        self.docs = DOCS[: weather.doc_count]
        self.truth = Truth(self.docs)
        self.edges = [
            edge_node(self, f"edge-{letter}", ("*",) if self.rng.random() < weather.pinned else ())
            for letter in "abcd"[: weather.edge_count]
        ]
        self.leaders = [LeaderNode(self, f"leader-{number}") for number in range(1, weather.leader_count + 1)]
        self.editors: list[Editor] = []
        self.images: dict[str, list[Image]] = {node.name: [] for node in self.edges}
        self.listeners = (
            [Listener(self, doc, node) for node in self.edges for doc in self.docs] if seed % 4 == 2 else []
        )
        self.listened_count = 0
        """How often one of them was told what it has been sent."""
        self._conns = 0
        self._inboxes: dict[str, tuple[EdgeNode, Callable[[Action], Action]]] = {}
        self._leases = 0
        self.lossy = False
        self.joined_count = 0
        """Rows of outboxes that went out within another change."""
        self.looked_count = 0
        """Broadcasts that were too large for one turn of an edge's loop."""

    @property
    def now_ms(self) -> int:
        return self.schedule.now_ms

    def note(self, who: str, what: str) -> None:
        """One line of the history."""
        line = f"{self.schedule.now_ms:7} {who:9} {what}"
        self.notes += 1
        self._hash.update(line.encode("utf-8"))
        if self._tell is not None:
            self._tell(line)

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    def alarm(self, sentence: str) -> None:
        """Something that an operator would be called for, though nobody did anything wrong."""
        raise Violation(sentence)

    # --- the two phases ----------------------------------------------------------------------------------------------
    def run(self) -> None:
        with limits_set(dict(self.weather.limits) | (LARGE_LIMITS if self.seed % 3 == 2 else {})):
            self._run()

    def _run(self) -> None:
        try:
            self._begin()
            self.schedule.run(self.weather.chaos_ms)
            self._judge_tokens()
            self._calm_down()
            self._settle()
            self._judge_tokens()
            for doc in self.docs:
                self.truth.judge_end(doc, self._state(doc))
            if self.seed % 16 == 8:
                self._meet()
            if self.seed % 16 == 0:
                self._empty_out()
        finally:
            for editor in self.editors:
                if editor.alive:
                    editor.close()

    def _begin(self) -> None:
        for shard in range(self.shard_count):
            self.lease(shard, {self.rng.choice(self.leaders).name})
        for node in self.edges:
            node.start()
            if self.rng.random() < 0.2:
                node.uplink.cut(True, True)
                self.in_chaos(self.rng.randint(500, 5_000), node.uplink.heal)
        for leader in self.leaders:
            leader.start()
        for listener in self.listeners:
            listener.come()
        for number in range(self.weather.editor_count):
            self.new_editor(self.docs[number % len(self.docs)])
        for at_ms, kind in self.weather.faults:
            self.after(at_ms, lambda kind=kind: do_fault(self, kind))  # type: ignore[misc]
        for _ in range(3):
            node = self.rng.choice(self.edges)
            self.after(self.rng.randint(0, self.weather.chaos_ms), lambda node=node: self._back_up(node))  # type: ignore[misc]
        for part in range(1, 4):
            self.after(self.weather.chaos_ms * part // 4, self._judge_tokens)

    def _calm_down(self) -> None:
        self.note("world", "calm")
        self.calm = True
        self.network.calm()
        self.ack_loss = 0.0
        self.client_delay_ms_max = 10
        for node in self.edges:
            node.disk.full = False
            node.uplink.heal()
            if node.edge is None:
                node.start()
        for leader in self.leaders:
            leader.uplink.heal()
            if not leader.up:
                leader.start()
        for shard in range(self.shard_count):
            self.lease(shard, {self.rng.choice(self.leaders).name})
        for editor in self.editors:
            if editor.alive and editor.wants is None:
                editor.go(self.rng.choice(self.edges))
        for doc in self.docs:  # somebody opens every document at every edge
            for node in self.edges:
                reader = self._editor(doc)
                self.after(self.rng.randint(0, 2_000), lambda reader=reader, node=node: reader.go(node))  # type: ignore[misc]

    def _settle(self) -> None:
        self.schedule.run(self.now_ms + 3_000)
        until_ms = self.now_ms + self._settle_ms_max
        found = differences(self)
        while found:
            if self.now_ms >= until_ms:
                raise Violation("does not settle: " + "; ".join(found))
            self.schedule.run(self.now_ms + 1_000)
            found = differences(self)
        self.note("world", "settled")

    def _meet(self) -> None:
        """In calm nothing is lost, presence neither: whoever tells a cursor is seen by all others of the document. With
        the second one at the latest: an edge that it has left remembers it as gone with the clock of the first."""
        here = [editor for editor in self.editors if editor.alive]
        for _ in range(2):
            for editor in here:
                editor.aware()
            self.schedule.run(self.now_ms + 2_000)
        for editor in here:
            for other in here:
                clock = editor.heard.get(other.client, 0)
                if other.doc == editor.doc and other is not editor and clock != other.awareness_clock:
                    raise Violation(f"{editor.name} has {other.name}'s cursor {clock} of {other.awareness_clock}")

    def _empty_out(self) -> None:
        """Everybody leaves: no edge keeps a document in memory that nobody asks for."""
        for editor in self.editors:
            if editor.alive:
                editor.go(None)
        self.schedule.run(self.now_ms + 2 * DOCUMENT_IDLE_MS + 10_000)
        for node in self.edges:
            if node.edge is not None and node.edge.hosted:
                raise Violation(f"{node.name} keeps {sorted(node.edge.hosted)} in memory, and nobody is there")

    def _state(self, doc: DocId) -> bytes:
        replica = next(editor for editor in self.editors if editor.alive and editor.doc == doc).replica
        return replica.materialise().state()

    # --- people ------------------------------------------------------------------------------------------------------
    def _editor(self, doc: DocId) -> Editor:
        editor = Editor(self, f"editor-{len(self.editors) + 1}", doc, self.rng.getrandbits(32))
        self.editors.append(editor)
        return editor

    def new_editor(self, doc: DocId) -> None:
        editor = self._editor(doc)
        editor.go(self.rng.choice(self.edges))
        self._act_later(editor)

    def _act_later(self, editor: Editor) -> None:
        pause_ms = 1 + int(self.rng.expovariate(1.0) * self.weather.edit_pause_ms)
        self.after(pause_ms, lambda: self._act(editor))

    def _act(self, editor: Editor) -> None:
        if self.calm or not editor.alive:
            return
        dice = self.rng.random()
        if dice < 0.85:
            for _ in range(1 if self.rng.random() < 0.8 else 4):
                editor.edit()
        elif dice < 0.90:
            editor.aware()
        elif dice < 0.94:
            editor.go(None)
        else:
            editor.go(self.rng.choice(self.edges))
        self._act_later(editor)

    def next_conn(self) -> ConnId:
        self._conns += 1
        return ConnId(self._conns)

    # --- leases ------------------------------------------------------------------------------------------------------
    def lease(self, shard: int, names: set[str]) -> None:
        """From now on these lead the shard; each learns of it by itself, and only the newest word counts."""
        self._leases += 1
        self.note("world", f"shard {shard} is led by {sorted(names)}")
        for leader in self.leaders:
            self._tell_lease(leader, shard, leader.name in names, self._leases)

    def _tell_lease(self, leader: LeaderNode, shard: int, held: bool, number: int) -> None:
        def told() -> None:
            if leader.lease_numbers.get(shard, 0) < number:
                leader.lease_numbers[shard] = number
                leader.lease(shard, held)

        self.after(self.rng.choice((0, 100, 1_500)), told)

    # --- the log, as the nodes reach it ------------------------------------------------------------------------------
    def append(self, doc: DocId, headers: Headers, payload: bytes) -> tuple[int, bool]:
        seq, duplicate = self.log.append(doc, headers, payload, self.now_ms)
        if not duplicate:
            self.note("log", f"{seq}: {doc} {headers['Skerry-Dot']}")
            if not self.log.rolled_back:
                entry = self.entry(self.log.messages[-1], self.log.epoch)
                assert isinstance(entry, Logged)
                self.truth.logged(doc, entry.version, entry.change.update)
            for leader in self.leaders:
                leader.wake()
        return seq, duplicate

    def entry(self, message: Message, epoch: int) -> LogEntry:
        """Raises Violation: nobody here writes what cannot be read."""
        try:
            change = decode_change(message.doc, message.headers, message.payload)
        except InvalidMessage as error:
            raise Violation(f"log: {message.seq} cannot be read: {error}") from error
        return Logged(change, Version(epoch, message.seq))

    def read_log(self, doc: DocId, epoch: int, before: int | None) -> tuple[Snapshot | None, list[LogEntry]]:
        stored = self.log.snapshots.get(doc)
        snapshot = decode_snapshot(doc, *stored) if stored is not None else None
        after = snapshot.version.seq if snapshot is not None and snapshot.version.epoch == epoch else 0
        entries = [
            self.entry(message, epoch)
            for message in self.log.messages[after:]
            if message.doc == doc and (before is None or message.seq < before)
        ]
        return snapshot, entries

    def store_snapshot(self, doc: DocId, version: Version, headers: Headers, payload: bytes) -> None:
        stored = self.log.snapshots.get(doc)
        if stored is None or decode_snapshot(doc, *stored).version < version:
            self.log.snapshots[doc] = headers, payload

    # --- questions under way -----------------------------------------------------------------------------------------
    def inbox(self, node: EdgeNode) -> str:
        reply = f"inbox.{len(self._inboxes)}"
        session = node.uplink.session

        def current(action: Action) -> Action:
            return lambda: action() if node.uplink.session == session else None

        self._inboxes[reply] = node, current
        return reply

    def owner_of(self, reply: str) -> tuple[EdgeNode, Callable[[Action], Action]]:
        return self._inboxes[reply]

    # --- what is lost and what is kept -------------------------------------------------------------------------------
    def in_chaos(self, delay_ms: int, action: Action) -> None:
        """Calm undoes all faults by itself."""
        self.after(delay_ms, lambda: None if self.calm else action())

    def drop_links(self) -> None:
        """The server restarts: no connection outlives it. (A cut one is noticed when it is noticed.)"""
        for uplink in [node.uplink for node in self.edges] + [leader.uplink for leader in self.leaders]:
            uplink.drop()

    @staticmethod
    def empty_image() -> Image:
        return Image()

    def _back_up(self, node: EdgeNode) -> None:
        self.images[node.name].append(node.disk.image.copy())

    def durable_lost(self) -> None:
        """Something that kept what people wrote is gone: what does nobody hold any more?"""
        self.lossy = True
        self.look_what_is_left()

    def look_what_is_left(self) -> None:
        """After a disk or the log was lost, an editor may have been the last to hold something. Before that, what was
        acknowledged is on a disk: nothing is excused."""
        if not self.lossy:
            return
        places: dict[DocId, list[bytes]] = {doc: [] for doc in self.docs}
        for node in self.edges:
            store = node.disk.image.store
            for doc in store.documents():
                stored = store.load(doc)
                if stored is not None:
                    places[doc].extend(stored.updates)
                    places[doc].extend([stored.state] if stored.state is not None else [])
        for message in self.log.messages:
            entry = self.entry(message, self.log.epoch)
            assert isinstance(entry, Logged)
            places[message.doc].append(entry.change.update)
        for editor in self.editors:
            if editor.alive:
                places[editor.doc].append(editor.replica.materialise().state())
        self.truth.excuse(places)

    def _judge_tokens(self) -> None:
        """Read your writes, of every replica and every disk."""
        for node in self.edges:
            if node.edge is not None:
                for doc in sorted(node.edge.hosted):
                    replica = node.edge.hosted[doc].replica
                    if replica is not None:
                        self.truth.judge_replica(f"{node.name}, in memory", replica)
            for doc in self.docs:
                stored = node.disk.image.store.load(doc)
                if stored is not None:
                    held = node.disk.image.fold(doc)
                    self.truth.judge(f"{node.name}, on disk", doc, held, stored.version, stored.dots)
        for leader in self.leaders:
            if leader.leader is not None:
                for _, lane in sorted(leader.leader.lanes.items()):
                    if lane.replica is not None and not lane.replica.early:
                        self.truth.judge_replica(leader.name, lane.replica)

    def leader_of(self, doc: DocId) -> LeaderNode | None:
        shard = shard_of(doc, self.shard_count)
        return next((leader for leader in self.leaders if leader.leads(shard)), None)
