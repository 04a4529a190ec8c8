"""Grammars in the engine: a hostile one costs its own turn and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable

import jsonschema
import psutil
import pytest

from broker.errors import TurnRejected
from broker.messages import Message, Sampling, Turn
from tests.model.conftest import Bench
from tests.model.test_engine import prompt
from tests.real import GEMMA, real_model
from workers.calls import SYNTAXES, Thoughts
from workers.engine.events import Finished, Generated
from workers.grammars.checker import GrammarChecker
from workers.grammars.remote_matcher import MatcherProcess
from workers.llama.context import LlamaModel
from workers.prompts.renderer import TemplateRenderer
from workers.turns.answer_reader import AnswerReaders

Start = Callable[..., Bench]
SLOW = "root ::= s\ns ::= " + " | ".join(f"r{n}" for n in range(200)) + "\n"
SLOW += "".join(f'r{n} ::= [a-z ] s | ""\n' for n in range(200))
"""5,795 bytes that compile at once; its first token takes ten seconds of computing."""
DIGITS = "".join(str(n * n % 10) for n in range(400))
DOUBLED = f'root ::= "{DIGITS}" b14\nb0 ::= "q" | ""\n' + "".join(f"b{n} ::= b{n - 1} b{n - 1}\n" for n in range(1, 15))
"""627 bytes that held llama.cpp's own sampler for minutes, behind digits that are harmless."""
POINT: dict[str, object] = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 1, "maximum": 9}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
}


async def gbnf_of(schema: dict[str, object], grammars: GrammarChecker) -> str:
    found = await grammars.gbnf(Sampling(json_schema=schema))
    assert found is not None
    return found


def test_a_grammar_begins_behind_a_thought_that_had_its_tokens(bench: Start, tiny: LlamaModel) -> None:
    syntax = SYNTAXES["hermes"].with_thoughts(Thoughts("<think>", "</think>"))
    readers = AnswerReaders(syntax, {}, tiny.vocabulary.piece)
    greedy, drawn = (
        Sampling(max_tokens=40, temperature=heat, repeat_penalty=penalty, thinking=6, grammar="x")
        for heat, penalty in ((0.0, 1.0), (1.0, 1.3))
    )
    for sampling in (greedy, drawn):
        turn, opened = Turn("t", "c", (Message("user", "Is it?"),), sampling), "Is it? <think>"
        one = bench()
        thinking = readers.thinking(turn, opened)
        one.submit("schema", prompt(40), sampling, gbnf='root ::= "yes" | "no"', thinking=thinking)
        one.run()
        text = "".join(event.text for event in one.events["schema"] if isinstance(event, Generated))
        thought, _, answer = text.partition("</think>")
        assert thought
        assert answer in ("yes", "no")


@pytest.mark.parametrize("opened", ["Is it?", "Is it? <think>"])
async def test_an_answer_that_a_grammar_holds_is_gone_on_with_where_another_worker_left_it(
    bench: Start, tiny: LlamaModel, grammars: GrammarChecker, opened: str
) -> None:
    syntax = SYNTAXES["hermes"].with_thoughts(Thoughts("<think>", "</think>"))
    readers = AnswerReaders(syntax, {}, tiny.vocabulary.piece)
    sampling = Sampling(max_tokens=60, temperature=1.0, seed=4, thinking=6, json_schema=POINT)
    turn = Turn("t", "c", (Message("user", "Is it?"),), sampling)
    more = {"gbnf": await gbnf_of(POINT, grammars), "thinking": readers.thinking(turn, opened)}
    one = bench(deterministic=True)
    one.submit("whole", prompt(30), sampling, **more)
    one.run()
    tokens, text = one.tokens("whole"), one.text("whole")
    assert ("</think>" in text) == opened.endswith("<think>")
    jsonschema.validate(json.loads(text.rpartition("</think>")[2]), POINT)
    for num_sent in range(1, len(tokens) + 1, 3):
        name = f"behind {num_sent}"
        one.submit(name, prompt(30), sampling, resumed=tuple(tokens[:num_sent]), **more)
        one.run()
        assert tokens[:num_sent] + one.tokens(name) == tokens
        assert one.finished(name).reason == "stop"


def test_a_grammar_that_takes_for_ever_holds_nobody_up_and_fails_alone(bench: Start) -> None:
    one = bench()
    one.answer(prompt(40), Sampling(max_tokens=4), gbnf='root ::= "a"')  # the matchers' process is there
    one.submit("slow", prompt(40), Sampling(max_tokens=30), gbnf=SLOW)
    one.submit("other", prompt(40, 2), Sampling(max_tokens=30, ignore_eos=True))
    one.submit("schema", prompt(40, 3), Sampling(max_tokens=30), gbnf='root ::= "yes" | "no"')
    while not {"other", "schema"} <= {name for name in one.events if isinstance(one.events[name][-1], Finished)}:
        one.step()
    assert "slow" in one.loop._running, "the others waited for it"
    one.run()
    assert one.rejected("slow").code == "invalid_grammar"
    assert not one.rejected("slow").retryable
    assert "sampling.grammar: following it takes more time or memory" in one.rejected("slow").detail


