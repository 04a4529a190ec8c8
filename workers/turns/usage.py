"""What a turn's tokens cost: how many were computed, were there already, or had to be computed again. Pure."""

from __future__ import annotations

from broker.messages import RecomputedFor, Usage
from workers.engine.events import Finished
from workers.kv.fetcher import Offer
from workers.prompts.history import Prompt
from workers.turns.work import TurnNotes


def usage(end: Finished, prompt: Prompt, notes: TurnNotes, offer: Offer | None, num_reasoning: int = 0) -> Usage:
    """The usage of a finished turn; what was computed again is what this worker, or the one before it, had computed of
    the prompt once."""
    known: int = prompt.num_known
    cause: RecomputedFor = "evicted"
    if offer is not None and not offer.is_beginning and end.cached_in != "peer":
        known, cause = max(known, offer.holding.num_tokens), offer.cause
    if notes.num_resumed_tokens:
        known, cause = end.num_prompt_tokens, "killed"
    elif notes.num_dropped:
        known, cause = end.num_prompt_tokens, "overflow"
    # An answer's last token may never have been computed: it was chosen, and the answer was over.
    recomputed = max(0, min(known, end.num_prompt_tokens) - 1 - end.num_cached)
    return Usage(
        end.num_prompt_tokens,
        end.num_cached,
        end.num_generated,
        end.cached_in,
        recomputed,
        cause if recomputed else None,
        notes.num_dropped,
        num_reasoning,
        sum(notes.broken_calls.values()),
        end.num_drafted,
        end.num_accepted,
    )
