"""May a web page of this origin talk to this edge: a browser sends a user's connection wherever a page likes.

Room: pure; the `Origin` and `Host` of a request, whom a proxy says it asks for, and what the operator allowed. What is
no browser sends no `Origin` and is not asked here: it has no user whose network it borrows.

1. The operator's list counts, and `*` on it allows every page.
2. A page that this edge's own address served is allowed where the address is a number or `localhost`. A name is not
   proof: whoever owns a name can point it at this machine after the page has been loaded (DNS rebinding). Where tokens
   are required that gains nothing, and the same name is enough.
3. A page from this machine may talk to an edge that only this machine reaches: development servers.
4. Behind a proxy on this machine everybody comes from this machine. A proxy that says for whom it asks is believed
   where that takes something away; what is no address of this machine is another's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

__all__ = ["FORWARDED", "check_origin", "from_elsewhere", "is_loopback", "origin_allowed"]

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")  # RFC 7239, and what proxies say without it
ORIGIN_CHARS_MAX = 512  # a host name has 253
FORWARDED_CHARS_MAX = 4096  # a hundred addresses


def check_origin(text: str) -> str:
    """An origin for the list, in its plain form. Raises ValueError."""
    if text == "*":
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"{text!r} is no origin, as in https://app.example.org")
    return f"{parts.scheme}://{parts.netloc}".lower()


def origin_allowed(
    origin: str | None, host: str | None, allowed: Iterable[str], *, loopback: bool, tokens: bool
) -> str | None:
    """None: go on. Otherwise why not.

    `loopback`: the edge listens on this machine only. `tokens`: they are required, so that a page needs one.
    """
    listed = set(allowed)
    if "*" in listed:
        return None
    if host is not None and len(host) > ORIGIN_CHARS_MAX:
        return f"a Host of {len(host)} characters is none, nor one for --origin"
    host_name = _name_of(host)
    if origin is None:
        # A page behind a rebound name asks with GET and no Origin; its Host is still that name.
        if loopback and not tokens and host_name and not _is_number(host_name) and host_name != "localhost":
            if any(urlsplit(one).netloc == (host or "").lower() for one in listed):
                return None
            return f"this edge is not known as {host_name!r}; allow it with --origin http://{host}"
        return None
    if len(origin) > ORIGIN_CHARS_MAX:
        return f"an Origin of {len(origin)} characters is none, nor one for --origin"
    origin = origin.lower()
    if origin in listed:
        return None
    scheme, _, place = origin.partition("://")
    name = _name_of(place) or ""
    if scheme in ("http", "https") and name:
        if loopback and is_loopback(name) and (tokens or is_loopback(host_name or name)):
            return None
        if host is not None and place == host.lower() and (tokens or _is_number(name) or name == "localhost"):
            return None
    return f"a page of {origin!r:.200} may not use this edge; allow it with --origin"


def from_elsewhere(said: Iterable[tuple[str, str]]) -> bool:
    """Does a proxy ask for another machine? `said`: names and values of the headers in FORWARDED."""
    for name, value in said:
        if len(value) > FORWARDED_CHARS_MAX:
            return True
        for each in value.split(","):
            if name == "Forwarded":
                pairs = (pair.partition("=") for pair in each.split(";"))
                asked = [text.strip().strip('"') for key, _, text in pairs if key.strip().lower() == "for"]
            else:
                asked = [each.strip()]
            if not all(is_loopback(text) or is_loopback(_name_of(text) or "") for text in asked):
                return True
    return False


def _name_of(host: str | None) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        return None


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
