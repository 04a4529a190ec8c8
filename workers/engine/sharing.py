"""Prompts that begin alike and are here together: one is computed, the others wait for it and begin with a copy.

So several answers to one prompt cost one prompt, and conversations that were begun together with the same system
message compute that once. Whoever waits would have computed the same tokens beside it, in more time. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from workers.engine.active import ActiveJob
from workers.engine.slots import MIN_COPY_TOKENS, Slots, common_prefix


def leader_of(
    active: ActiveJob, running: Iterable[ActiveJob], slots: Slots, is_whole: Callable[[int, int], bool]
) -> tuple[ActiveJob, int] | None:
    """The running job that is about to compute what this one begins with, and how many tokens of it; None where there
    is as much already, or none that is worth a copy. Where copies are not allowed there is none either. `is_whole` says
    of a slot and a number of its tokens whether they can be gone on from."""
    if slots.canonical_chunk:
        return None
    wanted, job = active.reusable_tokens, active.job
    found: tuple[ActiveJob, int] | None = None
    most = slots.num_reusable(wanted, job.client, is_whole) + MIN_COPY_TOKENS - 1
    for one in running:
        sequence = one.sequence
        if one.is_preempted or one.job.continuations or not slots.may_share(one.job.client, job.client):
            continue
        if one.job.is_batch and not job.is_batch:  # whose turn comes later
            continue
        if sequence.num_computed >= sequence.num_prompt_tokens or sequence.tokens[:most] != wanted[:most]:
            continue
        shared = min(common_prefix(sequence.tokens, wanted), len(wanted) - 1)
        if shared > most and shared > sequence.num_computed:
            found, most = (one, shared), shared
    return found
