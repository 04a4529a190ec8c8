"""pydantic-ai: agents over OpenAI's API."""

import functools

from features import (
    CHAT,
    MAX_TOKENS,
    MODEL,
    SCHEMA,
    STREAM,
    THOUGHTS,
    TOOLS,
    URL,
    Features,
    is_city,
    is_stream,
    read_temperature,
    told,
)
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, UsageLimitExceeded, UsageLimits
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
settings = {"max_tokens": MAX_TOKENS}


class City(BaseModel):
    """A city, and how many live in it."""

    name: str
    population: int


def chat() -> bool:
    return bool(Agent(model, model_settings=settings).run_sync(CHAT).output)


def stream() -> bool:
    found = Agent(model, model_settings=settings).run_stream_sync(STREAM)
    return is_stream([*found.stream_text(delta=True, debounce_by=None)])


def tools() -> bool | str:
    called: list[str] = []

    @functools.wraps(read_temperature)
    def noted(room: str) -> str:
        called.append(room)
        return read_temperature(room)

    agent = Agent(model, tools=[noted], model_settings=settings, retries=3)
    try:
        found = agent.run_sync(TOOLS, usage_limits=UsageLimits(request_limit=5))
    except UsageLimitExceeded:
        return "calls on" if called else False
    return ("yes" if called else "taken") if found.output else False


def schema() -> bool:
    found = Agent(model, output_type=NativeOutput(City), model_settings=settings, retries=2).run_sync(SCHEMA)
    return is_city(found.output.model_dump())


def thoughts() -> str | bool:
    thinking = settings | {"openai_reasoning_effort": "low"}
    found = Agent(model, model_settings=thinking).run_sync(THOUGHTS)
    parts = [part for message in found.all_messages() for part in message.parts if isinstance(part, ThinkingPart)]
    return told(found.output, "".join(part.content for part in parts))


features = Features("pydantic-ai-slim")
for name, work in (("chat", chat), ("stream", stream), ("tools", tools), ("schema", schema), ("thoughts", thoughts)):
    features.attempt(name, work)
features.tell()
