"""Which models are where, by simulation: our placement beside other servers' rules, on four boards with eight models.

python -m benchmarks.placement [--write]: prints the tables; --write renews those of docs/placement.md, and its picture.
"""

from __future__ import annotations

import argparse

from benchmarks.harness import ROOT, Row, show
from benchmarks.placing import page
from benchmarks.placing.outcomes import MAX_SWAPS, MAX_WAIT, Comparison, compare
from benchmarks.placing.traces import TRACES
from workers.boards.placement import DEFAULT_RULES


def rows(one: Comparison) -> list[Row]:
    """A trace's, with the targets."""
    bound, name = DEFAULT_RULES.interactive_seconds, one.trace.name
    ours, best = one.ours, one.best_rival
    return [
        Row(
            f"placement, {name}: mean wait ÷ {best.name}",
            f"{ours.mean_wait:.1f} s",
            f"{best.mean_wait:.1f} s",
            one.wait_ratio,
            MAX_WAIT,
            True,
        ),
        Row(
            f"placement, {name}: swaps ÷ the fewest",
            str(ours.num_swaps),
            str(one.fewest_swaps),
            one.swap_ratio,
            MAX_SWAPS,
            True,
        ),
        Row(
            f"placement, {name}: longest interactive wait for other models beyond the load, s",
            f"{ours.longest_away:.1f} s",
            f"{best.longest_away:.1f} s",
            ours.longest_away,
            bound,
            True,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/placement.md and its picture")
    is_writing = parser.parse_args().write
    found = [compare(make()) for make in TRACES]
    print(page.tables(found))
    if is_writing:
        page.write(ROOT, found)
    (ROOT / ".cache").mkdir(exist_ok=True)
    show("Many models on few boards, by simulation", [row for one in found for row in rows(one)])


if __name__ == "__main__":
    main()
