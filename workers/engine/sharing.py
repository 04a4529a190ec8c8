"""Prompts that begin alike and are here together: one is computed, the others wait for it and begin with a copy.

So several answers to one prompt cost one prompt, and conversations that were begun together with the same system
message compute that once. Whoever waits would have computed the same tokens beside it, in more time. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from workers.engine.active import ActiveJob
from workers.engine.slots import MIN_COPY_TOKENS, Slots, common_prefix


class Beginnings:
    """How many tokens the prompts of jobs that wait share with those that are computed just now: looked at once, not
    with each step."""

    def __init__(self) -> None:
        self._shared: dict[str, dict[str, int]] = {}
        """By the job that waits, and the other."""

    def num_shared(self, active: ActiveJob, one: ActiveJob) -> int:
        """Leading tokens of the one that waits that the other's prompt has too; its last one is not counted."""
        known = self._shared.setdefault(active.id, {})
        if one.id not in known:
            wanted = active.reusable_tokens
            known[one.id] = min(common_prefix(one.sequence.tokens, wanted), len(wanted) - 1)
        return known[one.id]

    def forget(self, active: ActiveJob) -> None:
        """It waits no more."""
        self._shared.pop(active.id, None)


def leader_of(
    active: ActiveJob,
    running: Iterable[ActiveJob],
    slots: Slots,
    is_whole: Callable[[int, int], bool],
    beginnings: Beginnings,
) -> tuple[ActiveJob, int] | None:
    """The running job that is about to compute what this one begins with, and how many tokens of it; None where there
    is as much already, or none that is worth a copy. Where copies are not allowed there is none either. `is_whole` says
    of a slot and a number of its tokens whether they can be gone on from."""
    leaders = [one for one in running if _may_lead(one, active, slots)]
    if not leaders or slots.canonical_chunk:
        return None
    known = {one.sequence.slot: beginnings.num_shared(active, one) for one in leaders}
    found: tuple[ActiveJob, int] | None = None
    most = slots.num_reusable(active.reusable_tokens, active.job.client, is_whole, known) + MIN_COPY_TOKENS - 1
    for one in leaders:
        shared = known[one.sequence.slot]
        if shared > most and shared > one.sequence.num_computed:
            found, most = (one, shared), shared
    return found


def _may_lead(one: ActiveJob, active: ActiveJob, slots: Slots) -> bool:
    """Whether a running job still computes its prompt, for such as this one too."""
    if one.is_preempted or one.sequence.num_computed >= one.sequence.num_prompt_tokens or one.job.continuations:
        return False
    is_later = one.job.is_batch and not active.job.is_batch
    return not is_later and slots.may_share(one.job.client, active.job.client)
