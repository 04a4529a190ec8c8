"""The openai package: its Responses, where a conversation goes on by the id of the last."""

import json
from typing import Any

import features as asked
import openai

client = openai.OpenAI(base_url=f"{asked.URL}/v1", api_key="none", max_retries=0)
TOOL: Any = {"type": "function", "strict": False} | asked.FUNCTION


def fields(text: str) -> dict[str, Any]:
    chosen = {"model": asked.MODEL, "temperature": asked.TEMPERATURE, "max_output_tokens": asked.MAX_TOKENS}
    return chosen | {"input": text}


def ask(text: str, **more: Any) -> Any:
    return client.responses.create(**fields(text) | more)


def chat() -> bool:
    return bool(ask(asked.CHAT).output_text)


def stream() -> bool:
    events = ask(asked.STREAM, stream=True)
    return asked.is_stream(one.delta for one in events if one.type == "response.output_text.delta")


def tools() -> bool:
    first = ask(asked.TOOLS, tools=[TOOL], tool_choice="required")
    results: list[Any] = []
    for item in first.output:
        if item.type == "function_call":
            told = asked.read_temperature(**json.loads(item.arguments))
            results.append({"type": "function_call_output", "call_id": item.call_id, "output": told})
    second = ask("", previous_response_id=first.id, input=results, tools=[TOOL], tool_choice="none")
    return bool(results and second.output_text)


def schema() -> bool:
    return asked.is_city(client.responses.parse(**fields(asked.SCHEMA), text_format=asked.City).output_parsed)


def thoughts() -> str | bool:
    found = ask(asked.THOUGHTS, reasoning={"effort": "low"})
    parts = [part.text for item in found.output if item.type == "reasoning" for part in item.content or ()]
    return asked.told(found.output_text, "".join(parts))


def count() -> bool:
    return client.responses.input_tokens.count(model=asked.MODEL, input=asked.CHAT).input_tokens > 0


asked.tell(
    "openai",
    "responses",
    chat=chat,
    stream=stream,
    tools=tools,
    schema=schema,
    thoughts=thoughts,
    count=count,
)
