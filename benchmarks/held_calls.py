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

NUM_PAIRS = 5
NUM_TOKENS = 64
MIN_PROMPT_TOKENS, MAX_TRIES = 1_500, 5
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


def as_text(num_characters: int) -> str:
    """So much of what the tools say."""
    said = json.dumps([[one.name, one.description, one.parameters] for one in TOOLS])
    return (2 * said)[:num_characters]


async def answered(running: System, number: int, listed: str | None) -> Done:
    """A story behind the tools, or behind a text."""
    has_tools = listed is None
    messages = [Message("system", f"You are a story teller. {listed or ''}"), Message("user", STORY.format(number))]
    sampling = Sampling(max_tokens=NUM_TOKENS, ignore_eos=True)
    done: Done = await running.client.ask("m", messages, sampling=sampling, tools=TOOLS if has_tools else ())
    assert not done.tool_calls, "the story was a call"
    return done


async def as_long_text(running: System) -> str:
    """A text that makes the prompt as long as the tools do, within 1 %: a token costs more behind more of them."""
    wanted = (await answered(running, 0, None)).usage.prompt_tokens
    assert wanted > MIN_PROMPT_TOKENS
    listed = as_text(4 * wanted)
    for _ in range(MAX_TRIES):
        found = (await answered(running, 0, listed)).usage.prompt_tokens
        print(f"tokens of the prompt: {wanted} with tools, {found} with a text")
        if abs(found - wanted) < wanted / 100:
            return listed
        listed = as_text(len(listed) * wanted // found)
    raise AssertionError("no text is as long as the tools")


def seconds_a_token(done: Done) -> float:
    """Of its decode."""
    return done.timings.decode / (done.usage.completion_tokens - 1)


async def held_seconds(running: System) -> tuple[float, int]:
    """Of one token of a call that is held from its first on, and how many there were."""
    question = "Switch on device 3 in the hall at 40 percent, and note that it was done for the evening's test."
    sampling, choice = Sampling(max_tokens=NUM_TOKENS), NamedTool(TOOLS[3].name)
    done: Done = await running.client.ask("m", question, sampling=sampling, tools=TOOLS, tool_choice=choice)
    assert [call.name for call in done.tool_calls] == [choice.name]
    return seconds_a_token(done), done.usage.completion_tokens


async def measured(file: Path) -> list[Row]:
    """The table's row."""
    async with system("--threads", CORES, "--num-ctx", 8192, "--num-slots", 2, model_file=file) as running:
        text = await as_long_text(running)
        ratios = []
        for number in range(1, NUM_PAIRS + 1):
            # The order changes from pair to pair, so that a drift of the machine favours neither.
            order = (None, text) if number % 2 else (text, None)
            seconds = {listed: seconds_a_token(await answered(running, number, listed)) for listed in order}
            ratios.append(seconds[text] / seconds[None])
            print(f"{ratios[-1]:.3f}", end=" ", flush=True)
        plain = seconds[text]
        held, num_tokens = await held_seconds(running)
    ratio = statistics.median(ratios)
    print(f"\nheld from the first token: {1e3 * held:.1f} ms a token of {num_tokens}, {1e3 * plain:.1f} of plain text")
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
