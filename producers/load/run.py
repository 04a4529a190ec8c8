"""A run of the load generator: begun or gone on with, recorded, and a sweep's levels one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console

from broker.client import Client
from broker.discovery import WorkerInfo
from broker.locks import Lock
from broker.messages import new_id
from producers.data.datasets import Conversation
from producers.load import arrivals
from producers.load.generator import Generator, OnChunk, Progress
from producers.load.resuming import Again, resume
from producers.load.selection import Selection, dataset_facts
from producers.load.tables import progress_table, showing
from producers.records import sweep
from producers.records.figures import Bounds
from producers.records.files import Recording, Run
from producers.records.lines import VERSION, Ended, Header, TurnRecord
from producers.routing.waiting import telling
from producers.settings import LoadSettings

NUM_BISECTIONS = 3
MAX_DOUBLINGS = 12
SAVED_SETTINGS = tuple(field.name for field in msgspec.structs.fields(LoadSettings))
PRIVATE = ("url", "credentials", "tls_ca", "data_dir", "log_level", "lock_file", "models_dir", "out")
"""What a record does not repeat: where this machine's broker is and who we are there."""


async def run_load(
    client: Client,
    options: LoadSettings,
    conversations: list[Conversation],
    *,
    stop: asyncio.Event | None = None,
    progress: Progress | None = None,
    on_chunk: OnChunk | None = None,
    recording: Recording | None = None,
    skip: frozenset[int] = frozenset(),
    begun_before: float = 0.0,
) -> list[TurnRecord]:
    """Runs the conversations; returns a record of each turn. `stop` cancels what runs.

    `begun_before` is how many seconds of the run have passed in an earlier life, whose work `skip` names.
    """
    progress = progress or Progress()
    stop = stop or asyncio.Event()
    options = msgspec.structs.replace(options, run=options.run or new_run())
    assert options.run is not None
    nodes = {worker.worker: worker.node for worker in await client.workers()}
    progress.begin(begun_before)
    await client.tell_run(options.run, "run began", f"{options.model}, {options.arrivals}")

    def generator(schedule: arrivals.Arrivals, level: float | None = None) -> Generator:
        return Generator(
            client,
            options,
            conversations,
            arrivals=schedule,
            models=options.weights(options.model),
            done=recording.write if recording is not None else lambda record: None,
            on_chunk=on_chunk,
            progress=progress,
            skip=skip,
            nodes=nodes,
            started_at=progress.started_at,
            level=level,
            offset=0.0 if level is None else time.perf_counter() - progress.started_at,
            first_number=0 if level is None else len(progress.records),
        )

    if (plan := options.sweep_plan()) is not None:
        await _sweep(generator, options, plan, progress, stop)
    else:
        await generator(arrivals.parse(options.arrivals)).run(stop)
    await client.tell_run(options.run, "run ended", f"{len(progress.records)} turns")
    if recording is not None and not stop.is_set():
        recording.write(Ended(time.perf_counter() - progress.started_at))
    return progress.records


async def _sweep(
    generator: Callable[[arrivals.Arrivals, float | None], Generator],
    options: LoadSettings,
    plan: tuple[float, float],
    progress: Progress,
    stop: asyncio.Event,
) -> None:
    """Doubles the rate until goodput no longer keeps up, then looks between the last good and the first bad one."""
    rate, seconds = plan
    bounds = Bounds(options.slo_ttft_seconds, options.slo_tpot_seconds)
    good, bad, num_levels = 0.0, 0.0, 0
    while not stop.is_set() and num_levels < MAX_DOUBLINGS and (not bad or num_levels < NUM_BISECTIONS):
        level = rate if not bad else (good + bad) / 2
        num_before = len(progress.records)
        await generator(arrivals.Steps(((level, seconds),)), level).run(stop)
        num_levels += 1
        if sweep.level(level, progress.records[num_before:], seconds, bounds).is_sustained:
            good, rate = level, 2 * level
        else:
            if not bad:
                num_levels = 0  # from here on it is bisections that count
            bad = level


def new_run() -> str:
    """A name for a run, short enough for a legend."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{new_id()[:4]}"


def header(options: LoadSettings, selection: Selection, workers: list[WorkerInfo]) -> Header:
    """Everything that it takes to repeat a run."""
    assert options.run is not None
    settings = {name: getattr(options, name) for name in SAVED_SETTINGS if name not in PRIVATE}
    return Header(
        version=VERSION,
        run=options.run,
        started_at=time.time_ns(),
        settings=settings,
        dataset=dataset_facts(options, selection),
        producer={
            "turnpike": importlib.metadata.version("turnpike-mq"),
            "nats-py": importlib.metadata.version("nats-py"),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "kernel": platform.release(),
        },
        workers=[msgspec.to_builtins(worker) for worker in workers],
        part=options.part,
        num_parts=options.num_parts,
    )


async def run_recorded(
    client: Client,
    options: LoadSettings,
    selection: Selection,
    path: Path | None,
    console: Console,
    stop: asyncio.Event,
    before: Run | None = None,
) -> Progress:
    """A run with its record in `path` where one is given; or goes on with `before`, which was read from there."""
    progress = Progress()
    again = Again(skip=frozenset(), begun_before=0.0)
    with contextlib.ExitStack() as stack:
        recording = None
        if path is not None:
            stack.enter_context(Lock.of(path, "the record"))
        if path is not None and before is not None:
            recording, again = resume(path, before, options, selection, progress)
            console.print(f"going on with run {before.name}: {len(progress.records)} turns are there")
        elif path is not None:
            recording = Recording(path, header(options, selection, await client.workers()))
        if recording is not None:
            stack.enter_context(recording)
        stack.enter_context(showing(console, lambda: progress_table(progress)))
        conversations = selection.conversations
        say = partial(console.print, markup=False)  # why a board cannot load a model is text
        async with telling(client, [model for model, _ in options.weights(options.model)], say):
            await run_load(client, options, conversations, stop=stop, progress=progress, recording=recording, **again)
    return progress
