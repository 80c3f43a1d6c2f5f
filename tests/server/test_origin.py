"""Which web pages may use an edge."""

from __future__ import annotations

import pytest

from server.origin import check_origin, from_elsewhere, origin_allowed

LISTED = ("https://app.example",)


@pytest.mark.parametrize(
    ("origin", "host", "loopback", "tokens", "allowed"),
    [
        # no browser
        (None, "127.0.0.1:8787", True, False, True),
        (None, "localhost:8787", True, False, True),
        (None, None, True, False, True),
        (None, "edge.lan:8787", False, False, True),
        (None, "edge.lan:8787", True, True, True),
        (None, "rebound.example:8787", True, False, False),
        (None, "app.example", True, False, True),
        # the operator's list
        ("https://app.example", "edge:1", False, True, True),
        ("HTTPS://APP.example", "edge:1", False, True, True),
        ("http://app.example", "edge:1", False, True, False),
        ("https://app.example:8443", "edge:1", False, True, False),
        ("https://app.example.evil.example", "edge:1", False, True, False),
        # a page of this machine, an edge of this machine
        ("http://localhost:5173", "127.0.0.1:8787", True, False, True),
        ("http://[::1]:5173", "localhost:8787", True, False, True),
        ("http://localhost:5173", "10.0.0.5:8787", False, False, False),
        # the edge's own address
        ("http://10.0.0.5:8787", "10.0.0.5:8787", False, False, True),
        ("http://10.0.0.5:8788", "10.0.0.5:8787", False, False, False),
        ("http://edge.lan:8787", "edge.lan:8787", False, True, True),
        # a rebound name looks like the edge's own address
        ("http://rebound.example:8787", "rebound.example:8787", True, False, False),
        ("http://rebound.example:8787", "rebound.example:8787", False, False, False),
        ("http://localhost:5173", "rebound.example:8787", True, False, False),
        # foreign
        ("https://evil.example", "127.0.0.1:8787", True, False, False),
        ("https://evil.example", "127.0.0.1:8787", True, True, False),
        ("null", "127.0.0.1:8787", True, False, False),
        ("file://", "127.0.0.1:8787", True, False, False),
        ("", "127.0.0.1:8787", True, False, False),
        ("http://localhost.evil.example", "127.0.0.1:8787", True, False, False),
        ("http://127.0.0.1.evil.example", "127.0.0.1:8787", True, False, False),
        ("http://[", "127.0.0.1:8787", True, False, False),
        # nobody's: a megabyte of them would be read again and again
        ("https://" + "a" * 600, "127.0.0.1:8787", True, False, False),
        (None, "a" * 600, True, False, False),
        (None, "127.0.0.1:" + "8" * 600, True, False, False),
    ],
)
def test_pages_that_may(origin: str | None, host: str | None, loopback: bool, tokens: bool, allowed: bool) -> None:
    why = origin_allowed(origin, host, LISTED, loopback=loopback, tokens=tokens)

    assert (why is None) == allowed, why
    assert why is None or "--origin" in why


def test_a_star_allows_every_page() -> None:
    assert origin_allowed("null", "x", ("*",), loopback=True, tokens=False) is None


@pytest.mark.parametrize("text", ["app.example", "ws://app.example", "https://", "https://app.example/path", ""])
def test_what_is_no_origin_is_refused_when_it_is_configured(text: str) -> None:
    with pytest.raises(ValueError, match="no origin"):
        check_origin(text)


def test_an_origin_has_one_form() -> None:
    assert check_origin("https://App.Example/") == "https://app.example"


@pytest.mark.parametrize(
    ("name", "value", "elsewhere"),
    [
        ("X-Forwarded-For", "127.0.0.1", False),
        ("X-Forwarded-For", "::1", False),
        ("X-Forwarded-For", "127.0.0.1, [::1]:4711, localhost", False),
        ("X-Forwarded-For", "127.0.0.1:4711", False),
        ("X-Forwarded-For", "192.0.2.60", True),
        ("X-Forwarded-For", "127.0.0.1, 192.0.2.60", True),
        ("X-Forwarded-For", "192.0.2.60, 127.0.0.1", True),
        ("X-Forwarded-For", "unknown", True),
        ("X-Forwarded-For", "", True),
        ("X-Forwarded-For", "127.0.0.1.evil.example", True),
        ("X-Forwarded-For", "[", True),
        ("X-Forwarded-For", ", ".join(["127.0.0.1"] * 300), False),
        ("X-Forwarded-For", ", ".join(["127.0.0.1"] * 400), True),
        ("X-Real-IP", "127.0.0.1", False),
        ("X-Real-IP", "2001:db8::1", True),
        ("Forwarded", "for=127.0.0.1;proto=http;by=203.0.113.43", False),
        ("Forwarded", 'For="[::1]:4711"', False),
        ("Forwarded", "proto=https", False),
        ("Forwarded", 'proto=https; FOR="[2001:db8::1]:4711"', True),
        ("Forwarded", "for=127.0.0.1, for=192.0.2.60", True),
        ("Forwarded", "for=_hidden", True),
    ],
)
def test_for_whom_a_proxy_asks(name: str, value: str, elsewhere: bool) -> None:
    assert from_elsewhere([(name, value)]) == elsewhere
    assert from_elsewhere([("X-Real-IP", "127.0.0.1"), (name, value)]) == elsewhere
    assert not from_elsewhere([])
