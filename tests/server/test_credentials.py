"""NATS of one's own: a server in operator mode with accounts, a credentials file, and TLS. Real server, real keys."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nkeys
import pytest
import trustme

from server.bus import Bus, BusConfig
from server.nats_server import find_nats_server
from sync.errors import BusError, BusRefused
from tests.server.ear import Ear

DEADLINE_S = 20.0
NO_LIMIT = dict.fromkeys(
    (
        "subs",
        "data",
        "payload",
        "imports",
        "exports",
        "conn",
        "leaf",
        "mem_storage",
        "disk_storage",
        "streams",
        "consumer",
    ),
    -1,
)


@dataclass(frozen=True)
class Key:
    seed: bytes
    public: str

    @classmethod
    def new(cls, prefix: int) -> Key:
        seed = nkeys.encode_seed(os.urandom(32), prefix)
        return cls(seed, nkeys.from_seed(seed).public_key.decode())

    def sign(self, subject: Key, name: str, nats: dict[str, object]) -> str:
        """A NATS JWT that says who `subject` is."""

        def part(value: object) -> bytes:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

        claims = {"jti": name, "iat": int(time.time()), "iss": self.public, "name": name, "sub": subject.public}
        body = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part({**claims, "nats": nats})
        signature = nkeys.from_seed(self.seed).sign(body)
        return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def credentials(account: Key, path: Path) -> Path:
    """A credentials file for a new user of this account."""
    user = Key.new(nkeys.PREFIX_BYTE_USER)
    free: dict[str, object] = {
        "type": "user",
        "version": 2,
        "pub": {},
        "sub": {},
        "subs": -1,
        "data": -1,
        "payload": -1,
    }
    token = account.sign(user, "edge", free)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    path.chmod(0o600)
    return path


@contextmanager
def a_server(directory: Path, extra: str) -> Iterator[int]:
    """A nats-server with JetStream and this configuration besides; yields its port, ends it by its pid."""
    config = directory / "server.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{directory}"\njetstream {{ store_dir: "{directory}/js" }}\n{extra}\n'
    )
    log = directory / "server.log"
    process = subprocess.Popen([str(find_nats_server()), "-c", str(config), "-l", str(log)])
    try:
        ends = time.monotonic() + DEADLINE_S
        while not (found := list(directory.glob("*.ports"))) or not found[0].read_text().strip():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.02)  # until the file is there, with a deadline
        url: str = json.loads(found[0].read_text())["nats"][0]
        yield int(url.rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(10)


async def link(config: BusConfig) -> None:
    """Returns when the link is up; raises what is fatal."""
    bus = Bus(config, Ear())
    await bus.start()
    try:
        assert bus.fatal is not None
        async with asyncio.timeout(DEADLINE_S):
            while bus.epoch is None:
                if bus.fatal.done():
                    bus.fatal.result()
                await asyncio.sleep(0.02)  # until the link is up, with a deadline
    finally:
        await bus.stop(1.0)


def test_a_credentials_file_opens_an_account_of_a_server_in_operator_mode(tmp_path: Path) -> None:
    operator = Key.new(nkeys.PREFIX_BYTE_OPERATOR)
    account, system, stranger = (Key.new(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(3))
    known = ", ".join(
        f"{key.public}: {operator.sign(key, 'account', {'type': 'account', 'version': 2, 'limits': limits})}"
        for key, limits in ((account, NO_LIMIT), (system, {**NO_LIMIT, "mem_storage": 0, "disk_storage": 0}))
    )
    itself = operator.sign(operator, "operator", {"type": "operator", "version": 2, "system_account": system.public})
    extra = f"operator: {itself}\nresolver: MEMORY\nresolver_preload: {{ {known} }}\nsystem_account: {system.public}"

    with a_server(tmp_path, extra) as port:
        servers = (f"nats://127.0.0.1:{port}",)
        asyncio.run(link(BusConfig(servers, credentials=credentials(account, tmp_path / "edge.creds"))))
        with pytest.raises(BusRefused, match="credentials"):
            asyncio.run(link(BusConfig(servers, credentials=credentials(stranger, tmp_path / "stranger.creds"))))


def test_tls_with_an_authority_and_a_certificate_of_ones_own(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    for name, chain in (("server", authority.issue_cert("127.0.0.1")), ("edge", authority.issue_cert("edge"))):
        chain.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        for pem in chain.cert_chain_pems:
            pem.write_to_path(tmp_path / f"{name}.pem", append=True)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", ca_file: "{tmp_path}/ca.pem"'

    with a_server(tmp_path, f"tls {{ {files}, verify: true }}") as port:
        servers = (f"tls://127.0.0.1:{port}",)
        config = BusConfig(servers, tls_cert=tmp_path / "edge.pem", tls_key=tmp_path / "edge.key")
        asyncio.run(link(replace(config, tls_ca=tmp_path / "ca.pem")))
        with pytest.raises(BusError, match=r"TLS|certificate"):
            asyncio.run(link(replace(config, tls_ca=tmp_path / "other.pem")))
