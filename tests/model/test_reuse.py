"""Whatever is reused, in whichever cache it was, an answer is the one of a cold start: of models that keep all tokens,
of those whose windows move on, and of those that have one state a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import LOGITS_TOLERANCE, prompt
from workers.engine.checkpoints import BEFORE_END
from workers.engine.protocol import Span
from workers.kv.index import Key, KvEntry, packed
from workers.llama.context import LlamaModel
from workers.llama.random_model import write_model

Start = Callable[..., Bench]
WATCHED = Sampling(max_tokens=4, ignore_eos=True, logprobs=20)
LONG = 700
"""Tokens that leave the window, and the cells that windows have, far behind."""


@pytest.fixture(
    scope="module", params=["tiny", "tiny-swa", "tiny-hybrid", "tiny-recurrent", "tiny-delta", "tiny-mamba2"]
)
def model(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[LlamaModel]:
    one = LlamaModel(write_model(model_dir / f"{request.param}.gguf", request.param, "Q8_0"))
    yield one
    one.close()


def cold(bench: Start, model: LlamaModel, tokens: list[int], **options: object) -> list[dict[int, float]]:
    """The likeliest tokens' log-probabilities for each token of an answer that nothing is reused for."""
    one = bench(model, num_slots=1, **options)
    one.submit("cold", tokens, WATCHED)
    one.run()
    assert one.finished("cold").num_cached == 0
    return watched(one, "cold")


def watched(one: Bench, name: str) -> list[dict[int, float]]:
    return [dict(logprob.top) for event in one.generated(name) for logprob in event.logprobs]


def assert_same(found: list[dict[int, float]], expected: list[dict[int, float]]) -> None:
    """Within what cutting a prompt elsewhere moves: what is reused wrongly is off by nats."""
    for ours, theirs in zip(found, expected, strict=True):
        shared = ours.keys() & theirs.keys()
        assert len(shared) >= 12
        assert max(abs(ours[token] - theirs[token]) for token in shared) < 2 * LOGITS_TOLERANCE
        if max(ours, key=ours.__getitem__) != max(theirs, key=theirs.__getitem__):
            return  # a greedy choice between equals: from here on they are two answers


def run(one: Bench, name: str, tokens: list[int], sampling: Sampling = WATCHED, **more: object) -> list[int]:
    """Runs a turn; all its tokens."""
    one.submit(name, tokens, sampling, **more)
    one.run()
    return list(one.finished(name).tokens)


def filler(one: Bench, number: int, length: int = 600) -> None:
    run(one, f"filler {number}", prompt(length, 90 + number), Sampling(max_tokens=1), client="other")


def long_turn(one: Bench, name: str, tokens: list[int], **more: object) -> list[int]:
    return run(one, name, [*tokens, *prompt(LONG, 77)[1:]], Sampling(max_tokens=3, ignore_eos=True), **more)


def test_a_conversation_goes_on_from_the_context(bench: Start, model: LlamaModel) -> None:
    one = bench(model)
    known = long_turn(one, "first", prompt(200), conversation="c")
    following = [*known, *prompt(30, 3)[1:]]
    run(one, "next", following, conversation="c")
    assert one.finished("next").num_cached == len(known) - 1
    assert_same(watched(one, "next"), cold(bench, model, following))


@pytest.mark.parametrize("length", [20, 150, 400, 880])
def test_a_conversation_that_was_changed_goes_on_from_what_is_left(
    bench: Start, model: LlamaModel, length: int
) -> None:
    one = bench(model)
    known = long_turn(one, "first", prompt(200), conversation="c")
    changed = [*known[:length], *prompt(30, 4)[1:]]
    run(one, "changed", changed, conversation="c")
    assert_same(watched(one, "changed"), cold(bench, model, changed))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_prefix_is_copied_from_an_idle_slot(bench: Start, model: LlamaModel, deterministic: bool) -> None:
    one = bench(model, deterministic=deterministic)
    shared = prompt(300)
    run(one, "first", shared, conversation="a")
    long_turn(one, "long", [*shared, *prompt(40, 5)[1:]], conversation="b")
    for number, conversation in enumerate("cd"):
        tokens = [*shared, *prompt(40, 6 + number)[1:]]
        run(one, conversation, tokens, conversation=conversation)
        assert_same(watched(one, conversation), cold(bench, model, tokens, deterministic=deterministic))


