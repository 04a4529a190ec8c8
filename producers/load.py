"""`turnpike load`: a run of the load generator, with its record, and what is shown of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from broker.catalogue import entry_of, read_lock, sha256_of, verify
from broker.client import Client
from broker.connection import Address
from broker.discovery import WorkerInfo
from broker.errors import SettingsError, TurnpikeError
from broker.locks import Lock
from broker.messages import new_id
from broker.process import EXIT_INTERRUPTED
from producers import arrivals, records, sweep
from producers.ask import CHATS, NO_ROUTES, resolve
from producers.datasets import SHIPPED, Conversation, DatasetError, load_conversations
from producers.generator import Generator, OnChunk, Progress
from producers.records import Bounds, Continued, Ended, Header, Recording, Summary, TurnRecord, summarize
from producers.rows import summary
from producers.settings import LoadSettings
from producers.terminal import causes, folding
from producers.waiting import choosable, ready, telling, unless

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
    progress.started_at = time.perf_counter() - begun_before
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


def source(options: LoadSettings) -> str | None:
    """Where the conversations are; `hub:NAME` is the file that the lock names, verified. Raises TurnpikeError."""
    if options.dataset is None or not options.dataset.startswith("hub:"):
        return options.dataset
    name = options.dataset.removeprefix("hub:")
    locked = entry_of(name, read_lock(Path(options.lock_file)), options.lock_file)
    return str(verify(name, locked, Path(options.models_dir).expanduser()))


@dataclass(frozen=True)
class Selection:
    """A run's conversations, out of how many, and the file that they are from."""

    conversations: list[Conversation]
    num_found: int
    path: Path
    left_out: tuple[DatasetError, ...] = ()
    """Rows of the file that cannot be read."""


def select(options: LoadSettings) -> Selection:
    """The run's conversations, in an order drawn from the seed. Raises TurnpikeError."""
    named = source(options)
    left_out: list[DatasetError] = []
    found = load_conversations(
        named, min_turns=options.min_turns, unit=options.turns, language=options.language, left_out=left_out
    )
    chosen = list(found)
    random.Random(options.seed).shuffle(chosen)
    path = Path(named or SHIPPED).expanduser()
    return Selection(chosen[: options.num_conversations], len(found), path, tuple(left_out))


# --- The record's header ---------------------------------------------------------------------------------------------


