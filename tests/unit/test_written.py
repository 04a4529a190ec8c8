"""An answer that is more than its text: its own tokens stay in the next prompt where the template writes the same."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from broker import codec
from broker.messages import Message, Remembered, Tool, ToolCall, Turn
from tests.fakes import ANOTHER as SECOND
from tests.fakes import FIRST, AmbiguousVocabulary
from workers.prompts.history import History, Prompt
from workers.prompts.renderer import TemplateRenderer

TEMPLATE = """{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for m in messages %}{{ m.role[0] }}:
{%- if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}{% set f = call.function %}
{{- '<tool_call>{"name": "' ~ f.name ~ '", "arguments": ' ~ (f.arguments | tojson) ~ '}</tool_call>' }}
{%- endfor %};{% endfor %}a:"""
LAMP = Tool("lamp", "Switches a lamp", {"type": "object", "properties": {"room": {"type": "string"}}})
CALLED = ToolCall("call00001", "lamp", '{"room": "hall"}')
WRITTEN = '<think>Dark.</think>Light!<tool_call>{"name": "lamp", "arguments": {"room": "hall"}}</tool_call>'
ANSWER = Message("assistant", "Light!", (CALLED,), reasoning="Dark.")
RESULT = Message("tool", "on", tool_call_id=CALLED.id)


def turn(*messages: Message) -> Turn:
    return Turn("t", "c", (Message("user", "Hi"), *messages), tools=(LAMP,))


def generated(text: str) -> list[int]:
    """As no tokenizer would: by each character's second token."""
    return [ord(character) + FIRST + SECOND for character in text]


@pytest.fixture
async def renderer() -> AsyncIterator[TemplateRenderer]:
    found = TemplateRenderer(TEMPLATE, bos_token="", eos_token="")
    await found.start()
    yield found
    await found.close()


async def answered(renderer: TemplateRenderer, written: str = WRITTEN) -> tuple[History, Prompt]:
    """A history that has seen the answer, and its prompt."""
    history = History(renderer, AmbiguousVocabulary())
    first = await history.prompt("alice", turn())
    tokens = [*first.tokens, *generated(written)]
    history.remember("alice", turn(), first, tokens, ANSWER.content, ANSWER.tool_calls, written)
    return history, first


async def kept(history: History, first: Prompt, *messages: Message) -> bool:
    """Whether the answer's own tokens are in the prompt behind these messages; its text is the template's anyway."""
    prompt = await history.prompt("alice", turn(*messages))
    anew = await History(history._renderer, AmbiguousVocabulary()).prompt("alice", turn(*messages))
    assert prompt.rendered.text == anew.rendered.text
    piece = AmbiguousVocabulary().piece
    assert b"".join(map(piece, prompt.tokens)).decode() == prompt.rendered.text
    return prompt.tokens[: prompt.num_known] == [*first.tokens, *generated(WRITTEN)]


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (ANSWER, True),
        (msgspec.structs.replace(ANSWER, reasoning=""), False),
        (msgspec.structs.replace(ANSWER, reasoning="Night."), False),
        (msgspec.structs.replace(ANSWER, content="Light."), False),
        (msgspec.structs.replace(ANSWER, tool_calls=(ToolCall("call00001", "lamp", '{ "room":"hall" }'),)), True),
        (msgspec.structs.replace(ANSWER, tool_calls=(ToolCall("call00001", "lamp", '{"room": "attic"}'),)), False),
    ],
    ids=["as it was", "without its thought", "another thought", "another text", "spaced anew", "another call"],
)
async def test_calls_and_thoughts_keep_their_tokens_where_they_come_back(
    renderer: TemplateRenderer, answer: Message, is_kept: bool
) -> None:
    history, first = await answered(renderer)
    result = msgspec.structs.replace(RESULT, tool_call_id=answer.tool_calls[0].id)
    assert await kept(history, first, answer, result) == is_kept
    assert await kept(history, first, answer, result, Message("assistant", "On."), Message("user", "So?")) == is_kept


async def test_a_call_that_the_template_writes_otherwise_stands_there_as_the_template_has_it(
    renderer: TemplateRenderer,
) -> None:
    history, first = await answered(renderer, WRITTEN.replace(": ", ":"))
    assert not await kept(history, first, ANSWER, RESULT)


async def test_another_worker_has_them_too_unless_they_are_no_tokens(renderer: TemplateRenderer) -> None:
    history, first = await answered(renderer)
    remembered = history.recall("alice", "c")
    assert remembered is not None
    assert remembered.written is not None
    remembered = codec.decode(codec.encode(remembered), Remembered)
    other = History(renderer, AmbiguousVocabulary())
    other.adopt("alice", "c", remembered)
    assert await kept(other, first, ANSWER, RESULT)

    written = remembered.written
    assert written is not None
    for wrong in (
        msgspec.structs.replace(written, tokens=b"\xff" * len(written.tokens)),
        msgspec.structs.replace(written, tokens=written.tokens[:-1]),
        msgspec.structs.replace(written, num_before=10_000),
    ):
        other = History(renderer, AmbiguousVocabulary())
        other.adopt("alice", "c", msgspec.structs.replace(remembered, written=wrong))
        assert not await kept(other, first, ANSWER, RESULT)


async def test_who_says_what_a_model_wrote_says_it_in_tokens_of_text() -> None:
    silent = TemplateRenderer(
        "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}",
        bos_token="",
        eos_token="",
    )
    await silent.start()
    try:
        history, first = await answered(silent)
        assert not await kept(history, first, ANSWER, msgspec.structs.replace(RESULT, content=WRITTEN))
    finally:
        await silent.close()
