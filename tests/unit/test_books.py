"""Whichever way a turn leaves the engine, in the middle of a step too, its slot's books are what the engine holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import TurnRejected
from broker.messages import Sampling
from tests.fakes import FakeEngine, FakeSampler
from workers.engine.drafting import Drafting
from workers.engine.events import Event, Finished, Generated, Job, Rejected
from workers.engine.loop import EngineLoop
from workers.engine.protocol import PENDING, Foresee, TokenSampler
from workers.engine.row_costs import RowCosts
from workers.engine.scheduler import Scheduler
from workers.engine.slots import Slots
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText
from workers.kv.cache import OffloadCache

Way = Literal[
    "length", "end", "stop", "refused", "fault", "late", "late-fault", "unseated", "cancelled", "resumed", "scored"
]
FAILING = ("refused", "fault", "late-fault", "unseated")
BY_GRAMMAR = (*FAILING, "late")
ANSWER = "abcdefghijklmnop"


class Refusing(FakeSampler):
    """Gives up at one of the answer's tokens: as a grammar does, or as a fault of ours would."""

    def __init__(self, engine: FakeEngine, at: int, error: Exception) -> None:
        super().__init__(engine)
        self._at = at
        self._error = error

    def sample(self, row: int, index: int) -> int:
        if index == self._at:
            raise self._error
        return super().sample(row, index)


class Late(FakeSampler):
    """Has no answer at once for one of the answer's tokens, and then the token, or a fault of ours."""

    def __init__(self, engine: FakeEngine, at: int, error: Exception | None) -> None:
        super().__init__(engine)
        self._at = at
        self._error = error
        self._token = PENDING

    def sample(self, row: int, index: int) -> int:
        self._token = super().sample(row, index)
        return PENDING if index == self._at else self._token

    def poll(self) -> int:
        if self._error is not None:
            raise self._error
        return self._token


class RefusingEngine(FakeEngine):
    """A turn's grammar says how its sampler goes wrong, and at which token."""

    def sampler(
        self,
        sampling: Sampling,
        tokens: list[int],
        grammar: HeldText | CallFollower | None,
        foresee: Foresee | None = None,
        num_answered: int = 0,
    ) -> TokenSampler:
        kind, _, at = (grammar.gbnf if isinstance(grammar, HeldText) else "").partition(" ")
        if kind == "unseated":
            raise MemoryError
        plain = super().sampler(sampling, tokens, grammar, foresee, num_answered)
        if not kind:
            return plain
        if kind.startswith("late"):
            return Late(self, int(at), ValueError("a fault") if kind == "late-fault" else None)
        error = TurnRejected("invalid_grammar", "no token is allowed") if kind == "refused" else ValueError("a fault")
        return Refusing(self, int(at), error)


@dataclass(frozen=True)
class Turn:
    way: Way
    at: int
    """The step, or the answer's token, at which it leaves."""
    prompt: tuple[int, ...]
    conversation: int
    is_batch: bool
    num_said: int = 0
    """So much of the answer stands in the prompt: it is guessed up to there."""

    def job(self, name: str) -> Job:
        answer = tuple(ord(character) + 3 for character in ANSWER)
        prompt = [1, *answer[: self.num_said], *(70 + token for token in self.prompt)]
        scored = tuple((tuple([*prompt, *answer[:length]]), len(prompt)) for length in (6, 2, 4))
        return Job(
            name,
            "c",
            f"conversation {self.conversation}",
            prompt,
            max_tokens=self.at + 1 if self.way == "length" else len(ANSWER) + 4,
            is_batch=self.is_batch,
            sampling=Sampling(stop=(ANSWER[self.at : self.at + 2],)) if self.way == "stop" else Sampling(),
            gbnf=f"{self.way} {self.at}" if self.way in BY_GRAMMAR else None,
            resumed=answer[: self.at] if self.way == "resumed" else (),
            continuations=scored if self.way == "scored" else (),
        )


class Books:
    """A loop whose steps the test takes, and what it told."""

    def __init__(self, num_slots: int, num_ctx: int, *, is_guessing: bool = False) -> None:
        self.engine = RefusingEngine(num_slots=num_slots, num_ctx=num_ctx, answer=ANSWER)
        scheduler = Scheduler(budget=0.25, max_batch_tokens=512, max_batch_outputs=self.engine.max_batch_outputs)
        self.slots = Slots(num_slots, num_ctx)
        drafting = Drafting(RowCosts({1: 1e-3, 32: 1e-3}) if is_guessing else None, self.engine.max_batch_outputs)
        self.loop = EngineLoop(self.engine, scheduler, self.slots, OffloadCache(1 << 20), drafting=drafting)
        self.events: list[Event] = []

    @property
    def has_work(self) -> bool:
        return self.loop.has_work

    def step(self) -> None:
        assert self.loop.take_orders()
        self.events += self.loop.run_round()
        running = [one for one in self.loop._running.values() if not one.is_preempted]
        for one in running:
            sequence = one.sequence
            assert self.engine.cells[sequence.slot] == sequence.tokens[: sequence.num_computed]
        for index in {*range(self.engine.num_slots)} - {one.sequence.slot for one in running}:
            assert not self.slots[index].is_active
            assert self.engine.cells[index] == self.slots[index].tokens

    def ends(self, job: str) -> list[Event]:
        return [event for event in self.events if isinstance(event, Finished | Rejected) and event.job == job]

    def text(self, job: str) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Generated) and event.job == job)


