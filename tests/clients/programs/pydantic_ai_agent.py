"""An agent of pydantic-ai, streamed: it makes the schemas, checks the arguments and runs the functions itself."""

import asyncio

from house import BASE_URL, MAX_ROUNDS, MAX_TOKENS, MODEL, REQUESTS, SYSTEM, Account
from pydantic_ai import Agent, UnexpectedModelBehavior, UsageLimitExceeded, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def main() -> None:
    account = Account("pydantic-ai-slim")
    agent = Agent(
        OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key="none")),
        instructions=SYSTEM,
        tools=[account.house.switch_lamp, account.house.read_temperature],
        model_settings={"temperature": 0, "max_tokens": MAX_TOKENS, "parallel_tool_calls": False},
        retries=3,
    )
    history = []
    for request, _, _ in REQUESTS:
        text, usage = "", None
        try:
            async with agent.run_stream(
                request, message_history=history, usage_limits=UsageLimits(request_limit=MAX_ROUNDS)
            ) as run:
                pieces = [piece async for piece in run.stream_text(delta=True)]
                text = "".join(pieces)
                history, usage = run.all_messages(), run.usage
        except (UsageLimitExceeded, UnexpectedModelBehavior) as error:
            text = str(error)  # it called until it was stopped, or said nothing even when asked again
        account.note(request, usage.requests if usage is not None else MAX_ROUNDS, text)
    account.tell()


asyncio.run(main())
