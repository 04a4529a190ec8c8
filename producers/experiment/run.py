"""An experiment carried out: each model served, loaded and evaluated, what is done already left as it is."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec

from producers.data.rows import summary
from producers.evaluate.items import EvalError, read_items
from producers.evaluate.methods import Answered
from producers.evaluate.run import CHOICE, run_on
from producers.experiment.plan import ExperimentError, Model, Plan, options
from producers.experiment.rows import Row, Sampled, effect, row
from producers.experiment.stage import Stage
from producers.experiment.worker import served, until_served
from producers.load.run import PRIVATE, SAVED_SETTINGS, run_recorded
from producers.load.selection import select
from producers.records.files import Run, read_run
from producers.settings import LoadSettings


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
    load = options(plan, model)
    before = read_run(path) if path.exists() else None
    if before is not None and (other := _differing(before, load)):
        raise ExperimentError(f"{path}: was made with another {', '.join(other)}: give this plan another --out")
    if saved.exists():
        stage.console.print("  done before")
        return msgspec.json.decode(saved.read_bytes(), type=Row)
    sampled = Sampled() if model.worker is not None else None
    async with contextlib.AsyncExitStack() as stack:
        if sampled is not None:
            await stack.enter_async_context(served(stage, model, sampled))
        await until_served(stage, model, sampled, stop)
        if stop.is_set():
            return None
        if before is None or before.seconds is None:
            await run_recorded(stage.client, load, select(load), path, stage.console, stop, before)
        answers = await _winogrande(stage, plan, model, stop)
    found = row(read_run(path), sampled, answers)
    if not stop.is_set():
        saved.write_bytes(msgspec.json.encode(found))
    return found


def _differing(before: Run, load: LoadSettings) -> list[str]:
    """The settings in which a record's run is not the plan's."""
    now = msgspec.json.decode(msgspec.json.encode(load), type=dict[str, object])
    then = before.header.settings
    return [name for name in SAVED_SETTINGS if name not in PRIVATE and then.get(name, now[name]) != now[name]]


async def _winogrande(stage: Stage, plan: Plan, model: Model, stop: asyncio.Event) -> list[Answered]:
    if plan.winogrande is None or stop.is_set():
        return []
    left_out: list[EvalError] = []
    items = read_items(Path(plan.winogrande.path).expanduser(), left_out)[: plan.winogrande.limit]
    if left_out:
        stage.console.print(f"  {summary(left_out)}", markup=False)
    out = stage.out / f"{model.model}.winogrande.jsonl"
    return await run_on(
        stage.client,
        model.model,
        items,
        CHOICE,
        out,
        stop,
        say=lambda text: stage.console.print(f"  {text}", markup=False),
    )
