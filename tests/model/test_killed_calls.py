"""A worker is killed within a call that a grammar holds: another one goes on, and the reader sees one call."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.accounts import LOCAL
from broker.answer import Answer
from broker.client import Client
from broker.messages import CallDelta, Sampling, Tool, ToolCall
from broker.messages.tools import grown
from broker.server import EmbeddedServer
from broker.topology import Limits
from tests.model.test_commands import worker

NUM_LAMPS = 250
LAMPS = Tool(
    "set_lamps",
    "Sets the lamps along the mast",
    {
        "type": "object",
        "properties": {
            "lamps": {"type": "array", "items": {"enum": ["on", "off"]}, "minItems": NUM_LAMPS, "maxItems": NUM_LAMPS},
        },
        "required": ["lamps"],
        "additionalProperties": False,
    },
)
"""Its call is long, so that a worker is within it for seconds, and has to come to an end."""


def ask(client: Client) -> Answer:
    sampling = Sampling(max_tokens=3000)
    return client.ask("m", "All of them!", tools=[LAMPS], tool_choice="required", sampling=sampling)


def said(calls: tuple[ToolCall, ...]) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in calls]


async def test_a_worker_that_is_killed_within_a_held_call_leaves_one_call(
    nats_server: EmbeddedServer, tiny_path: Path
) -> None:
    await nats_server.ensure(["m"], Limits(ack_wait_seconds=2))
    async with Client(nats_server.address(LOCAL)) as client:
        answer = ask(client)
        stream = aiter(answer.__aiter__())
        deltas: list[CallDelta] = []
        async with worker(nats_server, tiny_path, "--deterministic", "--worker-name", "first") as first:
            while not (answer.tool_calls and len(answer.tool_calls[0].arguments) > 100):
                deltas += (await anext(stream)).calls
            first.kill()
            await asyncio.to_thread(first.wait)
        num_sent = answer.num_tokens
        async with worker(nats_server, tiny_path, "--deterministic", "--worker-name", "second"):
            async for chunk in stream:
                deltas += chunk.calls
            unkilled = await ask(client)
    done = answer.done
    assert (done.worker, done.attempt, done.finish_reason) == ("second", 0, "tool_calls")
    assert 0 < num_sent < done.usage.completion_tokens
    (call,) = done.tool_calls
    assert call.parsed is not None
    assert len(call.parsed["lamps"]) == NUM_LAMPS
    assert grown((), deltas) == done.tool_calls
    assert done.usage.broken_calls == 0
    assert (done.text, said(done.tool_calls)) == (unkilled.text, said(unkilled.tool_calls))
    assert done.tokens == unkilled.tokens
