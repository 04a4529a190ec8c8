"""A report in text, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from producers.records.files import Run
from producers.records.quantities import QUANTITIES, Spread, values
from producers.report.comparing import Ratio, ratio
from producers.report.run_figures import RunFigures
from producers.terminal.tables import FoldingTable

NOTHING = 1e-12
MILLISECONDS_BELOW = 0.9995
"""Seconds; of three digits a second is the next."""


def quantity(value: float | None, unit: str) -> str:
    """With three digits; seconds with their unit, or in milliseconds; other units stand with the quantity's name."""
    if value is None:
        return "–"
    if abs(value) < NOTHING:
        value = 0.0  # what rounding has left of it
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < MILLISECONDS_BELOW else f"{value:.3g} s"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def name(title: str, unit: str) -> str:
    """With its unit, where the figures do not carry it."""
    return title if unit == "s" else f"{title}, {unit}"


def ratios(first: Run, other: Run) -> dict[str, Ratio]:
    """How `other` compares with `first`, by quantity."""
    found = {}
    for one in QUANTITIES:
        if (r := ratio(values(first.counted(), one), values(other.counted(), one))) is not None:
            found[one.key] = r
    return found


def text(found: Sequence[RunFigures], against: Sequence[dict[str, Ratio]], warnings: Sequence[str]) -> RenderableType:
    """Tables for a terminal; with several runs, the others' ratios to the first with their 95 % intervals."""
    # Names and words of others are no markup.
    parts: list[RenderableType] = [Text(warning) for warning in warnings]
    for one in found:
        table = FoldingTable(title=Text(_title(one)), title_justify="left")
        for head in ("", "mean", "p50", "p90", "p99", "deviation", "n"):
            table.add_column(head, justify="right" if head else "left")
        for _, title, unit, spread in rows(one):
            cells = (spread.mean, spread.p50, spread.p90, spread.p99, spread.standard_deviation)
            table.add_row(name(title, unit), *(quantity(value, unit) for value in cells), str(spread.count))
        # Where every turn failed the title says why, and there is nothing below the heads.
        parts.append(table if one.quantities else Text(_title(one), style="table.title"))
        parts += [Text(f"note: {note}") for note in one.notes]
    for one, compared in zip(found[1:], against, strict=True):
        title = f"{one.run} ÷ {found[0].run}, with 95 % intervals"
        table = FoldingTable(title=Text(title), title_justify="left")
        for head in ("", "ratio", "from", "to"):
            table.add_column(head, justify="right" if head else "left")
        for of in QUANTITIES:
            if (r := compared.get(of.key)) is not None:
                table.add_row(of.title, f"{r.ratio:.3f}", f"{r.low:.3f}", f"{r.high:.3f}")
        parts.append(table if compared else Text(f"{title}: nothing that both have"))
    return Group(*parts)


def _title(one: RunFigures) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in one.outcomes.items())
    cached = "" if one.cached_share is None else f", {100 * one.cached_share:.0f} % of prompts from the cache"
    good = "" if one.goodput_turns_per_second is None else f", goodput {one.goodput_turns_per_second:.2f} turns/s"
    energy = "" if one.joules_per_token is None else f", {one.joules_per_token:.3g} J/token"
    whole = "" if one.is_whole else " (did not come to its end)"
    calls = f", {one.num_calls} tool calls" if one.num_calls or one.num_broken_calls else ""
    calls += f" and {one.num_broken_calls} broken" if one.num_broken_calls else ""
    return (
        f"run {one.run}{whole}: {one.model}, {one.num_turns} turns in {one.seconds:.0f} s ({outcomes}), "
        f"{one.tokens_per_second:.1f} tokens/s{cached}{good}{energy}{calls}"
    )


def rows(one: RunFigures) -> Iterator[tuple[str, str, str, Spread]]:
    """Key, title, unit and spread of all that a run has."""
    for of in QUANTITIES:
        if of.key in one.quantities:
            yield of.key, of.title, of.unit, one.quantities[of.key]
        if of.key == "tpot_seconds" and one.itl is not None:
            yield "itl_seconds", "between tokens", "s", one.itl


def as_json(found: Sequence[RunFigures], against: Sequence[dict[str, Ratio]], warnings: Sequence[str]) -> str:
    """Everything, for programs."""
    content = {"runs": found, "ratios_to_the_first": against, "warnings": warnings}
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"


def as_csv(found: Sequence[RunFigures]) -> str:
    """A line for each run and quantity."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["run", "model", "quantity", "unit", "turns", "mean", "standard_deviation", "p50", "p90", "p99"])
    for one in found:
        for key, _, unit, spread in rows(one):
            figures = (spread.mean, spread.standard_deviation, spread.p50, spread.p90, spread.p99)
            lines.writerow([one.run, one.model, key, unit, spread.count, *(f"{value:.9g}" for value in figures)])
    return out.getvalue()
