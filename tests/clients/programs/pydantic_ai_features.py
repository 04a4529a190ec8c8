"""pydantic-ai: agents over OpenAI's API."""

import functools
from typing import Any

import features as asked
from pydantic_ai import Agent, NativeOutput, UsageLimitExceeded, UsageLimits
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(asked.MODEL, provider=OpenAIProvider(base_url=f"{asked.URL}/v1", api_key="none"))
SETTINGS: Any = {"max_tokens": asked.MAX_TOKENS, "temperature": asked.TEMPERATURE}


def agent(**more: Any) -> Any:
    return Agent(model, **{"model_settings": SETTINGS} | more)


def chat() -> bool:
    return bool(agent().run_sync(asked.CHAT).output)


def stream() -> bool:
    return asked.is_stream([*agent().run_stream_sync(asked.STREAM).stream_text(delta=True, debounce_by=None)])


def tools() -> bool | str:
    called: list[str] = []

    @functools.wraps(asked.read_temperature)
    def noted(room: str) -> str:
        called.append(room)
        return asked.read_temperature(room)

    limits = UsageLimits(request_limit=asked.MAX_ROUNDS)
    try:
        found = agent(tools=[noted], retries=3).run_sync(asked.TOOLS, usage_limits=limits)
    except UsageLimitExceeded:
        return "calls on" if called else False
    return ("yes" if called else "taken") if found.output else False


def schema() -> bool:
    return asked.is_city(agent(output_type=NativeOutput(asked.City), retries=2).run_sync(asked.SCHEMA).output)


def thoughts() -> str | bool:
    found = agent(model_settings=SETTINGS | {"openai_reasoning_effort": "low"}).run_sync(asked.THOUGHTS)
    parts = [part for message in found.all_messages() for part in message.parts if isinstance(part, ThinkingPart)]
    return asked.told(found.output, "".join(part.content for part in parts))


asked.tell(
    "pydantic-ai-slim",
    chat=chat,
    stream=stream,
    tools=tools,
    schema=schema,
    thoughts=thoughts,
)
