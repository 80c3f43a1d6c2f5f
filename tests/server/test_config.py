"""Flags, environment and TOML into one Config; all mistakes together."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.cli import main
from server.config import load_config
from sync.errors import ConfigError


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "skerry.toml"
    file.write_text('name = "file"\nnamespace = "file"\nlisten = "127.0.0.1:1"\n')
    monkeypatch.setenv("SKERRY_NAMESPACE", "environment")
    monkeypatch.setenv("SKERRY_NAME", "environment")

    config = load_config({"name": "flag"}, file)

    assert (config.name, config.namespace, config.listen) == ("flag", "environment", "127.0.0.1:1")


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"listen": "nowhere", "nats": "ftp://x", "shards": 0, "credentials": Path("/not/there")}, None)

    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert {line.partition(":")[0] for line in lines} == {"listen", "nats", "shards", "credentials"}


def test_lists_are_comma_separated_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKERRY_NATS", "nats://a:4222, tls://b:4222")
    monkeypatch.setenv("SKERRY_PIN", "notes/*,plans/*")

    config = load_config({}, None)

    assert config.nats == ("nats://a:4222", "tls://b:4222")
    assert config.pin == ("notes/*", "plans/*")


def test_a_name_that_no_setting_has_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "skerry.toml"
    file.write_text("listne = 1\n")

    with pytest.raises(ConfigError, match="listne"):
        load_config({}, file)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "skerry.toml"
    file.write_text("= = =")

    with pytest.raises(ConfigError, match=r"skerry\.toml: not TOML"):
        load_config({}, file)


def test_the_command_prints_the_configuration_and_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--name", "ship"]) == 0
    shown = capsys.readouterr().out

    assert any(line.split()[:3] == ["name", "ship", "set"] for line in shown.splitlines())
    assert any(line.split()[:3] == ["namespace", "skerry", "default"] for line in shown.splitlines())


def test_a_mistake_is_one_line_a_mistake_and_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--listen", "nowhere"]) == 1

    assert capsys.readouterr().err == "skerry: listen: 'nowhere' is no HOST:PORT, as in 127.0.0.1:8787\n"


def test_a_file_that_nests_without_end_is_no_toml(tmp_path: Path) -> None:
    """Found by fuzzing: it ended the command with a traceback."""
    file = tmp_path / "skerry.toml"
    file.write_text("n=" + "[" * 5_000)

    with pytest.raises(ConfigError, match="not TOML"):
        load_config({}, file)
