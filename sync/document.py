"""The only file that imports pycrdt: apply, merge, diff, digest, snapshot; text positions in code points.

Room: one CRDT and nothing about who sent what. Callers hand in bytes that `sync.validate` has passed and the gate
(`sync.replica`) has judged: pycrdt loses operations that come early (facts 1.1) and dies of hostile bytes (1.7).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar, cast
from xml.sax.saxutils import escape, quoteattr

import pycrdt
from pycrdt import Array, Map

from .digest import digest_of_snapshot, encode_clocks, read_clocks
from .errors import DocumentBroken, InvalidInput, InvalidUpdate, LimitReached
from .limits import CONTENTS_DEPTH_MAX, MERGE_FAN_IN
from .roots import RootKind, find_roots
from .seams import Seams, apart, astral, cuts_of, halved, seams_of

__all__ = [
    "EMPTY_UPDATE",
    "Array",
    "Crdt",
    "Document",
    "History",
    "JsonValue",
    "Map",
    "byte_offset",
    "kind_of",
    "merge",
    "merge_mended",
    "splice",
]

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"

EMPTY_UPDATE = b"\x00\x00"
"""The update that brings nothing and deletes nothing."""


_Root = TypeVar("_Root", pycrdt.Text, pycrdt.Map, pycrdt.Array, pycrdt.XmlFragment)  # type: ignore[type-arg]
_EDIT = "edit"  # pycrdt's transaction origin: undo takes back what was made under it, and nothing that came from others


class Crdt(pycrdt.Doc[pycrdt.Text]):
    """A `pycrdt.Doc` whose roots are there when they are asked for: `crdt["body"] += "Hello"` in a new document."""

    def __getitem__(self, key: str) -> pycrdt.Text:
        """The root as the kind that it has (`sync.roots`), which may be another than its type says; else a new text."""
        root: pycrdt.Text | None = self._roots.get(key)
        if root is None:
            kind = find_roots(self.get_update()).kinds.get(key, RootKind.TEXT)
            return self.get(key, type=_CLASSES[kind])
        return root

    def __setitem__(self, key: str, value: pycrdt.Text) -> None:
        if value.is_integrated and value.doc is self:
            return  # the second half of `crdt[key] += ...`, whose first half has changed the document
        super().__setitem__(key, value)

    def get(self, key: str, *, type: type[_Root]) -> _Root:
        return cast("pycrdt.Doc[_Root]", super()).get(key, type=type)

    def root(self, key: str, kind: RootKind) -> object:
        """The root as this kind, whatever it was read as before."""
        self._roots.pop(key, None)
        return self.get(key, type=_CLASSES[kind])


_CLASSES: dict[RootKind, type[pycrdt.Text]] = {
    RootKind.TEXT: pycrdt.Text,
    RootKind.XML: cast("type[pycrdt.Text]", pycrdt.XmlFragment),
    RootKind.MAP: cast("type[pycrdt.Text]", pycrdt.Map),
    RootKind.ARRAY: cast("type[pycrdt.Text]", pycrdt.Array),
    RootKind.UNKNOWN: pycrdt.Text,
    RootKind.UNREADABLE: cast("type[pycrdt.Text]", pycrdt.Array),
}


class Document:
    """One `pycrdt.Doc`. Every method that runs Rust raises DocumentBroken where it panics; then discard the object."""

    __slots__ = ("_listeners", "_seams", "applied_bytes", "crdt")

    def __init__(self, state: bytes | None = None, client_id: int | None = None) -> None:
        """`client_id`: only to repeat a history exactly. Used twice, it diverges for ever (facts 1.6)."""
        self.crdt = Crdt(client_id=client_id)
        """Another one, of the same client id, after somebody has cut a character in half (`sync.seams`)."""
        self._listeners: list[_Listener] = []
        self._seams = Seams()
        self.applied_bytes = 0
        """Of all that came in here since somebody asked for the whole: the document has at most so many."""
        if state is not None:
            self.apply(state)

    def apply(self, update: bytes) -> None:
        self.apply_mended(*self.mended((update,)))

    def mended(self, updates: Sequence[bytes]) -> Sequence[bytes]:
        """The same updates as pycrdt can take them, and this document as it can take them (`sync.seams`).

        Then `apply_mended` all of them: what they bring counts as here.
        """
        if not self._seams and not astral(updates):
            return updates
        try:
            self._seams.add(seams_of(updates))
            cuts = cuts_of(updates, self._seams, self.clocks())
        except InvalidUpdate:
            return updates  # stored by a version that refused less
        if not cuts:
            return updates
        self._seams.drop(cuts)
        state = self.state()
        whole = halved(state, cuts)
        if whole != state:
            fresh = Crdt(client_id=self.crdt.client_id)
            try:
                fresh.apply_update(whole)
            except BaseException as error:
                raise _broken(error, "apply") from error
            self.crdt = fresh
            for listener in self._listeners:
                listener.move(fresh)
        return [halved(update, cuts) for update in updates]

    def apply_mended(self, *updates: bytes) -> None:
        """Some of what `mended` returned, in its order."""
        update = merge_mended(updates)
        self.applied_bytes += len(update)
        try:
            self.crdt.apply_update(update)
        except BaseException as error:
            raise _broken(error, "apply") from error

    def state_vector(self) -> bytes:
        try:
            return self.crdt.get_state()
        except BaseException as error:
            raise _broken(error, "state vector") from error

    def clocks(self) -> dict[int, int]:
        """Client -> next clock."""
        return read_clocks(self.state_vector())

    def diff(self, state_vector: bytes) -> bytes:
        """What a holder of `state_vector` lacks, and the whole delete set. The vector must have been checked.

        Who says to hold half of a character is given all of it: Yrs cannot cut there.
        """
        if self._seams:
            state_vector = self._beside_seams(state_vector)
        try:
            return self.crdt.get_update(state_vector)
        except BaseException as error:
            raise _broken(error, "diff") from error

    def _beside_seams(self, state_vector: bytes) -> bytes:
        clocks = read_clocks(state_vector)
        within = self._seams.among({client: (clock,) for client, clock in clocks.items()})
        return encode_clocks(clocks | {client: clock - 1 for client, (clock,) in within.items()})

    def since(self, clocks: Mapping[int, int]) -> bytes:
        """`diff` for a holder of these clocks."""
        return self.diff(encode_clocks(clocks))

    def state(self) -> bytes:
        """The whole document as one update."""
        try:
            state = self.crdt.get_update()
        except BaseException as error:
            raise _broken(error, "state") from error
        self.applied_bytes = len(state)
        return state

    def digest(self) -> str:
        """Equal exactly where two replicas hold the same operations and deletions (law 6)."""
        return digest_of_snapshot(self.snapshot())

    # --- for people -------------------------------------------------------------------------------------------------
    def text(self, root: str) -> str:
        """The text of this root, without its formats and embeds; empty where there is none."""
        try:
            return str(self.crdt.get(root, type=pycrdt.Text))
        except BaseException as error:
            raise _broken(error, "text") from error

    def edit_text(self, root: str, position: int, deleted: int, inserted: str) -> bytes:
        """Delete so many code points at `position`, insert there, and return the update (EMPTY_UPDATE: no change).

        Positions count the code points of `text(root)`. Embeds have none: one within the deleted span goes with it, one
        at its edge stays, and what is inserted comes before it. Raises IndexError outside the text and InvalidInput
        for what is no UTF-8; then nothing has changed. Costs a reading of the text: 50 us at 20,000 characters.
        """
        if not inserted.isascii():
            try:
                inserted.encode("utf-8")
            except UnicodeEncodeError:
                raise InvalidInput("text: a lone surrogate is not UTF-8; insert whole characters") from None
        try:
            text = self.crdt.get(root, type=pycrdt.Text)
            content = str(text)
            if position < 0 or deleted < 0 or position + deleted > len(content):
                raise IndexError(f"text {root!r}: {position}+{deleted} is outside its {len(content)} characters")
            with self.edit() as made:
                splice(text, content, position, deleted, inserted)
        except IndexError:
            raise
        except BaseException as error:
            raise _broken(error, "edit") from error
        return made[0] if made else EMPTY_UPDATE

    @contextlib.contextmanager
    def edit(self) -> Iterator[list[bytes]]:
        """One transaction: the list holds its update when the block has ended, and nothing where nothing changed.

        Also where the block raises: what ran before stays done (facts 1.9). Within a transaction there is no other.
        """
        made: list[bytes] = []
        try:
            with self.told(lambda event: made.append(event.update)), self.crdt.transaction(origin=_EDIT):
                yield made
        finally:
            self.note(made)

    def note(self, made: Sequence[bytes]) -> None:
        """pycrdt has made these itself."""
        if astral(made):
            self._seams.add(seams_of(made))

    @contextlib.contextmanager
    def told(self, callback: Callable[[pycrdt.TransactionEvent], None]) -> Iterator[None]:
        """While the block runs, every transaction's event goes to `callback`, within the transaction.

        Not for longer: a document dropped with a live subscription leaks (facts 1.9).
        """
        listener = _Listener(callback, self.crdt)
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
            listener.end()

    def contents(self) -> dict[str, JsonValue]:
        """Every root by name: `{"body": {"kind": "text", "value": "..."}, ...}`, keys sorted everywhere.

        Kinds: text (plain), map, array, xml (a string, attributes sorted); with the value null, unknown where all was
        deleted, since Yjs stores no kinds, and unreadable where kinds are mixed up. Bytes are lists of numbers;
        integral floats are integers (facts 1.9). Raises LimitReached where it nests too deeply to be read.
        """
        state = self.state()
        roots = find_roots(state)
        if roots.depth > CONTENTS_DEPTH_MAX:  # pycrdt recurses: 30,000 levels end the process
            raise LimitReached(
                "CONTENTS_DEPTH_MAX", roots.depth, CONTENTS_DEPTH_MAX, "nest shared types less, or read it with Yjs"
            )
        # Read in a fresh one, which holds exactly what the bytes say: what `roots` guards against is where it looks.
        fresh = Crdt()
        try:
            fresh.apply_update(state)
        except BaseException as error:
            raise _broken(error, "contents") from error
        contents: dict[str, JsonValue] = {}
        for name, kind in roots.kinds.items():
            try:
                value = _root_value(fresh, name, kind, roots.xml_within)
            except Exception:  # a type where Python has none, as text in an array of elements: no fault of the rest
                kind, value = RootKind.UNREADABLE, None
            except BaseException as error:
                raise _broken(error, "contents") from error
            contents[name] = {"kind": kind.word, "value": value}
        return contents

    def snapshot(self) -> bytes:
        """What `decode_snapshot_bytes` and `Deleted` read."""
        try:
            return pycrdt.Snapshot.from_doc(self.crdt).encode()
        except BaseException as error:
            raise _broken(error, "snapshot") from error


class _Listener:
    """One subscription, wherever the document's CRDT is."""

    __slots__ = ("_callback", "_crdt", "_watch")

    def __init__(self, callback: Callable[[pycrdt.TransactionEvent], None], crdt: Crdt) -> None:
        self._callback = callback
        self._crdt = crdt
        self._watch = crdt.observe(callback)

    def move(self, crdt: Crdt) -> None:
        self.end()
        self._crdt = crdt
        self._watch = crdt.observe(self._callback)

    def end(self) -> None:
        self._crdt.unobserve(self._watch)


