"""openai-agents, by the API whose name is its argument: its Responses, which are its default, or its chats."""

import asyncio
import sys
from typing import Any

import features as asked
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

set_tracing_disabled(True)  # it would tell OpenAI
MODELS: Any = {"responses": OpenAIResponsesModel, "chats": OpenAIChatCompletionsModel}
API = sys.argv[1]


def agent(*, settings: dict[str, Any] | None = None, **more: Any) -> Agent:
    """An agent with a client of its own, as each run has a loop of its own."""
    client = AsyncOpenAI(base_url=f"{asked.URL}/v1", api_key="none", max_retries=0)
    chosen = {"temperature": asked.TEMPERATURE, "max_tokens": asked.MAX_TOKENS} | (settings or {})
    return Agent(name="one", model=MODELS[API](asked.MODEL, client), model_settings=ModelSettings(**chosen), **more)


def items(run: Any, kind: str) -> list[Any]:
    return [item for item in run.new_items if item.type == kind]


def chat() -> bool:
    return bool(Runner.run_sync(agent(), asked.CHAT).final_output)


def stream() -> bool:
    async def pieces() -> list[str]:
        events = Runner.run_streamed(agent(), asked.STREAM).stream_events()
        found = [event.data async for event in events if event.type == "raw_response_event"]
        return [one.delta for one in found if one.type == "response.output_text.delta"]

    return asked.is_stream(asyncio.run(pieces()))


def tools() -> bool | str:
    # It asks for a call in the first answer alone.
    thermometer = function_tool(asked.read_temperature)
    try:
        one = agent(tools=[thermometer], settings={"tool_choice": "required"})
        run = Runner.run_sync(one, asked.TOOLS, max_turns=asked.MAX_ROUNDS)
    except MaxTurnsExceeded as error:
        return "calls on" if error.run_data and items(error.run_data, "tool_call_output_item") else False
    return bool(items(run, "tool_call_output_item") and run.final_output)


def schema() -> bool:
    return asked.is_city(Runner.run_sync(agent(output_type=asked.City), asked.SCHEMA).final_output)


def thoughts() -> str | bool:
    run = Runner.run_sync(agent(settings={"reasoning": Reasoning(effort="low")}), asked.THOUGHTS)
    thought = [item.raw_item for item in items(run, "reasoning_item")]
    return asked.told(run.final_output, "".join(part.text for one in thought for part in one.content or one.summary))


asked.tell(
    "openai-agents",
    API,
    chat=chat,
    stream=stream,
    tools=tools,
    schema=schema,
    thoughts=thoughts,
)
