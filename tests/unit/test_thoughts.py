"""A thought's budget, and the grammar behind it: closed by each family's mark, wherever another worker left off."""

from __future__ import annotations

import dataclasses

import pytest

from broker.messages import Message, Sampling, Tool, Turn
from tests.fakes import END, FIRST, FakeVocabulary
from tests.thought_fakes import THOUGHT, Thinker
from workers.calls import SYNTAXES, Parser, Syntax, Thoughts
from workers.calls.thought_tokens import ThoughtTokens
from workers.engine.costs import CostModel
from workers.engine.events import Finished, Generated, Job
from workers.engine.loop import EngineLoop
from workers.engine.scheduler import Scheduler
from workers.engine.slots import Slots
from workers.kv.cache import OffloadCache
from workers.turns.answer_reader import AnswerReaders

THINK = Thoughts("<think>", "</think>")
LAMP = Tool("lamp", "Switches a lamp", {"type": "object", "properties": {"on": {"type": "boolean"}}})
FAMILIES = {
    name: syntax.with_thoughts(syntax.thoughts or THINK)
    for name, syntax in SYNTAXES.items()
    if syntax.thoughts or syntax.whole is None
}


def tokens_of(text: str) -> tuple[int, ...]:
    return tuple(ord(character) + FIRST for character in text)


def turn_of(prompt: str = "assistant: ", *tools: Tool, **sampling: object) -> Turn:
    given = Sampling(**({"max_tokens": 200} | sampling))  # type: ignore[arg-type]
    return Turn("t", "c", (Message("user", prompt),), given, tools=tools)


def answers(*turns: Turn, engine: Thinker, syntax: Syntax, resumed: str = "", prompt: str = "assistant: ") -> list[str]:
    """What the engine says to these turns at once, with what an earlier worker said."""
    readers = AnswerReaders(syntax, {}, engine.vocabulary.piece)
    slots = Slots(engine.num_slots, engine.num_ctx)
    scheduler = Scheduler(budget=1e9, max_batch_tokens=512, max_batch_outputs=32, costs=CostModel(0.001))
    loop = EngineLoop(engine, scheduler, slots, OffloadCache(0), clock=engine.clock)
    for number, turn in enumerate(turns):
        job = Job(
            str(number),
            "c",
            str(number),
            list(tokens_of(prompt)),
            turn.sampling.max_tokens,
            sampling=turn.sampling,
            gbnf=turn.sampling.grammar,
            thinking=readers.thinking(turn, prompt),
        )
        loop.submit(dataclasses.replace(job, resumed=tokens_of(resumed)))
    told = []
    loop.take_orders()
    while loop.has_work:
        told += loop.run_round()
    texts = [resumed] * len(turns)
    for event in told:
        if isinstance(event, Generated):
            assert len(event.tokens) == 1 or not event.text
            texts[int(event.job)] += event.text
        elif isinstance(event, Finished):
            assert event.tokens == (*tokens_of(prompt), *tokens_of(texts[int(event.job)]))
    assert engine.num_samplers == 0, "one was not closed"
    return texts


def thought_of(num_tokens: int) -> str:
    return (THOUGHT * num_tokens)[:num_tokens]


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("budget", [0, 5])
def test_each_familys_thought_is_closed_by_its_own_mark_when_it_had_its_tokens(name: str, budget: int) -> None:
    syntax = FAMILIES[name]
    thoughts = syntax.thoughts
    assert thoughts is not None
    end = thoughts.end + thoughts.answer
    engine = Thinker(begin=thoughts.begin, end=end)
    (text,) = answers(turn_of(thinking=budget), engine=engine, syntax=syntax)
    assert text == f"{thoughts.begin}{thought_of(budget)}{end}It is."
    reader = AnswerReaders(syntax, {}, engine.vocabulary.piece).of(turn_of(), "assistant: ")
    told = [*(reader.feed(character, 1) for character in text), reader.finish()]
    assert "".join(one.text for one in told) == "It is."
    assert "".join(one.reasoning for one in told).strip() == thought_of(budget).strip()
    assert reader.num_reasoning_tokens == budget


