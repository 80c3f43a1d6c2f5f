"""How a stream differs from what this node wants, and how grave that is.

Room: one stream's configuration beside another, as plain JSON. Who asks for it, and what follows, is unknown here.

A difference is one of three:

- harmless: no promise hangs on it. A stream that refuses what is too much for it loses nothing: whoever published keeps
  it, tries again, and says so. What is told again or read from elsewhere may go early. Nodes go on, and warn.
- to be mended: going on would break a promise (`WHY`), and an operator can edit the stream. Nodes wait for that.
- for good: going on would break a promise, and no edit takes it back. Nodes end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

__all__ = ["SHARDS_KEY", "SHARDS_MAX", "Difference", "differences"]

Json = dict[str, object]
Kind = Literal["changes", "snapshots", "rejected", "events", "objects", "leaders"]
Weight = Literal["harmless", "mend", "for good"]

SHARDS_MAX = 4096
SHARDS_KEY = "skerry-shards"

_ROOM = frozenset({"max_bytes", "max_msgs", "max_msg_size"})
_AGAIN = _ROOM | {"max_age", "max_msgs_per_subject"}
_HARMLESS: dict[str, frozenset[str]] = {
    # Law 4: nothing depends on the duplicate window. With discard=new, a full stream refuses, and loses nothing.
    "changes": _ROOM | {"duplicate_window", "compression"},
    "rejected": _ROOM | {"compression"},  # the leader's lane waits with what it cannot put there
    "objects": _ROOM,  # a large change waits in its edge's outbox
    "snapshots": _AGAIN | {"compression"},  # whoever misses one reads the log, which is kept
    "events": _AGAIN | {"compression"},  # kept for a week at most anyway; documents do not hang on them
    "leaders": frozenset(),
}
_FOR_GOOD = frozenset({"storage", "retention"})  # the server refuses to edit these (retention: from and to workqueue)
WHY = {
    "subjects": "changes would be stored elsewhere, or nowhere",
    "discard": "a full stream would drop the oldest instead of refusing the newest",
    "max_age": "what is acknowledged would go by its age",
    "max_msgs_per_subject": "what is acknowledged would go when something newer comes",
    "num_replicas": "fewer disks hold the log than this node's configuration promises",
    "deny_delete": "anybody could delete what is acknowledged",
    "deny_purge": "anybody could delete what is acknowledged",
    "allow_direct": "the log could not be read in batches",
    "storage": "what is acknowledged would be gone with the server's process",
    "retention": "what is acknowledged would go when somebody has read it",
}


@dataclass(frozen=True, slots=True)
class Difference:
    text: str
    weight: Weight

    @property
    def harmless(self) -> bool:
        return self.weight == "harmless"


def differences(kind: Kind, want: Json, have: Json, shards: int | None) -> list[Difference]:
    """`shards`: how many this node asks for; None where any number will do."""
    name = str(want["name"])
    found: list[Difference] = []
    for field, wanted in want.items():
        if field == "metadata":
            continue
        got = have.get(field, _absent(field, wanted))
        if isinstance(wanted, list) and isinstance(got, list):
            wanted, got = sorted(wanted), sorted(got)
        if got != wanted:
            weight = _weight(kind, field, got, wanted)
            why = f" ({WHY[field]})" if weight != "harmless" and field in WHY else ""
            found.append(Difference(f"{name}: {field} is {json.dumps(got)}, want {json.dumps(wanted)}{why}", weight))
    if "metadata" in want:
        metadata = have.get("metadata")
        text = str(metadata.get(SHARDS_KEY, "")) if isinstance(metadata, dict) else ""
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= SHARDS_MAX):
            wrong = f"{name}: metadata {SHARDS_KEY} is {json.dumps(text)}, want the number of shards"
            found.append(Difference(wrong, "for good"))  # nobody knows under how many its changes are
        elif shards is not None and int(text) != shards:
            wrong = f"{name}: metadata {SHARDS_KEY} is {text}, want {shards} (it cannot change once there are changes)"
            found.append(Difference(wrong, "for good"))
    return found


def _weight(kind: Kind, field: str, got: object, wanted: object) -> Weight:
    if field in _HARMLESS[kind]:
        return "harmless"
    if field in ("deny_delete", "deny_purge") and got is True:
        return "harmless"  # stricter than asked for, as production is for a node in development
    if field == "num_replicas" and isinstance(got, int) and isinstance(wanted, int) and got > wanted:
        return "harmless"
    return "for good" if field in _FOR_GOOD else "mend"


def _absent(field: str, wanted: object) -> object:
    """What a field means that JSON leaves out."""
    if field == "compression":
        return "none"
    return False if isinstance(wanted, bool) else 0 if isinstance(wanted, int) else None
