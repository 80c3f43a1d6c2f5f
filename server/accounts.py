"""NATS accounts in which an edge can neither delete from the log nor pose as the leader: a server's configuration.

Room: pure text; the keys are given. Who may what on NATS is decided here and nowhere else (docs/security.md).

Permissions of users within one account would not do. Whoever may read a stored message may ask the server to send it to
any subject, as the reply of a direct get, and the server sends with its own rights: a change that an edge has stored
comes back as the leader's broadcast, as a snapshot, or as a lease. So every edge has an account of its own, and reaches
the log through what the leader's account exports: a reply comes out in the account of whoever asked, and nowhere else.
Presence goes from each edge's account to every other's, since a server passes on nothing that it has imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from sync.errors import ConfigError

from .streams import Layout

__all__ = ["USER_NAME", "accounts_config", "edge_services", "edge_streams"]

USER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
Value = str | Sequence["Value"] | Mapping[str, "Value"]


def edge_streams(layout: Layout) -> list[str]:
    """What an edge hears from the leader's account."""
    every = [layout.every(kind) for kind in ("merged", "beacon", "repair")]
    return [*every, f"{layout.namespace}.ask"]


def edge_services(layout: Layout) -> list[tuple[str, bool]]:
    """What an edge may send, and whether more than one answer comes back."""
    ns = layout.namespace
    streams = [layout.changes, layout.snapshots, layout.rejected, layout.events]
    streams += [f"OBJ_{layout.objects}", f"KV_{layout.leaders}"]
    read = [layout.changes, layout.snapshots, layout.rejected, f"OBJ_{layout.objects}"]
    return [
        (f"{ns}.changes.*.*", False),
        (f"{ns}.sync.*", True),  # parts
        (f"{ns}.stamp", False),
        (f"{ns}.answer.*", False),
        (f"$O.{layout.objects}.C.*", False),  # changes that are larger than a message
        (f"$O.{layout.objects}.M.*", False),
        ("$JS.API.INFO", False),
        *((f"$JS.API.STREAM.INFO.{name}", False) for name in streams),
        *((f"$JS.API.STREAM.MSG.GET.{name}", False) for name in read),
        *((f"$JS.API.DIRECT.GET.{name}", True) for name in read),  # a batch
    ]


def accounts_config(
    namespace: str, leaders: Mapping[str, str], operators: Mapping[str, str], edges: Mapping[str, str]
) -> str:
    """The text for a nats-server's configuration. Each mapping: name -> public key of the user (an nkey, `U…`).

    Raises ConfigError for names that cannot be.
    """
    layout = Layout(namespace)
    for name in [*leaders, *operators, *edges]:
        if not USER_NAME.fullmatch(name):
            raise ConfigError(f"{name!r}: no name for a user; use 1-64 letters, digits, '-' and '_'")
    hub = f"{namespace}_hub"
    accounts = {name: f"{namespace}_edge_{name}" for name in sorted(edges)}
    allowed = list(accounts.values())
    exports: list[Value] = [{"stream": subject, "accounts": allowed} for subject in edge_streams(layout)]
    for subject, many in edge_services(layout):
        exports.append({"service": subject, "response_type": "stream" if many else "singleton", "accounts": allowed})
    leader: Value = {
        "publish": {
            "deny": [
                "$JS.API.STREAM.DELETE.*",
                f"$JS.API.STREAM.PURGE.{layout.changes}",
                f"$JS.API.STREAM.MSG.DELETE.{layout.changes}",
                "$JS.API.STREAM.RESTORE.*",
            ]
        }
    }
    operator: Value = {
        "publish": {
            "allow": [
                f"{namespace}.ask",
                "_INBOX.>",
                "$JS.API.INFO",
                "$JS.API.STREAM.INFO.*",
                "$JS.API.CONSUMER.INFO.*.*",
            ]
        },
        "subscribe": {"allow": [f"{namespace}.answer.*", "_INBOX.>"]},
    }
    users: list[Value] = [{"nkey": key, "permissions": leader} for _, key in sorted(leaders.items())]
    users += [{"nkey": key, "permissions": operator} for _, key in sorted(operators.items())]
    found: dict[str, Mapping[str, Value]] = {hub: {"users": users, "exports": exports if allowed else []}}
    for name, account in accounts.items():
        imports: list[Value] = [{"stream": {"account": hub, "subject": subject}} for subject in edge_streams(layout)]
        imports += [{"service": {"account": hub, "subject": subject}} for subject, _ in edge_services(layout)]
        others = [other for other in allowed if other != account]
        for other in sorted(edges):
            if other != name:
                presence = layout.every_presence(other)
                imports.append({"stream": {"account": accounts[other], "subject": presence}})
        exported: list[Value] = [{"stream": layout.every_presence(name), "accounts": others}] if others else []
        found[account] = {"users": [{"nkey": edges[name]}], "exports": exported, "imports": imports}
    lines = ["# Made by `skerry nats-accounts`. Give it to nats-server, or to `skerry nats --accounts`.", "accounts {"]
    for account, parts in found.items():
        lines.append(f"  {account} {{")
        if account == hub:
            lines.append("    jetstream: enabled")
        for part, values in parts.items():
            lines.append(f"    {part}: [")
            lines += [f"      {json.dumps(value)}" for value in values]
            lines.append("    ]")
        lines.append("  }")
    lines += [f"  {namespace}_system {{ users: [] }}", "}", f"system_account: {namespace}_system", ""]
    return "\n".join(lines)
