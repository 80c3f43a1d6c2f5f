"""The edge's key and revocation files: read at the start, read again on change, and what that ends. The commands."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from server.admission import CLOSE_EXPIRED, CLOSE_REVOKED, Admission, revoke, token_of
from server.auth import EVERYTHING, Rule, TokenRefused, make_key, make_token, parse_keys
from server.cli import main
from server.config import Config, load_config
from sync.errors import ConfigError
from sync.ids import DocId

ALL = (Rule("*", "write"),)


class Authority:
    """Keys in a file of an edge, and the tokens they sign."""

    def __init__(self, directory: Path, *kids: str) -> None:
        self.path = directory / "keys.json"
        self.made = {kid: make_key("EdDSA", kid) for kid in kids}
        self.publish(*kids)

    def publish(self, *kids: str) -> None:
        self.path.write_text(json.dumps({"keys": [self.made[kid][1] for kid in kids]}))

    def token(self, kid: str, subject: str = "ada", seconds: float = 60, rules: tuple[Rule, ...] = ALL) -> str:
        key = parse_keys(json.dumps(self.made[kid][0]).encode(), private=True).all[0]
        return make_token(key, subject, rules, time.time(), seconds)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "first", "second")


def config(tmp_path: Path, **flags: object) -> Config:
    return load_config({"data": tmp_path, **flags}, None)


class Live:
    """A connection, as far as admission knows one."""

    def __init__(self, admission: Admission, token: str) -> None:
        self.closed: list[tuple[int, str]] = []
        self.admitted = admission.admit(admission.grant(token), lambda code, reason: self.closed.append((code, reason)))

    @property
    def code(self) -> int | None:
        return self.closed[0][0] if self.closed else None


# --- when it is asked -------------------------------------------------------------------------------------------------
def test_on_this_machine_nobody_is_asked(tmp_path: Path) -> None:
    admission = Admission(config(tmp_path))

    assert admission.grant(None) is EVERYTHING
    assert not admission.required


@pytest.mark.parametrize("listen", ["0.0.0.0:8787", "[::]:8787", "10.0.0.5:1", "edge.lan:8787"])
def test_an_edge_that_others_reach_does_not_start_without_keys(
    tmp_path: Path, listen: str, authority: Authority
) -> None:
    with pytest.raises(ConfigError, match="--insecure") as caught:
        Admission(config(tmp_path, listen=listen))
    assert "\n" not in str(caught.value)

    assert Admission(config(tmp_path, listen=listen, auth_keys=authority.path)).required
    assert Admission(config(tmp_path, listen=listen, insecure=True)).grant(None) is EVERYTHING


def test_keys_are_asked_for_on_this_machine_too_where_they_are_given(tmp_path: Path, authority: Authority) -> None:
    admission = Admission(config(tmp_path, auth_keys=authority.path))

    with pytest.raises(TokenRefused, match="no token"):
        admission.grant(None)
    assert admission.grant(authority.token("first")).may_write(DocId("x"))


def test_files_that_cannot_be_read_stop_the_edge(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "revoked.jsonl").write_text("ada\n")
    with pytest.raises(ConfigError, match=r"revoked\.jsonl: line 1"):
        Admission(config(tmp_path, auth_keys=authority.path))
    with pytest.raises(ConfigError, match="an empty one revokes nothing"):
        Admission(config(tmp_path, auth_keys=authority.path, auth_revoked=tmp_path / "none"))
    authority.path.write_text("{")
    with pytest.raises(ConfigError, match=r"keys\.json"):
        Admission(config(tmp_path, auth_keys=authority.path))


@pytest.mark.parametrize(
    ("path", "headers", "token"),
    [
        ("/d", {}, None),
        ("/d?token=a.b.c", {}, "a.b.c"),
        ("/d?x=1&token=a.b.c", {}, "a.b.c"),
        ("/d?token=", {}, ""),
        ("/d", {"Authorization": "Bearer a.b.c"}, "a.b.c"),
        ("/d", {"Authorization": "bearer  a.b.c "}, "a.b.c"),
        ("/d?token=query", {"Authorization": "Bearer header"}, "header"),
        ("/d", {"Authorization": "Basic YTpi"}, None),
        ("/token=x", {}, None),
    ],
)
def test_a_token_comes_in_the_header_or_in_the_query(path: str, headers: dict[str, str], token: str | None) -> None:
    assert (token_of(path, headers) or None) == (token or None)


# --- what ends a connection -------------------------------------------------------------------------------------------
def test_expiry_ends_a_connection(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Admission(config(tmp_path, auth_keys=authority.path))
    short, long = Live(admission, authority.token("first")), Live(admission, authority.token("first", seconds=3600))

    asyncio.run(admission.check())
    assert short.code is None

    later = time.time() + 61
    monkeypatch.setattr("server.admission.time.time", lambda: later)
    asyncio.run(admission.check())
    asyncio.run(admission.check())
    assert [code for code, _ in short.closed] == [CLOSE_EXPIRED]
    assert long.code is None


def test_revoking_a_subject_ends_its_connections_and_a_new_token_opens_again(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission = Admission(config(tmp_path, auth_keys=authority.path))
    ada, ben = Live(admission, authority.token("first")), Live(admission, authority.token("first", "ben"))

    assert main(["revoke", "--data", str(tmp_path), "--sub", "ada"]) == 0
    asyncio.run(admission.check())

    assert (ada.code, ben.code) == (CLOSE_REVOKED, None)
    with pytest.raises(TokenRefused, match="revoked"):
        admission.grant(authority.token("first"))
    later = time.time() + 2
    monkeypatch.setattr("tests.server.test_auth_admission.time.time", lambda: later)
    assert admission.grant(authority.token("first")).subject == "ada"


def test_revoking_one_token_leaves_the_others(tmp_path: Path, authority: Authority) -> None:
    admission = Admission(config(tmp_path, auth_keys=authority.path))
    lost, kept = Live(admission, authority.token("first")), Live(admission, authority.token("first"))

    assert main(["revoke", "--data", str(tmp_path), "--jti", lost.admitted.grant.token_id]) == 0
    asyncio.run(admission.check())

    assert (lost.code, kept.code) == (CLOSE_REVOKED, None)


def test_a_key_that_is_taken_away_takes_its_connections_along(tmp_path: Path, authority: Authority) -> None:
    admission = Admission(config(tmp_path, auth_keys=authority.path))
    first, second = Live(admission, authority.token("first")), Live(admission, authority.token("second"))

    authority.publish("second")
    asyncio.run(admission.check())

    assert (first.code, second.code) == (CLOSE_REVOKED, None)
    with pytest.raises(TokenRefused, match="kid"):
        admission.grant(authority.token("first"))


def test_a_file_that_is_damaged_later_changes_nothing_and_is_named(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    revoke(tmp_path / "revoked.jsonl", {"jti": "old"})
    admission = Admission(config(tmp_path, auth_keys=authority.path))
    live = Live(admission, authority.token("first"))

    authority.path.write_text('{"keys": [')
    asyncio.run(admission.check())

    assert live.code is None
    assert "auth_files_unread" in caplog.text
    assert "keys.json" in caplog.text
    authority.publish("second")
    asyncio.run(admission.check())
    assert live.code == CLOSE_REVOKED


def test_who_has_left_is_not_closed(tmp_path: Path, authority: Authority) -> None:
    admission = Admission(config(tmp_path, auth_keys=authority.path))
    live = Live(admission, authority.token("first"))
    admission.leave(live.admitted)
    authority.publish("second")

    asyncio.run(admission.check())

    assert live.closed == []


def test_revocations_are_appended_even_behind_a_line_without_an_end(tmp_path: Path, authority: Authority) -> None:
    path = tmp_path / "revoked.jsonl"
    path.write_text('# by hand\n{"jti": "a"}')
    revoke(path, {"sub": "ben"})

    assert path.read_text().splitlines() == ["# by hand", '{"jti": "a"}', '{"sub": "ben"}']


# --- commands ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256", "HS256"])
def test_the_commands_make_a_key_a_token_and_explain_it(
    tmp_path: Path, algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    private, keys = str(tmp_path / "private.json"), str(tmp_path / "keys.json")
    assert main(["token", "key", "--private", private, "--keys", keys, "--algorithm", algorithm]) == 0
    capsys.readouterr()

    made = main(["token", "make", "--key", private, "--sub", "ada", "--write", "team/*", "--read", "*", "--for", "2h"])
    token = capsys.readouterr().out.strip()
    shown = main(["token", "show", token, "--keys", keys, "--json"])
    explained = json.loads(capsys.readouterr().out)

    assert (made, shown) == (0, 0)
    assert explained["header"]["alg"] == algorithm
    assert explained["claims"]["skerry"] == [{"docs": "team/*", "may": "write"}, {"docs": "*", "may": "read"}]
    assert explained["verdict"] == "holds for another 2 h"
    assert Admission(config(tmp_path, auth_keys=Path(keys))).grant(token).may_write(DocId("team/x"))
    assert os.stat(private).st_mode & 0o077 == 0


def test_a_second_key_is_added_and_none_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.json"
    for kid in ("one", "two"):
        made = ["token", "key", "--private", str(tmp_path / kid), "--keys", str(keys), "--kid", kid]
        assert main(made) == 0
    assert [key.kid for key in parse_keys(keys.read_bytes()).all] == ["one", "two"]

    assert main([*made[:-1], "three"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["token", "key", "--private", str(tmp_path / "x"), "--keys", str(keys), "--kid", "one"]) == 1


def test_a_token_that_does_not_hold_is_explained_and_the_exit_status_says_so(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_key("EdDSA", "first")
    key = parse_keys(json.dumps(other[0]).encode(), private=True).all[0]
    token = make_token(key, "ada", ALL, time.time(), 60)

    assert main(["token", "show", token, "--keys", str(authority.path)]) == 1
    shown = capsys.readouterr().out
    assert "signature does not fit" in shown
    assert "may write  *" in shown
    assert main(["token", "show", "nonsense"]) == 1
    assert main(["token", "make", "--key", str(authority.path), "--sub", "ada", "--read", "*"]) == 1