class History:
    """Undo and redo of what is edited in these roots of a document, from now on; one `Document.edit` is one step.

    Holds what was deleted: costs memory with every step.
    """

    __slots__ = ("_document", "_manager")

    def __init__(self, document: Document, roots: Iterable[str]) -> None:
        self._document = document
        self._manager = pycrdt.UndoManager(
            scopes=[document.crdt[root] for root in sorted(roots)], capture_timeout_millis=0
        )
        self._manager.include_origin(_EDIT)

    @property
    def can_undo(self) -> bool:
        return self._manager.can_undo()

    @property
    def can_redo(self) -> bool:
        return self._manager.can_redo()

    def undo(self) -> list[bytes]:
        """Take back the newest edit, others' changes untouched; the updates that this makes, none where nothing was."""
        return self._run(self._manager.undo)

    def redo(self) -> list[bytes]:
        return self._run(self._manager.redo)

    def _run(self, step: Callable[[], bool]) -> list[bytes]:
        made: list[bytes] = []
        try:
            with self._document.told(lambda event: made.append(event.update)):
                step()
        except BaseException as error:
            raise _broken(error, "undo") from error
        self._document.note(made)
        return made


def _broken(error: BaseException, what: str) -> BaseException:
    """A Rust panic (a BaseException of its own class) or a refusal is DocumentBroken; anything else stays itself."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return DocumentBroken(
            f"document: {what} failed in pycrdt ({type(error).__name__}); rebuild it from what is stored"
        )
    return error


def merge(updates: Sequence[bytes]) -> bytes:
    """One update with everything in `updates`. Raises DocumentBroken."""
    return merge_mended(apart(updates))


def merge_mended(updates: Sequence[bytes]) -> bytes:
    """`merge` of updates none of which begins within a character of another.

    A tree, since pycrdt's merge is worse than linear (facts 1.10). Where pycrdt panics over one level's sorting, two
    at a time. Raises DocumentBroken.
    """
    if len(updates) == 1:
        return updates[0]
    if not updates:
        return EMPTY_UPDATE
    try:
        return _merged(updates, MERGE_FAN_IN)
    except DocumentBroken:
        return _merged(updates, 2)


def _merged(updates: Sequence[bytes], fan_in: int) -> bytes:
    level = list(updates)
    try:
        while len(level) > 1:
            level = [pycrdt.merge_updates(*level[at : at + fan_in]) for at in range(0, len(level), fan_in)]
    except BaseException as error:
        raise _broken(error, "merge") from error
    return level[0]


def kind_of(item: object) -> RootKind | None:
    """Which shared type this is; None for a plain JSON value."""
    for of_kind, kind in _KINDS:
        if isinstance(item, of_kind):
            return kind
    return None


_KINDS: tuple[tuple[type, RootKind], ...] = (
    (pycrdt.Text, RootKind.TEXT),
    (pycrdt.Map, RootKind.MAP),
    (pycrdt.Array, RootKind.ARRAY),
    (pycrdt.XmlFragment, RootKind.XML),
    (pycrdt.XmlElement, RootKind.XML),
    (pycrdt.XmlText, RootKind.XML),
)


def splice(text: pycrdt.Text, content: str, position: int, deleted: int, inserted: str) -> None:
    """`Document.edit_text` for any text, within a transaction. `content`: what the text is now, as `str(text)`."""
    start, end = _byte_span(text, content, position, deleted)
    if start < end:
        del text[start:end]
    if inserted:
        text.insert(start, inserted)


def byte_offset(text: str, index: int) -> int:
    """Code point index -> pycrdt's UTF-8 byte index (facts 1.8). Raises IndexError outside the text."""
    if not 0 <= index <= len(text):
        raise IndexError(f"text index {index}: the text has {len(text)} characters")
    return len(text[:index].encode("utf-8"))


