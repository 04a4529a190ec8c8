"""`turnpike worker`, `board`, `sidecar`, `gateway` and `telemetry`: what runs beside the broker until a signal."""

from __future__ import annotations

import os
import sys

from broker.settings import InfluxSettings
from producers.settings import GatewaySettings
from telemetry.settings import SidecarSettings
from turnpike.cli.addresses import ENTRY, address, version
from turnpike.cli.command import Command, command
from workers.boards.settings import BoardSettings, WorkersSettings


def run_worker(options: WorkersSettings) -> int:
    """Computes turns, until a signal; of several models, each in a process of its own."""
    if options.are_several:
        return run_board(options.board())
    from broker import process
    from broker.accounts import WORKER
    from workers.main import serve

    one = options.one()
    return process.run(lambda stop: serve(address(one, WORKER), one, version(), stop))


def run_board(options: BoardSettings) -> int:
    """Has workers of many models, as they are wanted, until a signal."""
    from broker import process
    from broker.accounts import BOARD
    from workers.boards.command import serve

    worker = (sys.executable, ENTRY, "worker")
    return process.run(lambda stop: serve(address(options, BOARD), options, stop, worker))


def run_sidecar(options: SidecarSettings) -> int:
    """Writes this node's telemetry, until a signal."""
    from broker import process
    from broker.accounts import SIDECAR
    from telemetry.sidecar import serve

    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    return process.run(lambda stop: serve(address(options, SIDECAR), options, stop, in_pod=in_pod))


def run_telemetry_init(options: InfluxSettings) -> int:
    """Makes the database."""
    from broker.errors import SettingsError
    from broker.influx_address import InfluxAddress
    from telemetry.database import init
    from telemetry.influx import Influx

    if not options.influx_url or options.influx_url.startswith("file:"):
        raise SettingsError(["--influx-url: which InfluxDB? (or INFLUX_URL=http://HOST:8086/turnpike)"])
    influx = Influx(InfluxAddress.parse(options.influx_url, options.influx_token, options.influx_org))
    try:
        print("\n".join(init(influx, wait=options.wait_seconds)) or "nothing to change")
    finally:
        influx.close()
    return 0


def run_gateway(options: GatewaySettings) -> int:
    """The OpenAI API, until a signal."""
    from broker import process
    from broker.accounts import GATEWAY
    from producers.gateway.keys import new_key
    from producers.gateway.main import serve

    if options.new_key:
        key, digest = new_key()
        print(f'{key}\n# in the file of --keys:\n[clients.NAME]\nsha256 = ["{digest}"]')
        return 0
    return process.run(lambda stop: serve(address(options, GATEWAY), options, version(), stop))


WORKER = command(
    "worker",
    "compute turns with llama.cpp",
    "turnpike worker --model-file tiny.gguf --model tiny",
    WorkersSettings,
    run_worker,
)
BOARD = command(
    "board",
    "this node's workers of many models: which are loaded, the queue decides",
    "turnpike board --model llama-3-2-1b --model qwen3-0-6b",
    BoardSettings,
    run_board,
)
SIDECAR = command(
    "sidecar",
    "telemetry of this node and its workers, into InfluxDB",
    "turnpike sidecar --influx-url http://pi:8086/turnpike",
    SidecarSettings,
    run_sidecar,
)
TELEMETRY = Command(
    "telemetry",
    "the database of telemetry",
    "turnpike telemetry init --influx-url http://pi:8086/turnpike",
    commands=(
        command(
            "init",
            "create database or bucket, retention and downsampling",
            "turnpike telemetry init --influx-url http://pi:8086/turnpike",
            InfluxSettings,
            run_telemetry_init,
        ),
    ),
)
GATEWAY = command(
    "gateway",
    "the OpenAI API in front of the queue, and a page to talk on",
    "turnpike gateway --keys keys.toml --gateway-host 0.0.0.0",
    GatewaySettings,
    run_gateway,
)
