"""Whatever a model of chance writes: with a grammar on every call is valid, and resumed it is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jsonschema
import psutil
import pytest

from broker.messages import Message, Sampling, Turn
from broker.messages import Tool as WireTool
from broker.messages.tools import NamedTool, ToolChoice
from tests.model.conftest import Bench
from tests.model.test_engine import prompt
from tests.unit.test_held_calls import TOOLS, calls_in
from workers.calls import SYNTAXES, Thoughts
from workers.calls.openings import forms_behind, held
from workers.engine.events import Finished, Rejected
from workers.grammars.call_rules import CallsWanted
from workers.grammars.checker import GrammarChecker
from workers.grammars.held_calls import HeldCalls
from workers.llama.context import LlamaModel
from workers.turns.answer_reader import AnswerReaders
from workers.turns.holding import Holding

Start = Callable[..., Bench]
NUM_SEEDS = 8


async def held_of(name: str, grammars: GrammarChecker, *, is_one: bool = False) -> HeldCalls:
    syntax = held(SYNTAXES[name])
    rules = await grammars.calls(CallsWanted(TOOLS, forms_behind(syntax), {}, is_one))
    return HeldCalls(rules, syntax, TOOLS, {}, is_forced=True)


def check(name: str, text: str, *, is_whole: bool) -> list[str]:
    """The names of the calls in an answer, which are all valid, and there is one unless it was cut off."""
    found = calls_in(name, text)
    for called, arguments in found:
        (tool,) = (tool for tool in TOOLS if tool.name == called)
        jsonschema.validate(arguments, tool.parameters)
    assert found or not is_whole, text
    return [called for called, _ in found]


@pytest.mark.parametrize("name", ["hermes", "llama3", "qwen3-coder", "lfm2", "mistral"])
async def test_a_model_of_chance_makes_valid_calls_only(bench: Start, grammars: GrammarChecker, name: str) -> None:
    one, calls, num_calls = bench(), await held_of(name, grammars), 0
    for seed in range(NUM_SEEDS):
        sampling = Sampling(max_tokens=120, temperature=1.0, seed=seed)
        one.submit(f"{seed}", prompt(20, seed), sampling, calls=calls)
    one.run()
    for seed in range(NUM_SEEDS):
        end = one.events[f"{seed}"][-1]
        assert isinstance(end, Finished), end
        num_calls += len(check(name, one.text(f"{seed}"), is_whole=end.reason == "stop"))
    assert num_calls


async def test_a_call_that_another_worker_began_is_gone_on_with_where_it_stood(
    bench: Start, grammars: GrammarChecker
) -> None:
    one, calls = bench(deterministic=True), await held_of("hermes", grammars, is_one=True)
    sampling = Sampling(max_tokens=80, temperature=1.0, seed=2)
    one.submit("whole", prompt(30), sampling, calls=calls)
    one.run()
    tokens, reason = one.tokens("whole"), one.finished("whole").reason
    for num_sent in (1, 7, len(tokens) // 2, len(tokens) - 1):
        name = f"behind {num_sent}"
        one.submit(name, prompt(30), sampling, calls=calls, resumed=tuple(tokens[:num_sent]))
        one.run()
        assert tokens[:num_sent] + one.tokens(name) == tokens
        assert one.finished(name).reason == reason


async def test_text_before_a_call_is_what_it_would_be_without(bench: Start, grammars: GrammarChecker) -> None:
    one, calls = bench(deterministic=True), await held_of("hermes", grammars)
    for sampling in (Sampling(max_tokens=30), Sampling(max_tokens=30, temperature=1.0, seed=5, repeat_penalty=1.1)):
        free = one.answer(prompt(30), sampling)
        assert one.answer(prompt(30), sampling, calls=dataclasses.replace(calls, is_forced=False)) == free


async def test_behind_a_call_a_model_that_wants_no_other_ends(bench: Start, grammars: GrammarChecker) -> None:
    one, calls = bench(deterministic=True), await held_of("hermes", grammars)
    for seed in (5, 25, 28, 37, 41, 44):  # these began another, as nothing else was allowed beside the end
        sampling = Sampling(max_tokens=120, temperature=1.0, seed=seed)
        one.submit(f"{seed}", prompt(20), sampling, calls=calls)
        one.run()
        assert one.finished(f"{seed}").reason == "stop"
        assert len(check("hermes", one.text(f"{seed}"), is_whole=True)) == 1


async def test_one_call_ends_the_answer_where_only_one_is_wanted(bench: Start, grammars: GrammarChecker) -> None:
    one, calls = bench(), await held_of("hermes", grammars, is_one=True)
    for seed in range(NUM_SEEDS):
        one.submit(f"{seed}", prompt(20), Sampling(max_tokens=200, temperature=1.0, seed=seed), calls=calls)
    one.run()
    for seed in range(NUM_SEEDS):
        whole = one.finished(f"{seed}").reason == "stop"
        names = check("hermes", one.text(f"{seed}"), is_whole=whole)
        assert len(names) == 1 if whole else not names


BUDGET = 6


async def demanded(
    name: str, model: LlamaModel, grammars: GrammarChecker, choice: ToolChoice, opened: str, sampling: Sampling
) -> tuple[dict[str, object], AnswerReaders, Turn]:
    """What a turn gives the engine that has to call, and may think for so long before; its reader."""
    syntax = SYNTAXES[name].with_thoughts(Thoughts("<think>", "</think>"))
    readers = AnswerReaders(syntax, {}, model.vocabulary.piece, holds=True)
    tools = tuple(WireTool(tool.name, "", dict(tool.parameters)) for tool in TOOLS)
    turn = Turn("t", "c", (Message("user", "Light?"),), sampling, tools=tools, tool_choice=choice)
    calls = await Holding(grammars, readers).of(turn, opened, "alice")
    assert calls is not None
    assert calls.is_forced
    return {"calls": calls, "thinking": readers.thinking(turn, opened, is_held=True)}, readers, turn


@pytest.mark.parametrize("choice", ["required", NamedTool("clock.now")])
@pytest.mark.parametrize("name", ["hermes", "llama3", "qwen3-coder"])
async def test_a_demanded_call_begins_right_behind_a_thought_that_had_its_tokens(
    bench: Start, grammars: GrammarChecker, tiny: LlamaModel, name: str, choice: ToolChoice
) -> None:
    one, num_whole = bench(), 0
    begun = tuple(tiny.vocabulary.tokenize("<think>", template_spans=[(0, 7)], add_bos=False))
    cases = {}
    for seed in range(6):
        # The template has opened the thought, or the model has begun one itself.
        opened, resumed = [("Light? <think>", ()), ("Light?", begun)][seed % 2]
        sampling = Sampling(max_tokens=160, temperature=float(seed > 1), seed=seed, thinking=BUDGET)
        given, readers, turn = await demanded(name, tiny, grammars, choice, opened, sampling)
        one.submit(f"{seed}", prompt(20, seed), sampling, resumed=resumed, **given)
        cases[f"{seed}"] = readers, turn, opened, resumed
    one.run()
    for case, (readers, turn, opened, resumed) in cases.items():
        reader = readers.of(turn, opened, is_held=True)
        readers.read_again(reader, turn, resumed)
        told = [reader.feed(event.text, len(event.tokens)) for event in one.generated(case)]
        assert reader.num_reasoning_tokens == BUDGET
        _, mark, answer = one.text(case).partition("</think>")
        assert mark
        form = SYNTAXES[name].form
        assert form is not None
        assert answer.lstrip(" \n").startswith(form.begin + form.before_name)
        is_whole = one.finished(case).reason == "stop"
        names = check(name, answer, is_whole=is_whole)
        assert choice == "required" or set(names) <= {"clock.now"}
        assert not is_whole or "".join(piece.text for piece in [*told, reader.finish()]).strip() == ""
        num_whole += is_whole
    assert num_whole or choice == "required"


async def test_within_a_thought_and_in_the_call_behind_it_another_worker_goes_on(
    bench: Start, grammars: GrammarChecker, tiny: LlamaModel
) -> None:
    sampling = Sampling(max_tokens=80, temperature=1.0, seed=3, thinking=BUDGET)
    given, _, _ = await demanded("hermes", tiny, grammars, "required", "Light? <think>", sampling)
    one = bench(deterministic=True)
    tokens = one.answer(prompt(30), sampling, **given)
    for num_sent in (1, BUDGET, BUDGET + 1, BUDGET + 4, len(tokens) // 2, len(tokens) - 1):
        assert tokens[:num_sent] + one.answer(prompt(30), sampling, resumed=tuple(tokens[:num_sent]), **given) == tokens


async def test_what_another_worker_wrote_unheld_is_gone_on_with_unheld(bench: Start, grammars: GrammarChecker) -> None:
    one, forced = bench(), await held_of("hermes", grammars)
    free = dataclasses.replace(forced, is_forced=False)
    unheld = '<tool_call>\n{"name": "set_lamp", "arguments": {"room": "hall", "other": 1'
    begun = tuple(one.engine.vocabulary.tokenize(unheld, template_spans=[], add_bos=False))
    for name, calls in (("free", free), ("forced", forced)):
        one.submit(name, prompt(20), Sampling(max_tokens=len(begun) + 20), calls=calls, resumed=begun)
    one.run()
    assert isinstance(one.events["free"][-1], Finished)
    assert len(one.tokens("free")) > 0
    refused = one.events["forced"][-1]
    assert isinstance(refused, Rejected)
    assert refused.code == "invalid_grammar"


async def test_a_free_call_outlives_the_process_that_follows_it(bench: Start, grammars: GrammarChecker) -> None:
    one, forced = bench(), await held_of("hermes", grammars)
    begun = '<tool_call>\n{"name": "set_lamp", "arguments": {"room": "'
    tokens = tuple(one.engine.vocabulary.tokenize(begun, template_spans=[], add_bos=False))
    sampling = Sampling(max_tokens=len(tokens) + 30, ignore_eos=True)
    one.submit("free", prompt(20), sampling, calls=dataclasses.replace(forced, is_forced=False), resumed=tokens)
    process = one.engine.vocabulary.matcher_process
    try:
        while len(one.events.get("free", ())) < 3:
            one.step()
        for child in psutil.Process().children(recursive=True):
            if "workers.llama.matcher_process" in child.cmdline():
                child.kill()
        process.close()
        one.run()
    finally:
        process.start()
    assert one.finished("free").reason == "length"
    assert len(one.tokens("free")) == 30
