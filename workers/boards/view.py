"""What a board sees of the cluster, what it may do next, and by which rules that is decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from broker.messages.boards import SHORT_OF_MEMORY, TURN_SECONDS, BoardState, Claim


@dataclass(frozen=True)
class Waiting:
    """Of one model, what the queue holds: turns that no worker has taken."""

    num_interactive: int = 0
    num_batch: int = 0
    oldest_interactive_seconds: float = 0.0
    """Age of the oldest one; 0 where there is none."""
    oldest_batch_seconds: float = 0.0

    @property
    def num_turns(self) -> int:
        """Of both classes."""
        return self.num_interactive + self.num_batch


@dataclass(frozen=True)
class View:
    """What a board sees of the cluster."""

    now: float
    """Seconds since the epoch, by this board's clock; what a board said is reckoned by that board's own."""
    boards: tuple[BoardState, ...]
    """Of all that are there, this one's too."""
    waiting: Mapping[str, Waiting]
    """By model."""
    claims: Mapping[tuple[str, int], Claim]
    """By model and copy."""


@dataclass(frozen=True)
class Step:
    """What a board should do next; nothing, where it says nothing."""

    load: str | None = None
    """Claim this model's `copy`, then load it, once all of `unload` have gone."""
    copy: int = 0
    unload: tuple[str, ...] = ()
    """Drain these: they take no more turns, finish those that they have, and go."""
    why: str = ""
    """A word for the log and telemetry."""


def free_copy(taken: Collection[int]) -> int:
    """The first copy of a model that nobody has."""
    return next(number for number in range(len(taken) + 1) if number not in taken)


@dataclass(frozen=True)
class Rules:
    """How placement is decided. Seconds are of waiting unless they say otherwise."""

    interactive_seconds: float = 60.0
    """An interactive turn's model begins to load this long after the turn came at the latest, whatever other models
    have queued, unless every board is within its residency or is finishing a turn that takes longer than its like."""
    batch_seconds: float = 900.0
    """The same for batch turns."""
    residency_seconds: float = 10.0
    residency_loads: float = 1.0
    """A model that was loaded stays for so many of its load times, and where it has something to do for
    `residency_seconds`, whoever waits. Where somebody would wait too long, what it takes to finish counts as well:
    boards load no longer than they answer."""
    hysteresis: float = 3.0
    """What waits for another model must be worth so many times what waits for this one."""
    patience_loads: float = 0.0
    """A model with nothing to do goes only for turns that have waited for so many load times, all together: more saves
    swaps, and turns wait longer (docs/placement.md)."""
    copy_loads: float = 5.0
    """Another copy is loaded where turns would wait so many of its load times less for it, all together."""
    foresight_seconds: float = 5.0
    """As many more turns are thought to come as came in so long: no more than wait."""
    batch_weight: float = 0.1
    """What a batch turn is worth, where an interactive one is worth 1."""
    hand_weight: float = 0.25
    """What a turn in hand is worth as a sign of more to come."""
    keep_alive_seconds: float | None = None
    """A model that has had nothing to do for so long is unloaded even if nobody wants its memory; None: it stays."""
    preloads: tuple[str, ...] = ()
    """Models to have somewhere before anybody asks, where nothing has to go for it that was used lately."""
    max_memory_pressure: float = SHORT_OF_MEMORY
    """A board above it loads nothing, and gives up what has nothing to do."""
    turn_seconds: float = TURN_SECONDS
    """What a turn takes, where no board has had one of that model yet."""
    drain_turns: float = 1.7
    """How many times a usual turn the longest one may take, where no board tells."""
    notice_seconds: float = 2.0
    """Until a board has noticed, and a model that has finished is gone: it gives way so much earlier, and by its
    longest turn."""