@pytest.mark.parametrize("length", [20, LONG])
def test_a_prefix_is_copied_from_a_running_turn_whole_or_as_it_was_at_a_checkpoint(
    bench: Start, model: LlamaModel, length: int
) -> None:
    one = bench(model, num_slots=3)
    shared = prompt(300)
    run(one, "first", shared, Sampling(max_tokens=1), conversation="a")
    one.submit("long", [*shared, *prompt(length, 5)], Sampling(max_tokens=200, ignore_eos=True), conversation="a")
    for _ in range(4):
        one.step()
    tokens = [*shared, *prompt(40, 6)[1:]]
    one.submit("copy", tokens, WATCHED, conversation="b")
    while not one.has_ended("copy"):
        one.step()
    assert not one.has_ended("long")
    assert one.finished("copy").num_cached in (300 - BEFORE_END, 300)
    assert one.finished("copy").num_cached == 300 or not one.engine.can_remove_part
    assert_same(watched(one, "copy"), cold(bench, model, tokens))


def test_what_was_parked_in_ram_is_restored_whole_or_not_at_all(bench: Start, model: LlamaModel) -> None:
    one = bench(model, num_slots=1, num_ctx=2048, park_bytes=1 << 30)
    known = long_turn(one, "first", prompt(200), conversation="c")
    for number, length in enumerate((len(known), 880, 150)):
        filler(one, number)
        tokens = [*known[:length], *prompt(30, 7 + number)[1:]]
        run(one, f"next {number}", tokens, conversation="c" if number == 0 else f"d{number}")
        if number == 0:
            assert one.finished("next 0").cached_in == "ram"
        assert_same(watched(one, f"next {number}"), cold(bench, model, tokens))


def test_what_was_parked_on_disk_is_restored_whole_or_not_at_all(
    bench: Start, model: LlamaModel, tmp_path: Path
) -> None:
    known: list[int] = []
    for process in range(2):
        one = bench(model, num_slots=1, num_ctx=2048, park_bytes=1 << 30, disk_folder=tmp_path)
        if process == 0:
            known = long_turn(one, "first", prompt(200), conversation="c")
            one.cache.flush(60.0, one.loop.idle_states())
        else:
            tokens = [*known, *prompt(30, 9)[1:]]
            found = one.cache.find_on_disk(packed(tokens), "alice", 0)
            assert found is not None
            assert one.cache.load(found)
            run(one, "next", tokens, conversation="c")
            assert one.finished("next").cached_in == "disk"
            assert_same(watched(one, "next"), cold(bench, model, tokens))
        one.close()


def test_what_a_peer_gave_goes_on_where_the_peer_was(bench: Start, model: LlamaModel) -> None:
    giver, taker = (bench(model, num_slots=2, park_bytes=1 << 30) for _ in range(2))
    known = long_turn(giver, "first", prompt(200), conversation="c")
    exported = giver.loop.export(Key("alice", "c"))
    giver.step()
    given = exported.result(timeout=5)
    assert given is not None
    offloaded, state = given
    filler(taker, 0)
    taker.cache.offload(offloaded, bytes(state), "peer")
    tokens = [*known, *prompt(30, 11)[1:]]
    run(taker, "next", tokens, conversation="c")
    assert taker.finished("next").cached_in == "peer"
    assert_same(watched(taker, "next"), cold(bench, model, tokens))


def test_a_state_of_other_tokens_than_it_says_is_not_gone_on_from(bench: Start, model: LlamaModel) -> None:
    giver, taker = (bench(model, num_slots=1, park_bytes=1 << 30) for _ in range(2))
    giver.engine.decode([Span(0, 0, tuple(prompt(300)), 299)])
    state = giver.engine.save(0)
    for wrong in (299, 320):
        tokens = prompt(340)
        taker.cache.offload(KvEntry(Key("alice", "c"), packed(tokens[:wrong]), len(state)), state)
        run(taker, f"next {wrong}", tokens, conversation="c")
        assert_same(watched(taker, f"next {wrong}"), cold(bench, model, tokens))
        filler(taker, wrong)


