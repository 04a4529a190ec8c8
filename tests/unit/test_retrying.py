"""What fails is tried again as often and as long as its caller says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from broker.retrying import retried


class Passing(Exception):
    """What another attempt may not meet."""


class Clock:
    """Time that passes by pauses alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def failing(*errors: Exception) -> tuple[Callable[[], Awaitable[str]], list[None]]:
    """An attempt that raises these, one after the other, and then comes back; and a list as long as it was called."""
    left, calls = list(errors), list[None]()

    async def attempt() -> str:
        calls.append(None)
        if left:
            raise left.pop(0)
        return "done"

    return attempt, calls


async def test_what_succeeds_is_tried_once_and_nobody_waits() -> None:
    attempt, calls = failing()
    clock = Clock()
    assert await retried(attempt, after=Passing, delay=1.0, pause=clock.pause, clock=clock) == "done"
    assert (len(calls), clock.pauses) == (1, [])


async def test_what_fails_is_told_and_tried_again_after_the_delay() -> None:
    attempt, calls = failing(Passing("one"), Passing("two"))
    clock, told = Clock(), list[str]()
    found = await retried(
        attempt, after=Passing, delay=2.0, tell=lambda error: told.append(str(error)), pause=clock.pause, clock=clock
    )
    assert (found, len(calls), clock.pauses, told) == ("done", 3, [2.0, 2.0], ["one", "two"])


async def test_an_error_of_another_kind_is_raised_at_once() -> None:
    attempt, calls = failing(Passing(), KeyError("x"))
    clock = Clock()
    with pytest.raises(KeyError):
        await retried(attempt, after=Passing, delay=1.0, pause=clock.pause, clock=clock)
    assert len(calls) == 2


@pytest.mark.parametrize(("patience", "num_tries"), [(0.0, 1), (2.0, 3), (2.5, 4)])
async def test_patience_ends_with_the_last_error(patience: float, num_tries: int) -> None:
    attempt, calls = failing(*(Passing(str(number)) for number in range(9)))
    clock = Clock()
    with pytest.raises(Passing, match=str(num_tries - 1)):
        await retried(attempt, after=Passing, delay=1.0, patience=patience, pause=clock.pause, clock=clock)
    assert len(calls) == num_tries


async def test_how_patient_to_be_depends_on_the_error() -> None:
    attempt, calls = failing(Passing("long"), Passing("long"), Passing("short"))
    clock = Clock()
    with pytest.raises(Passing, match="short"):
        await retried(
            attempt,
            after=Passing,
            delay=1.0,
            patience=lambda error: 60.0 if str(error) == "long" else 0.0,
            pause=clock.pause,
            clock=clock,
        )
    assert len(calls) == 3


async def test_who_is_told_may_end_the_tries() -> None:
    attempt, calls = failing(Passing(), Passing())

    def tell(error: Exception) -> None:
        raise ConnectionError("closed for good")

    clock = Clock()
    with pytest.raises(ConnectionError):
        await retried(attempt, after=Passing, delay=1.0, tell=tell, pause=clock.pause, clock=clock)
    assert (len(calls), clock.pauses) == (1, [])
