"""The anthropic package."""

from typing import Any

import anthropic
import features as asked

client = anthropic.Anthropic(base_url=asked.URL, api_key="none", max_retries=0)
TOOL: Any = {"name": asked.NAME, "description": asked.DESCRIPTION, "input_schema": asked.ROOM}


def fields(text: str) -> dict[str, Any]:
    # The API has a temperature; the package has no word for it any more.
    more = {"extra_body": {"temperature": asked.TEMPERATURE}}
    chosen = {"model": asked.MODEL, "max_tokens": asked.MAX_TOKENS} | more
    return chosen | {"messages": asked.question(text)}


def ask(text: str, **more: Any) -> Any:
    return client.messages.create(**fields(text) | more).content


def chat() -> bool:
    return bool(ask(asked.CHAT)[-1].text)


def stream() -> bool:
    with client.messages.stream(**fields(asked.STREAM)) as found:
        return asked.is_stream(found.text_stream)


def tools() -> bool:
    first = ask(asked.TOOLS, tools=[TOOL], tool_choice={"type": "any"})
    results: list[Any] = []
    for block in first:
        if block.type == "tool_use":
            told = asked.read_temperature(**block.input)
            results.append({"type": "tool_result", "tool_use_id": block.id, "content": told})
    messages = asked.question(asked.TOOLS)
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": results}]
    second = ask(asked.TOOLS, messages=messages, tools=[TOOL], tool_choice={"type": "none"})
    return bool(results and second[-1].text)


def schema() -> bool:
    return asked.is_city(client.messages.parse(**fields(asked.SCHEMA), output_format=asked.City).parsed_output)


def thoughts() -> str | bool:
    content = ask(asked.THOUGHTS, thinking={"type": "enabled", "budget_tokens": 60})
    return asked.told(content[-1].text, "".join(block.thinking for block in content if block.type == "thinking"))


def count() -> bool:
    return client.messages.count_tokens(model=asked.MODEL, messages=asked.question(asked.CHAT)).input_tokens > 0


asked.tell(
    "anthropic",
    chat=chat,
    stream=stream,
    tools=tools,
    schema=schema,
    thoughts=thoughts,
    count=count,
)
