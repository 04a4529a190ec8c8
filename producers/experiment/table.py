"""The experiment's table: Markdown, CSV, and for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from rich.table import Table
from rich.text import Text

from producers.experiment.plan import Plan
from producers.experiment.rows import PUBLISHED_OF_ALL, Row
from producers.terminal.tables import FoldingTable, causes

_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("model", lambda one: one.model),
    ("file", lambda one: one.file or "–"),
    ("turns", lambda one: f"{one.num_turns}" + _failed(one)),
    ("prefill tokens/s", lambda one: _number(one.prefill_tokens_per_second, 1)),
    ("decode tokens/s", lambda one: _number(one.decode_tokens_per_second, 2)),
    ("prefill s/token", lambda one: _number(one.prefill_seconds_per_token, 4)),
    ("decode s/token", lambda one: _number(one.decode_seconds_per_token, 4)),
    ("total s/token", lambda one: _number(one.total_seconds_per_token, 4)),
    ("TTFT s", lambda one: _number(one.ttft_seconds, 2)),
    ("CV", lambda one: _number(one.cv, 3)),
    ("cached", lambda one: _percent(one.cached_share)),
    ("CPU", lambda one: _percent(one.cpu_share)),
    ("memory MiB", lambda one: _number(None if one.rss_bytes is None else one.rss_bytes / 2**20, 0)),
    ("restarts", lambda one: "–" if one.num_restarts is None else f"{one.num_restarts}, {one.num_kills} killed"),
    ("Winogrande", lambda one: _accuracy(one)),
    ("published", lambda one: one.published or "–"),
    ("against its other quantisation", lambda one: one.effect or "–"),
)


def _failed(one: Row) -> str:
    if not one.num_failed:
        return ""
    return f" ({one.num_failed} failed" + (f": {causes(one.failures)})" if one.failures else ")")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _accuracy(one: Row) -> str:
    if "partial" not in one.accuracies:
        return "–"
    accuracy, error = one.accuracies["partial"]
    return f"{accuracy:.3f}" + ("" if error is None else f" ± {error:.3f}")


def markdown(plan: Plan, rows: list[Row]) -> str:
    """The paper's table for this cluster."""
    lines = [f"# {plan.name}", "", "| " + " | ".join(name for name, _ in _COLUMNS) + " |"]
    lines.append("|" + "---|" * len(_COLUMNS))
    lines += ["| " + " | ".join(of(one) for _, of in _COLUMNS) + " |" for one in rows]
    lines += ["", f"Published of all models on four Raspberry Pi 5 (arXiv 2411.17712): {PUBLISHED_OF_ALL}.", ""]
    lines.append("CPU is of all cores of the worker's machine; memory is resident, the mapped model among it.")
    return "\n".join(lines) + "\n"


def as_csv(rows: list[Row]) -> str:
    """The table's cells, a line a model."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow([name for name, _ in _COLUMNS])
    lines.writerows([of(one) for _, of in _COLUMNS] for one in rows)
    return out.getvalue()


def table(plan: Plan, rows: list[Row]) -> Table:
    """For a terminal: a model a column, as there are more quantities than models."""
    found = FoldingTable(title=Text(plan.name))
    for heading in ("", *(one.model for one in rows)):
        found.add_column(heading)
    for name, of in _COLUMNS[1:]:
        found.add_row(name, *(Text(of(one)) for one in rows))
    return found
