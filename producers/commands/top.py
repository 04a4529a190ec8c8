"""`turnpike top`: who serves what and what waits, by discovery and the consumers' info, and what boards have loaded;
refreshed in place."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import msgspec
from msgspec import Struct
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from broker import availability, jetstream, subjects
from broker.client import Client
from broker.connection import Address
from broker.discovery import WorkerInfo
from broker.errors import ServerError
from broker.messages.boards import BoardState
from broker.model_status import ModelStatus, is_coming, statuses
from broker.priorities import BATCH, INTERACTIVE, PRIORITIES
from producers.terminal.boards import boards_table
from producers.terminal.tables import FoldingTable

REFRESH_SECONDS = 1.0


class Queued(Struct, frozen=True):
    """A model's queue: turns that wait and turns in work, by priority."""

    model: str
    num_pending: dict[str, int]
    num_in_work: dict[str, int]


class Picture(Struct, frozen=True):
    """The cluster at one moment."""

    workers: list[WorkerInfo]
    queues: list[Queued]
    boards: tuple[BoardState, ...] = ()


async def look(client: Client) -> Picture:
    """What there is just now, queues that nobody serves among it."""
    workers, boards = await asyncio.gather(client.workers(), client.boards())
    queues = []
    for model in sorted({worker.model for worker in workers} | await _queued(client)):
        pending: dict[str, int] = {}
        in_work: dict[str, int] = {}
        for priority in PRIORITIES:
            info = await jetstream.consumer(client.nc, subjects.turns_stream(model), priority)
            if info is not None:
                pending[priority], in_work[priority] = info.num_pending, info.num_ack_pending
        queues.append(Queued(model, pending, in_work))
    return Picture(workers, queues, boards)


async def _queued(client: Client) -> set[str]:
    """The models that have a queue; none where the server is one of an older release's and does not tell."""
    try:
        return set(await availability.queues(client.nc))
    except ServerError:
        return set()


async def top(address: Address, stop: asyncio.Event, *, once: bool, as_json: bool) -> int:
    """Shows it until `stop`, or once. Exit code 1 when no worker answers, and no board has anything to load."""
    console = Console()
    async with Client(address) as client:
        picture = await look(client)
        if as_json:
            sys.stdout.write(msgspec.json.encode(picture).decode() + "\n")
        elif once or not console.is_terminal:
            console.print(_shown(picture))
        else:
            with Live(_shown(picture), console=console, auto_refresh=False) as live:
                while not stop.is_set():
                    picture = await look(client)
                    live.update(_shown(picture), refresh=True)
                    try:
                        await asyncio.wait_for(stop.wait(), REFRESH_SECONDS)
                    except TimeoutError:
                        continue
    return 0 if picture.workers or statuses(picture.boards) else 1


def _num_workers(workers: list[WorkerInfo]) -> str:
    """Those that take turns, and what the others do; and whether all have the same model file."""
    able = [worker for worker in workers if worker.is_serving]
    others = Counter(worker.load.state for worker in workers if not worker.is_serving)
    text = ", ".join(
        [str(len(able)), *(f"[yellow]{number} {escape(state)}[/yellow]" for state, number in others.items())]
    )
    num_files = len({worker.fingerprint for worker in able if worker.fingerprint})
    return f"{text}, [red]{num_files} files[/red]" if num_files > 1 else text


def _state(worker: WorkerInfo) -> str:
    return "" if worker.is_serving else f" [yellow]{escape(worker.load.state)}[/yellow]"


def _wait(workers: list[WorkerInfo], status: ModelStatus | None) -> str:
    waits = [worker.load.expected_wait_seconds for worker in workers if worker.is_serving]
    if not waits and is_coming(status):
        waits = [status.seconds]
    return f"{min(waits):.1f}" if waits else "–"


def _shown(picture: Picture) -> RenderableType:
    if not picture.workers and not picture.queues and not picture.boards:
        return "no worker answers"
    kind = FoldingTable if picture.workers else Table
    queues = kind("model", "workers", "slots", "queued", "batch queued", "in work", "wait s", title="queues")
    known = statuses(picture.boards)
    for queue in picture.queues:
        workers = [worker for worker in picture.workers if worker.model == queue.model]
        status = known.get(queue.model)
        is_served = any(worker.is_serving for worker in workers)
        queues.add_row(
            queue.model,
            _num_workers(workers) if workers else escape(status.words()) if status is not None else "none",
            str(sum(worker.load.num_slots for worker in workers if worker.is_serving)),
            str(queue.num_pending.get(INTERACTIVE, 0)),
            str(queue.num_pending.get(BATCH, 0)),
            str(sum(queue.num_in_work.values())),
            _wait(workers, status),
            style=None if is_served or is_coming(status) else "red",
        )
    boards = [boards_table(picture.boards)] if picture.boards else []
    if not picture.workers:
        return Group(queues, *boards, "no worker answers")
    heads = ("worker, node", "model", "busy", "prefill/s", "decode/s", "cached", "failed", "°C")
    table = FoldingTable(*heads, title="workers")
    for worker in picture.workers:
        load = worker.load
        heat = "–" if load.celsius is None else f"{load.celsius:.0f}"
        table.add_row(
            worker.worker if worker.worker.startswith(worker.node) else f"{worker.worker}, {escape(worker.node)}",
            f"{worker.model} {escape(worker.quantization)}{_state(worker)}",
            f"{load.num_active}/{load.num_slots}",
            "–" if load.prefill_tokens_per_second is None else f"{load.prefill_tokens_per_second:.0f}",
            "–" if load.decode_tokens_per_second is None else f"{load.decode_tokens_per_second:.1f}",
            "–" if load.cached_share is None else f"{100 * load.cached_share:.0f} %",
            str(load.num_failed),
            f"[red]{heat} throttled[/red]" if load.is_throttled else heat,
        )
    return Group(queues, *boards, table)