def _byte_span(text: pycrdt.Text, content: str, position: int, deleted: int) -> tuple[int, int]:
    """pycrdt's (start, end) of a span of code points. It counts UTF-8 bytes, and an embed as one (facts 1.8)."""
    ascii_only = content.isascii()
    byte_count = len(content) if ascii_only else len(content.encode("utf-8"))
    if len(text) == byte_count:  # no embeds
        if ascii_only:
            return position, position + deleted
        start = byte_offset(content, position)
        return start, start + len(content[position : position + deleted].encode("utf-8"))
    # Before an embed to insert, behind it to delete: an edge is never within the span.
    start = _after_chunks(text, position, behind_embeds=deleted > 0)
    return start, _after_chunks(text, position + deleted, behind_embeds=False) if deleted else start


def _after_chunks(text: pycrdt.Text, position: int, *, behind_embeds: bool) -> int:
    """pycrdt's index with so many code points before it, before or behind the embeds that stand there."""
    at = 0
    for chunk, _ in text.diff():
        if isinstance(chunk, str):
            if len(chunk) > position or (len(chunk) == position and not behind_embeds):
                return at + byte_offset(chunk, position)
            position -= len(chunk)
            at += len(chunk.encode("utf-8"))
        elif position == 0 and not behind_embeds:
            return at
        else:
            at += 1
    return at


