"""A remembered conversation's prompt is the one that its template makes of it, for a worker that remembers nothing too:
whatever was said, called and thought. On the templates of llama.cpp's source, where the set-up or TP_TEMPLATES has left
them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import codec
from broker.errors import TurnRejected
from broker.messages import Message, Remembered, Tool, ToolCall, Turn
from tests.fakes import FIRST, FakeVocabulary
from tests.unit.test_template_tools import TEMPLATES, form_of, tools
from tests.unit.test_templates import DAY
from workers.prompts.given import messages_for, tools_for
from workers.prompts.history import History
from workers.prompts.rendered import Rendered
from workers.prompts.template import TemplateFailed, render
from workers.prompts.tools_form import ToolsForm


class Here:
    """Renders in this process: the templates are known."""

    def __init__(self, template: str, form: ToolsForm) -> None:
        self._template = template
        self._form = form

    async def render(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int] = (),
        kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Rendered:
        try:
            found = render(
                self._template,
                messages_for(messages, self._form),
                bos_token="<s>",
                eos_token="</s>",
                exact=exact,
                date=DAY,
                system_role="nowhere" if "System role not supported" in self._template else "anywhere",
                kwargs=kwargs,
                tools=tools_for(tools),
                takes_tools=self._form != "generic",
            )
        except TemplateFailed as error:
            raise TurnRejected("invalid_template", str(error)) from None
        return Rendered(found["text"], [tuple(one) for one in found["contents"]])


@st.composite
def answers(draw: st.DrawFn) -> Message:
    """One with a text, or calls, or both, or neither."""
    text = draw(st.sampled_from(["Yes.", "I see, ä\n\nindeed 🙂", "<|im_end|> is a word", "", "", "x"]))
    calls = draw(st.integers(0, 2))
    thoughts = draw(st.sampled_from(["", "", "Hm."]))
    made = tuple(ToolCall(f"abcdefg{draw(st.integers(10, 99))}", "switch", '{"room": "hall"}') for _ in range(calls))
    return Message("assistant", text, made, reasoning=thoughts)


async def prompt_of(history: History, turn: Turn) -> Any:
    try:
        return await history.prompt("alice", turn)
    except TurnRejected as error:
        return error.detail


def with_other_ids(messages: list[Message]) -> tuple[Message, ...]:
    """As a client sends them back whose API has no ids of calls."""
    named: dict[str, str] = {}
    for one in messages:
        named |= {call.id: f"call{len(named) + place:05d}" for place, call in enumerate(one.tool_calls)}
    return tuple(
        msgspec.structs.replace(
            one,
            tool_calls=tuple(msgspec.structs.replace(call, id=named[call.id]) for call in one.tool_calls),
            tool_call_id=one.tool_call_id and named[one.tool_call_id],
        )
        for one in messages
    )


async def check(name: str, said: list[Message], system: bool, moved_at: int, *, keeps_ids: bool = True) -> None:
    """Turn by turn; one of them is answered by a worker that takes the conversation over."""
    renderer = Here(TEMPLATES[name], await form_of(TEMPLATES[name]))
    history = History(renderer, FakeVocabulary())
    messages = [Message("system", "Be brief.")] if system else []
    conversation = "c"
    for number, answer in enumerate(said):
        called = messages[-1].tool_calls if messages and messages[-1].role == "assistant" else ()
        results = [Message("tool", f"done {number}", tool_call_id=call.id) for call in called]
        messages += results or [Message("user", f"Question {number}")]
        turn = Turn("t", conversation, tuple(messages) if keeps_ids else with_other_ids(messages), tools=tools())
        prompt, anew = await prompt_of(history, turn), await prompt_of(History(renderer, FakeVocabulary()), turn)
        if isinstance(prompt, str) or isinstance(anew, str):
            assert prompt == anew
            return
        assert prompt.rendered.text == anew.rendered.text
        assert prompt.tokens == anew.tokens
        made = [FIRST + ord(letter) for letter in f"{answer.reasoning}{answer.content}{answer.tool_calls or ''}"]
        conversation = history.remember(
            "alice", turn, prompt, [*prompt.tokens, *made], answer.content, answer.tool_calls
        )
        messages.append(answer)
        if number == moved_at:
            remembered = history.recall("alice", conversation)
            assert remembered is not None
            history = History(renderer, FakeVocabulary())
            history.adopt("alice", conversation, codec.decode(codec.encode(remembered), Remembered))


@pytest.mark.skipif(not TEMPLATES, reason="the templates of llama.cpp's source are not here")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
async def test_what_is_remembered_stands_in_a_prompt_as_its_template_has_it(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TEMPLATES)))
    said = data.draw(st.lists(answers(), min_size=2, max_size=4))
    is_kept = data.draw(st.booleans())
    await check(name, said, data.draw(st.booleans()), data.draw(st.integers(0, 2)), keeps_ids=is_kept)


CALLING = Message("assistant", "", (ToolCall("abcdefg10", "switch", '{"room": "hall"}'),))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
async def test_an_answer_that_only_calls_has_no_text_in_the_next_prompt(name: str) -> None:
    """Templates ask whether it has any: what is put around a text to keep its white space would be one."""
    await check(name, [CALLING, CALLING, Message("assistant", "It is on."), Message("assistant", "")], False, 1)
