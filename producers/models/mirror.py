"""`turnpike models serve`: this node's verified model files for its neighbours, so that a cluster downloads each once.

Files are named by their SHA-256, and only those that the lock file names are given. Found by NATS discovery.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import nats.errors
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from broker.catalogue import FileError, Locked, verify_file
from broker.connection import Address, close, connect, trouble, watch
from broker.discovery import MirrorInfo, announce_mirror
from broker.health import Check, told
from broker.mirror import path_of
from producers.http_server import listen, serve_http

RESCAN_SECONDS = 30.0
MAX_CONNECTIONS = 16
"""A node's network is full with less."""

log = logging.getLogger(__name__)


class _Blocks(FileResponse):
    chunk_size = 1024 * 1024


class Mirror:
    """The files of a folder, each part of a model by itself, that were found to be what the lock file says."""

    def __init__(self, locked: dict[str, Locked], folder: Path) -> None:
        self._locked = locked
        self._folder = folder
        self._files: dict[str, Path] = {}

    @property
    def digests(self) -> tuple[str, ...]:
        """The SHA-256 of each file."""
        return tuple(self._files)

    def scan(self) -> None:
        """Verifies what has come since the last time, which reads every byte of it. Blocks."""
        for token, wanted in self._locked.items():
            for path, one in zip(wanted.paths_in(self._folder, token), wanted.each, strict=True):
                if one.sha256 not in self._files and path.exists():
                    self._take(token, one, path)

    def _take(self, token: str, wanted: Locked, path: Path) -> None:
        try:
            self._files[wanted.sha256] = verify_file(token, wanted, path)
            log.info("serving model=%s sha256=%s", token, wanted.sha256[:12])
        except (FileError, OSError) as error:
            log.warning("not served: %s", error)

    def app(self, live: Check, ready: Check) -> Starlette:
        """Its files, and GET /live and /ready for probes."""
        probes = [Route("/live", partial(_probe, live)), Route("/ready", partial(_probe, ready))]
        return Starlette(routes=[Route(path_of("{digest}"), self._answer), *probes])

    async def _answer(self, request: Request) -> Response:
        path = self._files.get(request.path_params["digest"])
        if path is None or not path.exists():
            raise HTTPException(404)
        return _Blocks(path, media_type="application/octet-stream")


async def _probe(check: Check, request: Request) -> Response:
    problem = told(check)
    return PlainTextResponse(f"{problem or 'ok'}\n", 200 if problem is None else 503)


async def serve(
    address: Address,
    mirror: Mirror,
    *,
    host: str,
    port: int,
    url: str | None,
    node: str,
    version: str,
    stop: asyncio.Event,
) -> int:
    """Serves until `stop`. Raises TurnpikeError in one line for what is wrong."""
    listening = listen(host, port)
    nc = await connect(address, name=f"turnpike-mirror-{node}")
    where = url or f"http://{_own_address(address)}:{listening.getsockname()[1]}"
    service = await announce_mirror(
        nc, version=version, node=node, state=lambda: MirrorInfo(where.rstrip("/"), mirror.digests)
    )
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(_scan_for_ever(mirror)), group.create_task(watch(nc))]
            app = mirror.app(lambda: trouble(nc), lambda: None if nc.is_connected else "not connected to NATS")
            serving = group.create_task(serve_http(app, listening, stop, max_connections=MAX_CONNECTIONS))
            print(f"model files at {where}", flush=True)  # noqa: T201
            await stop.wait()
            with contextlib.suppress(nats.errors.Error):
                await service.stop()
            for task in beside:
                task.cancel()
            await serving
    finally:
        await close(nc)
    return 0


async def _scan_for_ever(mirror: Mirror) -> None:
    while True:
        await asyncio.to_thread(mirror.scan)
        await asyncio.sleep(RESCAN_SECONDS)


def _own_address(address: Address) -> str:
    """The address of the interface that leads to NATS: a neighbour reaches us by it. Nothing is sent."""
    there = urlsplit(address.urls[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((there.hostname or "127.0.0.1", there.port or 4222))
        return str(probe.getsockname()[0])
