"""The tables and the picture of docs/placement.md."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.placing.outcomes import MAX_SWAPS, MAX_WAIT, OURS, RIVALS, Comparison, Outcome
from benchmarks.placing.traces import BOARDS, models
from workers.boards.placement import DEFAULT_RULES

MARK = "<!-- made by `python -m benchmarks.placement --write` -->\n"
END = "<!-- up to here -->\n"
PAGE, PICTURE = "docs/placement.md", "docs/placement.svg"
COLORS = ("#1f6f8b", "#c8553d", "#e5a00d", "#8f3bb8")
MODEL_COLORS = ("#3274d9", "#e0752d", "#56a64b", "#c4162a", "#8f3bb8", "#e5a00d", "#5195ce", "#a16946")
SHOWN_SECONDS = 600.0
MOST_SWAPS = 400
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "turnpike",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def tables(found: Sequence[Comparison]) -> str:
    """All of them, in Markdown."""
    parts = (
        ("The models:", _models()),
        ("What came of it:", _outcomes(found)),
        ("Against the targets (bold: missed):", _targets(found)),
        ("What saves swaps costs waits:", _others(found)),
        ("The others behind a proxy that knows what is loaded where, which none of them has:", _informed(found)),
    )
    return "".join(f"\n{caption}\n\n{table}" for caption, table in parts) + "\n"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    rule = "|" + "---|" * len(heads) + "\n"
    return _line(heads) + rule + "".join(_line(list(row)) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _models() -> str:
    rows = (
        (f"`{one.name}`", f"{one.planned_bytes / 1e9:.1f} GB", f"{one.load_seconds:.1f} s", f"{one.turn_seconds:.0f} s")
        for one in models()
    )
    return _table(("model", "planned memory", "load", "a turn, on average"), rows)


def _cells(one: Outcome) -> list[str]:
    waits = one.interactive_waits
    return [
        f"{one.mean_wait:.1f} s",
        f"{sum(waits) / len(waits):.1f} s",
        f"{waits[-1]:.0f} s",
        f"{one.longest_away:.0f} s",
        f"{one.longest_unserved:.0f} s",
        str(one.num_swaps),
        f"{one.loading_seconds:.0f} s",
    ]


def _outcomes(found: Sequence[Comparison]) -> str:
    heads = ("trace", "server", "mean wait", "interactive", "longest", "model away", "and ending", "swaps", "loading")
    rows = []
    for one in found:
        rows.append([f"{one.trace.name}, {len(one.trace.turns)} turns", one.ours.name, *_cells(one.ours)])
        rows += [["", other.name, *_cells(other)] for other in one.rivals]
    return _table(heads, rows)


def _verdict(value: float, target: float) -> str:
    return f"{value:.2f}" if value <= target else f"**{value:.2f}**"


def _targets(found: Sequence[Comparison]) -> str:
    bound = DEFAULT_RULES.interactive_seconds
    heads = (
        "trace",
        f"mean wait ÷ the best other's (≤ {MAX_WAIT:g})",
        f"swaps ÷ the fewest (≤ {MAX_SWAPS:g})",
        f"longest interactive wait until the model begins to load (≤ {bound:g} s)",
    )
    rows = []
    for one in found:
        away = one.ours.longest_away
        rows.append(
            (
                one.trace.name,
                _verdict(one.wait_ratio, MAX_WAIT),
                f"{_verdict(one.swap_ratio, MAX_SWAPS)} ({one.ours.num_swaps} ÷ {one.fewest_swaps})",
                f"{away:.0f} s" if away <= bound else f"**{away:.0f} s**",
            )
        )
    return _table(heads, rows)


def _others(found: Sequence[Comparison]) -> str:
    heads = ("trace", "rules", "mean wait", "÷ the best other's", "swaps", "fewest for that wait", "model away")
    rows = []
    for one in found:
        for place, (told, outcome) in enumerate((("as they are", one.ours), *one.others)):
            cells = (
                told,
                f"{outcome.mean_wait:.1f} s",
                f"{outcome.mean_wait / one.best_rival.mean_wait:.2f}",
                str(outcome.num_swaps),
                str(one.fewest_at(outcome.mean_wait)),
                f"{outcome.longest_away:.0f} s",
            )
            rows.append(("" if place else one.trace.name, *cells))
        half = MAX_WAIT * one.best_rival.mean_wait
        fewest = "none can" if half < one.least_wait else str(one.fewest_at(half))
        rows.append(("", "(whichever could)", f"{half:.1f} s", f"{MAX_WAIT:g}", "", fewest, ""))
    return _table(heads, rows)


def _informed(found: Sequence[Comparison]) -> str:
    heads = ("trace", f"{OURS}: mean wait, swaps", *(f"{name}, informed" for name in RIVALS))
    rows = (
        (one.trace.name, *(f"{each.mean_wait:.1f} s, {each.num_swaps}" for each in (one.ours, *one.informed)))
        for one in found
    )
    return _table(heads, rows)


# --- The picture -----------------------------------------------------------------------------------------------------


def picture(found: Sequence[Comparison]) -> str:
    """As SVG: waits and swaps of each trace, and ten minutes of the boards under two servers' rules."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(9.5, 9.4), layout="constrained")
        *traces, ours, other = figure.subplots(3, 2).flat
        for axes, comparison in zip(traces, found, strict=True):
            _frontier(axes, comparison)
        figure.legend(*traces[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=6)
        burst = found[1]
        for axes, outcome in ((ours, burst.ours), (other, burst.best_rival)):
            _boards(axes, outcome, burst.trace.name)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _frontier(axes: Axes, found: Comparison) -> None:
    """Swaps over mean waits: every server, ours by other rules too, and what none of all schedules is below."""
    best = found.best_rival.mean_wait
    longest = 1.6 * max(one.mean_wait for one in (found.ours, *found.rivals, *(one for _, one in found.others)))
    first = round(max(1.0, found.least_wait), 3)
    waits = [round(first * (longest / first) ** (step / 60), 3) for step in range(61)]
    swaps = [found.fewest_at(wait) for wait in waits]
    if found.least_wait > 1:
        waits, swaps = [1.0, first, *waits], [MOST_SWAPS, MOST_SWAPS, *swaps]
    axes.fill_between(waits, swaps, 1, color="#dddddd", linewidth=0, label="none that keeps the bounds")
    box = [1, round(MAX_WAIT * best, 3)], [MAX_SWAPS * found.fewest_swaps] * 2
    axes.fill_between(*box, 1, color="#56a64b", alpha=0.3, linewidth=0, label="both targets")
    others = sorted((round(one.mean_wait, 3), one.num_swaps) for _, one in found.others)
    axes.plot(*zip(*others, strict=True), "o-", color=COLORS[0], markersize=3, linewidth=0.8, alpha=0.6)
    for name, color, one in zip((OURS, *RIVALS), COLORS, (found.ours, *found.rivals), strict=True):
        marker = "*" if name == OURS else "s"
        size = 11 if name == OURS else 5
        axes.plot(round(one.mean_wait, 3), one.num_swaps, marker, color=color, markersize=size, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, round(longest, 3))
    axes.set_ylim(3, MOST_SWAPS)
    axes.set_xlabel("mean wait for a slot, s")
    axes.set_title(f"{found.trace.name}: swaps", loc="left", fontweight="bold")


def _boards(axes: Axes, outcome: Outcome, trace: str) -> None:
    """Which model is on which board when; loading is grey, a gap is nothing."""
    colors = {one.name: color for one, color in zip(models(), MODEL_COLORS, strict=True)}
    for board, model, begin, end in sorted(outcome.room.spans):
        if begin < SHOWN_SECONDS:
            length = round(min(end, SHOWN_SECONDS) - begin, 3)
            axes.barh(BOARDS.index(board), length, 0.7, round(begin, 3), color=colors.get(model, "#bbbbbb"))
    axes.set_yticks(range(len(BOARDS)), BOARDS)
    axes.set_xlim(0, SHOWN_SECONDS)
    axes.set_xlabel("s; a colour a model, loading is grey")
    axes.set_title(f"{trace}: {outcome.name}", loc="left", fontweight="bold", fontsize=8)


def write(root: Path, found: Sequence[Comparison]) -> None:
    """Renews the page's tables and the picture."""
    page = root / PAGE
    page.write_text(renewed(page.read_text(), found))
    (root / PICTURE).write_text(picture(found))


def renewed(text: str, found: Sequence[Comparison]) -> str:
    """The page with these tables."""
    head, _, rest = text.partition(MARK)
    return f"{head}{MARK}{tables(found)}{END}{rest.partition(END)[2]}"
