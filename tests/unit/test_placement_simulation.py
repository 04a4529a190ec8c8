"""Placement over whole traces: docs/placement.md says what comes out, and the bound of the fewest swaps is one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks.placing import page
from benchmarks.placing.optimum import Bounds, Problem, Waits, by_slots, fewest_loads, search
from benchmarks.placing.ours import Turnpike
from benchmarks.placing.outcomes import MAX_SWAPS, MAX_WAIT, Comparison, Outcome, compare, with_ours
from benchmarks.placing.rivals import Instance, LlamaSwap, Ollama, Router, Several, by_model
from benchmarks.placing.room import Board, Room, Server
from benchmarks.placing.traces import (
    OTHER_SEEDS,
    TRACES,
    Trace,
    Turn,
    all_at_once,
    board_bytes,
    bursts,
    day_and_night,
    models,
    most_at_once,
    poisson,
)
from broker.messages.boards import ALWAYS, NEVER
from tests.support import ROOT
from workers.boards.placement import DEFAULT_RULES

# In the order of how long they take to load.
B, A, C = sorted(models()[:3], key=lambda one: one.load_seconds)
NAMES = {"A": A, "B": B, "C": C}


def trace_of(*turns: tuple[str, float, float]) -> Trace:
    """Interactive turns: which model's, when, and how long."""
    made = [Turn(number, at, NAMES[name], True, seconds) for number, (name, at, seconds) in enumerate(turns)]
    return Trace("by hand", tuple(made))


def order(room: Room) -> str:
    """Whose turns were seated, in order."""
    letters = {model.name: letter for letter, model in NAMES.items()}
    return "".join(letters[one.turn.model.name] for one in room.seated)


def on_one_board(trace: Trace, make: Callable[[Room], Server]) -> Room:
    room = Room(("only",))
    room.run(trace, make(room))
    return room


def behind(make: Callable[[Room, Board], Instance]) -> Callable[[Room], Server]:
    """A proxy with one server behind it."""
    return lambda room: Several(room, make, by_model)


MIXED = trace_of(*((name, 0.1 * place, 20.0) for place, name in enumerate("ABAAC")))


# --- Ours ------------------------------------------------------------------------------------------------------------


def test_turns_of_one_model_are_answered_before_another_is_loaded() -> None:
    room = on_one_board(MIXED, Turnpike)
    assert order(room) == "AAABC"
    assert room.num_swaps == 2


def test_two_models_that_are_asked_in_turn_do_not_thrash() -> None:
    asked = trace_of(*(("AB"[place % 2], 4.0 * place, 3.0) for place in range(150)))
    room = on_one_board(asked, Turnpike)
    assert room.loading_seconds <= 600 / 2
    assert max(room.absent.longest(one) for one in room.seated) <= DEFAULT_RULES.interactive_seconds
    assert room.num_swaps <= 600 / 24  # a load and as long a stay, each time


def test_a_backlog_lets_nobody_wait_beyond_the_bound() -> None:
    backlog = [("A", 0.0, 25.0)] * 100
    room = on_one_board(trace_of(*backlog, ("B", 30.0, 5.0), ("C", 31.0, 5.0)), Turnpike)
    aways = {one.turn.model.name: room.absent.longest(one) for one in room.seated if one.turn.at}
    assert 0 < aways[B.name] <= 60.0
    # On one board C comes behind B, which stays for its residency.
    assert aways[C.name] <= 60.0 + B.load_seconds + DEFAULT_RULES.residency_seconds + 10.0


def test_two_boards_with_three_models_keep_the_bound_and_load_less_than_they_answer() -> None:
    chance = random.Random(5)
    asked = sorted((chance.choice("AABC"), chance.uniform(0.0, 900.0), chance.uniform(4.0, 30.0)) for _ in range(100))
    room = Room(("left", "right"))
    room.run(trace_of(*sorted(asked, key=lambda one: one[1])), Turnpike(room))
    assert len(room.seated) == len(asked)
    assert max(room.absent.longest(one) for one in room.seated) <= DEFAULT_RULES.interactive_seconds
    assert room.loading_seconds <= room.now  # of both together


