"""What is said about queued turns: cancels, dead letters, how far a queue has come, who leaves it."""

from __future__ import annotations

from msgspec import Struct

from broker.messages.fields import Count, Seconds, Token, Word


class Cancel(Struct, frozen=True, omit_defaults=True):
    """Stop a turn, a conversation or all of a client's: which, the subject says."""

    sequence: Count | None = None
    """The turn's stream sequence from its publish's acknowledgement, with which a queued one is deleted."""
    model: Token | None = None
    sent_at: Seconds | None = None
    reason: Word = "cancelled"
    """Or `deadline`: a turn that is stopped at its deadline ends as `failed`. Whatever the reason, it is stopped."""


class DeadLetter(Struct, frozen=True):
    """A turn given up on, with its original bytes."""

    subject: str
    reason: str
    attempts: Count
    payload: bytes
    content_type: str | None = None
    workers: tuple[str, ...] = ()
    """Who began the turn, in order."""
    rest: Count = 0
    """Where the rest of the payload lies, for one that has no room beside the other fields: the sequence of a message
    of the same stream, which is that rest and nothing else."""


class Beacon(Struct, frozen=True):
    """How far a model's consumer has come: what "about the n-th in line" is computed from."""

    sequence: Count
    pending: Count


class Leaving(Struct, frozen=True):
    """A worker takes itself out: it finishes what it has, and takes no more turns."""

    worker: Token
