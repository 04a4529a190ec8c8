"""What becomes of a step's logits: tokens, text, scores; and which turn is over, or cannot go on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker.errors import TurnRejected
from broker.messages import Sampling, Score, TokenLogprob
from tests.fakes import END, FIRST, FakeEngine
from workers.engine.active import ActiveJob, Place
from workers.engine.events import Event, Generated, Job, Rejected
from workers.engine.outputs import Ending, Outputs
from workers.engine.protocol import PENDING, EngineLost, Foresee, Span, TokenSampler
from workers.grammars.held_calls import CallFollower
from workers.grammars.held_text import HeldText

PROMPT = [1, 70, 71, 72]


def tokens_of(text: str) -> list[int]:
    return [ord(character) + FIRST for character in text]


class Scripted:
    """A sampler that says what it was told to say: tokens, or errors to raise."""

    def __init__(self, *says: int | Exception) -> None:
        self._says = iter(says)
        self.is_done = False
        self.is_closed = False

    def sample(self, row: int, index: int) -> int:
        said = next(self._says)
        if isinstance(said, Exception):
            raise said
        return said

    def poll(self) -> int:
        return self.sample(-1, 0)

    def foretell(self, guess: Sequence[int]) -> None: ...

    def num_allowed(self, guess: Sequence[int]) -> int:
        return len(guess)

    def logprob(self, token: int, num_top: int) -> TokenLogprob:
        return TokenLogprob(token, -7.0, ())

    def close(self) -> None:
        self.is_closed = True


class Unlikely(FakeEngine):
    """Its logits say of each token what a test wrote down: a log-probability, and whether none is likelier."""

    likelihoods: dict[int, tuple[float, bool]]

    def logprob(self, row: int, token: int, num_top: int) -> TokenLogprob:
        return TokenLogprob(token, self.likelihoods[token][0], ())

    def is_likeliest(self, row: int, token: int) -> bool:
        return self.likelihoods[token][1]


class Desk:
    """One turn, its sampler, and what was told of it."""

    def __init__(self, *says: int | Exception, engine: FakeEngine | None = None, **fields: object) -> None:
        self.engine = engine or FakeEngine()
        self.told: list[Event] = []
        ticks = iter(range(1, 1000))
        self.outputs = Outputs(
            self.engine, self.told.append, self._take_back, canonical_chunk=0, clock=lambda: float(next(ticks))
        )
        self.active = ActiveJob.of(Job("a", "c", "v", PROMPT, **({"max_tokens": 9} | fields)), 0.0)  # type: ignore[arg-type]
        self.active.take(Place(0, 0))
        self.sampler = Scripted(*says)
        self.active.sampler = self.sampler

    def _take_back(self, active: ActiveJob, num_tokens: int) -> int:
        if self.engine.truncate(0, num_tokens):
            return num_tokens
        self.engine.truncate(0, 0)
        return 0

    def take(self) -> Ending | None:
        """Computes what is missing, and makes of it what there is to make."""
        sequence = self.active.sequence
        span = Span(0, sequence.num_computed, tuple(sequence.tokens[sequence.num_computed :]), sequence.first_output)
        (rows,) = self.engine.decode([span])
        sequence.num_computed = span.end
        return self.outputs.take(self.active, span, rows)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.told if isinstance(event, Generated))


def test_a_token_is_known_and_told() -> None:
    desk = Desk(*tokens_of("hi"))
    assert desk.take() is None
    assert desk.take() is None
    assert desk.active.sequence.tokens == [*PROMPT, *tokens_of("hi")]
    assert desk.told == [
        Generated("a", "h", tuple(tokens_of("h")), ()),
        Generated("a", "i", tuple(tokens_of("i")), ()),
    ]
    assert (desk.active.first_token_at, desk.active.last_token_at) == (1.0, 2.0)


def test_within_a_prompt_there_is_nothing_to_choose() -> None:
    desk = Desk(ValueError("asked"))
    assert desk.outputs.take(desk.active, Span(0, 0, (1, 70), 3), []) is None
    assert desk.told == []


@pytest.mark.parametrize("end", [END, -1])
def test_an_end_token_or_none_that_is_allowed_finishes_the_turn_and_frees_nothing(end: int) -> None:
    desk = Desk(*tokens_of("h"), end, sampling=Sampling(stop=("hey",)))
    assert desk.take() is None
    assert desk.told == [Generated("a", "", tuple(tokens_of("h")), ())], "it may begin the stop text"
    assert desk.take() == "stop"
    assert desk.text == "h"
    assert desk.active.finished("stop").stop is None
    assert desk.active.sequence.tokens == [*PROMPT, *tokens_of("h")]
    assert not desk.sampler.is_closed


def test_the_last_token_that_is_allowed_finishes_the_turn_with_all_its_text() -> None:
    desk = Desk(*tokens_of("he"), max_tokens=2, sampling=Sampling(stop=("hey",)))
    assert [desk.take(), desk.take()] == [None, "length"]
    assert desk.text == "he"


def test_a_stop_text_ends_the_answer_before_it() -> None:
    desk = Desk(*tokens_of("oh hey"), sampling=Sampling(stop=("hey",)))
    assert [desk.take() for _ in range(6)] == [None] * 5 + ["stop"]
    assert desk.text == "oh "
    assert desk.active.finished("stop").stop == "hey"


def test_a_grammar_that_lets_nothing_follow_finishes_the_turn() -> None:
    desk = Desk(*tokens_of("h"))
    desk.sampler.is_done = True
    assert desk.take() == "stop"
    assert desk.text == "h"


def test_what_a_cancelled_turn_held_back_is_told() -> None:
    desk = Desk(*tokens_of("he"), sampling=Sampling(stop=("hey",)))
    desk.take()
    desk.take()
    assert desk.text == ""
    desk.outputs.flush(desk.active)
    assert desk.text == "he"


# --- What goes wrong ---


@pytest.mark.parametrize(
    ("error", "rejected"),
    [
        (TurnRejected("invalid_grammar", "no way on"), Rejected("a", "invalid_grammar", "no way on", retryable=False)),
        (ValueError("a fault"), Rejected("a", "internal_error", "ValueError", retryable=True)),
    ],
)
def test_a_sampler_that_raises_rejects_its_turn(error: Exception, rejected: Rejected) -> None:
    desk = Desk(error)
    assert desk.take() == rejected
    assert desk.active.sequence.tokens == PROMPT
    assert desk.told == []


def test_a_lost_engine_is_nothing_that_a_turn_could_be_rejected_for() -> None:
    desk = Desk(EngineLost(-3))
    with pytest.raises(EngineLost):
        desk.take()


def test_a_sampler_that_cannot_be_made_rejects_its_turn() -> None:
    class Refusing(FakeEngine):
        def sampler(
            self,
            sampling: Sampling,
            tokens: list[int],
            grammar: HeldText | CallFollower | None,
            foresee: Foresee | None = None,
            num_answered: int = 0,
        ) -> TokenSampler:
            assert isinstance(grammar, HeldText)
            raise TurnRejected("invalid_grammar", f"not {grammar.gbnf}")

    desk = Desk(engine=Refusing(), gbnf="this")
    assert desk.outputs.open(desk.active) == Rejected("a", "invalid_grammar", "not this")


def test_a_turn_gets_its_sampler_and_one_that_is_scored_none() -> None:
    desk, other = Desk(), Desk(continuations=((tuple(PROMPT), 2),))
    for one in (desk, other):
        one.active.sampler = None
        assert one.outputs.open(one.active) is None
    assert desk.active.sampler is not None
    assert other.active.sampler is None


# --- Late grammars ---


def test_a_late_grammar_is_asked_again_until_it_has_the_token() -> None:
    (token,) = tokens_of("h")
    desk = Desk(PENDING, PENDING, token, END, sampling=Sampling(logprobs=0))
    assert desk.take() is None
    assert desk.active.is_late
    assert desk.outputs.take_late(desk.active) is None
    assert desk.active.is_late
    assert desk.told == []
    assert desk.outputs.take_late(desk.active) is None
    assert not desk.active.is_late
    (told,) = desk.told
    assert isinstance(told, Generated)
    assert [one.logprob for one in told.logprobs] == [-7.0], "the step's logits are gone: its sampler knows"
    assert desk.take() == "stop"


def test_a_late_grammar_that_gives_up_rejects_its_turn() -> None:
    desk = Desk(PENDING, TurnRejected("invalid_grammar", "too slow"))
    assert desk.take() is None
    assert desk.outputs.take_late(desk.active) == Rejected("a", "invalid_grammar", "too slow")


# --- Scoring ---


LIKELIHOODS = {"a": (-1.0, True), "b": (-2.0, True), "c": (-4.0, False)}


def scored(*texts: str) -> Desk:
    engine = Unlikely()
    engine.likelihoods = {ord(character) + FIRST: found for character, found in LIKELIHOODS.items()}
    return Desk(engine=engine, continuations=tuple(((*PROMPT, *tokens_of(text)), len(PROMPT)) for text in texts))


def test_each_continuation_is_scored_by_its_own_tokens_and_the_prompt_is_computed_once() -> None:
    desk = scored("c", "ab", "acb")
    assert [desk.take(), desk.take(), desk.take()] == [None, None, "stop"]
    a, b, c = tokens_of("abc")
    assert desk.active.scores == [
        Score(-4.0, 1, False, 4, (c,), (-4.0,)),
        Score(-3.0, 2, True, 4, (a, b), (-1.0, -2.0)),
        Score(-7.0, 3, False, 4, (a, c, b), (-1.0, -4.0, -2.0)),
    ]
    # All of the first; of the others the prompt's last token, whose logits are wanted, and what follows it.
    assert desk.engine.num_tokens == 5 + 3 + 4


def test_a_continuations_score_may_come_of_several_steps() -> None:
    desk = scored("abab")
    tokens, sequence = tuple(desk.active.sequence.tokens), desk.active.sequence
    for start, end in ((0, 5), (5, 8)):
        (rows,) = desk.engine.decode([span := Span(0, start, tokens[start:end], sequence.first_output)])
        ending = desk.outputs.take(desk.active, span, rows)
    assert ending == "stop"
    assert desk.active.scores[0].logprobs == (-1.0, -2.0, -1.0, -2.0)


def test_where_part_of_a_state_cannot_be_removed_the_next_continuation_begins_anew() -> None:
    desk = scored("ab", "b")
    desk.engine.is_whole = lambda slot, num_tokens: num_tokens == 0  # type: ignore[method-assign]
    desk.take()
    assert (desk.active.sequence.num_computed, desk.engine.cells[0]) == (0, [])
    assert desk.take() == "stop"
    assert [score.num_tokens for score in desk.active.scores] == [2, 1]


# --- An answer that an earlier worker began ---


@pytest.mark.parametrize(
    ("resumed", "max_tokens", "reason"),
    [("", 9, None), ("oh", 9, None), ("oh", 2, "length"), ("oh hey", 9, "stop"), ("oh hey", 6, "stop")],
)
def test_an_answer_of_which_all_was_sent_has_nothing_left_to_choose(
    resumed: str, max_tokens: int, reason: str | None
) -> None:
    sampling = Sampling(stop=("hey",))
    desk = Desk(resumed=tuple(tokens_of(resumed)), max_tokens=max_tokens, sampling=sampling)
    assert desk.outputs.replay(desk.active) == reason
    assert desk.told == []


def test_a_stop_text_that_began_before_the_turn_was_resumed_is_found() -> None:
    desk = Desk(*tokens_of("ey"), resumed=tuple(tokens_of("oh h")), sampling=Sampling(stop=("hey",)))
    assert desk.outputs.replay(desk.active) is None
    assert [desk.take(), desk.take()] == [None, "stop"]
    assert desk.text == ""