def test_a_message_of_calls_may_follow_a_thought_that_is_closed_once() -> None:
    syntax = SYNTAXES["gpt-oss"]
    call = '<|start|>assistant<|channel|>commentary to=functions.lamp<|message|>{"on": true}'
    engine = Thinker(begin="<|channel|>analysis<|message|>", end="<|end|>", said=call)
    (text,) = answers(turn_of("x", LAMP, thinking=3), engine=engine, syntax=syntax)
    assert text == f"<|channel|>analysis<|message|>{thought_of(3)}<|end|>{call}"


@pytest.mark.parametrize(("thinking", "budget"), [("off", 0), (0, 0), (1, 1), (7, 7)])
def test_a_thought_that_the_template_opened_has_its_budget_too(thinking: object, budget: int) -> None:
    prompt = "assistant: <think>\n"
    engine = Thinker(prompt_end=prompt, begin="")
    syntax = SYNTAXES["hermes"].with_thoughts(THINK)
    texts = answers(turn_of(thinking=thinking), engine=engine, syntax=syntax, prompt=prompt)
    assert texts == [f"{thought_of(budget)}</think>It is."]


def test_turns_of_a_batch_have_each_their_own_and_a_short_thought_its_own_end() -> None:
    engine = Thinker(num_thoughts=12)
    syntax = SYNTAXES["hermes"].with_thoughts(THINK)
    turns = [turn_of(thinking=budget) for budget in (2, "on", 9, 12, 13, None)]
    found = answers(*turns, engine=engine, syntax=syntax)
    assert found == [f"<think>{thought_of(num)}</think>It is." for num in (2, 12, 9, 12, 12, 12)]


def test_max_tokens_hold_within_a_thought_and_within_its_mark() -> None:
    syntax = SYNTAXES["hermes"].with_thoughts(THINK)
    for limit in (3, 9, 12, 20):
        (text,) = answers(turn_of(thinking=4, max_tokens=limit), engine=Thinker(), syntax=syntax)
        assert text == f"<think>{thought_of(4)}</think>It is."[:limit]


def test_a_worker_goes_on_with_the_budget_wherever_another_left_off() -> None:
    syntax = SYNTAXES["hermes"].with_thoughts(THINK)
    whole = f"<think>{thought_of(6)}</think>It is."
    for num_sent in range(len(whole)):
        found = answers(turn_of(thinking=6), engine=Thinker(), syntax=syntax, resumed=whole[:num_sent])
        assert found == [whole], num_sent
    longer = f"<think>{thought_of(9)}"
    found = answers(turn_of(thinking=6), engine=Thinker(), syntax=syntax, resumed=longer)
    assert found[0].startswith(longer)
    assert "</think>" in found[0][: len(longer) + 20], "an older release's worker let it think too long"


@pytest.mark.parametrize("thinking", [None, "on", "off", 0, 4, 100])
def test_a_model_that_has_no_thoughts_has_no_budget(thinking: object) -> None:
    engine = Thinker(num_thoughts=12)
    found = answers(turn_of(thinking=thinking), engine=engine, syntax=SYNTAXES["hermes"].with_thoughts(None))
    assert found == [f"<think>{thought_of(12)}</think>It is."]


# --- A grammar behind a thought ---


@pytest.mark.parametrize(("thinking", "num"), [(None, 12), ("on", 12), (3, 3)])
@pytest.mark.parametrize("name", ["hermes", "mistral", "gpt-oss", "gemma4", "muse"])
def test_a_grammar_begins_behind_the_thought(name: str, thinking: object, num: int) -> None:
    syntax = FAMILIES[name]
    thoughts = syntax.thoughts
    assert thoughts is not None
    engine = Thinker(begin=thoughts.begin, end=thoughts.end, num_thoughts=12)
    (text,) = answers(turn_of(thinking=thinking, grammar='{"on":1}'), engine=engine, syntax=syntax)
    assert text == f'{thoughts.begin}{thought_of(num)}{thoughts.end}{thoughts.answer}{{"on":1}}'