def test_boards_with_memory_for_two_models_swap_less() -> None:
    trace = day_and_night()
    large = Room(memory_bytes=2 * board_bytes())
    large.run(trace, Turnpike(large))
    small = with_ours(trace)
    ours = Outcome("large", large)
    assert max(sum(one[2] <= at < one[3] for one in large.spans if one[0] == "board-1") for at in range(2400)) == 2
    assert ours.num_swaps <= small.num_swaps / 3
    assert ours.mean_wait <= small.mean_wait / 2
    assert ours.longest_away <= DEFAULT_RULES.interactive_seconds


def test_hours_of_another_models_batch_hold_up_no_interactive_turn_beyond_the_bound() -> None:
    backlog = [Turn(number, 0.0, C, False, 20.0) for number in range(2000)]
    asked = [Turn(2000 + number, 60.0 * number, A, True, 10.0) for number in range(60)]
    room = on_one_board(Trace("by hand", tuple(sorted((*backlog, *asked), key=lambda one: one.at))), Turnpike)
    interactive = [one for one in room.seated if one.turn.is_interactive]
    assert max(map(room.absent.longest, interactive)) <= DEFAULT_RULES.interactive_seconds
    assert room.loading_seconds <= room.now / 2


def test_what_is_pinned_stays_and_what_is_forbidden_never_comes() -> None:
    room = Room()
    pins = {("board-1", A.name): ALWAYS, ("board-2", B.name): NEVER, ("board-3", B.name): NEVER}
    trace = bursts(seconds=1200.0)
    room.run(trace, Turnpike(room, pins=pins))
    assert [one[1] for one in room.spans if one[0] == "board-1" and one[1]] == [A.name]
    assert {one[0] for one in room.spans if one[1] == B.name} == {"board-4"}


def test_boards_that_hear_late_of_each_other_load_nothing_twice_that_claims_hold() -> None:
    trace = bursts(seconds=600.0)
    room = Room()
    server = Turnpike(room, say_seconds=4.0)
    room.run(trace, server)
    assert server.num_refused > 0
    assert len(room.seated) == len(trace.turns)
    on_time = Room()
    on_time.run(trace, Turnpike(on_time))
    assert room.num_loads <= 1.5 * on_time.num_loads


# --- Other servers', as their code has it ----------------------------------------------------------------------------


def test_llama_swap_and_the_router_answer_together_what_came_meanwhile() -> None:
    for make in (LlamaSwap, Router):
        room = on_one_board(MIXED, behind(make))
        assert order(room) == "AAABC", make
        assert room.num_swaps == 2


def test_with_llama_swap_and_the_router_others_wait_for_as_long_as_turns_come() -> None:
    hot = [("A", 2.0 * place, 5.0) for place in range(100)]
    for make in (LlamaSwap, Router):
        asked = sorted([*hot, ("B", 30.5, 5.0)], key=lambda one: one[1])
        room = on_one_board(trace_of(*asked), behind(make))
        assert order(room)[-1] == "B", make
        assert room.seated[-1].wait > 150


def test_with_ollama_turns_of_a_loaded_model_wait_behind_anothers() -> None:
    asked = trace_of(("A", 0.0, 30.0), ("B", 15.0, 5.0), ("A", 16.0, 5.0))
    room = on_one_board(asked, behind(Ollama))
    assert order(room) == "ABA"
    assert room.num_swaps == 2


def test_ollama_unloads_what_was_idle_for_five_minutes() -> None:
    room = on_one_board(trace_of(("A", 0.0, 5.0), ("A", 200.0, 5.0), ("A", 600.0, 5.0)), behind(Ollama))
    assert (room.num_loads, room.num_swaps) == (2, 0)


# --- The bound -------------------------------------------------------------------------------------------------------

WAITS = Waits(60.0, 900.0)


@pytest.mark.parametrize(
    ("turns", "at_once", "bound"),
    [
        ([("A", 0.0), ("B", 1.0), ("C", 2.0)], 3, 3),
        ([("A", 0.0), ("B", 1.0), ("A", 2.0), ("B", 3.0)], 1, 2),  # within the bound of waiting each is loaded once
        (
            [("A", 0.0), ("B", 300.0), ("A", 600.0), ("B", 900.0)],
            1,
            3,
        ),  # too far apart for that: 4, of which the bound sees 3
        ([("A", 0.0), ("B", 300.0), ("A", 600.0), ("B", 900.0)], 2, 2),
        ([("A", 0.0), ("B", 300.0), ("C", 330.0), ("A", 600.0)], 2, 3),  # B goes for C, and A stays
    ],
)
def test_the_bound_is_the_fewest_loads_where_they_are_known_or_below(
    turns: Sequence[tuple[str, float]], at_once: int, bound: int
) -> None:
    trace = trace_of(*((name, at, 5.0) for name, at in turns))
    assert fewest_loads(trace, WAITS, len(turns), at_once) == bound