WAYS: tuple[Way, ...] = get_args(Way)
turns = st.builds(
    Turn,
    st.sampled_from(WAYS),
    st.integers(0, 12),
    st.lists(st.integers(0, 1), min_size=1, max_size=60).map(tuple),
    st.integers(0, 4),
    st.booleans(),
    st.integers(0, len(ANSWER)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(turns, st.integers(0, 3)), min_size=1, max_size=14), st.integers(1, 4), st.booleans())
def test_the_books_are_right_after_every_step_whoever_leaves_how(
    work: list[tuple[Turn, int]], num_slots: int, is_guessing: bool
) -> None:
    books = Books(num_slots, num_ctx=max(96 * num_slots, 192), is_guessing=is_guessing)
    for number, (turn, num_steps) in enumerate(work):
        name = f"{number}"
        books.loop.submit(turn.job(name))
        for step in range(num_steps):
            if turn.way == "cancelled" and step >= turn.at % 3:
                books.loop.cancel(name)
            if books.has_work:
                books.step()
    for _ in range(3000):
        if not books.has_work:
            break
        books.step()
    for number, (turn, _) in enumerate(work):
        (end,) = books.ends(f"{number}")
        if turn.way in FAILING:
            assert isinstance(end, Rejected)
        elif turn.way == "stop" and turn.at + 2 <= len(ANSWER):
            assert isinstance(end, Finished)
            assert books.text(f"{number}") == ANSWER[: turn.at]


@pytest.mark.parametrize("num_slots", [31, 32, 33])
def test_a_turn_rejected_in_a_step_with_every_output_taken_ends_nobody_else(num_slots: int) -> None:
    books = Books(num_slots, num_ctx=65536)
    for number in range(num_slots):
        way: Way = "refused" if number == 0 else "end"
        books.loop.submit(Turn(way, 3, (number % 7,) * 20, number, False).job(f"{number}"))
    while books.has_work:
        books.step()
    assert isinstance(books.ends("0")[0], Rejected)
    assert all(isinstance(books.ends(f"{number}")[0], Finished) for number in range(1, num_slots))


@pytest.mark.parametrize("way", ["late", "late-fault"])
def test_a_late_grammar_costs_its_own_turn_and_nobody_elses(way: Way) -> None:
    books = Books(2, num_ctx=4096)
    books.loop.submit(Turn(way, 3, (0, 1) * 20, 0, False).job("late"))
    books.loop.submit(Turn("end", 0, (1, 1) * 20, 1, False).job("other"))
    while books.has_work:
        books.step()
    assert (books.text("other"), books.text("late")) == (ANSWER, ANSWER if way == "late" else ANSWER[:3])
    (end,) = books.ends("late")
    assert isinstance(end, Finished) if way == "late" else isinstance(end, Rejected) and end.retryable


def test_a_continuation_shorter_than_the_next_ones_beginning_is_no_fault() -> None:
    # Tokenised with what follows them a prompt's last tokens can become fewer.
    books = Books(1, num_ctx=4096)
    scored = (((1, 70, 71), 2), ((1, 70, 71, 72, 73, 74), 5))
    books.loop.submit(Job("1", "c", "a", [1, 70, 71, 72, 73], max_tokens=4, continuations=scored))
    while books.has_work:
        books.step()
    (end,) = books.ends("1")
    assert isinstance(end, Finished)
    assert [one.num_tokens for one in end.scores] == [1, 1]


def test_a_conversation_whose_turn_was_rejected_is_parked_and_restored_whole() -> None:
    books = Books(1, num_ctx=4096)
    asked = Turn("refused", 1, (0, 1) * 20, 0, False)
    for name, turn in (("1", asked), ("2", Turn("end", 0, (1, 1) * 20, 1, False)), ("3", asked)):
        books.loop.submit(turn.job(name))
        while books.has_work:
            books.step()
    assert books.engine.num_restored == 1
    assert [type(books.ends(name)[0]) for name in "123"] == [Rejected, Finished, Rejected]


def test_the_stop_text_does_not_stay_in_the_slot() -> None:
    books = Books(1, num_ctx=4096)
    job = Turn("stop", 9, (0, 1) * 20, 0, False).job("1")
    books.loop.submit(job)
    while books.has_work:
        books.step()
    told = "".join(chr(token - 3) for token in books.slots[0].tokens[len(job.prompt) :])
    assert told == books.text("1") == ANSWER[:9]
