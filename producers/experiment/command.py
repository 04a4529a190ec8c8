"""`turnpike experiment`: a list of models one after the other, and the paper's table and figures for this cluster.

What the paper published (arXiv 2411.17712: four Raspberry Pi 5, llama.cpp, 4-bit models) stands beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import signal
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.accounts import write_credentials
from broker.client import Client
from broker.connection import Address
from broker.errors import TurnpikeError
from broker.locks import Lock
from broker.process import EXIT_INTERRUPTED, spawn, terminate
from broker.toml import read_toml
from producers.data.rows import summary
from producers.evaluate.command import Answered, accuracies, run_on
from producers.evaluate.items import EvalError, read_items
from producers.load.run import run_recorded
from producers.load.selection import select
from producers.local_system import last_line
from producers.records.figures import Bounds
from producers.records.files import Run, read_run
from producers.report.command import report
from producers.report.figures import by_context, context_cv, figures
from producers.routing.waiting import ready, unless
from producers.settings import LoadSettings
from producers.terminal.tables import causes, folding

SERVED_SECONDS = 600.0
"""How long a model may take to be served: a large file from an SD card."""
SAMPLE_SECONDS = 1.0
MAX_EARLY_DEATHS = 2

PUBLISHED = {
    "internlm2-5-7b": "Winogrande about 0.8",
    "gemma-7b": "Winogrande about 0.7",
    "llama-3-8b": "Winogrande about 0.69",
    "yi-6b": "Winogrande about 0.49",
    "zephyr-7b": "Winogrande about 0.46",
}
"""Of the catalogue's models, by their whole names: another size of a family is another model."""
PUBLISHED_OF_ALL = "5 to 12 tokens per second, under 50 % of CPU and memory"


class ExperimentError(TurnpikeError):
    """A plan that cannot be carried out; says what of it."""


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """One model of a plan. With `worker` flags, a worker is started here and stopped afterwards."""

    model: str
    worker: tuple[str, ...] | None = None
    shape: str | None = None
    """A random-weight model of this shape, made on the spot, instead of a file."""
    quantization: str = "Q4_0"
    second_of: str | None = None
    """The model of the plan that this is another quantisation of."""


class Winogrande(Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    limit: int | None = None


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment's file."""

    name: str
    models: tuple[Model, ...]
    load: dict[str, Any] = {}
    winogrande: Winogrande | None = None


def read_plan(path: Path) -> Plan:
    """Raises ExperimentError with the field that is wrong."""
    try:
        plan = msgspec.convert(read_toml(path), Plan)
        for model in plan.models:
            options(plan, model).check()
    except OSError as error:
        raise ExperimentError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, TypeError, TurnpikeError) as error:
        raise ExperimentError(f"{path}: {error}") from None
    names = {model.model for model in plan.models}
    for model in plan.models:
        if model.second_of is not None and model.second_of not in names - {model.model}:
            raise ExperimentError(f"{path}: {model.model}: second_of {model.second_of!r} is no other model of the plan")
    if len(names) < len(plan.models):
        raise ExperimentError(f"{path}: a model is listed twice")
    return plan


def options(plan: Plan, model: Model) -> LoadSettings:
    """The load of one model. Its run is named after both, so that an interrupted experiment finds it again."""
    unknown = set(plan.load) - {one.name for one in msgspec.structs.fields(LoadSettings)}
    if unknown:
        raise ExperimentError(f"load: unknown setting {', '.join(sorted(unknown))}")
    fields = plan.load | {"model": model.model, "run": f"{plan.name}-{model.model}"}
    return msgspec.convert(fields, LoadSettings)


@dataclass
class Sampled:
    """A worker's process while it worked: shares of all cores, bytes, and how often it had to be started again."""

    cpu_shares: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    num_restarts: int = 0
    num_kills: int = 0
    """Of those, by SIGKILL: which where nobody else sends it is the kernel's, out of memory."""


Probe = Callable[[int], tuple[float, int] | None]
"""CPU seconds and resident bytes of a process; None when it is gone."""


class Row(Struct, frozen=True):
    """One model of the table. Seconds are per token; None is what was not measured here."""

    model: str
    file: str
    num_turns: int
    num_failed: int
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    prefill_seconds_per_token: float | None
    decode_seconds_per_token: float | None
    total_seconds_per_token: float | None
    ttft_seconds: float | None
    cv: float | None
    cached_share: float | None
    cpu_share: float | None
    rss_bytes: int | None
    num_restarts: int | None
    num_kills: int | None
    accuracies: dict[str, tuple[float, float | None]]
    published: str
    failures: dict[str, int] = {}
    """How many turns failed, by the code of the failure."""
    effect: str = ""
    """Of a second quantisation, against the first."""


