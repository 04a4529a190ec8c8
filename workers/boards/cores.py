"""How the cores of a board are shared by its workers: by what each of them is doing. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def shared_cores(num_cores: int, turns: Mapping[str, int]) -> dict[str, int | None]:
    """How many threads a step of each worker may take, where they have so many turns in hand. Those that compute have
    equal parts, and the busiest what is left over: every thread waits for the slowest of its step, so that one core too
    few costs less than one that two of them want. Who has nothing to do, or computes alone, has no bound."""
    busy = sorted((name for name, num in turns.items() if num), key=lambda name: (-turns[name], name))
    if len(busy) < 2:
        return dict.fromkeys(turns)
    each, left = divmod(num_cores, len(busy))
    found: dict[str, int | None] = dict.fromkeys(turns)
    for place, name in enumerate(busy):
        found[name] = max(1, each + (place < left))
    return found
