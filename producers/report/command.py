"""`turnpike report`: from records to tables and a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from broker.errors import TurnpikeError
from broker.extras import install
from producers.records.figures import Bounds
from producers.records.files import read_runs
from producers.report import tables
from producers.report.comparing import comparable
from producers.report.nodes import Telemetry
from producers.report.run_figures import figures


class ReportError(TurnpikeError):
    """A report that cannot be written; says why."""


def report(
    paths: Sequence[Path],
    bounds: Bounds,
    *,
    html: Path | None,
    csv: Path | None,
    as_json: bool,
    to: Console | None = None,
    of_one_model: bool = True,
    telemetry: Telemetry | None = None,
) -> int:
    """Writes what is asked for; tables on stdout, or JSON. Exit code 1 when runs are not comparable."""
    runs = read_runs(paths)
    found = [figures(run, bounds, telemetry.joules(run) if telemetry is not None else None) for run in runs]
    warnings = comparable(runs, of_one_model=of_one_model)
    against = [tables.ratios(runs[0], other) for other in runs[1:]]
    try:
        if csv is not None:
            csv.write_text(tables.as_csv(found))
        if html is not None:
            try:
                from producers.report.page import page
            except ImportError:
                raise ReportError(f"--html needs matplotlib: {install('report')}") from None
            html.write_text(page(runs, found, against, warnings, bounds, telemetry))
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}") from None
    if as_json:
        sys.stdout.write(tables.as_json(found, against, warnings))
    else:
        (to or Console()).print(tables.text(found, against, warnings))
    return 1 if warnings else 0
