"""Pictures of runs as SVG. The only importer of matplotlib.

Text and axes have the page's own colour, so that a picture is as good in the dark and on paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from broker import formulas
from producers.records import sweep
from producers.records.figures import NO_BOUNDS, Bounds
from producers.records.files import Run
from producers.records.lines import TurnRecord
from producers.report.nodes import PANELS, Telemetry
from producers.report.run_figures import by_context, context_cv

INK = "#010203"
"""A colour that nothing else has; the page's own takes its place."""
COLORS = ("#3274d9", "#e0752d", "#56a64b", "#c4162a", "#8f3bb8", "#e5a00d", "#5195ce", "#a16946")
MAX_POINTS = 200
MAX_BARS = 1500
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "turnpike",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#8884",
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def _figure(title: str, x: str, y: str, width: float = 5.4, height: float = 3.1) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _svg(figure: Figure, alt: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="picture" role="img"', text, count=1)
    text = text.replace("<svg ", f'<svg aria-label="{alt}" ', 1)
    return text.replace(INK, "currentColor")


def _whole(axis: Axis) -> None:
    """There is no half a turn, and no turn before the first."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend(axes: Axes, runs: Sequence[Run]) -> None:
    if len(runs) > 1:
        axes.legend(loc="best")


def _distribution(axes: Axes, values: Sequence[float], color: str, label: str) -> None:
    """The share of turns up to each value; at most MAX_POINTS of them."""
    if not values:
        return
    steps = min(MAX_POINTS, max(2, len(values)))
    shares = [100 * index / (steps - 1) for index in range(steps)]
    ordered = sorted(values)
    axes.plot([_at(ordered, share) for share in shares], shares, color=color, label=label, linewidth=1.5)


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share / 100 * (len(ordered) - 1)))]


def distributions(runs: Sequence[Run]) -> list[str]:
    """TTFT, gaps between tokens, TPOT and latency: which share of turns had it within so many seconds."""
    found = []
    for title, x, of in (
        ("Time to first token", "s", lambda turn: [turn.ttft_seconds]),
        ("Between tokens", "s", lambda turn: turn.gaps()),
        ("Time per output token", "s", lambda turn: [turn.tpot_seconds]),
        ("Latency of a turn", "s", lambda turn: [turn.latency_seconds]),
    ):
        figure, axes = _figure(title, x, "% of them")
        for run, name, color in zip(runs, _names(runs), _colors(runs), strict=True):
            values = [value for turn in _done(run) for value in of(turn) if value is not None]
            _distribution(axes, values, color, name)
            for q in (50, 99) if len(runs) == 1 and values else ():
                value = formulas.percentile(values, q) or 0.0
                axes.axvline(value, color=color, linewidth=0.8, linestyle=":")
                axes.text(value, 2, f" p{q} {value:.3g}", fontsize=8, rotation=90, va="bottom")
        _legend(axes, runs)
        found.append(_svg(figure, f"Distribution: {title}"))
    return found


def ttft_by_turn(runs: Sequence[Run]) -> str:
    """Whether a conversation's later turns wait longer: with reuse they should not."""
    figure, axes = _figure("Time to first token by turn", "turn of the conversation", "s, median and p90")
    for run, name, color in zip(runs, _names(runs), _colors(runs), strict=True):
        groups: dict[int, list[float]] = {}
        for turn in _done(run):
            if turn.ttft_seconds is not None:
                groups.setdefault(turn.index + 1, []).append(turn.ttft_seconds)
        places = sorted(groups)
        for q, style in ((50, "-o"), (90, ":")):
            line = [formulas.percentile(groups[place], q) or 0.0 for place in places]
            label = name if q == 50 else None
            axes.plot(places, line, style, color=color, label=label, markersize=3, linewidth=1.5)
    _whole(axes.xaxis)
    axes.set_ylim(bottom=0)
    _legend(axes, runs)
    return _svg(figure, "Time to first token by turn")


def throughput_by_context(runs: Sequence[Run]) -> str:
    """The paper's picture: decode throughput over context length, and its coefficient of variation."""
    figure, axes = _figure("Decode throughput by context length", "tokens of context", "tokens/s")
    for run, name, color in zip(runs, _names(runs), _colors(runs), strict=True):
        bins = by_context(_done(run))
        cv = context_cv(bins)
        label = name + ("" if cv is None else f" (CV {cv:.2f})")
        middles = [(one.low + one.high) / 2 for one in bins]
        axes.plot(middles, [one.mean for one in bins], "-o", color=color, label=label, markersize=4, linewidth=1.5)
    axes.set_ylim(bottom=0)
    if any(_done(run) for run in runs):
        axes.legend(loc="best")
    return _svg(figure, "Decode throughput by context length")


def over_time(runs: Sequence[Run]) -> list[str]:
    """Tokens per second, and turns that wait for their first token, over the run."""
    tokens, axes = _figure("Tokens per second over the run", "s", "tokens/s")
    waiting, below = _figure("Turns that wait for their first token", "s", "turns")
    for run, name, color in zip(runs, _names(runs), _colors(runs), strict=True):
        turns = run.turns
        end = max((turn.ended_at for turn in turns), default=0.0)
        width = max(1.0, end / MAX_POINTS)
        counts = [0] * (int(end / width) + 1)
        for turn in turns:
            for at, count in turn.arrivals:
                counts[min(len(counts) - 1, int(at / width))] += count
        times = [index * width for index in range(len(counts))]
        axes.plot(times, [count / width for count in counts], color=color, label=name, linewidth=1.2)
        below.plot(times, _waiting(turns, times), color=color, label=name, linewidth=1.2, drawstyle="steps-post")
    _whole(below.yaxis)
    _legend(axes, runs)
    _legend(below, runs)
    return [_svg(tokens, "Tokens per second over the run"), _svg(waiting, "Turns that wait")]


def _waiting(turns: Iterable[TurnRecord], times: Sequence[float]) -> list[int]:
    changes: list[tuple[float, int]] = []
    for turn in turns:
        first = turn.first_token_at
        changes += [(turn.sent_at, 1), (turn.ended_at if first is None else first, -1)]
    changes.sort()
    found, level, index = [], 0, 0
    for at in times:
        while index < len(changes) and changes[index][0] <= at:
            level += changes[index][1]
            index += 1
        found.append(level)
    return found


def gantt(run: Run) -> str:
    """Who worked on what when: a bar a turn, a line a conversation, a colour a worker; waiting is pale."""
    turns = sorted(run.turns, key=lambda turn: turn.sent_at)[:MAX_BARS]
    workers = sorted({turn.worker or "–" for turn in turns})
    rows = {number: row for row, number in enumerate(dict.fromkeys(turn.conversation for turn in turns))}
    height = min(9.0, 1.2 + 0.09 * len(rows))
    figure, axes = _figure(f"Conversations by worker: {run.name}", "s", "conversation", 11.0, height)
    for index, worker in enumerate(workers):
        color = COLORS[index % len(COLORS)]
        of = [turn for turn in turns if (turn.worker or "–") == worker]
        first = [turn.ended_at if turn.first_token_at is None else turn.first_token_at for turn in of]
        places = [rows[turn.conversation] for turn in of]
        waits = [at - turn.sent_at for at, turn in zip(first, of, strict=True)]
        axes.barh(places, waits, left=[turn.sent_at for turn in of], height=0.8, color=color, alpha=0.3)
        lengths = [turn.ended_at - at for at, turn in zip(first, of, strict=True)]
        axes.barh(places, lengths, left=first, height=0.8, color=color, label=worker)
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    _whole(axes.yaxis)
    axes.grid(visible=False, axis="y")
    if workers:
        axes.legend(loc="upper right", ncols=4, fontsize=8)
    return _svg(figure, "Gantt chart of conversations by worker")


def prompt_lengths(runs: Sequence[Run]) -> str:
    """The paper's figure 2: how long the prompts of the conversations are, turn by turn."""
    figure, axes = _figure("Prompt lengths over the conversations", "conversation, by its longest prompt", "tokens")
    for run, name, color in zip(runs, _names(runs), _colors(runs), strict=True):
        longest: dict[int, list[int]] = {}
        for turn in _done(run):
            longest.setdefault(turn.conversation, []).append(turn.prompt_tokens)
        ordered = sorted(longest.values(), key=max)[:: max(1, len(longest) // MAX_BARS)]
        axes.vlines(range(len(ordered)), [min(one) for one in ordered], [max(one) for one in ordered], color=color)
        axes.plot([], [], color=color, label=name)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.25)
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    _whole(axes.xaxis)
    _legend(axes, runs)
    return _svg(figure, "Prompt lengths over the conversations")


def goodput(runs: Sequence[Run], bounds: Bounds) -> str | None:
    """Of a sweep: how much of each rate was good."""
    swept = [
        (run, found)
        for run in runs
        if (found := sweep.levels(run.counted(), run.header.settings, bounds or sweep.own_bounds(run.header.settings)))
    ]
    if not swept:
        return None
    figure, axes = _figure("Goodput by rate", "turns/s sent", "turns/s that met the bounds")
    shown = [run for run, _ in swept]
    for (_, found), name, color in zip(swept, _names(shown), _colors(shown), strict=True):
        rates = [one.rate for one in found]
        axes.plot(rates, [one.goodput for one in found], "-o", color=color, label=name, markersize=4)
        axes.plot(rates, rates, ":", color=INK, linewidth=0.8)
    _legend(axes, shown)
    return _svg(figure, "Goodput by rate")


def of_nodes(telemetry: Telemetry, run: Run) -> list[str]:
    """What the nodes did meanwhile; nothing of what no board told."""
    found = []
    for panel in PANELS:
        lines = telemetry.series(run, panel)
        if not lines:
            continue
        figure, axes = _figure(f"{panel.title}: {run.name}", "s", panel.unit)
        for index, line in enumerate(lines):
            axes.plot(line.times, line.values, color=COLORS[index % len(COLORS)], label=line.name, linewidth=1.2)
        axes.set_ylim(bottom=0)
        axes.legend(loc="best", fontsize=8)
        found.append(_svg(figure, panel.title))
    return found


def all_of(runs: Sequence[Run], bounds: Bounds = NO_BOUNDS, telemetry: Telemetry | None = None) -> list[str]:
    """Every picture that these runs, and their telemetry where it is named, have something for."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        found = [ttft_by_turn(runs), throughput_by_context(runs), *distributions(runs), *over_time(runs)]
        found.append(prompt_lengths(runs))
        if (good := goodput(runs, bounds)) is not None:
            found.append(good)
        if telemetry is not None:
            found += [picture for run in runs for picture in of_nodes(telemetry, run)]
        return [*found, *(gantt(run) for run in runs)]


def _names(runs: Sequence[Run]) -> list[str]:
    """What tells the runs apart in a legend: the models, where each has one of its own, as in an experiment."""
    models = [str(run.header.settings.get("model", "")) for run in runs]
    return models if all(models) and len(set(models)) == len(runs) > 1 else [run.name for run in runs]


def _colors(runs: Sequence[Run]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(runs))]


def _done(run: Run) -> list[TurnRecord]:
    return [turn for turn in run.counted() if not turn.is_failed]
