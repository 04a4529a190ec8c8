"""A worker of the experiment's own: started, started again when it dies, and watched."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.accounts import write_credentials
from broker.process import spawn, terminate
from broker.waiting import unless
from producers.experiment.plan import ExperimentError, Model
from producers.experiment.rows import Sampled
from producers.experiment.stage import Stage
from producers.local_system import last_line
from producers.routing.waiting import ready

SERVED_SECONDS = 600.0
"""How long a model may take to be served: a large file from an SD card."""
SAMPLE_SECONDS = 1.0
MAX_EARLY_DEATHS = 2


async def until_served(stage: Stage, model: Model, sampled: Sampled | None, stop: asyncio.Event) -> None:
    """Until our own worker has loaded its file; where others serve, no longer than was asked for. Raises NotServed."""
    if sampled is None:
        await unless(stop, ready(stage.client, model.model, stage.wait_seconds, stage.console.print))
        return
    started = time.perf_counter()
    while not stop.is_set() and not any(
        worker.model == model.model and worker.is_serving for worker in await stage.client.workers()
    ):
        if sampled.num_restarts > MAX_EARLY_DEATHS:
            said = last_line(stage.out / f"{model.model}.worker.log")
            raise ExperimentError(f"the worker of {model.model} does not stay: {said}")
        if time.perf_counter() - started > SERVED_SECONDS:
            raise ExperimentError(f"the worker of {model.model} does not serve after {SERVED_SECONDS:g} s")


@asynccontextmanager
async def served(stage: Stage, model: Model, sampled: Sampled) -> AsyncIterator[None]:
    """A worker of our own, started again when it dies, and watched."""
    credentials = stage.out / ".worker.credentials"
    write_credentials(credentials, stage.worker)
    command: list[str | Path] = [sys.executable, stage.entry, "worker", "--model", model.model]
    command += ["--credentials", credentials, "--log-level", "WARNING", *(model.worker or ())]
    if model.shape is not None:
        command += ["--model-file", await _made(stage, model)]
    with (stage.out / f"{model.model}.worker.log").open("ab") as log:
        process = await spawn(command, stdout=log.fileno(), stderr=log.fileno())

        async def watch() -> None:
            nonlocal process
            before: tuple[float, float] | None = None
            while True:
                if process.returncode is not None:
                    sampled.note_restart(process.returncode)
                    process, before = await spawn(command, stdout=log.fileno(), stderr=log.fileno()), None
                if (found := stage.probe(process.pid)) is not None:
                    now = time.perf_counter()
                    if before is not None:
                        sampled.cpu_shares.append((found[0] - before[1]) / (now - before[0]) / stage.num_cores)
                    before = now, found[0]
                    sampled.rss_bytes.append(found[1])
                await asyncio.sleep(SAMPLE_SECONDS)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await terminate(process)
            credentials.unlink(missing_ok=True)


async def _made(stage: Stage, model: Model) -> Path:
    path = stage.out / f"{model.shape}-{model.quantization}.gguf"
    if not path.exists():
        stage.console.print(f"  making a model of the shape {model.shape} with random weights")
        command: list[str | Path] = [sys.executable, "-m", "workers.llama.random_model", model.shape or ""]
        process = await spawn([*command, model.quantization, path], stderr=asyncio.subprocess.DEVNULL)
        if await process.wait():
            raise ExperimentError(f"no model of the shape {model.shape!r} could be made")
    return path
