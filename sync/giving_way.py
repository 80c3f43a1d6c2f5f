"""An edge's document that cannot become equal by taking more gives way to the leader's.

Room: the end of a disagreement. Two writers have used one client id (`sync.clash`), or the leader has refused what this
edge had taken: state vectors are equal, contents are not, and no exchange of state changes that. The log decides, as
everywhere; what was here is kept for somebody to look at, and its clients are told why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import limits
from .catchup import Catchup
from .change import SyncAnswer
from .closing import CLOSE_CLIENT_ID
from .company import Out
from .digest import encode_clocks
from .errors import ClientIdClash, DocumentBroken
from .hosted import Hosted
from .replica import Replica, Verdict
from .serving import Serving
from .step import Compact, Report, SetAside
from .validate import check_update

__all__ = ["REFUSED", "clashed", "compare", "give_way", "question_of", "replaced"]

REFUSED = "what was written here was refused by the leader, and is kept with the rejected changes; reload"
IN_VAIN = "healing did not make it equal to the leader's; what was here is set aside; reload"


def give_way(host: Hosted, catchup: Catchup, reason: str, now_ms: int, out: Out) -> None:
    """Ask for all that the leader has; until it comes, what is here is served."""
    out.append(Report("document_gives_way", host.doc, reason))
    host.replace = reason
    catchup.want(host.doc, now_ms)


def clashed(host: Hosted, catchup: Catchup, error: ClientIdClash, now_ms: int, out: Out) -> None:
    """The leader has other content of this client id."""
    host.clashed.add(error.client)
    out.append(Report("client_id_clash", host.doc, str(error)))
    give_way(host, catchup, str(error), now_ms, out)


def question_of(host: Hosted, replica: Replica) -> bytes:
    """The state vector to ask the leader with. Raises DocumentBroken."""
    if host.replace:
        return encode_clocks({})
    return replica.state_vector() if host.probe is None else replica.probe(host.probe)


def compare(
    serving: Serving,
    catchup: Catchup,
    host: Hosted,
    replica: Replica,
    answer: SyncAnswer,
    theirs: Mapping[int, int],
    now_ms: int,
    out: Out,
) -> bool:
    """Edge and leader are at one version and nothing is on its way: what differs is asked for again, then healed.

    True where all is known to be equal: a leader that waits for a gap has no digest.
    """
    ahead = any(clock > theirs.get(client, 0) for client, clock in replica.clocks.items())
    # While the leader waits for a gap it has no digest to compare: deletions wait, operations need not (law 5).
    if ahead or (answer.digest and replica.digest() != answer.digest):
        if host.probe is None:
            host.probe = dict(theirs)
            catchup.want(host.doc, now_ms)
            return False
        host.probe = None
        _heal(serving, catchup, host, answer.state_vector, now_ms, out)
        catchup.compared(host.doc)
        return False
    host.heals, host.probe = 0, None
    catchup.compared(host.doc)
    return bool(answer.digest)


def _heal(serving: Serving, catchup: Catchup, host: Hosted, state_vector: bytes, now_ms: int, out: Out) -> None:
    """What the leader is found to lack is shipped again (law 5); where that does not help, this edge gives way."""
    if host.heals > limits.HEAL_ATTEMPTS_MAX:
        return
    if now_ms < host.heal_after_ms:
        catchup.want(host.doc, host.heal_after_ms)
        return
    host.heals += 1
    host.heal_after_ms = now_ms + limits.HEAL_PAUSE_MS
    if host.heals > limits.HEAL_ATTEMPTS_MAX:
        out.append(Report("document_diverged", host.doc, IN_VAIN))
        give_way(host, catchup, IN_VAIN, now_ms, out)
        return
    assert host.replica is not None
    serving.writing.ship_again(host, host.replica.diff(state_vector))
    host.compare = True
    out.append(Report("document_healed", host.doc, "the log lacked what this edge holds; shipped again"))


def replaced(
    serving: Serving,
    catchup: Catchup,
    host: Hosted,
    answer: SyncAnswer,
    adopts: Callable[[Replica], bool],
    now_ms: int,
    out: Out,
) -> bool:
    """The leader's whole document has come. False: it waits for a gap itself; asked again later.

    `adopts`: makes an empty replica what was made of the answer elsewhere, where it was.
    What others wrote here meanwhile is in the outbox, and comes back with the leader's broadcast.
    """
    assert host.replica is not None
    fresh = Replica(host.doc, version=answer.version, dots=answer.dots.copy(), guarded=True)
    taken = adopts(fresh) or fresh.take(answer.update, check_update(answer.update), now_ms).verdict is not Verdict.EARLY
    if not taken:
        catchup.want(host.doc, now_ms + limits.RETRY_MS_MAX)
        return False
    reason, host.replace = host.replace, ""
    try:
        out.append(SetAside(host.doc, host.replica.materialise().state(), reason))
    except DocumentBroken as error:
        out.append(Report("document_unreadable", host.doc, str(error)))
    fresh.materialise()
    serving.drop_clients(host, CLOSE_CLIENT_ID, reason, now_ms, out)
    host.replica = fresh
    fresh.hurried = True
    host.probe = None
    host.heals = host.rows = host.row_bytes = host.failures = 0
    host.state_bytes = len(answer.update)
    serving.writing.add(Compact(host.doc, answer.update))
    serving.writing.add_version(host)
    serving.become_ready(host, out)
    catchup.compared(host.doc)
    out.append(Report("document_replaced", host.doc, reason))
    return True
