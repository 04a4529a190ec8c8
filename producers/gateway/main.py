"""`turnpike gateway`: serves until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import socket
from pathlib import Path

from broker import subjects
from broker.connection import Address, close, connect, watch
from broker.errors import SettingsError
from producers.gateway.app import Gateway
from producers.gateway.keys import Keys, read_keys
from producers.gateway.ollama.port import OllamaPort
from producers.gateway.origins import Origins
from producers.http_server import listen, serve_http
from producers.routing.policies import read_routes
from producers.settings import GatewaySettings

MAX_CONNECTIONS = 512


async def serve(address: Address, options: GatewaySettings, version: str, stop: asyncio.Event) -> int:
    """Raises TurnpikeError in one line for what is wrong."""
    keys = Keys(read_keys(Path(options.keys).expanduser()) if options.keys else None)
    routes = read_routes(options.routes)
    hosts = options.gateway_host.split(",")
    is_private = all(map(_is_loopback, hosts))
    if not keys.are_wanted and not is_private and not options.allow_anyone:
        raise SettingsError(
            [
                f"--gateway-host {options.gateway_host}: others could use it without a key: give --keys FILE "
                "(turnpike gateway --new-key makes one), or say --allow-anyone"
            ]
        )
    listening = [listen(host, options.gateway_port) for host in hosts]
    of_ollama = [listen(host, options.ollama_port) for host in hosts] if options.ollama_port else []
    nc = await connect(address, name="turnpike-gateway")
    node = subjects.node_name(options.node)
    gateway = Gateway(
        nc,
        keys,
        routes,
        node=node,
        version=version,
        leave_out_tools=options.leave_out_tools,
        is_strict=options.strict,
        origins=Origins(options.origins, keys.are_wanted, (*hosts, *options.hosts)),
        thinking=options.thinking,
        has_page=not options.without_page,
        has_slots=not options.without_slots,
    )
    app = gateway.app()
    # What is there by now stays: no collection is to look through it, which takes 20 ms, while streams wait.
    gc.collect()
    gc.freeze()
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(gateway.look()), group.create_task(watch(nc))]
            for one in listening:
                print(f"gateway at {_url(one)}", flush=True)  # noqa: T201
            if options.ollama_port:
                app = OllamaPort(app, options.ollama_port)
            for one in of_ollama:
                print(f"ollama at {_url(one)}", flush=True)  # noqa: T201
            also = [*listening[1:], *of_ollama]
            await serve_http(app, listening[0], stop, also=also, max_connections=MAX_CONNECTIONS)
            for task in beside:
                task.cancel()
    finally:
        await close(nc)
    return 0


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
