"""Which models a board should have, view by view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from broker.messages.boards import (
    ALWAYS,
    AVAILABLE,
    BROKEN,
    DRAINING,
    LOADING,
    NEVER,
    SERVING,
    BoardState,
    Claim,
    ModelOnBoard,
)
from workers.boards.placement import Rules, Step, View, Waiting, all_steps, next_step

NOW = 1_000_000.0
GB = 1_000_000_000


def has(model: str, state: str = SERVING, size: int = 5 * GB, load: float = 12.0, **facts: Any) -> ModelOnBoard:
    """A model as a board has it: for a long time, and unused for some minutes."""
    known = {"since": NOW - 1000, "used_at": NOW - 500 if state == SERVING else 0.0, "turn_seconds": 20.0}
    return ModelOnBoard(model, state, size, load, num_slots=4, **{**known, **facts})


def could(model: str, **facts: Any) -> ModelOnBoard:
    """A model whose file a board has."""
    return has(model, AVAILABLE, **facts)


def board(name: str, *models: ModelOnBoard, memory: int = 7 * GB, **facts: Any) -> BoardState:
    return BoardState(name, memory, 4, models, **{"sent_at": NOW, **facts})


def turns(count: int = 1, age: float = 5.0) -> Waiting:
    """Interactive ones."""
    return Waiting(count, 0, age, 0.0)


def batch(count: int = 1, age: float = 5.0) -> Waiting:
    return Waiting(0, count, 0.0, age)


def view(*boards: BoardState, claims: dict[tuple[str, int], str] | None = None, **waiting: Waiting) -> View:
    return seen_by(boards, waiting, claims or {})


def seen_by(
    boards: Sequence[BoardState], waiting: Mapping[str, Waiting], claims: Mapping[tuple[str, int], str]
) -> View:
    return View(NOW, tuple(boards), waiting, {key: Claim(name, *key) for key, name in claims.items()})


# --- What is loaded, and where ---------------------------------------------------------------------------------------


def test_what_nobody_waits_for_is_not_loaded() -> None:
    assert all_steps(view(board("x", could("a")))) == {}


def test_a_model_that_is_waited_for_is_loaded_once() -> None:
    seen = view(board("x", could("a")), board("y", could("a")), a=turns())
    assert all_steps(seen) == {"x": Step("a", 0, (), "waiting")}
    assert next_step(seen, "y") == Step()


def test_a_model_that_does_nothing_stays_for_as_long_as_its_load_took_and_one_that_answers_for_ten_seconds() -> None:
    idle = board("x", has("a", load=1.0, since=NOW - 2, used_at=NOW - 1), could("b"))
    assert next_step(view(idle, b=turns()), "x") == Step("b", 0, ("a",), "waiting")
    just_now = board("x", has("a", load=1.0, since=NOW - 0.5, used_at=NOW), could("b"))
    assert next_step(view(just_now, b=turns()), "x") == Step()
    answers = board("x", has("a", load=1.0, since=NOW - 2, num_in_hand=1, turn_seconds=1.0), could("b"))
    assert next_step(view(answers, b=turns(8)), "x") == Step()


def test_small_models_live_side_by_side() -> None:
    here = board("x", has("a", size=3 * GB), could("b", size=3 * GB))
    assert next_step(view(here, b=turns()), "x") == Step("b", 0, (), "waiting")


def test_as_few_models_go_as_will_do_and_the_longest_unused_first() -> None:
    small = [has(name, size=2 * GB, used_at=NOW - age) for name, age in (("a", 100), ("b", 300), ("c", 200))]
    assert next_step(view(board("x", *small, could("d", size=2 * GB)), d=turns()), "x").unload == ("b",)
    assert next_step(view(board("x", *small, could("d", size=4 * GB)), d=turns()), "x").unload == ("b", "c")


def test_of_all_boards_the_one_gives_way_whose_model_is_longest_unused() -> None:
    boards = [board(name, has(name, used_at=NOW - age), could("z")) for name, age in (("a", 100), ("b", 300))]
    assert all_steps(view(*boards, z=turns())) == {"b": Step("z", 0, ("b",), "waiting")}


def test_free_memory_comes_before_a_model_that_has_to_go() -> None:
    boards = [board("x", has("a"), could("z")), board("y", could("z", load=20.0))]
    assert all_steps(view(*boards, z=turns())) == {"y": Step("z", 0, (), "waiting")}


def test_what_fits_no_board_is_loaded_nowhere() -> None:
    large = could("a", size=9 * GB)
    assert all_steps(view(board("x", large, has("b")), board("y", large), a=turns(9, 1000.0))) == {}


def test_two_models_that_wait_go_to_two_boards() -> None:
    boards = [board(name, could("a"), could("b")) for name in ("x", "y")]
    assert all_steps(view(*boards, a=turns(2), b=turns(1))) == {
        "x": Step("a", 0, (), "waiting"),
        "y": Step("b", 0, (), "waiting"),
    }


def test_a_board_that_is_changing_is_left_to_finish() -> None:
    for state in (LOADING, DRAINING):
        here = board("x", has("a", state, size=GB), could("b", size=GB))
        assert all_steps(view(here, b=turns(9, 1000.0))) == {}


# --- Who gives way ---------------------------------------------------------------------------------------------------


def test_what_has_turns_in_hand_goes_only_when_somebody_would_wait_too_long() -> None:
    here = board("x", has("a", num_in_hand=2), could("b"))
    assert next_step(view(here, b=turns(1, 20.0)), "x") == Step()
    # a turn in hand may take 34 s, and 2 s its end: so much before the bound of 60 s the model takes no more.
    assert next_step(view(here, b=turns(1, 23.0)), "x") == Step()
    assert next_step(view(here, b=turns(1, 25.0)), "x") == Step("b", 0, ("a",), "waiting")
    assert next_step(view(here, b=turns(1, 61.0)), "x").why == "overdue"


def test_a_model_gives_way_as_early_as_its_longest_turn_takes() -> None:
    for longest, early, late in ((10.0, 47.0, 49.0), (30.0, 27.0, 29.0), (90.0, 19.0, 21.0)):
        here = board("x", has("a", num_in_hand=2, longest_turn_seconds=longest), could("b"))
        assert next_step(view(here, b=turns(1, early)), "x") == Step(), longest
        assert next_step(view(here, b=turns(1, late)), "x").unload == ("a",), longest


def test_while_a_model_finishes_its_own_turns_those_that_wait_for_it_do_not_hurry_it_back() -> None:
    drains = has("a", DRAINING, num_in_hand=1, since=NOW - 50.0, used_at=NOW)
    boards = board("x", drains), board("y", has("b", num_in_hand=1), could("a"))
    assert all_steps(view(*boards, a=turns(1, 200.0))) == {}
    stuck = changed(boards[0].models[0], since=NOW - 97.0)  # a turn in hand may take 36 s, and it is still there
    assert all_steps(view(board("x", stuck), boards[1], a=turns(1, 200.0))) == {"y": Step("a", 0, ("b",), "overdue")}
    gone = board("x", could("a", since=NOW - 61.0, used_at=NOW - 61.0), has("c", LOADING)), boards[1]
    assert all_steps(view(*gone, a=turns(1, 200.0))) == {"y": Step("a", 0, ("b",), "overdue")}


def test_turns_of_one_model_are_answered_together_but_not_for_ever() -> None:
    here = board("x", has("a", num_in_hand=4), could("b"))
    backlog = turns(100, 300.0)
    assert next_step(view(here, a=backlog, b=turns(1, 20.0)), "x") == Step()
    assert next_step(view(here, a=backlog, b=turns(1, 25.0)), "x") == Step("b", 0, ("a",), "waiting")
    assert next_step(view(here, a=backlog, b=batch(1, 860.0)), "x") == Step()
    assert next_step(view(here, a=backlog, b=batch(1, 870.0)), "x") == Step("b", 0, ("a",), "waiting")


def test_interactive_turns_come_before_another_models_batch() -> None:
    here = board("x", has("a", num_in_hand=0), could("b"))
    assert next_step(view(here, a=batch(40, 300.0), b=turns(4, 1.0)), "x") == Step("b", 0, ("a",), "waiting")
    there = board("x", has("b", num_in_hand=0), could("a"))
    assert next_step(view(there, b=turns(4, 1.0), a=batch(40, 300.0)), "x") == Step()


def test_a_model_that_was_just_loaded_stays_whoever_waits() -> None:
    here = board("x", has("a", since=NOW - 11.0, used_at=NOW - 1.0), could("b"))
    assert next_step(view(here, b=turns(9, 100.0)), "x") == Step()  # its load took 12 s
    later = board("x", *here.models, sent_at=NOW + 1.5)
    assert next_step(view(later, b=turns(9, 101.5)), "x") == Step("b", 0, ("a",), "overdue")


def test_turns_that_waited_for_each_other_do_not_hurry_their_model_back() -> None:
    gone = could("a", since=NOW - 5.0, used_at=NOW - 5.0)
    here = board("x", gone, has("b", since=NOW - 20.0, num_in_hand=1))
    waiting = {"a": turns(3, 200.0), "b": turns(9, 20.0)}
    assert next_step(seen_by([here], waiting, {}), "x") == Step()
    gone_long = board("x", changed(gone, since=NOW - 61.0), *here.models[1:])
    assert next_step(seen_by([gone_long], waiting, {}), "x") == Step("a", 0, ("b",), "overdue")


def test_of_overdue_models_the_one_that_waits_longest_comes_first() -> None:
    here = board("x", has("a"), could("b"), could("c"))
    assert next_step(view(here, b=turns(9, 70.0), c=turns(1, 80.0)), "x").load == "c"
    assert next_step(view(here, b=turns(9, 5.0), c=turns(1, 6.0)), "x").load == "b"  # else the most turns a second


# --- Copies ----------------------------------------------------------------------------------------------------------


def test_a_second_copy_is_loaded_where_a_long_queue_is_worth_it() -> None:
    boards = board("x", has("a", num_in_hand=4)), board("y", has("b"), could("a"))
    claims = {("a", 0): "x", ("b", 0): "y"}
    assert all_steps(view(*boards, claims=claims, a=turns(3))) == {}
    assert all_steps(view(*boards, claims=claims, a=turns(30))) == {"y": Step("a", 1, ("b",), "copy")}


def test_a_second_copy_comes_for_turns_that_come_quickly_rather_than_for_as_many_that_came_slowly() -> None:
    boards = board("x", has("a", num_in_hand=4)), board("y", has("b"), could("a"))
    claims = {("a", 0): "x", ("b", 0): "y"}
    assert all_steps(view(*boards, claims=claims, a=turns(6, 60.0))) == {}
    assert all_steps(view(*boards, claims=claims, a=turns(6, 2.0))) == {"y": Step("a", 1, ("b",), "copy")}
    assert all_steps(view(*boards, claims=claims, a=turns(2, 0.1))) == {}


def test_a_second_copy_pushes_nothing_out_that_was_used_just_now_or_is_worth_more() -> None:
    one = board("x", has("a", num_in_hand=4))
    for other in (has("b", used_at=NOW - 1.0), has("b", num_in_hand=4)):
        assert all_steps(view(one, board("y", other, could("a")), a=turns(12))) == {}
    waits = view(one, board("y", has("b", num_in_hand=4), could("a")), a=turns(30), b=turns(30))
    assert all_steps(waits) == {}


def test_a_copy_takes_the_lowest_free_number() -> None:
    boards = board("x", has("a", num_in_hand=4)), board("y", could("a"))
    assert all_steps(view(*boards, claims={("a", 1): "x"}, a=turns(30)))["y"].copy == 0


# --- Claims ----------------------------------------------------------------------------------------------------------


def test_what_another_board_is_about_to_load_is_left_to_it() -> None:
    boards = board("x", could("a")), board("y", could("a"))
    assert all_steps(view(*boards, claims={("a", 0): "x"}, a=turns(3))) == {}


def test_a_claim_dies_with_its_board() -> None:
    claims = {("a", 0): "x"}
    here = board("y", could("a"))
    assert next_step(view(here, claims=claims, a=turns(3)), "y").load == "a"


def test_a_board_that_came_back_takes_up_its_own_claim() -> None:
    boards = board("x", could("a")), board("y", could("a"))
    seen = view(*boards, claims={("a", 1): "x"}, a=turns(3))
    assert next_step(seen, "x") == Step("a", 1, (), "waiting")
    assert next_step(seen, "y") == Step()


def test_a_board_that_is_not_seen_yet_does_nothing() -> None:
    assert next_step(view(board("x", could("a")), a=turns()), "new") == Step()


def test_no_clock_has_to_be_right() -> None:
    def cluster(ahead: float) -> View:
        mine = board("x", has("a", num_in_hand=1), could("b"), could("c"))
        gone = could("b", since=NOW - 70 + ahead, used_at=NOW - 70 + ahead)
        stays = has("d", since=NOW - 8 + ahead, used_at=NOW - 1 + ahead)
        return view(mine, board("y", stays, gone, could("c"), sent_at=NOW + ahead), b=turns(1, 90.0), c=turns(1, 65.0))

    steps = all_steps(cluster(0.0))
    assert steps == {"x": Step("b", 0, ("a",), "overdue")}
    assert all_steps(cluster(3600.0)) == all_steps(cluster(-3600.0)) == steps


# --- Orders ----------------------------------------------------------------------------------------------------------


def test_a_pinned_model_is_loaded_and_never_goes() -> None:
    here = board("x", has("b", num_in_hand=1), could("a", pin=ALWAYS))
    assert next_step(view(here, b=turns(9)), "x") == Step("a", 0, ("b",), "pinned")
    there = board("x", has("a", pin=ALWAYS), could("b"))
    assert next_step(view(there, b=turns(9, 1000.0)), "x") == Step()


def test_a_model_that_may_not_be_here_is_unloaded_and_not_loaded() -> None:
    assert next_step(view(board("x", has("a", pin=NEVER)), a=turns()), "x") == Step(unload=("a",), why="never here")
    boards = board("x", could("a", pin=NEVER)), board("y", could("a"))
    assert all_steps(view(*boards, a=turns())).keys() == {"y"}
    assert all_steps(view(boards[0], a=turns(9, 1000.0))) == {}


def test_preloads_take_what_is_free_or_long_unused() -> None:
    rules = Rules(preloads=("a",))
    assert next_step(view(board("x", could("a"))), "x", rules) == Step("a", 0, (), "preload")
    assert next_step(view(board("x", has("b"), could("a"))), "x", rules) == Step("a", 0, ("b",), "preload")
    assert next_step(view(board("x", has("b", used_at=NOW - 1), could("a"))), "x", rules) == Step()
    assert all_steps(view(board("x", has("a")), board("y", could("a"))), rules) == {}


def test_what_is_not_used_goes_after_its_keep_alive_if_it_has_one() -> None:
    here = view(board("x", has("a", used_at=NOW - 500), has("b", num_in_hand=1, size=GB)))
    assert next_step(here, "x") == Step()
    assert next_step(here, "x", Rules(keep_alive_seconds=600)) == Step()
    assert next_step(here, "x", Rules(keep_alive_seconds=300)) == Step(unload=("a",), why="idle")
    assert next_step(here, "x", Rules(keep_alive_seconds=300, preloads=("a",))) == Step()


# --- Boards in trouble, and files ------------------------------------------------------------------------------------


def test_a_throttled_board_is_the_last_choice_and_takes_no_copies() -> None:
    boards = board("x", could("a"), is_throttled=True), board("y", has("b"), could("a"))
    assert all_steps(view(*boards, a=turns())).keys() == {"y"}
    assert all_steps(view(boards[0], a=turns())).keys() == {"x"}
    assert all_steps(view(boards[0], board("z", has("a", num_in_hand=4)), a=turns(40))) == {}


def test_a_board_short_of_memory_loads_nothing_and_gives_up_what_rests() -> None:
    here = board("x", has("b", size=GB), has("c", size=GB, num_in_hand=1), could("a", size=GB), memory_pressure=0.4)
    assert next_step(view(here, a=turns(9, 1000.0)), "x") == Step(unload=("b",), why="memory pressure")
    assert next_step(view(here, b=turns()), "x") == Step()


def test_a_broken_file_is_not_loaded_in_a_loop() -> None:
    broken = has("a", BROKEN, reason="truncated", retry_at=NOW + 30)
    assert all_steps(view(board("x", broken), a=turns(9, 1000.0))) == {}
    assert all_steps(view(board("x", broken), board("y", could("a")), a=turns())).keys() == {"y"}
    again = changed(broken, retry_at=NOW - 1)
    assert all_steps(view(board("x", again), a=turns())).keys() == {"x"}


# --- Any view --------------------------------------------------------------------------------------------------------

NAMES = ("a", "b", "c", "d")
entries = st.builds(
    has,
    st.just("a"),
    st.sampled_from([AVAILABLE, AVAILABLE, SERVING, SERVING, LOADING, DRAINING, BROKEN]),
    st.integers(1, 8).map(lambda size: size * GB),
    since=st.floats(NOW - 100, NOW),
    used_at=st.floats(NOW - 100, NOW),
    num_in_hand=st.integers(0, 4),
    pin=st.sampled_from([None, None, None, ALWAYS, NEVER]),
    retry_at=st.sampled_from([0.0, NOW + 9]),
    turn_seconds=st.one_of(st.none(), st.floats(0, 90)),
)
waits = st.builds(Waiting, st.integers(0, 30), st.integers(0, 30), st.floats(0, 200), st.floats(0, 2000))


@st.composite
def views(draw: st.DrawFn) -> View:
    boards = []
    for name in ("x", "y", "z"):
        models = tuple(changed(draw(entries), model=model) for model in NAMES)
        trouble = {"is_throttled": st.booleans(), "memory_pressure": st.sampled_from([0, 0.5])}
        facts = draw(st.fixed_dictionaries(trouble))
        boards.append(board(name, *models, memory=draw(st.integers(4, 20)) * GB, **facts))
    return seen_by(boards, draw(st.dictionaries(st.sampled_from(NAMES), waits)), {})


@settings(max_examples=150, deadline=None)
@given(views())
def test_boards_decide_alike_and_never_what_cannot_be_done(seen: View) -> None:
    steps = all_steps(seen)
    assert {one.board: next_step(seen, one.board) for one in seen.boards} == {
        one.board: steps.get(one.board, Step()) for one in seen.boards
    }
    loads = [(step.load, step.copy) for step in steps.values() if step.load is not None]
    assert len(loads) == len(set(loads)), "two boards would claim the same"
    for one in seen.boards:
        step, on = steps.get(one.board, Step()), {entry.model: entry for entry in one.models}
        for model in step.unload:
            assert on[model].state == SERVING
            assert on[model].pin != ALWAYS
        if step.load is not None:
            entry = on[step.load]
            assert entry.state == AVAILABLE or (entry.state == BROKEN and entry.retry_at <= NOW)
            assert entry.pin != NEVER
            stays = [e for e in one.models if e.state in (SERVING, LOADING, DRAINING) and e.model not in step.unload]
            assert sum(e.planned_bytes for e in stays) + entry.planned_bytes <= one.memory_bytes
            assert not any(e.state in (LOADING, DRAINING) for e in stays)
            assert one.memory_pressure <= 0.2 or entry.pin == ALWAYS
