"""`turnpike eval`: multiple choice over the queue, by the log-probabilities of the answers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.client import Client
from broker.connection import Address
from broker.discovery import RAW, SCORE
from broker.process import EXIT_INTERRUPTED
from producers.data.rows import summary
from producers.evaluate.items import EvalError, read_items
from producers.evaluate.methods import accuracies
from producers.evaluate.run import run_on
from producers.routing.asking import NO_ROUTES, resolve
from producers.routing.policies import Needs
from producers.routing.waiting import choosable, ready, telling, unless
from producers.settings import EvalSettings

RAW_SCORES = Needs(can=frozenset({RAW, SCORE}))


async def run_and_show(address: Address, options: EvalSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """An evaluation, with its accuracies on stdout."""
    options.check()
    path = Path(options.path).expanduser()
    left_out: list[EvalError] = []
    items = read_items(path, left_out)[: options.limit]
    out = Path(options.out).expanduser() if options.out is not None else None
    console = Console(stderr=True, markup=False, highlight=False)
    if left_out:
        console.print(summary(left_out))
    async with Client(address) as client:
        waiting = choosable(client, NO_ROUTES, options.model, RAW_SCORES, address.wait, console.print)
        if not await unless(stop, waiting):
            return EXIT_INTERRUPTED
        model = await resolve(client, options.model, needs=RAW_SCORES)
        if not await unless(stop, ready(client, model, address.wait, console.print)):
            return EXIT_INTERRUPTED
        async with telling(client, [model], console.print):
            answers = await run_on(client, model, items, out, stop, options.concurrency, console.print)
    if stop.is_set():
        goes_on = "" if out is None else "; run again, it goes on there"
        console.print(f"interrupted: {len(answers)} of {len(items)} items answered{goes_on}")
    found = accuracies(answers)
    if as_json:
        facts = {"model": model, "path": path.name, "num_left_out": len(left_out), "accuracies": found}
        sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
    else:
        table = Table("method", "items", "accuracy", "standard error", title=Text(f"{model} on {path.name}"))
        for one in found:
            error = "–" if one.standard_error is None else f"{one.standard_error:.4f}"
            table.add_row(one.method, str(one.count), f"{one.accuracy:.4f}", error)
        Console().print(table)
    return EXIT_INTERRUPTED if stop.is_set() else 0
