"""`turnpike gateway`: serves until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
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
    if not keys.are_wanted and not _is_loopback(options.gateway_host) and not options.allow_anyone:
        raise SettingsError(
            [
                f"--gateway-host {options.gateway_host}: others could use it without a key: give --keys FILE "
                "(turnpike gateway --new-key makes one), or say --allow-anyone"
            ]
        )
    listening = listen(options.gateway_host, options.gateway_port)
    of_ollama = [listen(options.gateway_host, options.ollama_port)] if options.ollama_port else []
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
        origins=Origins(options.origins, keys.are_wanted, (options.gateway_host, *options.hosts)),
        thinking=options.thinking,
    )
    app = gateway.app()
    host, port = listening.getsockname()[:2]
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(gateway.look()), group.create_task(watch(nc))]
            print(f"gateway at http://{host}:{port}", flush=True)  # noqa: T201
            for one in of_ollama:
                app = OllamaPort(app, one.getsockname()[1])
                print(f"ollama at http://{host}:{one.getsockname()[1]}", flush=True)  # noqa: T201
            await serve_http(app, listening, stop, also=of_ollama, max_connections=MAX_CONNECTIONS)
            for task in beside:
                task.cancel()
    finally:
        await close(nc)
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
