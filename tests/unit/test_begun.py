"""An answer that its client has begun: where its prompt ends, how the rest is read, and what the next turn finds."""

from __future__ import annotations

import pytest

from broker import codec
from broker.conversations import name_of
from broker.errors import TurnRejected
from broker.messages import Message, Remembered, Sampling, Tool, Turn
from tests.fakes import FIRST, FakeRenderer, FakeVocabulary
from tests.unit.test_history_templates import Here
from tests.unit.test_template_tools import TEMPLATES, form_of
from workers.calls import syntax_of
from workers.calls.syntaxes import SYNTAXES
from workers.prompts.begun import rendered
from workers.prompts.history import History, Prompt
from workers.prompts.rendered import Rendered
from workers.prompts.system_role import merged
from workers.turns.answer_reader import AnswerReaders

WHY, AND, SO = Message("user", "Why?"), Message("user", "And?"), Message("user", "So?")
LONG = (Message("system", "Brief."), WHY, Message("assistant", "x"), AND)
SHOWS_THOUGHTS = ("NVIDIA-Nemotron-Nano-v2", "Qwen-Qwen3-0.6B", "Qwen3.5-4B", "StepFun3.5-Flash")
"""Tell an answer behind the last question with its thoughts, and one before it without."""


def spelled(text: str) -> list[int]:
    return [FIRST + ord(letter) for letter in text]


def turn(*messages: Message, sampling: Sampling = Sampling(), conversation: str = "c") -> Turn:
    return Turn("t", conversation, messages, sampling=sampling)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
async def test_a_prompt_ends_with_what_is_begun_and_the_next_one_goes_on_behind_the_whole(name: str) -> None:
    template = TEMPLATES[name]
    renderer, thoughts = Here(template, await form_of(template)), syntax_of(template).thoughts
    for text in ("  Well,\n ", "a</think>b <|im_end|>", " "):
        prompt = await rendered(renderer, turn(*LONG, Message("assistant", text)), thoughts=thoughts)
        index, start, end = prompt.contents[-1]
        assert (index, end, prompt.text[start:]) == (len(LONG), len(prompt.text), text)
        assert thoughts is None or not text.strip() or not thoughts.are_open(prompt.text[:start])
    here, there, nowhere = (History(renderer, FakeVocabulary(), thoughts=thoughts) for _ in range(3))
    asked = turn(*LONG, Message("assistant", " It is"))
    first = await here.prompt("alice", asked)
    tokens = [*first.tokens, *spelled(" the fan.")]
    conversation = here.remember("alice", asked, first, tokens, " the fan.")
    remembered = here.recall("alice", conversation)
    assert remembered is not None
    there.adopt("alice", conversation, codec.decode(codec.encode(remembered), Remembered))
    following = turn(*LONG, Message("assistant", " It is the fan."), SO)
    found, elsewhere, anew = [await one.prompt("alice", following) for one in (here, there, nowhere)]
    assert found.tokens == elsewhere.tokens
    assert found.rendered.text.replace(" ", "") == anew.rendered.text.replace(" ", "")
    if name not in SHOWS_THOUGHTS:
        assert found.tokens[: len(tokens)] == tokens
        assert found.num_known == elsewhere.num_known == len(tokens)


async def test_an_answer_that_was_cut_is_gone_on_with_behind_its_own_tokens() -> None:
    history = History(FakeRenderer(), FakeVocabulary())
    asked = turn(WHY)
    prompt = await history.prompt("alice", asked)
    tokens = [*prompt.tokens, *spelled("The f")]
    history.remember("alice", asked, prompt, tokens, "The f")
    further = await history.prompt("alice", turn(WHY, Message("assistant", "The f")))
    assert (further.tokens, further.num_known) == (tokens, len(tokens))


def test_who_goes_on_from_it_finds_it_under_the_name_of_the_whole_answer() -> None:
    history = History(FakeRenderer(), FakeVocabulary())
    asked = (WHY, Message("assistant", "The"))
    named = turn(*asked, conversation=name_of(asked))
    prompt_tokens = spelled("user: Why?\nassistant: The")

    prompt = Prompt(Rendered("user: Why?\nassistant: The", []), prompt_tokens)
    following = (WHY, Message("assistant", "The fan."), SO)
    assert history.remember("alice", named, prompt, [*prompt_tokens, *spelled(" fan.")], " fan.") == name_of(following)


async def test_a_template_that_refuses_such_a_message_gets_the_text_behind_what_it_puts_before_an_answer() -> None:
    refusing = (
        "{% if messages[-1].role != 'user' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[A]{% endif %}"
    )
    prompt = await rendered(Here(refusing, "generic"), turn(WHY, Message("assistant", "Be")))
    assert prompt.text == "[user]Why?[A]Be"
    empty = await rendered(Here(refusing, "generic"), turn(WHY, Message("assistant", "")))
    assert empty.text == "[user]Why?[A]"
    always = "{{ raise_exception('never') }}"
    with pytest.raises(TurnRejected):
        await rendered(Here(always, "generic"), turn(WHY, Message("assistant", "Be")))


def test_a_system_message_without_a_place_stands_before_what_is_begun() -> None:
    system, begun = {"role": "system", "content": "Brief."}, {"role": "assistant", "content": "Be"}
    assert merged([system, begun], "nowhere") == [{"role": "user", "content": "Brief."}, begun]
    assert merged([system], "nowhere") == [{"role": "user", "content": "Brief."}]


TOOLS = (Tool("lamp", "", {"type": "object"}),)


@pytest.mark.parametrize("name", ["hermes", "gpt-oss", "llama3", "functionary-v3.2", "mistral"])
def test_the_rest_of_a_text_begins_with_no_thought_and_with_no_call_without_a_mark(name: str) -> None:
    readers = AnswerReaders(SYNTAXES[name], holds=True)
    asked = Turn("t", "c", (WHY, Message("assistant", "I")), tools=TOOLS)
    reader = readers.of(asked, "…I")
    said = ' see: {"name": "lamp", "arguments": {}}'
    told = [reader.feed(said, 1), reader.finish()]
    assert "".join(one.text for one in told) == said
    assert not any(one.reasoning or one.calls for one in told)
    assert readers.thinking(asked, "…I") is None


def test_an_empty_text_begins_nothing() -> None:
    syntax = SYNTAXES["hermes"].with_thoughts(syntax_of("<think></think>").thoughts)
    readers = AnswerReaders(syntax)
    reader = readers.of(turn(WHY, Message("assistant", "")), "assistant: ")
    assert reader.feed("<think>Hm.</think>Yes.", 1).reasoning == "Hm."
