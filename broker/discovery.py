"""Who serves what: workers and mirrors announce themselves by the NATS services API (ADR-32), others ask.

A worker is a service named `turnpike-worker`, a mirror of model files one named `turnpike-mirror`. What does not change
is in its metadata, what does is in the data of its `state` endpoint's statistics, so one `$SRV.STATS` request and one
`$SRV.INFO` request tell all.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

import msgspec
import nats.errors
from msgspec import Meta, Struct
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service

from broker import codec, subjects
from broker.errors import InvalidMessage
from broker.messages import Leaving, Token, Word
from broker.messages.boards import NO_FILE, ModelFile

SERVICE = "turnpike-worker"
MIRROR = "turnpike-mirror"
ENDPOINT = "state"
CHAT, RAW, SCORE, TOOLS, THINKING, EMBED = "chat", "raw", "score", "tools", "thinking", "embed"
"""What a worker can: turns through the model's chat template, prompts without it, scores of given answers, turns with
tools, calls or thoughts, and to think or not, as a turn says: its model has thoughts; or to make vectors of texts, and
then nothing else."""
PENALTIES = "penalties"
"""It knows presence and frequency penalties, and biases."""
PREFILL = "prefill"
"""The last message may be an assistant's, whose text is gone on with, or the system's."""
PROMPT, TOKENS, ECHO = "prompt", "tokens", "echo"
"""Turns of the kind `prompt`, raw prompts of tokens, and answers that begin with their prompt."""
INFILL = "infill"
"""Its model fills in the middle: a raw turn's `suffix`, and `files`."""
PROGRESS = "progress"
"""It tells how far a prompt is computed, where a turn asks."""
OF_RELEASE = (PENALTIES, PREFILL, PROMPT, TOKENS, ECHO, PROGRESS)
"""What every worker of this release can, whatever its model is."""
OF_BOARD = "board"
"""The fact that names the board that has started a worker."""
FILE_FACTS = {
    "architecture": "architecture",
    "num_parameters": "parameters",
    "num_embd": "embedding_length",
    "sha256": "file_sha256",
    "modified_at": "file_modified_at",
}
"""The facts of a worker that say what a `ModelFile` does."""
AWAY_SECONDS = 24 * 3600.0
"""What a worker that drains gives for its wait: clients of earlier releases, which know no draining, look elsewhere."""

STARTING, SERVING, DRAINING = "starting", "serving", "draining"

log = logging.getLogger(__name__)


class Load(Struct, frozen=True):
    """What a worker is doing just now."""

    num_slots: Annotated[int, Meta(ge=0)]
    num_active: Annotated[int, Meta(ge=0)]
    num_pending: Annotated[int, Meta(ge=0)]
    """Turns in the model's queue as of the last pulls."""
    expected_wait_seconds: Annotated[float, Meta(ge=0)]
    """Until an interactive turn that is queued now would be seated."""
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    cached_share: float | None = None
    """Of the prompts lately."""
    num_failed: int = 0
    """Turns that it ended as `failed` since its start."""
    celsius: float | None = None
    """Its node's hottest sensor, as the sidecar says."""
    is_throttled: bool | None = None
    batch_wait_seconds: Annotated[float, Meta(ge=0)] | None = None
    """`expected_wait_seconds` of a batch turn; None where the release does not tell them apart."""
    num_pending_batch: Annotated[int, Meta(ge=0)] = 0
    """Of those in the queue, the batch turns."""
    turn_seconds: Annotated[float, Meta(ge=0)] | None = None
    """What a turn took lately, a slot's time; None before the first, and where the release does not tell."""
    state: Word = SERVING
    """STARTING: it takes no turns yet. DRAINING: it finishes what it has, and takes no more. Or a later release's."""