def effect(first: Row, second: Row) -> str:
    """What another quantisation of the same model changes: ratios second ÷ first, and the accuracies' difference."""
    found = [
        f"{name} × {two / one:.2f}"
        for name, one, two in (
            ("prefill", first.prefill_tokens_per_second, second.prefill_tokens_per_second),
            ("decode", first.decode_tokens_per_second, second.decode_tokens_per_second),
            ("memory", first.rss_bytes, second.rss_bytes),
        )
        if one and two
    ]
    if "partial" in first.accuracies and "partial" in second.accuracies:
        found.append(f"Winogrande {second.accuracies['partial'][0] - first.accuracies['partial'][0]:+.3f}")
    return f"{first.model}: {', '.join(found)}" if found else ""


def row(run: Run, sampled: Sampled | None, answers: list[Answered]) -> Row:
    """A model's line of the table, from its record."""
    found = figures(run)
    done = [turn for turn in run.counted() if not turn.is_failed]
    computed = sum(turn.prompt_tokens - turn.cached_tokens for turn in done)
    prefill = sum(turn.prefill_seconds or 0.0 for turn in done)
    decode = sum(turn.decode_seconds or 0.0 for turn in done)
    generated = sum(max(0, turn.completion_tokens - 1) for turn in done)
    tokens = sum(turn.prompt_tokens + turn.completion_tokens for turn in done)
    spreads = found.quantities
    workers = [worker for worker in run.header.workers if worker.get("model") == found.model]
    files = {f"{worker.get('model_name')} {worker.get('quantization')}" for worker in workers}
    failed = {turn.outcome for turn in run.counted() if turn.is_failed}
    return Row(
        model=found.model,
        file=", ".join(sorted(files)),
        num_turns=found.num_turns,
        num_failed=found.num_failed,
        prefill_tokens_per_second=computed / prefill if prefill else None,
        decode_tokens_per_second=generated / decode if decode else None,
        prefill_seconds_per_token=prefill / computed if computed else None,
        decode_seconds_per_token=decode / generated if generated else None,
        total_seconds_per_token=sum(turn.latency_seconds for turn in done) / tokens if tokens else None,
        ttft_seconds=spreads["ttft_seconds"].mean if "ttft_seconds" in spreads else None,
        cv=context_cv(by_context(done)),
        cached_share=found.cached_share,
        cpu_share=sum(sampled.cpu_shares) / len(sampled.cpu_shares) if sampled and sampled.cpu_shares else None,
        rss_bytes=max(sampled.rss_bytes) if sampled and sampled.rss_bytes else None,
        num_restarts=sampled.num_restarts if sampled else None,
        num_kills=sampled.num_kills if sampled else None,
        accuracies={one.method: (one.accuracy, one.standard_error) for one in accuracies(answers)},
        published=PUBLISHED.get(found.model.lower(), ""),
        failures={code: count for code, count in found.outcomes.items() if code in failed},
    )


# --- Carrying it out -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What an experiment runs on. `entry` is turnpike/, `worker` the account of workers that are started here."""

    client: Client
    entry: Path
    worker: Address
    out: Path
    probe: Probe
    num_cores: int
    console: Console
    wait_seconds: float = 0.0
    """For a worker of others' to come."""


async def run_experiment(stage: Stage, plan: Plan, stop: asyncio.Event) -> list[Row]:
    """Each model in turn, those that are done already left as they are. Writes the records into `stage.out`."""
    stage.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for number, model in enumerate(plan.models, 1):
        if stop.is_set():
            break
        stage.console.print(f"[bold]{model.model}[/bold] ({number} of {len(plan.models)})")
        if (found := await _one(stage, plan, model, stop)) is not None:
            rows.append(found)
    by_model = {one.model: one for one in rows}
    firsts = {model.model: by_model.get(model.second_of) for model in plan.models if model.second_of is not None}
    return [
        msgspec.structs.replace(one, effect=effect(first, one)) if (first := firsts.get(one.model)) else one
        for one in rows
    ]


async def _one(stage: Stage, plan: Plan, model: Model, stop: asyncio.Event) -> Row | None:
    """None when it was stopped before the first turn."""
    path, saved = stage.out / f"{model.model}.jsonl", stage.out / f"{model.model}.row.json"
    if saved.exists():
        stage.console.print("  done before")
        return msgspec.json.decode(saved.read_bytes(), type=Row)
    sampled = Sampled() if model.worker is not None else None
    async with contextlib.AsyncExitStack() as stack:
        if sampled is not None:
            await stack.enter_async_context(_served(stage, model, sampled))
        await _until_served(stage, model, sampled, stop)
        if stop.is_set():
            return None
        await _load(stage, options(plan, model), path, stop)
        answers = await _winogrande(stage, plan, model, stop)
    found = row(read_run(path), sampled, answers)
    if not stop.is_set():
        saved.write_bytes(msgspec.json.encode(found))
    return found


async def _load(stage: Stage, load: LoadSettings, path: Path, stop: asyncio.Event) -> None:
    before = read_run(path) if path.exists() else None
    if before is None or before.seconds is None:
        await run_recorded(stage.client, load, select(load), path, stage.console, stop, before)