# --- contents as JSON -------------------------------------------------------------------------------------------------
def _root_value(crdt: pycrdt.Doc[pycrdt.Text], name: str, kind: RootKind, xml_within: bool) -> JsonValue:
    match kind:
        case RootKind.TEXT:
            return str(crdt.get(name, type=pycrdt.Text))
        case RootKind.MAP:
            of_maps = cast("pycrdt.Doc[pycrdt.Map[object]]", crdt)
            return _container_value(of_maps.get(name, type=pycrdt.Map), xml_within)
        case RootKind.ARRAY:
            of_arrays = cast("pycrdt.Doc[pycrdt.Array[object]]", crdt)
            return _container_value(of_arrays.get(name, type=pycrdt.Array), xml_within)
        case RootKind.XML:
            of_xml = cast("pycrdt.Doc[pycrdt.XmlFragment]", crdt)
            return _xml(of_xml.get(name, type=pycrdt.XmlFragment))
        case RootKind.UNKNOWN | RootKind.UNREADABLE:
            return None


def _container_value(container: pycrdt.Map[object] | pycrdt.Array[object], xml_within: bool) -> JsonValue:
    """pycrdt's own JSON, in one call. It writes XML attributes in hash order: where there are any, item by item."""
    value = cast(JsonValue, json.loads(str(container), object_pairs_hook=_sorted_object))
    if not xml_within:
        return value
    if isinstance(container, pycrdt.Map):
        assert isinstance(value, dict)
        return {key: _item_value(container[key], value[key]) for key in value}
    assert isinstance(value, list)
    return [_item_value(item, value[at]) for at, item in enumerate(cast("Iterable[object]", container))]