class WorkerInfo(Struct, frozen=True):
    """A worker as discovery shows it."""

    worker: Token
    model: Token
    model_name: str
    quantization: str
    num_ctx: Annotated[int, Meta(ge=0)]
    node: str
    load: Load
    pid: int | None = None
    """Its process on the node, for the sidecar."""
    pid_namespace: str = ""
    """Where `pid` is its process: a pod has numbers of its own. Empty where it does not tell."""
    facts: dict[str, str] = {}
    """What it takes to repeat what is measured there: build, CPU, board, settings."""
    fingerprint: str = ""
    """Of the model file; empty where the release does not tell it."""
    can: tuple[str, ...] | None = None
    """CHAT, RAW, SCORE, TOOLS, THINKING, EMBED, those of OF_RELEASE and what later releases can; None where the
    release does not tell it."""
    since: float = 0.0
    """When it announced itself, in seconds since the epoch by its own clock; 0 where the release does not tell it."""

    @property
    def file_bytes(self) -> int | None:
        """Of the model file, where it tells."""
        text = self.facts.get("file_bytes", "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None

    @property
    def file(self) -> ModelFile:
        """What the model's file says of it, as far as it tells."""
        told = {name: self.facts[fact] for name, fact in FILE_FACTS.items() if fact in self.facts}
        try:
            return msgspec.convert(told | {"quantization": self.quantization}, ModelFile, strict=False)
        except msgspec.ValidationError:
            return NO_FILE

    @property
    def is_serving(self) -> bool:
        """Whether it takes turns."""
        return self.load.state == SERVING

    def does(self, what: str) -> bool:
        """Whether it can what is asked of it, as far as it tells."""
        return self.can is None or what in self.can


class MirrorInfo(Struct, frozen=True):
    """A node that gives its model files to others. `url` ends without a slash."""

    url: str
    sha256: tuple[str, ...]
    """Of the files that it has."""


async def announce(nc: NatsConnection, *, version: str, metadata: dict[str, str], load: Callable[[], Load]) -> Service:
    """Makes this worker discoverable; `load` is called, and `metadata` read, for each request."""
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

    await service.add_endpoint(EndpointConfig(name=ENDPOINT, subject=f"$SRV.STATE.{endpoint}", handler=answer))
    return service


async def tell_departure(nc: NatsConnection, model: str, worker: str) -> None:
    """Tells those who remember this worker to forget it: it takes no turns any more."""
    await nc.publish(subjects.leaving(model), codec.encode(Leaving(worker)))


@contextlib.asynccontextmanager
async def departures(nc: NatsConnection, forget: Callable[[str], None]) -> AsyncIterator[None]:
    """While it is entered, `forget` is called with the name of each worker that leaves."""

    async def on_leaving(message: Msg) -> None:
        try:
            forget(codec.decode(message.data, Leaving, message.headers).worker)
        except InvalidMessage as error:
            log.warning("departure not understood subject=%r error=%s", message.subject[:200], error)

    subscription = await nc.subscribe(subjects.LEAVING, cb=on_leaving)
    # Heard from here on: without this the server might learn of it behind a worker's last words.
    with contextlib.suppress(nats.errors.Error, TimeoutError):
        await nc.flush()
    try:
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def find_mirrors(nc: NatsConnection, wait: float = 0.25) -> list[MirrorInfo]:
    """Asks all mirrors and takes the answers that come within `wait` seconds, leaving out what is none."""
    found = []
    for answer in await _ask_all(nc, f"$SRV.STATS.{MIRROR}", wait):
        try:
            found.append(msgspec.convert(_state(answer), MirrorInfo))
        except (ValueError, TypeError) as error:
            _leave_out(MIRROR, answer["id"], str(error))
    return found


async def find_workers(nc: NatsConnection, wait: float = 0.25) -> list[WorkerInfo]:
    """Asks all workers and takes the answers that come within `wait` seconds.

    An answer that is not understood costs its own worker its place in the list, with a warning, and nobody else.
    """
    info, statistics = await asyncio.gather(
        _ask_all(nc, f"$SRV.INFO.{SERVICE}", wait), _ask_all(nc, f"$SRV.STATS.{SERVICE}", wait)
    )
    states = {answer["id"]: answer for answer in statistics}
    workers = []
    for answer in info:
        if (state := states.get(answer["id"])) is None:
            continue  # it has gone, or answers late
        try:
            workers.append(_worker(answer, _state(state)))
        except (ValueError, TypeError) as error:
            _leave_out(SERVICE, answer["id"], str(error))
    return sorted(workers, key=lambda worker: (worker.model, worker.worker))


def _worker(answer: Mapping[str, Any], state: object) -> WorkerInfo:
    """What an answer to INFO and the state of its statistics tell; raises ValueError for what is not understood.

    What may be absent is as absent where it is not understood. Later releases tell more, which is not looked at.
    """
    metadata = msgspec.convert(answer.get("metadata"), dict[str, Any])
    fields: dict[str, Any] = {"model_name": "", "quantization": "", "node": "unknown", "load": _lenient(state, Load)}
    texts = ("worker", "model", "node", "model_name", "quantization", "fingerprint", "pid_namespace")
    fields |= {name: metadata[name] for name in texts if isinstance(metadata.get(name), str)}
    for name, kind in (("num_ctx", int), ("pid", int), ("since", float)):
        if isinstance(text := metadata.get(name), str):
            try:
                fields[name] = kind(text)
            except ValueError:
                continue  # as absent
    if isinstance(text := metadata.get("facts"), str):
        fields["facts"] = _facts(text)
    if isinstance(text := metadata.get("can"), str):
        fields["can"] = tuple(text.split())
    return _lenient(fields, WorkerInfo)


def _facts(text: str) -> dict[str, str]:
    try:
        found = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _lenient[T: Struct](fields: object, kind: type[T]) -> T:
    """Of a map; what may be absent is as absent where it does not convert. Raises ValueError for the rest."""
    if not isinstance(fields, dict):
        raise ValueError(f"a {type(fields).__name__} instead of a map")
    kept = dict(fields)
    for name, type_of_field in _optional_fields(kind):
        if name in kept:
            try:
                msgspec.convert(kept[name], type_of_field)
            except msgspec.ValidationError:
                del kept[name]
    return msgspec.convert(kept, kind)


@functools.cache
def _optional_fields(kind: type[Struct]) -> tuple[tuple[str, Any], ...]:
    """Name and type of each field that may be absent. Once: msgspec evaluates all of a struct's annotations anew at
    each call, and gateways hear of each worker each second."""
    return tuple((one.name, one.type) for one in msgspec.structs.fields(kind) if not one.required)


def _state(answer: Mapping[str, Any]) -> object:
    """The data of the endpoint `state` in an answer to STATS, whatever other endpoints a later release has."""
    endpoints = [one for one in answer.get("endpoints") or () if isinstance(one, dict)]
    named = [one for one in endpoints if one.get("name") == ENDPOINT]
    return (named or endpoints or [{}])[0].get("data")


@functools.lru_cache(maxsize=1024)
def _leave_out(service: str, who: str, reason: str) -> None:
    """Says so, once: gateways and `top` ask each second."""
    log.warning("left out service=%s id=%s answer not understood: %s", service, who[:64], reason[:500])


async def _ask_all(nc: NatsConnection, subject: str, wait: float) -> list[dict[str, Any]]:
    """Maps with an id; what else comes is no answer."""
    answers: list[dict[str, Any]] = []

    async def collect(message: Msg) -> None:
        if not message.data:
            return  # the server's word that nobody listens
        try:
            answer = msgspec.json.decode(message.data)
        except (ValueError, RecursionError) as error:
            _leave_out(subject, "unknown", str(error))
            return
        if isinstance(answer, dict) and isinstance(answer.get("id"), str):
            answers.append(answer)

    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, cb=collect)
    try:
        await nc.publish(subject, b"", reply=inbox)
        await asyncio.sleep(wait)
    finally:
        await subscription.unsubscribe()
    return answers
