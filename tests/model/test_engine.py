"""llama.cpp, really. Greedy is not the same as deterministic: the tolerances are those that were measured, see docs."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import CHUNK, Bench
from workers.engine.detokenizer import Detokenizer
from workers.engine.events import Finished
from workers.engine.protocol import Span
from workers.llama.context import LlamaModel

Start = Callable[..., Bench]
LOGITS_TOLERANCE = 0.25
"""Of logits whose standard deviation is about 1: cutting a prefill elsewhere moves them by up to 0.18 in f16 caches."""


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [1, *(rng.randrange(300, 1000) for _ in range(length - 1))]


def logits_of(bench: Bench, spans: list[list[Span]], row: int = -1) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    for step in spans:
        rows = bench.engine.decode(step)
    return bench.engine.logits(rows[row][-1]).copy()


# --- Batched equals alone, reuse equals a cold start ---


def test_a_batch_gives_the_logits_that_each_prompt_gives_alone(bench: Start) -> None:
    together = bench()
    prompts = [prompt(30 + 7 * n, n) for n in range(4)]
    batch = [Span(slot, 0, tuple(tokens), len(tokens) - 1) for slot, tokens in enumerate(prompts)]
    rows = together.engine.decode(batch)
    batched = [together.engine.logits(outputs[-1]).copy() for outputs in rows]
    for slot, tokens in enumerate(prompts):
        alone = logits_of(bench(), [[Span(0, 0, tuple(tokens), len(tokens) - 1)]])
        assert np.abs(batched[slot] - alone).max() < LOGITS_TOLERANCE


def test_a_copied_prefix_gives_the_logits_of_a_computed_one(bench: Start) -> None:
    tokens = prompt(80)
    shared = bench()
    shared.engine.decode([Span(0, 0, tuple(tokens[:60]), 59)])
    shared.engine.copy(0, 1, 60)
    copied = logits_of(shared, [[Span(1, 60, tuple(tokens[60:]), 79)]])
    cold = logits_of(bench(), [[Span(0, 0, tuple(tokens), 79)]])
    assert np.abs(copied - cold).max() < LOGITS_TOLERANCE


def test_a_tile_filled_up_gives_the_same_logits_and_leaves_nothing_behind(bench: Start) -> None:
    tokens = prompt(330)
    padded = bench()
    padded.engine.decode([Span(0, 0, tuple(tokens[:300]), 299)])
    filled = logits_of(padded, [[Span(0, 300, tuple(tokens[300:]), 329)]])  # 30 tokens: filled up to 64
    following = logits_of(padded, [[Span(0, 330, (500,), 330)]])
    plain = bench(deterministic=True)
    plain.engine.decode([Span(0, 0, tuple(tokens[:300]), 299)])
    assert np.abs(filled - logits_of(plain, [[Span(0, 300, tuple(tokens[300:]), 329)]])).max() < LOGITS_TOLERANCE
    assert np.abs(following - logits_of(plain, [[Span(0, 330, (500,), 330)]])).max() < LOGITS_TOLERANCE


def test_a_tile_is_not_filled_up_where_there_are_no_cells_for_it(bench: Start) -> None:
    tight = bench(num_ctx=512)
    tight.engine.decode([Span(0, 0, tuple(prompt(490)), 489)])
    assert tight.engine.decode([Span(0, 490, tuple(prompt(20)), 509)]) == [[19]]


def test_the_deterministic_mode_repeats_an_answer_to_the_token(bench: Start) -> None:
    one = bench(deterministic=True)
    first = one.answer(prompt(150), Sampling(max_tokens=40, ignore_eos=True))
    one.answer(prompt(90, 5))
    again = one.answer(prompt(150), Sampling(max_tokens=40, ignore_eos=True))
    other = bench(deterministic=True).answer(prompt(150), Sampling(max_tokens=40, ignore_eos=True))
    assert first == again == other


def test_in_the_deterministic_mode_reuse_equals_a_cold_start_exactly(bench: Start) -> None:
    warm = bench(deterministic=True)
    first = prompt(200)
    answered = warm.answer(first, Sampling(max_tokens=20, ignore_eos=True), conversation="c")
    second = first + answered + prompt(50, 3)[1:]
    sampling = Sampling(max_tokens=40, ignore_eos=True, logprobs=5)
    warm.submit("warm", second, sampling, conversation="c")
    warm.run()
    cold = bench(deterministic=True)
    cold.submit("cold", second, sampling)
    cold.run()
    assert warm.finished("warm").num_cached == 200 // CHUNK * CHUNK
    assert cold.finished("cold").num_cached == 0
    assert [event.logprobs for event in warm.generated("warm")] == [event.logprobs for event in cold.generated("cold")]


def test_a_next_turn_computes_only_what_is_new(bench: Start) -> None:
    one = bench()
    answered = one.answer(prompt(100), Sampling(max_tokens=10, ignore_eos=True), conversation="c")
    one.submit("next", [*prompt(100), *answered, 500, 501], conversation="c")
    one.run()
    assert one.finished("next").num_cached == 109  # the last token was chosen and never computed


def test_a_prefix_of_the_same_client_is_copied_and_anothers_is_not(bench: Start) -> None:
    one = bench()
    system = prompt(60)
    one.answer([*system, 400], client="alice", conversation="a")
    one.submit("same", [*system, 500], client="alice", conversation="b")
    one.submit("other", [*system, 500], client="bob", conversation="b")
    one.run()
    assert one.finished("same").num_cached == 60
    assert one.finished("other").num_cached == 0


def test_many_turns_at_once_leave_every_slot_free(bench: Start) -> None:
    one = bench(num_slots=4, budget=0.02)
    rng = random.Random(2)
    for index in range(24):
        sampling = Sampling(max_tokens=rng.randrange(1, 20), ignore_eos=True)
        one.submit(f"turn {index}", prompt(rng.randrange(2, 200), index), sampling, client=f"client {index % 3}")
    one.run()
    assert one.slots.num_active == 0
    for index in range(24):
        end = one.finished(f"turn {index}")
        assert end.num_generated == len(one.tokens(f"turn {index}"))
        assert end.reason == "length"


# --- Sliding windows ---


def test_a_sliding_window_model_answers_and_continues_its_conversation(bench: Start, sliding: LlamaModel) -> None:
    one = bench(sliding)
    assert not one.engine.can_remove_part
    sampling = Sampling(max_tokens=12, ignore_eos=True)
    answered = one.answer(prompt(200), sampling, conversation="c")
    assert len(answered) == 12
    one.submit("next", [*prompt(200), *answered, 500, 501], sampling, conversation="c")
    one.run()
    assert one.finished("next").num_cached == 211


def test_a_sliding_window_model_recomputes_what_it_cannot_go_back_to(bench: Start, sliding: LlamaModel) -> None:
    one = bench(sliding)
    sampling = Sampling(max_tokens=12, ignore_eos=True)
    one.answer(prompt(1500), sampling, conversation="c")
    one.submit("changed", [*prompt(150), 500, 501], sampling, conversation="c")
    one.run()
    assert one.finished("changed").num_cached == 0
    cold = bench(sliding)
    # The third is a choice between equals; tests/model/test_reuse.py compares log-probabilities.
    assert one.tokens("changed")[:2] == cold.answer([*prompt(150), 500, 501], sampling)[:2]


def test_a_sliding_window_model_goes_back_to_where_its_window_is_still_there(bench: Start, sliding: LlamaModel) -> None:
    one = bench(sliding)
    sampling = Sampling(max_tokens=12, ignore_eos=True)
    one.answer(prompt(200), sampling, conversation="c")
    one.submit("changed", [*prompt(150), 500, 501], sampling, conversation="c")
    one.run()
    assert one.finished("changed").num_cached == 150
    cold = bench(sliding)
    # The third is a choice between equals; tests/model/test_reuse.py compares log-probabilities.
    assert one.tokens("changed")[:2] == cold.answer([*prompt(150), 500, 501], sampling)[:2]


def test_conversations_that_begin_alike_find_the_cells_of_their_windows(bench: Start, sliding: LlamaModel) -> None:
    one = bench(sliding, num_ctx=8192)
    system, sampling = prompt(600), Sampling(max_tokens=10, ignore_eos=True)
    for number in range(8):
        one.submit(str(number), [*system, *prompt(30, 1 + number)[1:]], sampling, conversation=str(number))
        while not one.has_ended(str(number)):
            one.step()
    assert [one.finished(str(number)).num_cached for number in range(1, 8)] == [600] * 7
    kept = [slot.conversation for slot in one.slots.idle()]
    assert kept == [str(number) for number in range(8)], "none had to go for another's cells"


# --- Sampling ---


def test_a_seed_gives_the_same_answer_and_another_seed_another(bench: Start) -> None:
    one = bench(deterministic=True)

    def answer(seed: int) -> list[int]:
        return one.answer(prompt(40), Sampling(max_tokens=20, temperature=1.0, seed=seed, ignore_eos=True))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_the_draw_of_a_token_depends_on_the_seed_and_its_index_alone(bench: Start) -> None:
    one = bench(deterministic=True)
    row = one.engine.decode([Span(0, 0, tuple(prompt(40)), 39)])[0][-1]
    sampling = Sampling(temperature=1.0, seed=9)
    alone = [one.engine.sampler(sampling, prompt(40), None).sample(row, index) for index in range(20)]
    sampler = one.engine.sampler(sampling, prompt(40), None)
    assert [sampler.sample(row, index) for index in range(20)] == alone
    assert len(set(alone)) > 3


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=5.0, top_k=1),
        Sampling(temperature=5.0, top_p=1e-6),
        Sampling(temperature=5.0, min_p=1.0),
    ],
)
def test_a_cut_to_one_candidate_is_greedy(bench: Start, sampling: Sampling) -> None:
    one = bench(deterministic=True)
    row = one.engine.decode([Span(0, 0, tuple(prompt(40)), 39)])[0][-1]
    greedy = one.engine.sampler(Sampling(), [], None).sample(row, 0)
    assert [one.engine.sampler(sampling, [], None).sample(row, index) for index in range(10)] == [greedy] * 10


def test_a_top_k_draws_from_the_k_likeliest_only(bench: Start) -> None:
    one = bench(deterministic=True)
    row = one.engine.decode([Span(0, 0, tuple(prompt(40)), 39)])[0][-1]
    likeliest = {token for token, _ in one.engine.logprob(row, 0, 5).top}
    sampler = one.engine.sampler(Sampling(temperature=3.0, top_k=5), [], None)
    assert {sampler.sample(row, index) for index in range(200)} == likeliest


def test_a_repeat_penalty_keeps_a_greedy_answer_from_repeating(bench: Start) -> None:
    one = bench(deterministic=True)
    sampling = Sampling(max_tokens=30, repeat_penalty=50.0, ignore_eos=True)
    answered = one.answer(prompt(40), sampling)
    assert len(set(answered)) == 30


def test_logprobs_are_a_distributions(bench: Start) -> None:
    one = bench(deterministic=True)
    row = one.engine.decode([Span(0, 0, tuple(prompt(40)), 39)])[0][-1]
    found = one.engine.logprob(row, 300, 20)
    every = [one.engine.logprob(row, token, 0).logprob for token in range(one.model.vocabulary.num_tokens)]
    assert sum(np.exp(every)) == pytest.approx(1.0)
    assert [logprob for _, logprob in found.top] == sorted(every, reverse=True)[:20]
    assert found.logprob == every[300]


def test_ignored_end_tokens_are_never_chosen(bench: Start) -> None:
    one = bench(deterministic=True)
    for seed in range(3):
        sampling = Sampling(max_tokens=100, temperature=20.0, seed=seed, ignore_eos=True)
        answered = one.answer(prompt(20), sampling)
        assert len(answered) == 100
        assert not set(answered) & one.model.vocabulary.end_tokens


def test_a_grammar_is_followed(bench: Start) -> None:
    one = bench()
    sampling = Sampling(max_tokens=60)
    one.submit("grammar", prompt(40), sampling, gbnf='root ::= "yes" | "no"')
    one.run()
    assert one.text("grammar") in ("yes", "no")
    assert one.finished("grammar").reason == "stop"


def test_stop_strings_are_found_across_token_borders(bench: Start) -> None:
    one = bench(deterministic=True)
    whole = Sampling(max_tokens=40, ignore_eos=True)
    one.submit("whole", prompt(40), whole)
    one.run()
    text = one.text("whole")
    stop = text[len(text) // 2 - 3 : len(text) // 2 + 4]
    one.submit("stopped", prompt(40), Sampling(max_tokens=40, ignore_eos=True, stop=(stop,)))
    one.run()
    assert one.finished("stopped").reason == "stop"
    assert one.text("stopped") == text[: text.index(stop)]


def test_characters_are_never_split(bench: Start) -> None:
    one = bench()
    text = " 日本語 🎉 naïve Ωß"
    tokens = one.model.vocabulary.tokenize(text, template_spans=[], add_bos=False)
    pieces = [one.model.vocabulary.piece(token) for token in tokens]
    assert any(piece and piece[0] >= 0xF0 and len(piece) == 1 for piece in pieces)  # a lone first byte of four
    detokenizer = Detokenizer()
    sent = [detokenizer.add(piece) for piece in pieces]
    assert "".join(sent) + detokenizer.finish() == text
    assert not any("\ufffd" in piece for piece in sent)


def test_a_grammar_of_wide_characters_is_followed(bench: Start) -> None:
    one = bench()
    one.submit("wide", prompt(40), Sampling(max_tokens=100, temperature=1.0), gbnf="root ::= [日本語é]{12}")
    one.run()
    assert len(one.text("wide")) == 12
    assert set(one.text("wide")) <= set("日本語é")


# --- Scores ---


def test_a_score_is_the_sum_of_the_logprobs_along_the_continuation(bench: Start) -> None:
    one = bench(deterministic=True)
    start, continuations = prompt(70), [prompt(6, 1)[1:], prompt(50, 2)[1:]]
    known = tuple((tuple(start + tokens), 70) for tokens in continuations)
    one.submit("score", start, Sampling(max_tokens=60), continuations=known)
    one.run()
    scores = one.finished("score").scores
    reference = bench(deterministic=True)
    for score, tokens in zip(scores, continuations, strict=True):
        reference.engine.truncate(0, 0)
        logprobs = []
        known_tokens = start + tokens
        for position, token in enumerate(known_tokens[:-1]):
            row = reference.engine.decode([Span(0, position, (token,), position)])[0][-1]
            if position >= 69:
                logprobs.append(reference.engine.logprob(row, known_tokens[position + 1], 0).logprob)
        assert score.num_tokens == len(tokens) == len(logprobs)
        assert score.logprob == pytest.approx(sum(logprobs), abs=0.3 * len(tokens) ** 0.5)
        assert not score.is_greedy


def test_the_greedy_answer_scores_as_greedy(bench: Start) -> None:
    one = bench(deterministic=True)
    start = prompt(70)
    answered = one.answer(start, Sampling(max_tokens=6, ignore_eos=True))
    one.submit("score", start, Sampling(max_tokens=8), continuations=((tuple(start + answered), 70),))
    one.run()
    assert one.finished("score").scores[0].num_tokens == 6


# --- Cancelling ---


def test_a_cancel_in_mid_prefill_takes_one_step_and_frees_the_slot(bench: Start) -> None:
    one = bench(budget=1e-6, num_slots=1)  # 16 tokens a step
    one.submit("long", prompt(1000))
    one.step()
    one.step()
    assert one.loop._running["long"].sequence.num_computed == 32
    one.loop.cancel("long")
    one.submit("next", prompt(20))
    one.step()
    assert one.finished("long").reason == "cancelled"
    one.run()
    assert one.finished("next").num_generated > 0


def test_a_cancelled_waiting_turn_never_gets_a_slot(bench: Start) -> None:
    one = bench(num_slots=1)
    one.submit("first", prompt(20))
    one.submit("second", prompt(20, 1))
    one.step()
    one.loop.cancel("second")
    one.run()
    assert (one.finished("second").reason, one.finished("second").num_generated) == ("cancelled", 0)


# --- Resuming ---


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=60, ignore_eos=True),
        Sampling(max_tokens=60, ignore_eos=True, temperature=0.9, top_k=40, top_p=0.95, seed=7),
        Sampling(max_tokens=60, ignore_eos=True, repeat_penalty=1.3),
        Sampling(max_tokens=60, ignore_eos=True, presence_penalty=0.5, frequency_penalty=0.2, logit_bias=((301, 2.0),)),
    ],
    ids=["greedy", "drawn", "with a penalty", "with penalties and a bias"],
)
def test_a_resumed_answer_is_the_same_answer_to_the_bit_in_deterministic_mode(
    bench: Callable[..., Bench], sampling: Sampling
) -> None:
    prompt = list(range(300, 300 + 150))
    whole = bench(deterministic=True).answer(prompt, sampling)
    assert len(whole) == 60
    for num_sent in (1, 17, 59):
        other = bench(deterministic=True)
        assert other.answer(prompt, sampling, resumed=tuple(whole[:num_sent])) == whole[num_sent:]


def test_a_resumed_answer_that_was_complete_computes_nothing(bench: Callable[..., Bench]) -> None:
    one = bench()
    assert one.answer([300, 301], Sampling(max_tokens=3), resumed=(310, 311, 312)) == []
    end = next(iter(one.events.values()))[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.num_generated, end.tokens) == ("length", 3, (300, 301, 310, 311, 312))