def header(options: LoadSettings, selection: Selection, workers: list[WorkerInfo]) -> Header:
    """Everything that it takes to repeat a run."""
    assert options.run is not None
    settings = {name: getattr(options, name) for name in SAVED_SETTINGS if name not in PRIVATE}
    return Header(
        version=records.VERSION,
        run=options.run,
        started_at=time.time_ns(),
        settings=settings,
        dataset=_dataset_facts(options, selection),
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


def _dataset_facts(options: LoadSettings, selection: Selection) -> dict[str, Any]:
    names = "\n".join(conversation.id for conversation in selection.conversations)
    facts: dict[str, Any] = {
        "name": options.dataset or SHIPPED.name,
        "language": options.language,
        "rule": f"one best-ranked thread a tree, at least {options.min_turns} {options.turns}",
        "num_found": selection.num_found,
        "num_left_out": len(selection.left_out),
        "num_chosen": len(selection.conversations),
        "seed": options.seed,
        "chosen_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }
    with contextlib.suppress(OSError):
        facts["sha256"] = sha256_of(selection.path)
    return facts


# --- The command -----------------------------------------------------------------------------------------------------


async def run_and_show(address: Address, options: LoadSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """A run with a live table on stderr, then the figures on stdout."""
    options.check()
    selection = select(options)
    num_run = len(selection.conversations)
    console = Console(stderr=True)
    console.print(
        f"{selection.num_found} conversations of at least {options.min_turns} {options.turns} found; {num_run} run"
    )
    if selection.left_out:
        console.print(summary(selection.left_out), markup=False, highlight=False)
    if not num_run:
        return 1
    if num_run < options.num_conversations:
        console.print(f"fewer than the {options.num_conversations} that were asked for: none is used twice")
    async with Client(address) as client:
        for name, _ in options.weights(options.model):
            if not await unless(stop, choosable(client, NO_ROUTES, name, CHATS, address.wait, console.print)):
                return EXIT_INTERRUPTED
        models = [(await resolve(client, name), weight) for name, weight in options.weights(options.model)]
        options = msgspec.structs.replace(
            options,
            model=",".join(f"{name}={weight:g}" for name, weight in models) if len(models) > 1 else models[0][0],
            run=options.run or new_run(),
        )
        path = Path(options.out).expanduser() if options.out is not None else None
        if not await _are_served(client, options, address, console, stop):
            return EXIT_INTERRUPTED
        progress = await run_recorded(client, options, selection, path, console, stop)
    return _show(options, progress, stop, as_json)


async def continue_and_show(address: Address, path: Path, stop: asyncio.Event, *, as_json: bool) -> int:
    """Goes on with a run that was interrupted, by the settings of its record. Raises RecordError, CannotContinue."""
    run = records.read(path)
    _check_continues(path, run)  # before a worker is waited for that nothing is asked of
    saved = {name: value for name, value in run.header.settings.items() if name in SAVED_SETTINGS}
    try:
        options = msgspec.convert(saved, LoadSettings)
        options.check()
    except (msgspec.ValidationError, SettingsError) as error:
        raise CannotContinue(f"{path}: its settings are not understood: {error}") from None
    console = Console(stderr=True)
    async with Client(address) as client:
        if not await _are_served(client, options, address, console, stop):
            return EXIT_INTERRUPTED
        progress = await run_recorded(client, options, select(options), path, console, stop, run)
    return _show(options, progress, stop, as_json)


async def _are_served(
    client: Client, options: LoadSettings, address: Address, console: Console, stop: asyncio.Event
) -> bool:
    """True once every model of the run has a worker, False when it was stopped before. Raises NotServed."""
    for model, _ in options.weights(options.model):
        if not await unless(stop, ready(client, model, address.wait, console.print)):
            return False
    return True


async def run_recorded(
    client: Client,
    options: LoadSettings,
    selection: Selection,
    path: Path | None,
    console: Console,
    stop: asyncio.Event,
    before: records.Run | None = None,
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
        async with telling(client, [model for model, _ in options.weights(options.model)], console.print):
            await run_load(client, options, conversations, stop=stop, progress=progress, recording=recording, **again)
    return progress


class CannotContinue(TurnpikeError):
    """A record that the run cannot go on with; says why."""


class Again(TypedDict):
    """What run_load is told of an earlier life."""

    skip: frozenset[int]
    begun_before: float


def _check_continues(path: Path, run: records.Run) -> None:
    """Raises CannotContinue for a run that has nothing left to do, or cannot be taken up where it was."""
    if run.seconds is not None:
        raise CannotContinue(f"{path}: the run ended; there is nothing to go on with")
    if run.header.settings.get("sweep") is not None:
        raise CannotContinue(f"{path}: a sweep's levels follow from one another: begin it again")


def resume(
    path: Path, run: records.Run, options: LoadSettings, selection: Selection, progress: Progress
) -> tuple[Recording, Again]:
    """Opens the record of an interrupted run to go on with it, what is whole of it in `progress`.

    Raises CannotContinue.
    """
    _check_continues(path, run)
    facts = _dataset_facts(options, selection)
    for name in ("chosen_sha256", "sha256"):
        if facts.get(name) != run.header.dataset.get(name):
            raise CannotContinue(f"{path}: the data set is not the one that the run began with ({name} differs)")
    is_closed = options.arrivals == "closed"
    whole = _whole(run, options, selection.conversations) if is_closed else {turn.number for turn in run.turns}
    void = tuple(sorted({turn.conversation for turn in run.turns} - whole)) if is_closed else ()
    progress.records += [turn for turn in run.turns if turn.conversation not in void]
    progress.num_finished = len(whole) if is_closed else 0
    again = Again(skip=frozenset(whole), begun_before=max((turn.ended_at for turn in run.turns), default=0.0))
    return Recording.reopen(path, Continued(time.time_ns(), void)), again


def _whole(run: records.Run, options: LoadSettings, conversations: list[Conversation]) -> set[int]:
    """The conversations of which every turn is there, or one that ended them."""
    counts = Counter(turn.conversation for turn in run.turns)
    ended = {turn.conversation for turn in run.turns if turn.is_failed}
    most = options.max_user_turns
    wanted = [one.num_user_turns if most is None else min(one.num_user_turns, most) for one in conversations]
    return ended | {number for number, least in enumerate(wanted) if counts[number] >= least}


def _show(options: LoadSettings, progress: Progress, stop: asyncio.Event, as_json: bool) -> int:
    bounds = Bounds(options.slo_ttft_seconds, options.slo_tpot_seconds)
    summary = summarize(progress.records, time.perf_counter() - progress.started_at, bounds)
    found = sweep.levels(progress.records, {"sweep": options.sweep}, bounds)
    if as_json:
        fields = msgspec.to_builtins(summary) | ({"levels": msgspec.to_builtins(found)} if found else {})
        sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    else:
        console = Console()
        console.print(summary_table(summary, f"run {options.run}"))
        if (said := sweep.verdict(found, bounds)) is not None:
            console.print(said, highlight=False)
        for detail in records.details(progress.records):
            console.print(detail, markup=False, highlight=False)
    if stop.is_set():
        return EXIT_INTERRUPTED
    return 1 if summary.num_failed else 0


@contextmanager
def showing(console: Console, render: Callable[[], RenderableType]) -> Iterator[None]:
    """Draws `render()` four times a second on a terminal; elsewhere nothing."""
    if not console.is_terminal:
        yield
        return
    with Live(console=console, refresh_per_second=4, get_renderable=render, transient=True):
        yield


def progress_table(progress: Progress) -> Table:
    """The run as it stands, and about how long it will still take."""
    seconds = time.perf_counter() - progress.started_at
    summary = summarize(progress.records, seconds)
    # On a schedule nobody knows how many there will be.
    of = f" of {progress.num_conversations}" if progress.num_conversations else ""
    title = f"{progress.num_finished}{of} conversations, {seconds:.0f} s"
    if 0 < progress.num_finished < progress.num_conversations:
        left = seconds / progress.num_finished * (progress.num_conversations - progress.num_finished)
        title += f", about {left:.0f} s left"
    return summary_table(summary, title, num_active=len(progress.active))


def summary_table(
    summary: Summary, title: str, *, num_active: int | None = None, memory_bytes: int | None = None
) -> Table:
    """The figures for people."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")

    def milliseconds(p50: float | None, p99: float | None) -> str:
        return "–" if p50 is None or p99 is None else f"{p50 * 1000:.0f} / {p99 * 1000:.0f} ms"

    def rate(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f} tokens/s"

    turns = f"{summary.num_turns}"
    if summary.num_failed:
        turns += f", {summary.num_failed} failed" + (f" ({causes(summary.failures)})" if summary.failures else "")
    table.add_row("turns", Text(turns + (f", {num_active} running" if num_active is not None else "")))
    table.add_row("time to first token, p50 / p99", milliseconds(summary.ttft_p50_seconds, summary.ttft_p99_seconds))
    if summary.scheduled_ttft_p99_seconds is not None:
        table.add_row("… from its scheduled send, p99", f"{summary.scheduled_ttft_p99_seconds * 1000:.0f} ms")
    table.add_row("time per output token, p50 / p99", milliseconds(summary.tpot_p50_seconds, summary.tpot_p99_seconds))
    table.add_row("prefill", rate(summary.prefill_tokens_per_second))
    table.add_row("decode of one stream", rate(summary.decode_tokens_per_second))
    table.add_row("all streams together", rate(summary.throughput_tokens_per_second))
    if summary.goodput_turns_per_second is not None:
        table.add_row(
            "goodput", f"{summary.goodput_turns_per_second:.2f} of {summary.turns_per_second or 0:.2f} turns/s"
        )
    table.add_row("prompt tokens", f"{summary.prompt_tokens}, {summary.cached_tokens} of them from the cache")
    table.add_row("generated tokens", str(summary.completion_tokens))
    if memory_bytes is not None:
        table.add_row("memory of the worker", f"{memory_bytes / 2**20:.0f} MiB")
    return folding(table)
