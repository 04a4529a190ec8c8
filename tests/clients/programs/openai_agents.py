"""An agent of the openai-agents package over chat completions, streamed, without tracing (which goes to OpenAI)."""

import asyncio

from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from house import BASE_URL, MAX_ROUNDS, MAX_TOKENS, MODEL, REQUESTS, SYSTEM, Account
from openai import AsyncOpenAI


async def main() -> None:
    set_tracing_disabled(True)
    account = Account("openai-agents")
    client = AsyncOpenAI(base_url=BASE_URL, api_key="none", max_retries=0)
    agent = Agent(
        name="house",
        instructions=SYSTEM,
        model=OpenAIChatCompletionsModel(MODEL, client),
        model_settings=ModelSettings(
            temperature=0, max_tokens=MAX_TOKENS, include_usage=True, parallel_tool_calls=False
        ),
        tools=[function_tool(account.house.switch_lamp), function_tool(account.house.read_temperature)],
    )
    history = []
    for request, _, _ in REQUESTS:
        said = [*history, {"role": "user", "content": request}]
        run = Runner.run_streamed(agent, said, max_turns=MAX_ROUNDS)
        text = ""
        try:
            async for _ in run.stream_events():
                pass
            history, text = run.to_input_list(), str(run.final_output)
        except MaxTurnsExceeded as error:
            text = str(error)
        account.note(request, len(run.raw_responses), text)
    account.tell()


asyncio.run(main())
