"""What a gateway is started with: where it listens, and what it leaves out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from broker.accounts import GATEWAY
from broker.server import EmbeddedServer
from producers.gateway.main import serve
from producers.settings import GatewaySettings
from tests.integration.conftest import StartWorker
from tests.support import free_port


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def served(server: EmbeddedServer, options: GatewaySettings) -> AsyncIterator[httpx2.AsyncClient]:
    stop = asyncio.Event()
    serving = asyncio.ensure_future(serve(server.address(GATEWAY), options, "0", stop))
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{options.gateway_port}") as http:
        try:
            yield http
        finally:
            stop.set()
            assert await serving == 0


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_a_gateway_listens_at_all_addresses_that_it_is_told(nats_server: EmbeddedServer) -> None:
    port = free_port()
    async with served(nats_server, GatewaySettings(gateway_host="127.0.0.1,::1", gateway_port=port)) as http:
        for host in ("127.0.0.1", "[::1]"):
            assert (await http.get(f"http://{host}:{port}/health/live")).status_code == 200


async def test_the_page_and_slots_are_left_out_where_that_is_said(
    nats_server: EmbeddedServer, start_worker: StartWorker
) -> None:
    await nats_server.ensure(["m"])
    found = []
    for is_without in (False, True):
        options = GatewaySettings(gateway_port=free_port(), without_page=is_without, without_slots=is_without)
        async with start_worker(), served(nats_server, options) as http:
            page, slots, props = [await http.get(path) for path in ("/", "/slots", "/props")]
            found.append((page.status_code, slots.status_code, props.json()["endpoint_slots"]))
    assert found == [(200, 200, True), (404, 501, False)]
    assert slots.json()["error"]["type"] == "not_supported_error"
