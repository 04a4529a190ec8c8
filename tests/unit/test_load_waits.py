"""Which turns had waited for their model to be loaded, as a worker counts them and its turns' points tell it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from workers.reporting.load_waits import LoadWaits


@dataclass
class Stored:
    """A delivery: when its turn was stored, and how often it was delivered."""

    stored_at: float
    num_delivered: int = 1


@pytest.fixture
def waits() -> LoadWaits:
    found = LoadWaits(clock=lambda: 100.0)
    found.serves()
    return found


def test_a_turn_that_came_before_the_worker_served_had_waited_for_it(waits: LoadWaits) -> None:
    assert waits.ended(Stored(90.0)) == 10.0
    assert waits.ended(Stored(97.5)) == 2.5
    assert (waits.num_turns, waits.seconds) == (2, 12.5)


@pytest.mark.parametrize(
    "delivery", [Stored(100.0), Stored(101.0), Stored(90.0, num_delivered=2)], ids=["as it served", "later", "again"]
)
def test_any_other_turn_had_not(waits: LoadWaits, delivery: Stored) -> None:
    assert waits.ended(delivery) is None
    assert (waits.num_turns, waits.seconds) == (0, 0.0)


def test_before_it_serves_nothing_is_known() -> None:
    assert LoadWaits().ended(Stored(90.0)) is None