@pytest.mark.parametrize("thinking", ["off", 0])
def test_a_grammar_begins_at_once_where_there_is_to_be_no_thought(thinking: object) -> None:
    syntax = SYNTAXES["hermes"].with_thoughts(THINK)
    assert answers(turn_of(thinking=thinking, grammar="yes"), engine=Thinker(), syntax=syntax) == ["yes"]
    opened = "assistant: <think>\n"
    engine = Thinker(prompt_end=opened, begin="")
    found = answers(turn_of(thinking=thinking, grammar="yes"), engine=engine, syntax=syntax, prompt=opened)
    assert found == ["</think>yes"]


def test_a_grammar_begins_at_once_where_the_model_begins_with_no_thought() -> None:
    engine = Thinker(begin="", num_thoughts=0, end="No.", said="")
    found = answers(turn_of(grammar="yes"), engine=engine, syntax=SYNTAXES["hermes"].with_thoughts(THINK))
    assert found == ["yes"]


class _Quitter(Thinker):
    """Ends its answer where it would end its thought."""

    def next_token(self, tokens: list[int], index: int) -> int:
        token = super().next_token(tokens, index)
        return END if token == ord("<") + FIRST and index else token


def test_an_end_within_a_thought_is_the_thoughts_where_a_grammar_waits() -> None:
    syntax = SYNTAXES["hermes"].with_thoughts(THINK)
    turns = turn_of(grammar='{"on":1}'), turn_of()
    found = answers(*turns, engine=_Quitter(num_thoughts=12), syntax=syntax)
    assert found == [f'<think>{thought_of(12)}</think>{{"on":1}}', f"<think>{thought_of(12)}"]


# --- Counting ---


@pytest.mark.parametrize(
    ("text", "thinking", "num"),
    [
        ("<think>ab</think>cd", False, 2),
        ("ab</think>cd", True, 2),
        ("<think>a<b</th</think>c", False, 7),
        ("<think>ab", False, 2),
        ("<think>ab</thi", False, 7),
        ("abc", False, 0),
        ("<think></think>abc", False, 0),
    ],
)
def test_marks_are_no_thoughts(text: str, thinking: bool, num: int) -> None:
    counted = ThoughtTokens(Parser(SYNTAXES["hermes"].with_thoughts(THINK), thinking=thinking))
    for character in text:
        counted.feed(character, 1)
    counted.finish()
    assert counted.num_tokens == num


class _Bytes(FakeVocabulary):
    """A byte a token."""

    def piece(self, token: int) -> bytes:
        return bytes([token - FIRST]) if token >= FIRST else b""

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        return [byte + FIRST for byte in text.encode()]


def test_no_character_is_cut_by_the_mark() -> None:
    class Foreign(Thinker):
        def next_token(self, tokens: list[int], index: int) -> int:
            text = b"".join(map(self.vocabulary.piece, tokens)).rpartition(b": ")[2]
            said = "<think>" + "ж" * 40
            return said.encode()[len(text)] + FIRST if b"</think>" not in text else 0

    engine = Foreign()
    engine.vocabulary = _Bytes()
    syntax = SYNTAXES["hermes"].with_thoughts(THINK)
    readers = AnswerReaders(syntax, {}, engine.vocabulary.piece)
    loop = EngineLoop(
        engine,
        Scheduler(budget=1e9, max_batch_tokens=512, max_batch_outputs=32, costs=CostModel(0.001)),
        Slots(4, 4096),
        OffloadCache(0),
        clock=engine.clock,
    )
    thinking = readers.thinking(turn_of(thinking=3), "")
    loop.submit(Job("1", "c", "1", list(tokens_of("x: ")), 60, thinking=thinking))
    loop.take_orders()
    told = []
    while loop.has_work:
        told += loop.run_round()
    assert "".join(event.text for event in told if isinstance(event, Generated)) == "<think>жж</think>"