def test_a_bound_for_waits_is_kept_by_every_schedule() -> None:
    trace = trace_of(("A", 0.0, 5.0), ("B", 40.0, 5.0), ("A", 80.0, 5.0), ("B", 120.0, 5.0))
    problem = Problem(trace, Waits(100.0, 900.0), 1)
    prices = search(problem, 4 + 0.01 * 200, 1.0, 0.01)
    bounds = Bounds((problem.plane(prices, 1.0, 0.01),))
    room = Room(("only",))
    room.run(trace, Turnpike(room))
    total = sum(one.wait for one in room.seated)
    assert 2 <= bounds.fewest_loads(total) <= room.num_loads == 4
    # Nothing is there before somebody waits for it: at least two loads are waited for.
    free = problem.plane(np.zeros(problem.num_slices), 0.0, 1.0)
    assert A.load_seconds + B.load_seconds <= Bounds((free,)).least_wait() <= total


def test_what_turns_take_in_slots_is_a_bound_where_all_come_at_once() -> None:
    wait, loads = by_slots(trace_of(*[("A", 0.0, 30.0)] * 4, *[("A", 0.0, 10.0)] * 4), WAITS, 1, 4)
    assert wait.least == pytest.approx(8 * A.load_seconds + 4 * 10.0)
    assert loads.least == 1
    _, loads = by_slots(trace_of(*[("A", 0.0, 20.0)] * 16, *[("B", 0.0, 20.0)] * 16), WAITS, 1, 4)
    assert loads.least == 3  # both are due within a minute, in which neither is finished


# --- The page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> list[Comparison]:
    return [compare(make()) for make in TRACES]


def test_a_board_holds_one_of_the_papers_models() -> None:
    assert most_at_once() == 4
    assert max(one.planned_bytes for one in models()) <= board_bytes()


@pytest.mark.parametrize("make", [poisson, bursts, day_and_night, all_at_once])
def test_the_bound_is_kept_with_other_seeds(make: Callable[[int], Trace]) -> None:
    for seed in OTHER_SEEDS:
        assert with_ours(make(seed)).longest_away <= DEFAULT_RULES.interactive_seconds, seed


PATIENCE = "turns would have to wait for others of their model: fewer swaps, longer waits (docs/placement.md)"
BUSY = "nobody could: the shortest turns first in slots that never rest come to 0.62"
MISSED = {
    "Poisson: wait": "one turn in two finds its model away, whoever places it",
    "all at once: wait": BUSY,
    **{f"{name}: swaps": PATIENCE for name in ("Poisson", "bursts", "day and night", "all at once")},
}
"""Trace and target → why it is not met."""


def test_the_targets_are_met_but_for_those_that_are_told(found: Sequence[Comparison]) -> None:
    missed = set()
    for one in found:
        values = {
            "wait": one.wait_ratio <= MAX_WAIT,
            "swaps": one.swap_ratio <= MAX_SWAPS,
            "bound": one.ours.longest_away <= DEFAULT_RULES.interactive_seconds,
        }
        missed |= {f"{one.trace.name}: {name}" for name, is_met in values.items() if not is_met}
    assert missed == set(MISSED)


def test_no_schedule_is_below_the_bound(found: Sequence[Comparison]) -> None:
    for one in found:
        assert 0 < one.fewest_swaps <= one.ours.num_swaps


def test_everybody_answers_every_turn(found: Sequence[Comparison]) -> None:
    for one in found:
        numbers = [turn.number for turn in one.trace.turns]
        for outcome in (one.ours, *one.rivals, *one.informed):
            assert sorted(seated.turn.number for seated in outcome.room.seated) == numbers


def test_the_page_has_what_was_found(found: Sequence[Comparison]) -> None:
    text = (ROOT / page.PAGE).read_text()
    assert page.renewed(text, found) == text, "renew it: python -m benchmarks.placement --write"
    assert page.picture(found) == (ROOT / page.PICTURE).read_text(), "renew it: python -m benchmarks.placement --write"
