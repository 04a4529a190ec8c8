"""Who serves what: workers and mirrors announce themselves by the NATS services API (ADR-32), others ask.

A worker is a service named `turnpike-worker`, a mirror of model files one named `turnpike-mirror`. What does not change
is in its metadata, what does is in the data of its `state` endpoint's statistics, so one `$SRV.STATS` request and one
`$SRV.INFO` request tell all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service

SERVICE = "turnpike-worker"
MIRROR = "turnpike-mirror"


class Load(Struct, frozen=True):
    """What a worker is doing just now."""

    num_slots: int
    num_active: int
    num_pending: int
    """Turns in the model's queue as of the last pull."""
    expected_wait_seconds: float
    """Until a turn that is queued now would be seated."""
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    cached_share: float | None = None
    """Of the prompts lately."""
    num_failed: int = 0
    """Turns that it ended as `failed` since its start."""
    celsius: float | None = None
    """Its node's hottest sensor, as the sidecar says."""
    is_throttled: bool | None = None


class WorkerInfo(Struct, frozen=True):
    """A worker as discovery shows it."""

    worker: str
    model: str
    model_name: str
    quantization: str
    num_ctx: int
    node: str
    load: Load
    pid: int | None = None
    """Its process on the node, for the sidecar."""
    facts: dict[str, str] = {}
    """What it takes to repeat what is measured there: build, CPU, board, settings."""


class MirrorInfo(Struct, frozen=True):
    """A node that gives its model files to others. `url` ends without a slash."""

    url: str
    sha256: tuple[str, ...]
    """Of the files that it has."""


async def announce(nc: NatsConnection, *, version: str, metadata: dict[str, str], load: Callable[[], Load]) -> Service:
    """Makes this worker discoverable; `load` is called for each request."""
    return await _announce(nc, SERVICE, "A llama.cpp worker of Turnpike", version, metadata, metadata["worker"], load)


async def announce_mirror(nc: NatsConnection, *, version: str, node: str, state: Callable[[], MirrorInfo]) -> Service:
    """Makes a mirror discoverable; `state` is called for each request."""
    return await _announce(nc, MIRROR, "Model files of a node", version, {"node": node}, f"mirror-{node}", state)


async def _announce(
    nc: NatsConnection,
    name: str,
    description: str,
    version: str,
    metadata: dict[str, str],
    endpoint: str,
    state: Callable[[], Struct],
) -> Service:
    service: Service = await add_service(
        nc,
        name=name,
        version=version,
        description=description,
        metadata=metadata,
        stats_handler=lambda _: msgspec.to_builtins(state()),
    )

    async def answer(request: Request) -> None:
        await request.respond(msgspec.json.encode(state()))

    await service.add_endpoint(EndpointConfig(name="state", subject=f"$SRV.STATE.{endpoint}", handler=answer))
    return service


async def find_mirrors(nc: NatsConnection, wait: float = 0.25) -> list[MirrorInfo]:
    """Asks all mirrors and takes the answers that come within `wait` seconds, leaving out what is none."""
    found = []
    for answer in await _ask_all(nc, f"$SRV.STATS.{MIRROR}", wait):
        with contextlib.suppress(LookupError, TypeError, msgspec.ValidationError):
            found.append(msgspec.convert(answer["endpoints"][0]["data"], MirrorInfo))
    return found


async def find_workers(nc: NatsConnection, wait: float = 0.25) -> list[WorkerInfo]:
    """Asks all workers and takes the answers that come within `wait` seconds."""
    info, statistics = await asyncio.gather(
        _ask_all(nc, f"$SRV.INFO.{SERVICE}", wait), _ask_all(nc, f"$SRV.STATS.{SERVICE}", wait)
    )
    loads = {answer["id"]: answer["endpoints"][0].get("data") for answer in statistics if answer.get("endpoints")}
    workers = []
    for answer in info:
        metadata = answer["metadata"]
        if load := loads.get(answer["id"]):
            workers.append(
                WorkerInfo(
                    worker=metadata["worker"],
                    model=metadata["model"],
                    model_name=metadata["model_name"],
                    quantization=metadata["quantization"],
                    num_ctx=int(metadata["num_ctx"]),
                    node=metadata["node"],
                    load=msgspec.convert(load, Load),
                    pid=int(metadata["pid"]) if "pid" in metadata else None,
                    facts=json.loads(metadata.get("facts", "{}")),
                )
            )
    return sorted(workers, key=lambda worker: (worker.model, worker.worker))


async def _ask_all(nc: NatsConnection, subject: str, wait: float) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []

    async def collect(message: Msg) -> None:
        with contextlib.suppress(ValueError):
            answers.append(json.loads(message.data))

    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, cb=collect)
    try:
        await nc.publish(subject, b"", reply=inbox)
        await asyncio.sleep(wait)
    finally:
        await subscription.unsubscribe()
    return answers
