"""A run that was interrupted, gone on with: what of its record is whole, and what is begun again."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TypedDict

from broker.errors import TurnpikeError
from producers.data.datasets import Conversation
from producers.load.generator import Progress, goes_on
from producers.load.selection import Selection, dataset_facts
from producers.records.files import Recording, Run
from producers.records.lines import Continued, TurnRecord
from producers.settings import LoadSettings


class CannotContinue(TurnpikeError):
    """A record that the run cannot go on with; says why."""


class Again(TypedDict):
    """What run_load is told of an earlier life."""

    skip: frozenset[int]
    begun_before: float


def check_continues(path: Path, run: Run) -> None:
    """Raises CannotContinue for a run that has nothing left to do, or cannot be taken up where it was."""
    if run.seconds is not None:
        raise CannotContinue(f"{path}: the run ended; there is nothing to go on with")
    if run.header.settings.get("sweep") is not None:
        raise CannotContinue(f"{path}: a sweep's levels follow from one another: begin it again")


def resume(
    path: Path, run: Run, options: LoadSettings, selection: Selection, progress: Progress
) -> tuple[Recording, Again]:
    """Opens the record of an interrupted run to go on with it, what is whole of it in `progress`.

    Raises CannotContinue.
    """
    check_continues(path, run)
    facts = dataset_facts(options, selection)
    for name in ("chosen_sha256", "sha256"):
        if facts.get(name) != run.header.dataset.get(name):
            raise CannotContinue(f"{path}: the data set is not the one that the run began with ({name} differs)")
    is_closed = options.arrivals == "closed"
    whole = _whole(run, options, selection.conversations) if is_closed else {turn.number for turn in run.turns}
    void = tuple(sorted({turn.conversation for turn in run.turns} - whole)) if is_closed else ()
    kept = [turn for turn in run.turns if turn.conversation not in void]
    progress.take_over(kept, len(whole) if is_closed else 0)
    again = Again(skip=frozenset(whole), begun_before=max((turn.ended_at for turn in run.turns), default=0.0))
    return Recording.reopen(path, Continued(time.time_ns(), void)), again


def _whole(run: Run, options: LoadSettings, conversations: list[Conversation]) -> set[int]:
    """The conversations of which every turn is there, or one that ended them."""
    is_recorded = options.history == "dataset"
    counts = Counter(turn.conversation for turn in run.turns if is_recorded or not turn.round)
    last: dict[int, TurnRecord] = {}
    for turn in run.turns:
        last[turn.conversation] = turn
    found = {number for number, turn in last.items() if turn.is_failed}
    for number, conversation in enumerate(conversations):
        asked = counts[number] >= conversation.num_questions(options.max_user_turns, with_results=is_recorded)
        end = last.get(number)
        if asked and (is_recorded or end is None or not goes_on(end.num_calls, end.round)):
            found.add(number)
    return found