def test_a_turn_that_was_set_aside_goes_on_as_if_nothing_had_been(bench: Start, model: LlamaModel) -> None:
    one = bench(model, num_slots=2, num_ctx=4096, park_bytes=1 << 30)
    sampling = Sampling(max_tokens=60, ignore_eos=True, logprobs=20)
    prompts = [[*prompt(LONG, number), *prompt(40, 8)[1:]] for number in range(2)]
    for number, tokens in enumerate(prompts):
        one.submit(f"batch {number}", tokens, sampling, is_batch=True)
    for _ in range(30):
        one.step()
    for number in range(3):
        one.submit(f"urgent {number}", prompt(300, 20 + number), WATCHED, client="bob")
    one.step()
    assert any(active.is_preempted for active in one.loop._running.values())
    one.run()
    for number, tokens in enumerate(prompts):
        assert one.finished(f"batch {number}").num_generated == 60
        again = scored(bench, model, [*tokens, *one.tokens(f"batch {number}")], len(tokens))
        told = [logprob.logprob for event in one.generated(f"batch {number}") for logprob in event.logprobs]
        assert np.abs(np.array(told) - np.array(again)).max() < 2 * LOGITS_TOLERANCE


def scored(bench: Start, model: LlamaModel, known: list[int], begin: int) -> list[float]:
    one = bench(model, num_slots=1)
    one.submit("score", known[:begin], Sampling(max_tokens=len(known)), continuations=((tuple(known), begin),))
    one.run()
    return list(one.finished("score").scores[0].logprobs)


def test_a_resumed_turn_goes_on_from_what_is_there_of_it(bench: Start, model: LlamaModel) -> None:
    one = bench(model, park_bytes=1 << 30)
    known = long_turn(one, "first", prompt(200), conversation="c")
    answer = known[200:]
    sampling = Sampling(max_tokens=len(answer) + 4, ignore_eos=True, logprobs=20)
    for number, num_sent in enumerate((len(answer) - 1, 500, 10)):
        run(one, f"resumed {number}", prompt(200), sampling, conversation="c", resumed=tuple(answer[:num_sent]))
        told = watched(one, f"resumed {number}")[:1]
        assert_same(told, cold(bench, model, known[: 200 + num_sent])[:1])


def test_continuations_are_scored_as_each_is_alone(bench: Start, model: LlamaModel) -> None:
    start = prompt(250)
    lengths = (LONG, 20, 90, 5)
    continuations = [(tuple([*start, *prompt(length, 30 + length)[1:]]), 250) for length in lengths]
    one = bench(model, num_slots=1)
    one.submit("all", start, Sampling(max_tokens=LONG), continuations=tuple(continuations))
    one.run()
    for (known, begin), score in zip(continuations, one.finished("all").scores, strict=True):
        alone = scored(bench, model, list(known), begin)
        assert np.abs(np.array(score.logprobs) - np.array(alone)).max() < 2 * LOGITS_TOLERANCE


def test_a_stop_text_costs_the_next_turn_no_prefill_of_what_was_before_it(bench: Start, model: LlamaModel) -> None:
    whole = bench(model, num_slots=2)
    run(whole, "whole", prompt(300), Sampling(max_tokens=40, ignore_eos=True))
    text = whole.text("whole")
    one = bench(model, num_slots=2)
    stop = text[len(text) // 2 : len(text) // 2 + 6]
    run(one, "stopped", prompt(300), Sampling(max_tokens=40, ignore_eos=True, stop=(stop,)), conversation="c")
    assert one.finished("stopped").reason == "stop"
    kept = one.slots[0].tokens
    following = [*kept, *prompt(30, 12)[1:]]
    run(one, "next", following, conversation="c")
    assert_same(watched(one, "next"), cold(bench, model, following))
    if not model.is_recurrent:
        assert one.finished("next").num_cached == len(kept)
        pieces = b"".join(model.vocabulary.piece(token) for token in kept[300:])
        assert one.text("stopped").encode().startswith(pieces)