async def _winogrande(stage: Stage, plan: Plan, model: Model, stop: asyncio.Event) -> list[Answered]:
    if plan.winogrande is None or stop.is_set():
        return []
    left_out: list[EvalError] = []
    items = read_items(Path(plan.winogrande.path).expanduser(), left_out)[: plan.winogrande.limit]
    if left_out:
        stage.console.print(f"  {summary(left_out)}", markup=False)
    out = stage.out / f"{model.model}.winogrande.jsonl"
    return await run_on(
        stage.client, model.model, items, out, stop, say=lambda text: stage.console.print(f"  {text}", markup=False)
    )


async def _until_served(stage: Stage, model: Model, sampled: Sampled | None, stop: asyncio.Event) -> None:
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
async def _served(stage: Stage, model: Model, sampled: Sampled) -> AsyncIterator[None]:
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
                    sampled.num_restarts += 1
                    sampled.num_kills += process.returncode == -signal.SIGKILL
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


# --- The table -------------------------------------------------------------------------------------------------------

_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("model", lambda one: one.model),
    ("file", lambda one: one.file or "–"),
    ("turns", lambda one: f"{one.num_turns}" + _failed(one)),
    ("prefill tokens/s", lambda one: _number(one.prefill_tokens_per_second, 1)),
    ("decode tokens/s", lambda one: _number(one.decode_tokens_per_second, 2)),
    ("prefill s/token", lambda one: _number(one.prefill_seconds_per_token, 4)),
    ("decode s/token", lambda one: _number(one.decode_seconds_per_token, 4)),
    ("total s/token", lambda one: _number(one.total_seconds_per_token, 4)),
    ("TTFT s", lambda one: _number(one.ttft_seconds, 2)),
    ("CV", lambda one: _number(one.cv, 3)),
    ("cached", lambda one: _percent(one.cached_share)),
    ("CPU", lambda one: _percent(one.cpu_share)),
    ("memory MiB", lambda one: _number(None if one.rss_bytes is None else one.rss_bytes / 2**20, 0)),
    ("restarts", lambda one: "–" if one.num_restarts is None else f"{one.num_restarts}, {one.num_kills} killed"),
    ("Winogrande", lambda one: _accuracy(one)),
    ("published", lambda one: one.published or "–"),
    ("against its other quantisation", lambda one: one.effect or "–"),
)


def _failed(one: Row) -> str:
    if not one.num_failed:
        return ""
    return f" ({one.num_failed} failed" + (f": {causes(one.failures)})" if one.failures else ")")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _accuracy(one: Row) -> str:
    if "partial" not in one.accuracies:
        return "–"
    accuracy, error = one.accuracies["partial"]
    return f"{accuracy:.3f}" + ("" if error is None else f" ± {error:.3f}")


def markdown(plan: Plan, rows: list[Row]) -> str:
    """The paper's table for this cluster."""
    lines = [f"# {plan.name}", "", "| " + " | ".join(name for name, _ in _COLUMNS) + " |"]
    lines.append("|" + "---|" * len(_COLUMNS))
    lines += ["| " + " | ".join(of(one) for _, of in _COLUMNS) + " |" for one in rows]
    lines += ["", f"Published of all models on four Raspberry Pi 5 (arXiv 2411.17712): {PUBLISHED_OF_ALL}.", ""]
    lines.append("CPU is of all cores of the worker's machine; memory is resident, the mapped model among it.")
    return "\n".join(lines) + "\n"


def as_csv(rows: list[Row]) -> str:
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow([name for name, _ in _COLUMNS])
    lines.writerows([of(one) for _, of in _COLUMNS] for one in rows)
    return out.getvalue()


def table(plan: Plan, rows: list[Row]) -> Table:
    """For a terminal: a model a column, as there are more quantities than models."""
    found = Table(title=Text(plan.name))
    for heading in ("", *(one.model for one in rows)):
        found.add_column(heading)
    for name, of in _COLUMNS[1:]:
        found.add_row(name, *(Text(of(one)) for one in rows))
    return folding(found)


async def run_and_show(
    address: Address,
    worker: Address,
    plan_path: Path,
    out: Path,
    *,
    entry: Path,
    probe: Probe,
    num_cores: int,
    stop: asyncio.Event,
    as_json: bool,
) -> int:
    """The experiment, then its table on stdout, and table.md, table.csv and report.html in `out`."""
    plan = read_plan(plan_path)
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out / "experiment.lock", f"the experiment's folder {out}", advice="give this one another --out")
    with lock:
        async with Client(address) as client:
            stage = Stage(client, entry, worker, out, probe, num_cores, console, address.wait)
            rows = await run_experiment(stage, plan, stop)
    if stop.is_set() and not rows:
        return EXIT_INTERRUPTED
    (out / "table.md").write_text(markdown(plan, rows))
    (out / "table.csv").write_text(as_csv(rows))
    if rows:
        paths = [out / f"{one.model}.jsonl" for one in rows]
        page = out / "report.html"
        report(paths, Bounds(), html=page, csv=None, as_json=False, to=Console(quiet=True), of_one_model=False)
    if as_json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
    else:
        Console().print(table(plan, rows))
        console.print(f"table.md, table.csv, report.html and the records are in {out}")
    return EXIT_INTERRUPTED if stop.is_set() else 0
