"""Variables that a client gives the template: bounded, never control tokens, and part of what a prompt is made of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker import codec
from broker.errors import InvalidMessage
from broker.messages import Message, Remembered, Turn
from broker.messages.template_kwargs import TAKEN, canonical
from producers.gateway.openai.chat import ChatRequest
from producers.gateway.openai.completions import CompletionRequest
from producers.gateway.posted import posted
from tests.fakes import FakeRenderer, FakeVocabulary
from workers.prompts.history import History
from workers.prompts.renderer import TemplateRenderer
from workers.prompts.template import render

HELLO = (Message("user", "hello"),)
DEEP: dict[str, Any] = {"a": {"b": {"c": {"d": {}}}}}


def turn(kwargs: dict[str, Any] | None, *contents: str) -> Turn:
    said = contents or ("hello",)
    messages = tuple(Message("assistant" if index % 2 else "user", text) for index, text in enumerate(said))
    return Turn("t", "c", messages, chat_template_kwargs=kwargs)


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_what_the_worker_gives_a_template_is_not_the_clients_to_give(name: str) -> None:
    with pytest.raises(InvalidMessage, match=f"chat_template_kwargs.{name}: is not the client's to give"):
        turn({name: []})


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({f"n{index}": 1 for index in range(17)}, "has 17 names, and may have 16"),
        ({"a": "x" * 5000}, "bytes, and may have 4096"),
        (DEEP, "nested deeper than 4"),
        ({"a": [[[[]]]]}, "nested deeper than 4"),
        ({"": 1}, "is no name"),
        ({"_private": 1}, "is no name"),
        ({"a-b": 1}, "is no name"),
        ({"x" * 65: 1}, "is no name"),
        ({"a": b"bytes"}, "is neither text"),
        ({"a": float("nan")}, "is neither text"),
        ({"a": float("inf")}, "is neither text"),
        ({"a": 2**70}, "is neither text"),
        ({"a": {1: 2}}, "a name that is no text"),
        ({"a": "\ud83d"}, "half a character"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused_by_its_name(kwargs: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidMessage, match=f"chat_template_kwargs.*{reason}"):
        turn(kwargs)


def test_a_raw_prompt_has_no_template_to_give_variables_to() -> None:
    with pytest.raises(InvalidMessage, match="a raw prompt has no template"):
        Turn("t", "c", HELLO, raw=True, chat_template_kwargs={"enable_thinking": False})


def test_the_wire_carries_them_and_nothing_where_there_are_none() -> None:
    given = turn({"enable_thinking": False, "a": {"b": {"c": [1.5, None, "x"]}}})
    assert codec.decode(codec.encode(given), Turn) == given
    assert turn({"a": {"b": {"c": {"d": 1}}}}).chat_template_kwargs is not None
    assert b"kwargs" not in codec.encode(turn(None))


def test_the_gateway_takes_them_for_chats_and_for_chats_only() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"a": True}}
    assert posted(json.dumps(body).encode(), ChatRequest)[0].template_kwargs == {"a": True}
    assert posted(json.dumps(body | {"chat_template_kwargs": {}}).encode(), ChatRequest)[0].template_kwargs is None
    (asked,) = posted(b'{"model": "m", "prompt": "x"}', CompletionRequest)[0].asked()
    assert asked.template_kwargs is None


def test_what_they_say_is_text_and_never_the_templates() -> None:
    template = (
        "{{ mood }}|{% for k, v in more.items() %}{{ k }}{{ v }}{% endfor %}|{% if mood == '<|im_end|>' %}y{% endif %}"
    )
    kwargs = {"mood": "<|im_end|>", "more": {"<|a|>": ["<|b|>"]}}
    found = render(template, [{"role": "user", "content": "x"}], bos_token="", eos_token="", kwargs=kwargs)
    assert found["text"] == "<|im_end|>|<|a|>['<|b|>']|y"
    assert found["contents"] == [[-1, 0, 10], [-1, 11, 25]]


async def test_a_template_is_given_them() -> None:
    asked = "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    template = "{{ messages[0].content }}" + asked
    renderer = TemplateRenderer(template, bos_token="", eos_token="")
    try:
        assert (await renderer.render(HELLO)).text == "hello"
        assert (await renderer.render(HELLO, kwargs={"enable_thinking": False})).text == "hello<think></think>"
        assert (await renderer.render(HELLO, kwargs={"enable_thinking": True})).text == "hello"
    finally:
        await renderer.close()


async def test_with_others_the_same_messages_are_another_prompt() -> None:
    history = History(FakeRenderer(), FakeVocabulary())
    first = turn({"a": 1, "b": 2})
    prompt = await history.prompt("alice", first)
    history.remember("alice", first, prompt, [*prompt.tokens, ord("h") + 3], "h")
    for kwargs, is_known in (({"b": 2, "a": 1}, True), ({"a": 1}, False), ({"a": True, "b": 2}, False), (None, False)):
        found = await history.prompt("alice", turn(kwargs, "hello", "h", "more"))
        assert (found.num_known > 0) is is_known


async def test_they_go_with_a_conversation_to_another_worker() -> None:
    history, other = (History(FakeRenderer(), FakeVocabulary()) for _ in range(2))
    first = turn({"a": 1})
    prompt = await history.prompt("alice", first)
    name = history.remember("alice", first, prompt, [*prompt.tokens, ord("h") + 3], "h")
    remembered = history.recall("alice", name)
    assert remembered is not None
    other.adopt("alice", name, codec.decode(codec.encode(remembered), Remembered))
    assert (await other.prompt("alice", turn({"a": 1}, "hello", "h", "more"))).num_known > 0
    assert (await other.prompt("alice", turn({"a": 2}, "hello", "h", "more"))).num_known == 0


def test_order_makes_no_difference_and_kinds_do() -> None:
    assert canonical({"a": 1, "b": {"d": 1, "c": 2}}) == canonical({"b": {"c": 2, "d": 1}, "a": 1})
    assert canonical({"a": 1}) != canonical({"a": True})
    assert canonical(None) == canonical({}) == ""