def _item_value(item: object, value: JsonValue) -> JsonValue:
    if isinstance(item, pycrdt.XmlFragment | pycrdt.XmlElement | pycrdt.XmlText):
        return _xml(item)
    if isinstance(item, pycrdt.Map | pycrdt.Array):
        return _container_value(item, True)
    return value


def _sorted_object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    return dict(sorted(pairs))


def _xml(node: pycrdt.XmlFragment | pycrdt.XmlElement | pycrdt.XmlText) -> str:
    """As Yjs writes it, and with what has a meaning in XML escaped. Its depth is bounded by the caller."""
    if isinstance(node, pycrdt.XmlText):
        return "".join(_xml_run(chunk, attributes) for chunk, attributes in node.diff())
    inner = "".join([_xml(child) for child in node.children])
    if not isinstance(node, pycrdt.XmlElement):
        return inner
    attributes = dict(cast("Iterable[tuple[str, object]]", node.attributes))  # it is one, and its type does not say so
    return f"<{node.tag}{_xml_attributes(attributes)}>{inner}</{node.tag}>"


def _xml_run(chunk: object, attributes: Mapping[str, object] | None) -> str:
    run = escape(chunk) if isinstance(chunk, str) else f"<embed>{escape(_json_text(chunk))}</embed>"
    for name, value in sorted((attributes or {}).items(), reverse=True):  # the first by name is outermost
        run = f"<{name}{_xml_attributes(value if isinstance(value, Mapping) else {})}>{run}</{name}>"
    return run


def _xml_attributes(attributes: Mapping[str, object]) -> str:
    return "".join(
        f" {name}={quoteattr(value if isinstance(value, str) else _json_text(value))}"
        for name, value in sorted(attributes.items())
    )


def _json_text(value: object) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _plain(value: object) -> JsonValue:
    """What pycrdt returns for a value that is no shared type, as JSON."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in sorted(value.items())}
    if isinstance(value, list | tuple | bytes | bytearray):
        return [_plain(each) for each in value]
    return None  # a shared type as an embed or an attribute
