"""Which models are where, by simulation: our placement beside other servers' rules, on four boards with eight models.

python -m benchmarks.placement [--write] [--search] [--seeds]: prints the tables; --write renews those of
docs/placement.md, and its picture; --search looks for what can be proved of the traces first (a minute); --seeds prints
what comes of other seeds.
"""

from __future__ import annotations

import argparse

import msgspec

from benchmarks.harness import ROOT, Row, show
from benchmarks.placing import optimum, page
from benchmarks.placing.outcomes import (
    MAX_SWAPS,
    MAX_WAIT,
    OTHER_RULES,
    RIVALS,
    WAITS,
    Comparison,
    best_of,
    compare,
    with_ours,
)
from benchmarks.placing.traces import OTHER_SEEDS, SEEDED, TRACES, most_at_once
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
            f"placement, {name}: longest interactive wait until the model begins to load, s",
            f"{ours.longest_away:.1f} s",
            f"{best.longest_away:.1f} s",
            ours.longest_away,
            bound,
            True,
        ),
    ]


def of_other_seeds() -> str:
    """What is told of the traces, of others of their kinds."""
    lines = []
    for make in SEEDED:
        for seed in OTHER_SEEDS:
            trace = make(seed)
            ours, best = with_ours(trace), min(best_of(trace, name).mean_wait for name in RIVALS)
            lines.append(
                f"{trace.name}, seed {seed}: mean wait {ours.mean_wait:.1f} s, {ours.mean_wait / best:.2f} of the best "
                f"other's; {ours.num_swaps} swaps; until a model loads {ours.longest_away:.0f} s at most"
            )
    return "\n".join(lines)


def look_for_proofs() -> None:
    """Renews `prices.json`."""
    found = {}
    for make in TRACES:
        trace = make()
        known = [with_ours(trace, rules) for rules in (DEFAULT_RULES, *OTHER_RULES.values())]
        goals = [(one.room.num_loads, one.total_wait) for one in known]
        found[trace.name] = optimum.looked_for(trace, WAITS, most_at_once(), goals)
    optimum.PRICES.write_bytes(msgspec.json.encode(found) + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/placement.md and its picture")
    parser.add_argument("--search", action="store_true", help="renew benchmarks/placing/prices.json first")
    parser.add_argument("--seeds", action="store_true", help="print what comes of other seeds, and nothing else")
    arguments = parser.parse_args()
    if arguments.seeds:
        print(of_other_seeds())
        return
    if arguments.search:
        look_for_proofs()
    found = [compare(make()) for make in TRACES]
    print(page.tables(found))
    if arguments.write:
        page.write(ROOT, found)
    (ROOT / ".cache").mkdir(exist_ok=True)
    show("Many models on few boards, by simulation", [row for one in found for row in rows(one)])


if __name__ == "__main__":
    main()
