"""Which job is seated next, and which gives its slot for it. Pure: it decides, the engine loop and its seating act.

Interactive jobs go first. A running batch job gives its slot to one, and goes on later behind its offloaded state; but
a slot in eight, and at least one, stays with batch: its share.
"""

from __future__ import annotations

from collections.abc import Iterable

from workers.engine.active import ActiveJob

BATCH_EVERY = 8
"""Batch's share: of so many turns, or slots, one."""


def batch_reserve(num_slots: int) -> int:
    """How many slots interactive turns cannot take from batch ones."""
    return max(1, num_slots // BATCH_EVERY)


def next_up(waiting: Iterable[ActiveJob], preempted: Iterable[ActiveJob]) -> ActiveJob | None:
    """The first interactive job; without one the first that was preempted, and then the first of all. In order: a large
    one is not overtaken for ever by small ones."""
    first = None
    for one in waiting:
        if not one.job.is_batch:
            return one
        first = first or one
    return next(iter(preempted), None) or first


def victim_of(running: Iterable[ActiveJob], num_slots: int) -> ActiveJob | None:
    """The batch job that gives its slot to an interactive one: the latest; None where none may.

    What is scored goes on from step to step with no state that could be kept, and a late grammar's answer is to logits
    that are gone: neither may be preempted.
    """
    batch = [one for one in running if one.job.is_batch and not one.is_preempted]
    if len(batch) <= batch_reserve(num_slots):
        return None
    able = [one for one in batch if not one.job.continuations and not one.is_late]
    return max(able, key=lambda one: one.sequence.arrived_at, default=None)