def test_an_ambiguity_that_doubles_is_followed(bench: Start) -> None:
    one = bench(num_ctx=4096)
    one.submit("doubled", prompt(40), Sampling(max_tokens=900, temperature=1.0), gbnf=DOUBLED)
    one.run()
    assert one.finished("doubled").reason == "stop"
    text = one.text("doubled")
    assert text == DIGITS + "q" * (len(text) - len(DIGITS))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_who_is_never_waited_for_answers_the_same(
    bench: Start, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(max_tokens=24, temperature=temperature, seed=3, logprobs=3, repeat_penalty=1.1, ignore_eos=True)
    answers = []
    for patience in (10.0, 0.0):
        monkeypatch.setattr("workers.grammars.remote_matcher.PATIENCE_SECONDS", patience)
        monkeypatch.setattr("workers.grammars.remote_matcher.SAVED_SECONDS", patience)
        monkeypatch.setattr("workers.grammars.remote_matcher.LONGEST_WAIT", patience)
        one = bench(deterministic=True)
        one.submit("words", prompt(40), sampling, gbnf="root ::= [a-f]{3} ([ ] [a-f日é]{1,4})+")
        one.run()
        assert one.finished("words").reason == "length"
        logprobs = [logprob for event in one.generated("words") for logprob in event.logprobs]
        answers.append((one.text("words"), one.tokens("words"), logprobs))
    assert answers[0] == answers[1]


def test_a_cancelled_turn_leaves_its_matcher_behind_at_once(bench: Start) -> None:
    one = bench()
    one.submit("slow", prompt(40), Sampling(max_tokens=30), gbnf=SLOW)
    while "slow" not in one.loop._running or not one.loop._running["slow"].is_late:
        one.step()
    one.loop.cancel("slow")
    one.step()
    assert one.finished("slow").reason == "cancelled"


async def test_the_finish_reason_says_whether_the_json_is_whole(bench: Start, grammars: GrammarChecker) -> None:
    one = bench()
    gbnf = await gbnf_of(POINT, grammars)
    one.submit("whole", prompt(40), Sampling(max_tokens=200, temperature=1.0), gbnf=gbnf)
    one.run()
    whole = one.finished("whole")
    assert whole.reason == "stop"
    jsonschema.validate(json.loads(one.text("whole")), POINT)
    for max_tokens in (whole.num_generated, whole.num_generated - 1):
        name = f"with {max_tokens}"
        one.submit(name, prompt(40), Sampling(max_tokens=max_tokens, temperature=1.0), gbnf=gbnf)
        one.run()
        assert one.finished(name).reason == ("stop" if max_tokens == whole.num_generated else "length")
    assert one.text("whole").startswith(one.text(name))


async def test_without_end_tokens_a_grammar_still_ends(bench: Start, grammars: GrammarChecker) -> None:
    one = bench()
    gbnf = await gbnf_of(POINT, grammars)
    one.submit("json", prompt(40), Sampling(max_tokens=200, temperature=1.0, ignore_eos=True), gbnf=gbnf)
    one.run()
    assert one.finished("json").reason == "stop"
    jsonschema.validate(json.loads(one.text("json")), POINT)


def test_a_matcher_that_is_killed_costs_its_turn_and_nothing_else(bench: Start) -> None:
    one = bench()
    words = "root ::= [a-z]{500}"
    one.submit("killed", prompt(40), Sampling(max_tokens=400), gbnf=words)
    while not any(event.tokens for event in one.events.get("killed", []) if isinstance(event, Generated)):
        one.step()
    process = one.model.vocabulary.matcher_process.process
    assert process is not None
    for child in psutil.Process(process.pid).children():
        os.kill(child.pid, signal.SIGKILL)
    one.submit("next", prompt(40, 2), Sampling(max_tokens=6), gbnf=words)
    one.run()
    assert one.rejected("killed").code == "invalid_grammar"
    assert len(one.text("next")) >= 6


def test_matchers_end_with_their_turns(bench: Start) -> None:
    one = bench()
    for n in range(4):
        one.submit(f"turn {n}", prompt(40, n), Sampling(max_tokens=5), gbnf="root ::= [a-z]{50}")
    one.run()
    process = one.model.vocabulary.matcher_process.process
    assert process is not None
    deadline = time.monotonic() + 20
    while psutil.Process(process.pid).children() and time.monotonic() < deadline:
        psutil.wait_procs(psutil.Process(process.pid).children(), timeout=0.1)
    assert psutil.Process(process.pid).children() == []


async def test_what_was_refused_is_refused_again_without_a_trial(
    grammars: GrammarChecker, matcher_process: MatcherProcess
) -> None:
    slow = Sampling(grammar=SLOW)
    with pytest.raises(TurnRejected, match=r"sampling\.grammar: trying it takes too much time") as first:
        await grammars.gbnf(slow, "alice")
    await asyncio.to_thread(matcher_process.close)
    with pytest.raises(TurnRejected) as second:
        await grammars.gbnf(slow, "bob")
    assert str(second.value) == str(first.value)
    assert matcher_process.process is None, "it was tried again"
    assert await grammars.gbnf(Sampling(grammar='root ::= "a"')) == 'root ::= "a"'


async def test_slow_grammars_of_one_client_hold_up_nobody_else(grammars: GrammarChecker) -> None:
    await grammars.gbnf(Sampling(grammar='root ::= "warm"'))
    slow = [asyncio.create_task(grammars.gbnf(Sampling(grammar=f"{SLOW}r{n}x ::= r1\n"), "alice")) for n in range(6)]
    for n in range(20):
        assert await grammars.gbnf(Sampling(grammar=f'root ::= "{n}"'), "bob") == f'root ::= "{n}"'
    assert not any(task.done() for task in slow[1:]), "the slow ones were tried side by side"
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert grammars._clients == {}


async def test_a_client_with_too_many_waiting_grammars_is_told_to_come_back(
    grammars: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.grammars.checker.MAX_WAITING_OF_CLIENT", 2)
    asked = [grammars.gbnf(Sampling(grammar=f'root ::= "{n}"'), "alice") for n in range(5)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert found[:2] == ['root ::= "0"', 'root ::= "1"']
    refused = [one for one in found[2:] if isinstance(one, TurnRejected)]
    assert [(one.code, one.retryable) for one in refused] == [("overloaded", True)] * 3
    assert await grammars.gbnf(Sampling(grammar='root ::= "4"'), "alice") == 'root ::= "4"'


async def test_templates_and_grammars_have_children_of_their_own(
    grammars: GrammarChecker, renderer: TemplateRenderer
) -> None:
    from broker.messages import Message

    slow = asyncio.create_task(grammars.gbnf(Sampling(grammar=SLOW), "alice"))
    for n in range(10):
        assert f"number {n}" in (await renderer.render((Message("user", f"number {n}"),))).text
    assert not slow.done()
    with pytest.raises(TurnRejected):
        await slow


async def test_matchers_that_died_are_started_again(grammars: GrammarChecker, matcher_process: MatcherProcess) -> None:
    await grammars.gbnf(Sampling(grammar='root ::= "a"'))
    assert matcher_process.process is not None
    pid = matcher_process.process.pid
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(matcher_process.process.wait)
    assert await grammars.gbnf(Sampling(grammar='root ::= "b"')) == 'root ::= "b"'
    assert matcher_process.process.pid != pid


async def test_the_client_s_field_and_the_part_of_the_schema_are_named(grammars: GrammarChecker) -> None:
    schema = {"type": "object", "properties": {"a": {"items": {"type": "string", "pattern": "^(a$"}}}}
    with pytest.raises(TurnRejected) as caught:
        await grammars.gbnf(Sampling(json_schema=schema))
    assert caught.value.detail == "sampling.json_schema: at /properties/a/items: pattern: unbalanced '('"


@pytest.mark.timeout(300)
async def test_a_vocabulary_of_262144_tokens_follows_a_schema() -> None:
    model = LlamaModel(real_model(GEMMA), vocab_only=True)
    grammars = GrammarChecker(model.vocabulary.matcher_process)
    try:
        assert await gbnf_of({"type": "array", "items": {"type": "number"}}, grammars)
        fields = {f"field_{i}": {"type": "string" if i % 2 else "number"} for i in range(10)}
        assert await gbnf_of({"type": "object", "properties": fields, "required": list(fields)}, grammars)
        process = model.vocabulary.matcher_process.process
        assert process is not None
        assert psutil.Process(process.pid).memory_info().rss < 700 * 2**20
    finally:
        model.vocabulary.matcher_process.close()
        model.close()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_a_schema_is_of_what_was_begun_too(bench: Start, grammars: GrammarChecker, temperature: float) -> None:
    one = bench()
    gbnf, begun = await gbnf_of(POINT, grammars), '{"x":'
    tokens = one.model.vocabulary.tokenize(begun, template_spans=[], add_bos=False)
    sampling = Sampling(max_tokens=200, temperature=temperature, seed=3)
    one.submit("point", [*prompt(40), *tokens], sampling, gbnf=gbnf, begun=tuple(tokens))
    one.run()
    assert one.finished("point").reason == "stop"
    jsonschema.validate(json.loads(begun + one.text("point")), POINT)
    one.submit("other", prompt(40), sampling, gbnf=gbnf, begun=(tokens[-1],))
    one.run()
    assert one.rejected("other").code == "invalid_grammar"
