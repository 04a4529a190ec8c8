"""What chance decides of a run's turns: the same for a number, whoever draws it and in whatever order."""

from __future__ import annotations

import random
from collections.abc import Sequence

from producers.load.arrivals import Think, stream
from producers.settings import LoadSettings


def drawn(weights: Sequence[tuple[str, float]], rng: random.Random) -> str:
    """One of the names, by their weights."""
    return rng.choices([name for name, _ in weights], [weight for _, weight in weights])[0]


def fate(options: LoadSettings, number: int) -> tuple[float | None, bool]:
    """After how many seconds the turn of that number is cancelled, None for never, and whether it has a deadline."""
    if not options.cancel_share and not options.deadline_share:
        return None, False  # randomness of its own for each turn would cost as much as sending it
    rng = stream(options.seed, "turn", number)
    is_cancelled = rng.random() < options.cancel_share
    cancel_after = rng.expovariate(1 / options.cancel_after_seconds)
    has_deadline = rng.random() < options.deadline_share
    return cancel_after if is_cancelled else None, has_deadline


def thinks(think: Think, options: LoadSettings, number: int) -> float:
    """For how many seconds the user thinks behind the turn of that number."""
    return think.draw(stream(options.seed, "think", number)) if think.seconds else 0.0
