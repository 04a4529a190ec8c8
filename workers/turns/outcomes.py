"""What a delivery can come to. Values; settlement acts on them."""

from __future__ import annotations

from dataclasses import dataclass

from broker.messages import End, Failed


@dataclass(frozen=True)
class Answered:
    """The turn has come to an end, which may say that it failed."""

    end: End


@dataclass(frozen=True)
class Dead:
    """The turn fails here as it would anywhere: it is kept as a dead letter."""

    failed: Failed
    workers: tuple[str, ...] = ()
    """Who began it before, in order."""


@dataclass(frozen=True)
class Over:
    """Nothing is left to do: the turn has its end already, or nobody could be told of one."""


@dataclass(frozen=True)
class Returned:
    """Not answered here, and by no fault of the turn: another worker may take it at once."""


@dataclass(frozen=True)
class TakenOver:
    """Another worker has written to the turn's reply: it is that one's to settle."""


@dataclass(frozen=True)
class Faulted:
    """A fault of ours, which may pass."""

    error: Exception


Outcome = Answered | Dead | Over | Returned | TakenOver | Faulted
