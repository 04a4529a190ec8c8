"""What do tools cost a stream's decode? 2,000 tokens of tools, read and held by a grammar, ÷ as many of plain text.

With Qwen 0.5B, or the file that MODEL names. Text is written in both cases, so that each token is looked at and none is
held; what a held token costs is printed beside.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
from pathlib import Path

from benchmarks.harness import CORES, REAL_MODELS, Row, System, show, system
from broker.messages import Done, Message, Sampling, Tool
from broker.messages.tools import NamedTool
from tools.real_models import pinned

NUM_PAIRS = 8
NUM_TOKENS = 96
NUM_TOOLS = 15
TARGET = 0.98
ROOMS = ["kitchen", "hall", "garden", "attic", "cellar", "workshop", "mast", "antenna room"]
TOOLS = tuple(
    Tool(
        f"set_device_{number}",
        f"Sets device {number} of the radio site: whether it is on, how strong it is, and for how long.",
        {
            "type": "object",
            "properties": {
                "room": {"type": "string", "enum": ROOMS, "description": "where the device is"},
                "on": {"type": "boolean", "description": "whether it is to be on"},
                "percent": {"type": "integer", "minimum": 0, "maximum": 100, "description": "how strong it is"},
                "note": {"type": "string", "description": "what is written into the site's book"},
            },
            "required": ["room", "on"],
        },
    )
    for number in range(NUM_TOOLS)
)
STORY = "Tell me a long story about a lighthouse, in plain prose. Call nothing. Story {}."


async def decode_seconds(running: System, number: int, *, has_tools: bool) -> float:
    """Of one token behind 2,000 of tools, or of the same words as a text."""
    listed = "" if has_tools else json.dumps([[one.name, one.description, one.parameters] for one in TOOLS])
    messages = [Message("system", f"You are a story teller. {listed}"), Message("user", STORY.format(number))]
    sampling = Sampling(max_tokens=NUM_TOKENS, ignore_eos=True)
    done: Done = await running.client.ask("m", messages, sampling=sampling, tools=TOOLS if has_tools else ())
    assert not done.tool_calls, "the story was a call"
    assert done.usage.prompt_tokens > 1_000
    return done.timings.decode / (done.usage.completion_tokens - 1)


async def held_seconds(running: System) -> tuple[float, int]:
    """Of one token of a call that is held from its first on, and how many there were."""
    question = "Switch on device 3 in the hall at 40 percent, and note that it was done for the evening's test."
    sampling, choice = Sampling(max_tokens=NUM_TOKENS), NamedTool(TOOLS[3].name)
    done: Done = await running.client.ask("m", question, sampling=sampling, tools=TOOLS, tool_choice=choice)
    assert [call.name for call in done.tool_calls] == [choice.name]
    return done.timings.decode / (done.usage.completion_tokens - 1), done.usage.completion_tokens


async def measured(file: Path) -> list[Row]:
    """The table's row."""
    async with system("--threads", CORES, "--num-ctx", 8192, "--num-slots", 2, model_file=file) as running:
        for has_tools in (True, False):
            await decode_seconds(running, 0, has_tools=has_tools)
        ratios = []
        for number in range(1, NUM_PAIRS + 1):
            # The order changes from pair to pair, so that a drift of the machine favours neither.
            order = (True, False) if number % 2 else (False, True)
            seconds = {has_tools: await decode_seconds(running, number, has_tools=has_tools) for has_tools in order}
            ratios.append(seconds[False] / seconds[True])
        plain = seconds[False]
        held, num_tokens = await held_seconds(running)
    ratio = statistics.median(ratios)
    print(f"pairs: {' '.join(f'{one:.3f}' for one in ratios)}")
    print(f"held from the first token: {1e3 * held:.1f} ms a token of {num_tokens}, {1e3 * plain:.1f} of plain text")
    return [Row("decode with 2,000 tokens of tools ÷ without", f"{ratio:.3f}", "1", ratio, TARGET)]


def main() -> None:
    (qwen,) = [one.file for one in pinned() if one.name == "qwen2.5-coder-0.5b"]
    file = Path(os.environ.get("MODEL", REAL_MODELS / qwen))
    if not file.is_file():
        print(f"no {file}: `make real-models` fetches it")
        return
    show("held calls", asyncio.run(measured(file)))


if __name__ == "__main__":
    main()
