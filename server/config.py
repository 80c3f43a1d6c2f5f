"""One frozen Config, read once from flags, environment (`SKERRY_*`) and TOML, in this order of strength.

Room: names, types, defaults, and all mistakes together. Nothing here starts anything.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from sync import limits
from sync.errors import ConfigError

from .bus import BusConfig
from .origin import check_origin, is_loopback

__all__ = ["Address", "Config", "is_loopback", "load_config", "parse_address"]

Address = tuple[str, int]


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[::1]:PORT`. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no HOST:PORT, as in 127.0.0.1:8787")
    return host.strip("[]"), int(port)


class Config(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SKERRY_", frozen=True, extra="forbid")

    namespace: Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_-]{0,63}$")] = "skerry"
    """Prefix of every NATS subject and stream of one deployment."""
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s.*>/\x00-\x1f]+$")] = "edge"
    """Name of this node, as status and change headers show it."""
    data: Path = Path("skerry-data")
    """Directory of this node's files."""
    listen: str = "127.0.0.1:8787"
    """HOST:PORT for websockets and HTTP. Port 0: a free one."""
    insecure: bool = False
    """Listen beyond this machine without asking who comes."""
    origin: Annotated[tuple[str, ...], NoDecode] = ()
    """Web pages that may use this edge besides its own, as https://app.example.org; `*` for all. Comma-separated."""
    auth_keys: Path | None = None
    """Keys that verify tokens: a JWKS, or one public key as PEM. Given, everybody needs a token (docs/security.md)."""
    auth_audience: str | None = None
    """What tokens have to say as `aud`."""
    auth_issuer: str | None = None
    """What tokens have to say as `iss`."""
    auth_revoked: Path | None = None
    """Revoked tokens and subjects. Default: revoked.jsonl in `data`."""
    listen_tls_cert: Path | None = None
    """Certificate (PEM, with its chain) for `listen`: wss and https instead of ws and http."""
    listen_tls_key: Path | None = None
    nats_listen: str = "127.0.0.1:4222"
    """HOST:PORT of the embedded nats-server."""
    nats: Annotated[tuple[str, ...], NoDecode] = ("nats://127.0.0.1:4222",)
    """NATS servers, comma-separated."""
    credentials: Path | None = None
    """NATS credentials file."""
    nkey: Path | None = None
    """Seed of a NATS user (`skerry nats-accounts` makes it)."""
    accounts: Path | None = None
    """For the embedded nats-server: accounts, as `skerry nats-accounts` makes them."""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    shards: Annotated[int | None, Field(ge=1, le=1024)] = None
    """How many shards to make the log with; an existing log says it itself. Default 4."""
    replicas: Annotated[int, Field(ge=1, le=5)] = 1
    """Replicas of every stream."""
    development: bool = False
    """Streams may be deleted and purged."""
    sync_always: bool = False
    """The embedded nats-server syncs each message: a tenth of the throughput."""
    pin: Annotated[tuple[str, ...], NoDecode] = ()
    """Patterns of documents that this edge keeps replicated, comma-separated."""
    client_messages_per_s: Annotated[int, Field(ge=1)] = limits.CLIENT_MESSAGES_PER_S
    """What one connection may send for long: ten times that in a burst, then it is slowed down, in the end closed."""
    client_bytes_per_s: Annotated[int, Field(ge=1024)] = limits.CLIENT_BYTES_PER_S
    connections_max: Annotated[int, Field(ge=1)] = limits.CONNECTIONS_MAX
    document_clients_max: Annotated[int, Field(ge=1)] = limits.DOCUMENT_CLIENTS_MAX
    """Connections on one document."""
    document_bytes_max: Annotated[int, Field(ge=1)] = limits.DOCUMENT_BYTES_MAX
    documents_bytes_max: Annotated[int, Field(ge=1)] = limits.DOCUMENTS_BYTES_MAX
    """All documents in memory together, as stored."""
    outbox_count_max: Annotated[int, Field(ge=1)] = limits.OUTBOX_COUNT_MAX
    """Changes that no leader has merged; beyond it, edits are refused."""
    outbox_bytes_max: Annotated[int, Field(ge=1)] = limits.OUTBOX_BYTES_MAX
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_style: Literal["line", "json"] = "line"

    @field_validator("listen", "nats_listen")
    @classmethod
    def _address(cls, value: str) -> str:
        parse_address(value)
        return value

    @field_validator("nats", "pin", "origin", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("nats")
    @classmethod
    def _urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if url.partition("://")[0] not in ("nats", "tls", "ws", "wss") or "://" not in url:
                raise ValueError(f"{url!r} is no NATS URL, as in nats://127.0.0.1:4222")
        if not value:
            raise ValueError("name at least one NATS server")
        return value

    @field_validator("origin")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_origin(one) for one in value)

    @field_validator(
        "credentials",
        "tls_ca",
        "tls_cert",
        "tls_key",
        "nkey",
        "accounts",
        "auth_keys",
        "listen_tls_cert",
        "listen_tls_key",
    )
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"{value} is no file that can be read")
        return value

    @model_validator(mode="after")
    def _together(self) -> Config:
        if (self.listen_tls_cert is None) != (self.listen_tls_key is None):
            raise ValueError("listen_tls_cert and listen_tls_key: one is no use without the other")
        return self

    @property
    def revoked_path(self) -> Path:
        return self.auth_revoked or self.data / "revoked.jsonl"

    @property
    def listen_address(self) -> Address:
        return parse_address(self.listen)

    @property
    def nats_address(self) -> Address:
        return parse_address(self.nats_listen)

    def bus(self, name: str) -> BusConfig:
        return BusConfig(
            self.nats,
            self.namespace,
            name,
            self.credentials,
            self.tls_ca,
            self.tls_cert,
            self.tls_key,
            shards=self.shards,
            replicas=self.replicas,
            development=self.development,
            nkey=self.nkey,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _TomlSource(settings_cls)


class _TomlSource(PydanticBaseSettingsSource):
    """The TOML file, weakest of the three."""

    path: Path | None = None

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        if _TomlSource.path is None:
            return {}
        try:
            values: dict[str, Any] = tomllib.loads(_TomlSource.path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"{_TomlSource.path}: {error.strerror}; name a file that can be read") from None
        except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or a number of thousands of digits
            raise ConfigError(f"{_TomlSource.path}: not TOML: {error}") from None
        return values


def load_config(flags: dict[str, object], file: Path | None) -> Config:
    """`flags`: those that were given. Raises ConfigError with all mistakes, one a line."""
    _TomlSource.path = file
    try:
        given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
        return Config(**given)
    except ValidationError as error:
        mistakes = []
        for mistake in error.errors():
            place = ".".join(str(part) for part in mistake["loc"]) or "configuration"
            mistakes.append(f"{place}: {mistake['msg'].removeprefix('Value error, ')}")
        raise ConfigError("\n".join(mistakes)) from None
    finally:
        _TomlSource.path = None
