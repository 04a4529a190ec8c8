"""`turnpike experiment`: a list of models one after the other, and the paper's table and figures for this cluster."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec
from rich.console import Console

from broker.client import Client
from broker.connection import Address
from broker.locks import Lock
from broker.process import EXIT_INTERRUPTED
from producers.experiment.plan import read_plan
from producers.experiment.run import run_experiment
from producers.experiment.stage import Probe, Stage
from producers.experiment.table import as_csv, markdown, table
from producers.records.figures import Bounds
from producers.report.command import report


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
