"""The report as one HTML page: no network, no scripts, as good on a phone, in the dark and on paper."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from producers.records.figures import Bounds
from producers.records.files import Run
from producers.records.quantities import QUANTITIES
from producers.report.comparing import Ratio
from producers.report.nodes import Telemetry
from producers.report.pictures import all_of
from producers.report.run_figures import RunFigures
from producers.report.tables import name, quantity, rows

_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --pale: #6a737d; --line: #8884; --panel: #f5f6f8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #e4e6eb; --pale: #9aa4af; --panel: #1d2026; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, .pale { color: var(--pale); margin: .2rem 0; }
.warning { color: var(--ink); border-left: 4px solid #e0752d; padding: .4rem .8rem; background: var(--panel);
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }
.pictures > figure { margin: 0; padding: .6rem; background: var(--panel); border-radius: .5rem; min-width: 0; }
.pictures > figure.wide { grid-column: 1 / -1; }
svg.picture { width: 100%; height: auto; display: block; }
details { margin: .5rem 0; } pre { overflow-x: auto; background: var(--panel); padding: .8rem; font-size: 12px; }
@media print { body { max-width: none; font-size: 11px; } figure, table { break-inside: avoid; }
  details { display: none; } }
"""


def page(
    runs: Sequence[Run],
    found: Sequence[RunFigures],
    against: Sequence[dict[str, Ratio]],
    warnings: Sequence[str],
    bounds: Bounds,
    telemetry: Telemetry | None = None,
) -> str:
    """The whole page; with `telemetry`, what the nodes did during the runs."""
    title = "Turnpike: " + ", ".join(run.name for run in runs)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="warning">{html.escape(warning)}</p>' for warning in warnings]
    for one in found:
        parts.append(_run(one))
    for one, compared in zip(found[1:], against, strict=True):
        parts.append(_ratios(one, found[0], compared))
    parts.append('<h2>Pictures</h2><div class="pictures">')
    for picture in all_of(runs, bounds, telemetry):
        kind = ' class="wide"' if "Gantt chart" in picture[:300] else ""
        parts.append(f"<figure{kind}>{picture}</figure>")
    parts.append("</div>")
    for run in runs:
        parts.append(_header(run))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style>\n<body>\n{body}\n</body></html>\n"
    )


def _run(one: RunFigures) -> str:
    outcomes = ", ".join(f"{count} {html.escape(outcome)}" for outcome, count in one.outcomes.items())
    facts = [f"{one.num_turns} turns in {one.seconds:.0f} s ({outcomes})", f"{one.tokens_per_second:.1f} tokens/s"]
    if one.cached_share is not None:
        facts.append(f"{100 * one.cached_share:.0f} % of prompt tokens from the cache")
    if one.goodput_turns_per_second is not None:
        facts.append(f"goodput {one.goodput_turns_per_second:.2f} turns/s")
    if one.joules_per_token is not None:
        facts.append(f"{one.joules_per_token:.3g} J for each generated token")
    if not one.is_whole:
        facts.append("did not come to its end")
    lines = [
        f"<tr><td>{html.escape(name(title, unit))}</td>"
        + "".join(
            f"<td>{quantity(value, unit)}</td>"
            for value in (spread.mean, spread.p50, spread.p90, spread.p99, spread.standard_deviation)
        )
        + f"<td>{spread.count}</td></tr>"
        for _, title, unit, spread in rows(one)
    ]
    head = "".join(f"<th>{head}</th>" for head in ("", "mean", "p50", "p90", "p99", "deviation", "n"))
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in one.notes)
    table = f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>' if lines else ""
    return f"<h2>{html.escape(one.run)} · {html.escape(one.model)}</h2><p>{'; '.join(facts)}</p>{notes}{table}"


def _ratios(one: RunFigures, first: RunFigures, compared: dict[str, Ratio]) -> str:
    lines = [
        f"<tr><td>{html.escape(of.title)}</td><td>{r.ratio:.3f}</td><td>{r.low:.3f} – {r.high:.3f}</td></tr>"
        for of in QUANTITIES
        if (r := compared.get(of.key)) is not None
    ]
    if not lines:
        return f"<h2>{html.escape(one.run)} ÷ {html.escape(first.run)}</h2><p>Nothing that both have.</p>"
    return (
        f"<h2>{html.escape(one.run)} ÷ {html.escape(first.run)}</h2><p>Of the means, with 95 % intervals.</p>"
        f'<div class="scroll"><table><tr><th></th><th>ratio</th><th>interval</th></tr>{"".join(lines)}</table></div>'
    )


def _header(run: Run) -> str:
    facts = {
        "settings": run.header.settings,
        "dataset": run.header.dataset,
        "producer": run.header.producer,
        "workers": run.header.workers,
    }
    text = html.escape(json.dumps(facts, indent=1, ensure_ascii=False))
    return f"<details><summary>What it takes to repeat {html.escape(run.name)}</summary><pre>{text}</pre></details>"
