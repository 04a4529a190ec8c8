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


def _informed(found: Sequence[Comparison]) -> str:
    heads = ("trace", f"{OURS}: mean wait, swaps", *(f"{name}, informed" for name in RIVALS))
    rows = (
        (one.trace.name, *(f"{each.mean_wait:.1f} s, {each.num_swaps}" for each in (one.ours, *one.informed)))
        for one in found
    )
    return _table(heads, rows)


# --- The picture -----------------------------------------------------------------------------------------------------


def picture(found: Sequence[Comparison]) -> str:
    """As SVG: waits, swaps, and ten minutes of the boards under two servers' rules."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(9.5, 6.4), layout="constrained")
        waits, swaps, *boards = figure.subplots(2, 2).flat
        _bars(waits, found, [[one.mean_wait for one in _each(comparison)] for comparison in found])
        waits.set_yscale("log")
        waits.set_title("Mean wait for a slot, s", loc="left", fontweight="bold")
        waits.legend(fontsize=8)
        _bars(swaps, found, [[float(one.num_swaps) for one in _each(comparison)] for comparison in found])
        swaps.set_yscale("log")
        swaps.set_title("Swaps; the line is the fewest there can be", loc="left", fontweight="bold")
        for place, comparison in enumerate(found):
            swaps.hlines(max(1, comparison.fewest_swaps), place - 0.42, place + 0.42, color="#000000", linewidth=1.2)
        burst = found[1]
        for axes, outcome in zip(boards, (burst.ours, burst.best_rival), strict=True):
            _boards(axes, outcome, burst.trace.name)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _each(comparison: Comparison) -> tuple[Outcome, ...]:
    return comparison.ours, *comparison.rivals


def _bars(axes: Axes, found: Sequence[Comparison], values: Sequence[Sequence[float]]) -> None:
    for index, name in enumerate((OURS, *RIVALS)):
        places = [place + (index - 1.5) * 0.2 for place in range(len(found))]
        axes.bar(places, [round(row[index], 3) for row in values], 0.19, color=COLORS[index], label=name)
    axes.set_xticks(range(len(found)), [one.trace.name for one in found])


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
