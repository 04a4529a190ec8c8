"""TLS with a CA of the test's own, and the roles' accounts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest
import trustme

from broker.accounts import LOCAL, read_credentials, write_credentials
from broker.client import Client
from broker.connection import Address, connect
from broker.errors import ServerUnavailable
from broker.server import EmbeddedServer, Tls


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tls.cert)
    certificate.private_key_pem.write_to_path(tls.key)
    authority.cert_pem.write_to_path(tls.ca)
    async with EmbeddedServer(tmp_path / "server", tls=tls) as server:
        await server.ensure(["m"])
        yield server


async def test_a_client_that_trusts_the_ca_is_served(tls_server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "local.credentials"
    write_credentials(path, tls_server.address(LOCAL))
    address = read_credentials(path)
    assert address.url.startswith("tls://")
    async with Client(address) as client:
        assert await client.publish(client.ask("m", "hello").turn, "m") == 1


async def test_a_client_that_does_not_trust_the_server_stays_away(tls_server: EmbeddedServer, tmp_path: Path) -> None:
    address = tls_server.address(LOCAL)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    for ca in (None, str(other)):
        with pytest.raises(ServerUnavailable, match=r"(?i)certificate"):
            await connect(Address(address.url, address.user, address.password, ca), name="x")
    with pytest.raises(ServerUnavailable, match=r"missing\.pem"):
        await connect(Address(address.url, address.user, address.password, "/missing.pem"), name="x")


async def test_nobody_is_served_in_the_clear(tls_server: EmbeddedServer) -> None:
    address = tls_server.address(LOCAL)
    clear = Address(address.url.replace("tls://", "nats://"), address.user, address.password)
    with pytest.raises(ServerUnavailable):
        await connect(clear, name="x", timeout=3)


async def test_a_credentials_file_is_a_context_of_the_nats_tool(nats_server: EmbeddedServer, tmp_path: Path) -> None:
    path = tmp_path / "local.json"
    write_credentials(path, nats_server.address(LOCAL))
    fields = json.loads(path.read_text())
    assert set(fields) == {"url", "user", "password", "inbox_prefix"}
    assert path.stat().st_mode & 0o777 == 0o600
    # The tool's own fields do no harm.
    path.write_text(json.dumps(fields | {"description": "", "nsc": "", "jetstream_domain": ""}))
    assert read_credentials(path) == nats_server.address(LOCAL)


@pytest.mark.parametrize(
    "subject", ["turn.m.batch.side.t1", "end.side.t1", "cancel.side.all", "$JS.API.STREAM.PURGE.ENDS"]
)
async def test_a_sidecar_writes_points_and_nothing_else(tmp_path: Path, subject: str) -> None:
    server = EmbeddedServer(tmp_path / "server")
    server.accounts.add("side", "sidecar")
    async with server:
        await server.ensure(["m"])
        nc = await connect(server.address("side"), name="side")
        await nc.publish("telemetry.node1", b"")
        await nc.flush()
        assert nc.last_error is None
        await nc.publish(subject, b"")
        async with asyncio.timeout(5):
            while nc.last_error is None:
                await nc.flush()
        assert isinstance(nc.last_error, nats.errors.Error)
        assert "permission" in str(nc.last_error).lower()
        await nc.close()
