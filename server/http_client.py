"""GET JSON from an edge, for the commands and the demo.

Room: one question, one answer, one-line errors.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sync.errors import SkerryError

__all__ = ["EDGE_URL", "TOKEN_VARIABLE", "credentials", "get_json", "get_json_now"]

EDGE_URL = "http://127.0.0.1:8787"
TIMEOUT_S = 30
TOKEN_VARIABLE = "SKERRY_TOKEN"
"""Environment variable with the token that commands show to edges; `--token` sets it for one command."""


def credentials() -> dict[str, str]:
    """What an edge is told of who asks."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def get_json_now(edge: str, path: str) -> dict[str, Any]:
    """GET JSON from an edge; a `ws://` address or a bare `host:port` will do. Raises SkerryError."""
    parts = urlsplit(edge if "://" in edge else f"http://{edge}")
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not parts.netloc:
        raise SkerryError(f"{edge}: no address of an edge, as in {EDGE_URL}")
    url = urlunsplit((scheme, parts.netloc, "", "", "")) + path
    try:
        request = urllib.request.Request(url, headers=credentials())
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            found: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        try:
            reason = str(json.load(error)["error"])
        except (ValueError, KeyError, TypeError):
            reason = f"{url}: {error.code} {error.reason}"
        raise SkerryError(reason) from None
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
        raise SkerryError(f"{edge}: {reason}; is an edge running there? name it with --edge") from None
    return found


async def get_json(edge: str, path: str) -> dict[str, Any]:
    return await asyncio.to_thread(get_json_now, edge, path)
