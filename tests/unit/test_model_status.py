"""What boards do about a model, as its readers are told."""

from __future__ import annotations

from typing import Any

import pytest

from broker.messages.boards import ALWAYS, BROKEN, DRAINING, LOADING, NEVER, SERVING, TURN_SECONDS, ModelOnBoard
from broker.model_status import MAX_SECONDS, ModelStatus, status_of, statuses
from broker.priorities import BATCH, INTERACTIVE
from tests.boards import GB, NOW, board, loading, on_board


def test_the_progress_of_a_load_is_told_by_the_bytes_read_and_their_rate() -> None:
    status = status_of("m", [board("pi", loading("m", 0.4, 8.0))])
    assert status is not None
    assert (status.state, status.share) == (LOADING, 0.4)
    assert status.seconds == pytest.approx(12.0)
    assert status.words() == "loading 40 %, about 12 s"


@pytest.mark.parametrize(("share", "elapsed", "seconds"), [(0.0, 2.0, 10.0), (1.0, 9.0, 3.0), (1.0, 90.0, 0.0)])
def test_before_and_behind_the_file_a_load_takes_what_it_took_before(
    share: float, elapsed: float, seconds: float
) -> None:
    status = status_of("m", [board("pi", loading("m", share, elapsed))])
    assert status is not None
    assert status.seconds == seconds


def test_a_board_whose_clock_is_wrong_or_which_tells_no_bytes_has_no_odd_figures() -> None:
    for one in (loading("m", 0.0, -500.0), loading("m", 0.5, -500.0), loading("m", 5.0, 3.0)):
        status = status_of("m", [board("pi", one)])
        assert status is not None
        assert 0 <= status.seconds <= 12
        assert status.share is None or 0 <= status.share <= 1
    for odd in (float("inf"), float("nan")):
        for one in (on_board("m", load_seconds=odd), on_board("m", BROKEN, retry_at=odd), loading("m", 0.5, odd)):
            status = status_of("m", [board("pi", one)])
            assert status is not None
            assert 0 <= status.seconds <= MAX_SECONDS
    status = status_of("m", [board("pi", loading("m", 0.5, 3.0, file_bytes=0))])
    assert status is not None
    assert status.words() == "loading, about 9 s"


def test_of_several_boards_the_best_is_told() -> None:
    available = board("a", on_board("m", load_seconds=20.0))
    quicker = board("b", on_board("m", load_seconds=5.0))
    comes = board("c", loading("m", 0.5, 60.0))
    served = board("d", on_board("m", SERVING))
    broken = board("e", on_board("m", BROKEN, reason="no such file", retry_at=NOW + 30))

    def best(*boards: object) -> str:
        status = status_of("m", boards)  # type: ignore[arg-type]
        assert status is not None
        return status.words()

    assert best(broken) == "cannot be loaded: no such file"
    assert best(broken, available) == "not loaded yet, about 20 s"
    passing = board("f", on_board("m", BROKEN, reason="killed", retry_at=NOW + 3, is_passing=True, load_seconds=9.0))
    assert best(broken, passing) == "not loaded yet, about 12 s: killed", "its turns wait until it is tried again"
    assert best(available, broken, quicker) == "not loaded yet, about 5 s"
    assert best(quicker, comes, available) == "loading 50 %, about 60 s", "a load that was begun is not begun elsewhere"
    assert best(comes, served) == "loaded"
    assert status_of("other", [available]) is None


def test_what_is_pinned_away_from_a_board_is_not_the_boards_to_serve() -> None:
    for state in ("available", BROKEN, DRAINING):
        assert status_of("m", [board("pi", on_board("m", state, pin=NEVER))]) is None
    assert status_of("m", [board("pi", on_board("m", "hibernating"))]) is None, "a later release's word"
    assert list(statuses([board("pi", on_board("b"), on_board("a", pin=ALWAYS))])) == ["a", "b"]


def test_a_model_waits_for_a_turn_of_those_that_have_the_memory() -> None:
    def seconds(*others: object, memory_bytes: int = 2 * GB) -> float:
        models = (on_board("m"), *others)
        status = status_of("m", [board("pi", *models, memory_bytes=memory_bytes)])  # type: ignore[arg-type]
        assert status is not None
        return status.seconds

    busy = on_board("x", SERVING, num_in_hand=1, turn_seconds=7.0)
    assert seconds(busy) == 12.0, "there is room beside it"
    assert seconds(busy, on_board("y", SERVING)) == 12.0, "what is idle can go"
    assert seconds(busy, on_board("y", SERVING, pin=ALWAYS)) == 19.0
    assert seconds(busy, on_board("y", SERVING, num_in_hand=1, turn_seconds=3.0)) == 19.0
    assert seconds(on_board("x", DRAINING, num_in_hand=2, turn_seconds=4.0), memory_bytes=GB) == 16.0


def test_what_could_not_be_loaded_may_be_asked_for_once_its_time_has_come() -> None:
    """A board tries a model again when a turn waits for it: whoever were refused then would wait for ever."""

    def status(retry_at: float) -> ModelStatus:
        found = status_of("m", [board("pi", on_board("m", BROKEN, reason="cut off", retry_at=retry_at))])
        assert found is not None
        return found

    assert (status(NOW + 5).is_servable, status(NOW + 5).seconds) == (False, 5.0)
    assert (status(NOW).is_servable, status(NOW).words()) == (True, "not loaded yet, about 12 s")
    assert not status(0.0).is_servable, "where the board does not tell when"


def test_why_a_board_does_not_load_a_model_just_now_is_told() -> None:
    def words(one: ModelOnBoard, **more: float) -> str:
        found = status_of("m", [board("pi", one, **more)])
        assert found is not None
        assert found.is_servable
        return found.words()

    died = on_board("m", reason="its worker was ended by SIGKILL: it said nothing", retry_at=NOW + 4)
    assert words(died) == "not loaded yet, about 16 s: its worker was ended by SIGKILL: it said nothing"
    assert words(on_board("m", reason="no room", retry_at=NOW - 1)) == "not loaded yet, about 12 s"
    assert words(on_board("m"), memory_pressure=0.3) == "not loaded yet, about 12 s: pi is short of memory"
    assert words(on_board("m"), memory_bytes=GB // 2) == (
        "not loaded yet, about 12 s: it takes 953 MiB, and pi has 476 MiB just now"
    )
    short, free = board("a", on_board("m"), memory_pressure=0.3), board("b", on_board("m", load_seconds=50.0))
    best = status_of("m", [short, free])
    assert best is not None
    assert best.words() == "not loaded yet, about 50 s", "one that will"


def test_the_wait_for_a_model_that_is_not_loaded_counts_the_turns_before() -> None:
    def status(**more: Any) -> ModelStatus:
        found = status_of("m", [board("pi", on_board("m", **more))])
        assert found is not None
        return found

    busy = status(num_slots=4, turn_seconds=6.0, num_waiting=9, num_waiting_batch=4)
    assert [busy.wait_seconds(ahead) for ahead in (0, 3, 4, 9)] == [12.0, 12.0, 13.5, 21.0]
    assert (busy.expected_wait(INTERACTIVE), busy.expected_wait(BATCH)) == (21.0, 27.0)
    assert status(num_waiting=2).expected_wait(INTERACTIVE) == 12.0 + 2 * TURN_SECONDS, "nothing is known of its turns"
    assert status(num_slots=4, turn_seconds=float("nan"), num_waiting=9).expected_wait(INTERACTIVE) == 12.0
