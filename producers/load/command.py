"""`turnpike load`: a run of the load generator, with its record, and what is shown of it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console

from broker.client import Client
from broker.connection import Address
from broker.errors import SettingsError
from broker.process import EXIT_INTERRUPTED
from broker.waiting import unless
from producers.data.datasets import turns_wanted
from producers.data.rows import summary
from producers.load.generator import Progress
from producers.load.resuming import CannotContinue, check_continues
from producers.load.run import SAVED_SETTINGS, new_run, run_recorded
from producers.load.selection import select
from producers.load.tables import summary_table
from producers.records import sweep
from producers.records.figures import Bounds, details, summarize
from producers.records.files import read_run
from producers.routing.asking import CHATS, NO_ROUTES, resolve
from producers.routing.waiting import choosable, ready
from producers.settings import LoadSettings


async def run_and_show(address: Address, options: LoadSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """A run with a live table on stderr, then the figures on stdout."""
    options.check()
    selection = select(options)
    num_run = len(selection.conversations)
    console = Console(stderr=True)
    least = turns_wanted(options.dataset, options.min_turns)
    console.print(f"{selection.num_found} conversations of at least {least} {options.turns} found; {num_run} run")
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
    run = read_run(path)
    check_continues(path, run)  # before a worker is waited for that nothing is asked of
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
        for detail in details(progress.records):
            console.print(detail, markup=False, highlight=False)
    if stop.is_set():
        return EXIT_INTERRUPTED
    return 1 if summary.num_failed else 0
