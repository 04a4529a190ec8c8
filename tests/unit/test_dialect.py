from __future__ import annotations

from typing import Any

import msgspec

from broker.messages import Failed
from producers.gateway.dialect import ChatRequest, conversation_of, error_of, parse

FIRST = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
LATER = [*FIRST, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And then?"}]


def chat(messages: list[dict[str, str]], **more: Any) -> ChatRequest:
    return parse(msgspec.json.encode({"model": "m", "messages": messages} | more), ChatRequest)


def test_a_conversation_is_named_by_header_then_key_then_user() -> None:
    named = chat(FIRST, prompt_cache_key="key", user="user")
    assert conversation_of(named, "header") == "header"
    assert conversation_of(named, None) == "key"
    assert conversation_of(chat(FIRST, user="user"), None) == "user"
    strange = chat(FIRST, user="a user of any name, ünd so on")
    assert conversation_of(strange, None) == conversation_of(chat(LATER, user="a user of any name, ünd so on"), None)


def test_without_a_name_it_is_known_by_its_beginning() -> None:
    name = conversation_of(chat(FIRST), None)
    assert conversation_of(chat(LATER), None) == name
    assert conversation_of(chat(FIRST, user=""), None) == name
    assert conversation_of(chat(FIRST[1:]), None) != name
    assert conversation_of(chat([FIRST[0], {"role": "user", "content": "How?"}]), None) != name


def test_a_refused_schema_is_told_by_the_field_of_the_request() -> None:
    failed = Failed("invalid_grammar", "sampling.json_schema: at /properties/a: pattern: unbalanced '('")
    error = error_of(failed)
    assert (error.status, error.param, error.code) == (400, "response_format.json_schema.schema", "invalid_grammar")
    assert error.message == "response_format.json_schema.schema: at /properties/a: pattern: unbalanced '('"
