"""`turnpike eval`: multiple choice over the queue, by the log-probabilities of the answers; or the calls of tools."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.client import Client
from broker.connection import Address
from broker.discovery import RAW, SCORE
from broker.process import EXIT_INTERRUPTED
from broker.waiting import unless
from producers.data.rows import summary
from producers.evaluate import tool_calls
from producers.evaluate.items import EvalError, read_items
from producers.evaluate.methods import Accuracy, accuracies
from producers.evaluate.run import CHOICE, TOOLS, Way, run_on
from producers.evaluate.stored import Numbered
from producers.evaluate.tool_calls import figures, read_tool_items
from producers.routing.asking import CHATS, NO_ROUTES, resolve
from producers.routing.policies import Needs
from producers.routing.waiting import choosable, ready, telling
from producers.settings import SHIPPED_REQUESTS, EvalSettings

RAW_SCORES = Needs(can=frozenset({RAW, SCORE}))


async def run_and_show(address: Address, options: EvalSettings, stop: asyncio.Event, *, as_json: bool) -> int:
    """An evaluation, with its accuracies on stdout."""
    options.check()
    left_out: list[EvalError] = []
    if options.tools is not None:
        is_ours = options.tools == SHIPPED_REQUESTS
        path = tool_calls.SHIPPED if is_ours else Path(options.tools).expanduser()
        requests = read_tool_items(path, left_out)[: options.limit]
        run = _Run(address, options, path, left_out, CHATS, stop)
        found = await run.answers(requests, TOOLS, figures)
    else:
        assert options.path is not None, "checked"
        path = Path(options.path).expanduser()
        items = read_items(path, left_out)[: options.limit]
        run = _Run(address, options, path, left_out, RAW_SCORES, stop)
        found = await run.answers(items, CHOICE, accuracies)
    if found is not None:
        run.show(found, as_json=as_json)
    return EXIT_INTERRUPTED if stop.is_set() or found is None else 0


@dataclass
class _Run:
    """One evaluation: where, of what, and what was left out of its file."""

    address: Address
    options: EvalSettings
    path: Path
    left_out: list[EvalError]
    needs: Needs
    stop: asyncio.Event
    model: str = ""

    async def answers[I: Numbered, A: Numbered](
        self, items: Sequence[I], way: Way[I, A], figures: Callable[[Sequence[A]], list[Accuracy]]
    ) -> list[Accuracy] | None:
        """The figures of what was answered; None where it was stopped before anything was asked."""
        options, stop, wait = self.options, self.stop, self.address.wait
        out = Path(options.out).expanduser() if options.out is not None else None
        console = Console(stderr=True, markup=False, highlight=False)
        if self.left_out:
            console.print(summary(self.left_out))
        async with Client(self.address) as client:
            if not await unless(stop, choosable(client, NO_ROUTES, options.model, self.needs, wait, console.print)):
                return None
            self.model = await resolve(client, options.model, needs=self.needs)
            if not await unless(stop, ready(client, self.model, wait, console.print)):
                return None
            async with telling(client, [self.model], console.print):
                answers = await run_on(client, self.model, items, way, out, stop, options.concurrency, console.print)
        if stop.is_set():
            goes_on = "" if out is None else "; run again, it goes on there"
            console.print(f"interrupted: {len(answers)} of {len(items)} items answered{goes_on}")
        return figures(answers)

    def show(self, found: list[Accuracy], *, as_json: bool) -> None:
        """On stdout, as JSON or as a table."""
        if as_json:
            facts = {
                "model": self.model,
                "path": self.path.name,
                "num_left_out": len(self.left_out),
                "accuracies": found,
            }
            sys.stdout.write(msgspec.json.encode(facts).decode() + "\n")
            return
        title = Text(f"{self.model} on {self.path.name}")
        table = Table("method", "items", "accuracy", "standard error", title=title)
        for one in found:
            error = "–" if one.standard_error is None else f"{one.standard_error:.4f}"
            table.add_row(one.method, str(one.count), f"{one.accuracy:.4f}", error)
        Console().print(table)
