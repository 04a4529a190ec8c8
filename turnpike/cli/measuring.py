"""`turnpike load`, `eval`, `experiment` and `report`: runs, and what is seen in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from broker.declaring import Argument
from broker.settings import CommonSettings
from producers.settings import EvalSettings, LoadSettings, ReportSettings
from turnpike.cli.addresses import ENTRY, address
from turnpike.cli.command import Command, Said, begin, command

if TYPE_CHECKING:
    import asyncio

CONTINUED = Argument("go on with a run that was interrupted", metavar="FILE", path="file", flag="--continue")
AsJson = Annotated[bool, Argument("the summary as JSON")]


class LoadOptions(LoadSettings, frozen=True, kw_only=True):
    """`turnpike load`."""

    json: AsJson = False
    continued: Annotated[str | None, CONTINUED] = None


class ContinueOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike load --continue`: all else is as it was when the run began."""

    json: AsJson = False
    continued: Annotated[str, CONTINUED]


class EvalOptions(EvalSettings, frozen=True, kw_only=True):
    """`turnpike eval`."""

    json: Annotated[bool, Argument("the accuracies as JSON")] = False


class ExperimentOptions(CommonSettings, frozen=True, kw_only=True):
    """`turnpike experiment`."""

    plan: Annotated[
        str,
        Argument("a TOML file: experiments/paper.toml says what may stand there", path="file", is_positional=True),
    ]
    out: Annotated[
        str, Argument("a folder for records, table and report; run again, it goes on", metavar="FOLDER", path="folder")
    ]
    json: Annotated[bool, Argument("the table as JSON")] = False


class ReportOptions(ReportSettings, frozen=True, kw_only=True):
    """`turnpike report`."""

    records: Annotated[
        tuple[str, ...],
        Argument(
            "record files; several are laid side by side, parts are merged",
            metavar="FILE",
            path="file",
            is_positional=True,
        ),
    ]
    html: Annotated[str | None, Argument("write a page with pictures here", metavar="FILE", path="file")] = None
    csv: Annotated[str | None, Argument("write the figures here", metavar="FILE", path="file")] = None
    json: Annotated[bool, Argument("the figures as JSON")] = False


def start_load(said: Said) -> int:
    """A run, or the rest of one."""
    if "continued" in said.flags:
        alone = msgspec.structs.replace(said, path=f"{said.path} --continue")
        return begin(run_continue, alone.load(ContinueOptions))
    return begin(run_load, said.load(LoadOptions))


def run_load(options: LoadOptions) -> int:
    """Many conversations at once."""
    from broker import process
    from producers.load.command import run_and_show

    return process.run(
        lambda stop: run_and_show(address(options, "local"), options, stop, as_json=options.json),
        patience=process.PATIENCE_SECONDS,
    )


def run_continue(options: ContinueOptions) -> int:
    """The rest of a run."""
    from broker import process
    from producers.load.command import continue_and_show

    there, path = address(options, "local"), Path(options.continued).expanduser()
    return process.run(
        lambda stop: continue_and_show(there, path, stop, as_json=options.json), patience=process.PATIENCE_SECONDS
    )


def run_eval(options: EvalOptions) -> int:
    """Multiple choice."""
    from broker import process
    from producers.evaluate.command import run_and_show

    return process.run(
        lambda stop: run_and_show(address(options, "local"), options, stop, as_json=options.json),
        patience=process.PATIENCE_SECONDS,
    )


def run_experiment(options: ExperimentOptions) -> int:
    """A list of models, one after the other."""
    from broker import process
    from broker.accounts import WORKER
    from producers.experiment.command import run_and_show
    from telemetry.resources import process_cost

    async def run(stop: asyncio.Event) -> int:
        return await run_and_show(
            address(options, "local"),
            address(options, WORKER),
            Path(options.plan).expanduser(),
            Path(options.out).expanduser(),
            entry=ENTRY,
            probe=process_cost,
            num_cores=os.cpu_count() or 1,
            stop=stop,
            as_json=options.json,
        )

    return process.run(run, patience=process.PATIENCE_SECONDS)


def run_report(options: ReportOptions) -> int:
    """Tables and pictures of records."""
    from producers.records.figures import Bounds
    from producers.report.command import report
    from producers.report.nodes import telemetry

    return report(
        [Path(name) for name in options.records],
        Bounds(options.slo_ttft_seconds, options.slo_tpot_seconds),
        html=Path(options.html) if options.html else None,
        csv=Path(options.csv) if options.csv else None,
        as_json=options.json,
        telemetry=telemetry(options.influx_url, options.influx_token) if options.influx_url else None,
    )


COMMANDS = (
    Command(
        "load",
        "many conversations at once",
        "turnpike load --model tiny --concurrency 8",
        LoadOptions,
        start_load,
    ),
    command(
        "eval",
        "multiple choice: Winogrande and the like",
        "turnpike eval --model tiny wino.jsonl",
        EvalOptions,
        run_eval,
    ),
    command(
        "experiment",
        "a list of models one after the other: the paper's table and figures for this cluster",
        "turnpike experiment experiments/paper.toml --out paper",
        ExperimentOptions,
        run_experiment,
    ),
    command(
        "report",
        "tables and pictures of recorded runs",
        "turnpike report run.jsonl --html run.html",
        ReportOptions,
        run_report,
    ),
)
