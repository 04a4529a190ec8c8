"""Does a model call tools as rightly here as with llama-server? The forty requests of `turnpike eval --tools shipped`,
asked of both, greedily, one after the other: the same file, tools, messages and bounds.

No timing: `python -m benchmarks.tool_calls [FILE…]` with the real models that are there, or with these files. What
either of them misses is told by the request.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonschema

from benchmarks.harness import CORES, Row, Weights, all_weights, show, system
from benchmarks.peers import LlamaServer, llama_server
from broker.messages import ToolCall
from producers.evaluate.run import TOOLS, run
from producers.evaluate.tool_calls import SAMPLING, SHIPPED, Called, ToolItem, figures, judge, messages, read_tool_items

NUM_CTX = 4096


async def ours(file: Path, items: Sequence[ToolItem]) -> list[Called]:
    """Of a worker, over the queue."""
    async with system("--threads", CORES, "--num-ctx", NUM_CTX, model_file=file) as here:
        return await run(here.client, "m", items, TOOLS, concurrency=1)


async def theirs(file: Path, items: Sequence[ToolItem]) -> list[Called]:
    """Of llama-server, which renders the template and reads the calls by its own lights."""
    async with llama_server("--jinja", "-t", CORES, "-c", NUM_CTX, "-np", 1, model_file=file) as server:
        return [await _asked(server, item) for item in items]


async def _asked(server: LlamaServer, item: ToolItem) -> Called:
    tools = [
        {
            "type": "function",
            "function": {"name": one.name, "description": one.description, "parameters": one.parameters or {}},
        }
        for one in item.tools
    ]
    said = await server.chat(
        messages=[{"role": one.role, "content": one.content} for one in messages(item)],
        tools=tools,
        parallel_tool_calls=True,
        temperature=0,
        max_tokens=SAMPLING.max_tokens,
    )
    calls = tuple(
        ToolCall(call["id"] or "-", call["function"]["name"], call["function"]["arguments"])
        for call in said.get("tool_calls") or ()
    )
    return judge(item, calls, said.get("content") or "")


def fits(item: ToolItem, call: ToolCall) -> bool:
    """Whether the call is of an offered tool, and its arguments follow that one's schema."""
    schemas = {tool.name: tool.parameters or {} for tool in item.tools}
    if call.name not in schemas or call.parsed is None:
        return False
    return bool(jsonschema.Draft202012Validator(schemas[call.name]).is_valid(call.parsed))


def told(one: Called) -> str:
    """An outcome in a line: its calls, or what was said instead."""
    calls = " ".join(f"{call.name}({call.arguments})" for call in one.calls)
    return calls or f"“{' '.join(one.text.split())[:100]}”"


def misses(items: Sequence[ToolItem], mine: Sequence[Called], others: Sequence[Called]) -> list[str]:
    """What either of the two missed."""
    lines = []
    for item, one, other in zip(items, mine, others, strict=True):
        if not one.are_right_arguments or not other.are_right_arguments:
            marks = ["right" if each.are_right_arguments else "MISSED" for each in (one, other)]
            lines.append(f"{item.request}\n  ours {marks[0]}: {told(one)}\n  llama-server {marks[1]}: {told(other)}")
    return lines


def rows(weights: Weights, items: Sequence[ToolItem], mine: Sequence[Called], others: Sequence[Called]) -> list[Row]:
    """The three figures side by side, and how many of our calls no schema would allow."""
    found = []
    for one, other in zip(figures(mine), figures(others), strict=True):
        counts = [round(each.accuracy * each.count) for each in (one, other)]
        mine_said, theirs_said = (f"{count} of {one.count}" for count in counts)
        name = weights.of(f"{one.method}, ours − theirs")
        found.append(Row(name, mine_said, theirs_said, counts[0] - counts[1], 0))
    by_number = {item.number: item for item in items}
    unfit = [
        sum(not fits(by_number[one.number], call) for one in answers for call in one.calls)
        for answers in (mine, others)
    ]
    name = weights.of("calls that are not of a tool's schema")
    return [*found, Row(name, str(unfit[0]), str(unfit[1]), unfit[0], 0, at_most=True)]


async def compared(weights: Weights, items: Sequence[ToolItem]) -> list[Row]:
    """One model's rows; what was missed is printed."""
    mine = await ours(weights.file, items)
    others = await theirs(weights.file, items)
    print(f"\n{weights.file.stem}\n" + "\n".join(misses(items, mine, others)), flush=True)
    return rows(weights, items, mine, others)


async def measure(files: Sequence[Path]) -> list[Row]:
    items = read_tool_items(SHIPPED)
    named = [Weights(file, file.stem) for file in files] or [one for one in all_weights() if one.name is not None]
    return [row for weights in named for row in await compared(weights, items)]


def main() -> None:
    show("tool calls, against llama-server", asyncio.run(measure([Path(name) for name in sys.argv[1:]])))


if __name__ == "__main__":
    main()
