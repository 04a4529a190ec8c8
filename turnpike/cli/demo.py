"""`turnpike demo`: server, worker and a small load in one process tree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from broker.declaring import Argument
from producers.settings import DemoSettings
from turnpike.cli.addresses import ENTRY, data_dir
from turnpike.cli.command import command

if TYPE_CHECKING:
    import asyncio


class DemoOptions(DemoSettings, frozen=True, kw_only=True):
    """`turnpike demo`."""

    json: Annotated[bool, Argument("the table as JSON")] = False


def run_demo(options: DemoOptions) -> int:
    """All of it, with nothing left behind."""
    from broker import process

    run = _boards if options.boards else _demo
    return process.run(lambda stop: run(options, stop), patience=process.PATIENCE_SECONDS)


async def _demo(options: DemoOptions, stop: asyncio.Event) -> int:
    import asyncio

    from broker.influx_address import InfluxAddress
    from producers.commands.demo import run_demo
    from telemetry.database import init
    from telemetry.influx import Influx
    from telemetry.resources import process_memory

    influx_url = options.influx_url or f"file:{_points(data_dir(options))}"
    if not influx_url.startswith("file:"):
        where = InfluxAddress.parse(influx_url, options.influx_token, options.influx_org)
        await asyncio.to_thread(init, Influx(where))

    def memory_of(pid: int) -> int | None:
        found = process_memory(pid)
        return None if found is None else found.pss_bytes or found.rss_bytes

    return await run_demo(
        ENTRY,
        model_file=Path(options.model_file).expanduser() if options.model_file else None,
        nats_url=options.url or os.environ.get("NATS_URL"),
        num_conversations=options.num_conversations,
        max_tokens=options.max_tokens,
        influx_url=influx_url,
        gateway_port=options.gateway_port if options.gateway else None,
        memory_of=memory_of,
        stop=stop,
        as_json=options.json,
    )


async def _boards(options: DemoOptions, stop: asyncio.Event) -> int:
    import asyncio

    from producers.commands.board_demo import NUM_CTX, run_board_demo
    from workers.boards.file_facts import facts_of_files
    from workers.boards.settings import BoardSettings
    from workers.chosen_file import model_token
    from workers.models import DEMO

    # The shipped model under a second name is another one to a board.
    other = Path(options.model_file).expanduser() if options.model_file else DEMO.path
    name = model_token(other) if options.model_file else f"{DEMO.token}-2"
    settings = BoardSettings(num_ctx=NUM_CTX)
    each = [await asyncio.to_thread(facts_of_files, [path], name, settings) for path in (DEMO.path, other)]
    return await run_board_demo(
        ENTRY,
        models={DEMO.token: None, name: other},
        memory_bytes=max(one.plan.total for one in each),
        max_tokens=options.max_tokens,
        stop=stop,
        as_json=options.json,
    )


def _points(folder: Path) -> Path:
    """Where a demo's telemetry goes where nothing is said: of two at once the second has a file of its own."""
    from broker.locks import is_held

    usual = folder / "demo.lp"
    return folder / f"demo-{os.getpid()}.lp" if is_held(usual.with_name("demo.lp.lock")) else usual


DEMO = command(
    "demo", "server, worker and a small load at once, then a table", "turnpike demo --json", DemoOptions, run_demo
)
