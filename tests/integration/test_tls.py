"""TLS with a CA of the test's own, and the roles' accounts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats.errors
import pytest
import trustme

from broker.accounts import DEFAULTS, GATEWAY, LOCAL, Accounts, read_credentials, write_credentials
from broker.client import Client
from broker.connection import Address, connect
from broker.errors import ServerUnavailable
from broker.process import spawn, terminate
from broker.server import MAX_SUBSCRIPTIONS, EmbeddedServer, Tls, find_server
from broker.topology import MAX_PAYLOAD_BYTES
from tests.support import ROOT, TURNPIKE, eventually, free_port
from tests.unit.test_manifests import FROM_GENERATOR


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


async def test_a_second_account_is_served_over_tls_and_nothing_warns(
    tls_server: EmbeddedServer, tmp_path: Path
) -> None:
    async def turnpike(*arguments: str, **environment: str) -> tuple[int | None, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("TURNPIKE_", "NATS_"))}
        process = await asyncio.create_subprocess_exec(
            *TURNPIKE, *arguments, env=env | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return process.returncode or await process.wait(), (await process.communicate())[1].decode()

    path = tls_server.folder / "carol.credentials"
    assert await turnpike("user", "add", "carol", "--data-dir", str(tls_server.folder)) == (0, "")
    assert read_credentials(path).url == tls_server.url
    cancel = ("cancel", "--all", "--credentials", str(path))
    assert await turnpike(*cancel) == (0, "")
    # As on another machine, where the file's CA is not; named there, it is meant.
    fields, ca = json.loads(path.read_text()), str(tmp_path / "ca.pem")
    path.write_text(json.dumps(fields | {"ca": "/not/here.pem"}))
    assert await turnpike(*cancel, "--tls-ca", ca) == (0, "")
    assert await turnpike(*cancel, TURNPIKE_TLS_CA=ca) == (0, "")
    code, said = await turnpike(*cancel)
    assert (code, "the CA file /not/here.pem: No such file" in said, "turnpike broker" in said) == (1, True, False)
    del fields["ca"]
    path.write_text(json.dumps(fields))
    code, said = await turnpike(*cancel)
    assert code == 1
    assert "certificate is not trusted" in said
    assert "--tls-ca" in said
    assert "turnpike broker" not in said


async def test_the_accounts_address_is_the_one_that_others_reach(tmp_path: Path) -> None:
    command = [*TURNPIKE, "user", "add", "carol", "--data-dir", str(tmp_path), "--url", "tls://pi-1:4222"]
    await asyncio.to_thread(subprocess.check_output, [*command, "--tls-ca", str(tmp_path / "ca.pem")])
    found = read_credentials(tmp_path / "carol.credentials")
    assert (found.url, found.user, found.ca) == ("tls://pi-1:4222", "carol", str(tmp_path / "ca.pem"))


async def test_what_was_to_be_secured_sends_no_password_in_the_clear() -> None:
    heard = bytearray()

    async def stripped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.12.0", "max_payload": 1048576, "headers": True, "proto": 1}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        heard.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(stripped, "127.0.0.1", 0) as server:
        address = Address(f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}", "me", "hush")
        with pytest.raises(ServerUnavailable, match="does not speak TLS"):
            await connect(address, name="x")
    assert heard == b""


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
    "subject", ["turn.m.batch.side.t1", "end.side.t1", "cancel.side.all", "kv.w1", "$JS.API.STREAM.PURGE.ENDS"]
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


@pytest.mark.parametrize(
    "subject", ["reply.local.t1", "end.local.t1", "kv.w1", "$KV.HELD.m.local.c", "$JS.API.STREAM.PURGE.TURNS-m"]
)
async def test_a_gateway_asks_for_its_clients_and_answers_for_nobody(nats_server: EmbeddedServer, subject: str) -> None:
    nc = await connect(nats_server.address(GATEWAY), name="gateway")
    for client in ("alice", "bob"):
        await nc.request(f"turn.m.batch.{client}.t1", b"x", timeout=5)
    assert nc.last_error is None
    await nc.publish(subject, b"")
    async with asyncio.timeout(5):
        while nc.last_error is None:
            await nc.flush()
    assert "permission" in str(nc.last_error).lower()
    await nc.close()


async def test_a_kubernetes_secret_holds_a_server_and_its_accounts(tmp_path: Path) -> None:
    out = tmp_path / "secret.json"
    command = [sys.executable, str(ROOT / "turnpike"), "broker", "secret", "--out", str(out)]
    port = free_port()
    arguments = ["--url", f"nats://127.0.0.1:{port}", "--data-dir", str(tmp_path / "accounts")]
    shown = await asyncio.to_thread(subprocess.check_output, [*command, *arguments], text=True)
    content = out.read_text()
    secrets = {one["metadata"]["name"]: one["stringData"] for one in json.loads(content)["items"]}
    assert {name: set(files) for name, files in secrets.items()} == FROM_GENERATOR
    assert out.stat().st_mode & 0o777 == 0o600
    await asyncio.to_thread(subprocess.check_output, [*command, *arguments])
    assert out.read_text() == content
    files = secrets["turnpike-nats"]
    assert (
        json.loads(files["nats-server.conf"])["authorization"]["users"]
        == Accounts(tmp_path / "accounts").server_users()
    )
    assert all(json.loads(files[f"{name}.credentials"])["password"] not in shown for name, _ in DEFAULTS)
    # The pod's volume and addresses, moved to this machine.
    config = tmp_path / "nats-server.conf"
    config.write_text(files["nats-server.conf"].replace('"/data"', json.dumps(str(tmp_path / "data"))))
    flags = ["--config", config, "--addr", "127.0.0.1", "--port", port, "--http_port", "0"]
    server = await spawn([find_server(), *map(str, flags)], stderr=asyncio.subprocess.DEVNULL)
    try:
        for name, _ in DEFAULTS:
            path = tmp_path / f"{name}.credentials"
            path.write_text(files[path.name])
            nc = await connect(read_credentials(path), name="test", timeout=10)
            assert nc.max_payload == MAX_PAYLOAD_BYTES
            await nc.close()
    finally:
        await terminate(server)


async def test_one_connection_cannot_fill_the_server_with_subscriptions(nats_server: EmbeddedServer) -> None:
    nc = await connect(nats_server.address(LOCAL), name="greedy")
    for _ in range(MAX_SUBSCRIPTIONS + 1):
        await nc.subscribe(nc.new_inbox())
    # Nothing is flushed for: behind the server's word a flush may have no answer.
    await eventually(lambda: nc.last_error, 60)
    assert "maximum subscriptions" in str(nc.last_error).lower()
    await nc.close()
