"""`turnpike load`: many conversations at once, in a closed loop: C of them always, until N are through."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from broker.client import Answer, Client
from broker.connection import Address
from broker.errors import PublishError, TurnFailed
from broker.messages import Chunk, Failed, Message, Sampling, new_id
from broker.process import EXIT_INTERRUPTED
from producers.ask import resolve
from producers.datasets import Conversation, load_conversations
from producers.records import Summary, TurnRecord, summarize
from producers.settings import LoadSettings


@dataclass
class Progress:
    """How far a run is, for whoever shows it."""

    num_conversations: int = 0
    num_finished: int = 0
    records: list[TurnRecord] = field(default_factory=list)
    active: dict[str, Answer] = field(default_factory=dict)
    started_at: float = field(default_factory=time.perf_counter)


OnChunk = Callable[[str, Answer, Chunk], None]


async def run_load(
    client: Client,
    options: LoadSettings,
    conversations: list[Conversation],
    *,
    stop: asyncio.Event | None = None,
    progress: Progress | None = None,
    on_chunk: OnChunk | None = None,
) -> list[TurnRecord]:
    """Runs the conversations, `concurrency` at once; returns a record of each turn. `stop` cancels what runs."""
    progress = progress or Progress()
    progress.num_conversations = len(conversations)
    waiting = iter(conversations)
    stop = stop or asyncio.Event()

    async def one_after_another() -> None:
        for conversation in waiting:
            if stop.is_set():
                return
            await _converse(client, options, conversation, progress, stop, on_chunk)
            progress.num_finished += 1

    async def cancel_all() -> None:
        await stop.wait()
        for answer in list(progress.active.values()):
            await answer.cancel()

    options = msgspec.structs.replace(options, run=options.run or new_run())
    assert options.run is not None
    await client.tell_run(options.run, "run began", f"{options.model}, {len(conversations)} conversations")
    async with asyncio.TaskGroup() as group:
        cancelling = group.create_task(cancel_all())
        async with asyncio.TaskGroup() as loops:
            for _ in range(min(options.concurrency, len(conversations))):
                loops.create_task(one_after_another())
        cancelling.cancel()
    await client.tell_run(options.run, "run ended", f"{len(progress.records)} turns")
    return progress.records


def new_run() -> str:
    """A name for a run, short enough for a legend."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{new_id()[:4]}"


async def _converse(
    client: Client,
    options: LoadSettings,
    conversation: Conversation,
    progress: Progress,
    stop: asyncio.Event,
    on_chunk: OnChunk | None,
) -> None:
    """The user's messages one after another, each with the history so far."""
    sampling = Sampling(max_tokens=options.max_tokens, ignore_eos=options.ignore_eos)
    key = new_id()
    history: list[Message] = []
    num_turns = 0
    for index, message in enumerate(conversation.messages):
        if message.role != "user":
            if options.history == "dataset" or message.role == "system":
                history.append(message)
            continue
        if stop.is_set() or num_turns == options.max_user_turns:
            return
        num_turns += 1
        history.append(message)
        answer = client.ask(options.model, history, sampling=sampling, conversation=key, run=options.run)
        progress.active[conversation.id] = answer
        try:
            progress.records.append(await _record(conversation.id, answer, on_chunk))
        finally:
            del progress.active[conversation.id]
        if isinstance(answer.end, Failed):
            return
        if options.history == "generated" or index == len(conversation.messages) - 1:
            history.append(Message("assistant", answer.text))


async def _record(conversation: str, answer: Answer, on_chunk: OnChunk | None) -> TurnRecord:
    times: list[float] = []
    attempt = 0
    try:
        async for chunk in answer:
            if chunk.attempt > attempt:
                attempt, times = chunk.attempt, []
            times += [time.perf_counter()] * len(chunk.tokens)
            if on_chunk is not None:
                on_chunk(conversation, answer, chunk)
    except TurnFailed:
        pass
    except PublishError as error:
        answer.end = Failed("not_published", str(error), retryable=True)
    assert answer.end is not None
    sent_at = answer.sent_at if answer.sent_at is not None else time.perf_counter()
    return TurnRecord(conversation, answer.turn.id, sent_at, time.perf_counter(), answer.end, tuple(times))


def select(options: LoadSettings) -> tuple[list[Conversation], int]:
    """The run's conversations, in an order drawn from the seed, and how many there were to choose from."""
    path = Path(options.dataset).expanduser() if options.dataset else None
    found = load_conversations(path, min_turns=options.min_turns, unit=options.turns, language=options.language)
    chosen = list(found)
    random.Random(options.seed).shuffle(chosen)
    return chosen[: options.num_conversations], len(found)


async def run_and_show(address: Address, options: LoadSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """A run with a live table on stderr, then the figures on stdout."""
    options.check()
    conversations, num_found = select(options)
    console = Console(stderr=True)
    console.print(
        f"{num_found} conversations of at least {options.min_turns} {options.turns} found; {len(conversations)} run"
    )
    if not conversations:
        return 1
    async with Client(address) as client:
        options = msgspec.structs.replace(options, model=await resolve(client, options.model))
        progress = Progress()
        with showing(console, lambda: progress_table(progress)):
            records = await run_load(client, options, conversations, stop=stop, progress=progress)
    summary = summarize(records, time.perf_counter() - progress.started_at)
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    else:
        Console().print(summary_table(summary, "load"))
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
    """The run as it stands."""
    seconds = time.perf_counter() - progress.started_at
    summary = summarize(progress.records, seconds)
    title = f"{progress.num_finished} of {progress.num_conversations} conversations, {seconds:.0f} s"
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

    turns = f"{summary.num_turns}" + (f", {summary.num_failed} failed" if summary.num_failed else "")
    table.add_row("turns", turns + (f", {num_active} running" if num_active is not None else ""))
    table.add_row("time to first token, p50 / p99", milliseconds(summary.ttft_p50_seconds, summary.ttft_p99_seconds))
    table.add_row("time per output token, p50 / p99", milliseconds(summary.tpot_p50_seconds, summary.tpot_p99_seconds))
    table.add_row("prefill", rate(summary.prefill_tokens_per_second))
    table.add_row("decode of one stream", rate(summary.decode_tokens_per_second))
    table.add_row("all streams together", rate(summary.throughput_tokens_per_second))
    table.add_row("prompt tokens", f"{summary.prompt_tokens}, {summary.cached_tokens} of them from the cache")
    table.add_row("generated tokens", str(summary.completion_tokens))
    if memory_bytes is not None:
        table.add_row("memory of the worker", f"{memory_bytes / 2**20:.0f} MiB")
    return table
