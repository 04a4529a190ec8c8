"""KV states out of llama.cpp's context and into it again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from broker.messages import Sampling
from tests.model.conftest import Bench
from tests.model.test_engine import logits_of, prompt
from tests.model.test_reuse import model
from workers.engine.calibration import calibrate
from workers.engine.protocol import Span
from workers.kv.checks import WrongState
from workers.llama.context import LlamaModel

Start = Callable[..., Bench]
SHORT = Sampling(max_tokens=8, ignore_eos=True)
__all__ = ["model"]


@pytest.mark.parametrize(("deterministic", "kv_type"), [(False, "f16"), (True, "f16"), (False, "q8_0")])
def test_a_state_in_another_context_gives_the_same_logits_to_the_bit(
    bench: Start, model: LlamaModel, deterministic: bool, kv_type: str
) -> None:
    tokens = prompt(300)
    one = bench(model, deterministic=deterministic, kv_type=kv_type)
    other = bench(model, deterministic=deterministic, kv_type=kv_type)
    one.engine.decode([Span(0, 0, tuple(tokens[:299]), 298)])
    state = one.engine.save(0)
    assert len(state) == one.engine.state_bytes(0)
    assert other.engine.restore(0, bytes(state))
    kept, restored = (logits_of(each, [[Span(0, 299, (tokens[299],), 299)]]) for each in (one, other))
    assert np.array_equal(kept, restored)


def test_a_states_length_follows_from_its_tokens(bench: Start, model: LlamaModel) -> None:
    engine = bench(model).engine
    layout = calibrate(engine).layout("f")
    for length in (1, 33, 63, 64, 65, 300, 900):
        engine.truncate(0, 0)
        engine.decode([Span(0, 0, tuple(prompt(length)), length - 1)])
        assert layout.state_bytes(length) == engine.state_bytes(0) == len(engine.save(0))
        layout.check_description("f", length, engine.state_bytes(0))
        for wrong in (length - 1, length + 1):
            if layout.state_bytes(wrong) != layout.state_bytes(length):
                with pytest.raises(WrongState):
                    layout.check_description("f", wrong, engine.state_bytes(0))


def test_a_window_whose_oldest_token_has_gone_to_another_sequence_has_a_states_length_too(
    bench: Start, sliding: LlamaModel
) -> None:
    engine = bench(sliding, num_ctx=2048, num_slots=2).engine
    layout = calibrate(engine).layout("f")
    engine.decode([Span(0, 0, tuple(prompt(300)), 299)])
    engine.decode([Span(1, 0, tuple(prompt(700)), 699)])
    for at in range(700, 900):  # until the window's cells have all been taken once
        engine.decode([Span(1, at, (5,), at)])
    assert engine.is_whole(0, 300)
    assert engine.state_bytes(0) == layout.state_bytes(300) - layout.per_window_token
    layout.check_description("f", 300, engine.state_bytes(0))
    with pytest.raises(WrongState):
        layout.check_description("f", 300, engine.state_bytes(0) - layout.per_window_token)


def test_q8_0_takes_little_more_than_half_of_f16(bench: Start) -> None:
    sizes = []
    for kv_type in ("f16", "q8_0"):
        one = bench(kv_type=kv_type)
        one.engine.decode([Span(0, 0, tuple(prompt(300)), 299)])
        sizes.append(one.engine.state_bytes(0))
    assert 0.5 < sizes[1] / sizes[0] < 0.6


def test_a_state_that_is_cut_or_has_no_cells_leaves_an_empty_slot(bench: Start) -> None:
    one, small = bench(), bench(num_ctx=256)
    one.engine.decode([Span(0, 0, tuple(prompt(300)), 299)])
    state = one.engine.save(0)
    assert not small.engine.restore(0, state)
    assert small.engine.decode([Span(0, 0, tuple(prompt(40)), 39)]) == [[39]]


def test_conversations_in_rotation_are_restored_and_nothing_is_computed_twice(bench: Start) -> None:
    one = bench(num_slots=2, num_ctx=1024, park_bytes=1 << 30)
    known = {name: prompt(150, seed) for seed, name in enumerate("abcdef")}
    for round_number in range(3):
        for name, tokens in known.items():
            turn = f"{name}{round_number}"
            one.submit(turn, tokens, SHORT, conversation=name)
            one.run()
            end = one.finished(turn)
            if round_number:
                # All but what is new, and the last answer's last token, which was chosen and never computed.
                assert end.num_cached == len(tokens) - 29 - 1
                assert end.cached_in == "ram"
            known[name] = [*end.tokens, *prompt(30, round_number)[1:]]
    assert one.cache.stats.num_evicted == 0


def test_a_shared_beginning_is_restored_for_a_new_conversation_and_stays_parked(bench: Start) -> None:
    one = bench(num_slots=1, num_ctx=1024, park_bytes=1 << 30)
    system = prompt(200)
    one.answer([*system, *prompt(20, 1)[1:]], SHORT, conversation="first")
    one.answer(prompt(300, 9), SHORT, conversation="other")  # takes the only slot
    for number in range(3):
        name = f"new {number}"
        one.submit(name, [*system, *prompt(20, 10 + number)[1:]], SHORT, conversation=name)
        one.run()
        end = one.finished(name)
        assert end.num_cached >= 200
    assert one.cache.stats.num_in_ram >= 2


def test_a_sliding_windows_state_is_parked_whole(bench: Start, sliding: LlamaModel) -> None:
    one = bench(sliding, num_slots=1, num_ctx=1024, park_bytes=1 << 30)
    first = prompt(200)
    one.submit("a", first, SHORT, conversation="a")
    one.run()
    known = list(one.finished("a").tokens)
    one.answer(prompt(200, 5), SHORT, conversation="b")
    one.submit("a2", [*known, *prompt(30, 7)[1:]], SHORT, conversation="a")
    one.run()
    end = one.finished("a2")
    assert end.cached_in == "ram"
    assert end.num_cached == len(known) - 1
    one.submit("a3", [*known[:100], *prompt(30, 8)[1:]], SHORT, conversation="c")
    one.run()
    assert one.finished("a3").num_cached == 0  # a part of it is of no use


def test_the_deterministic_mode_repeats_an_answer_whose_prefix_was_parked(bench: Start) -> None:
    sampling = Sampling(max_tokens=30, ignore_eos=True)
    cold = bench(deterministic=True).answer(prompt(300), sampling)
    one = bench(deterministic=True, park_bytes=1 << 30)
    assert one.answer(prompt(300), sampling, conversation="a") == cold
    one.answer(prompt(300, 3), sampling, conversation="b")
    one.submit("again", prompt(300), sampling, conversation="a")
    one.run()
    assert one.tokens("again") == cold
    assert one.finished("again").cached_in == "ram"
