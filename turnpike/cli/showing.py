"""`turnpike models show`: what a model's files say of it, for people or as JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from broker.declaring import Argument
from broker.settings import ModelSettings

if TYPE_CHECKING:
    from workers.model_facts import ModelFacts
    from workers.tool_facts import ToolFacts

GB = 1e9
MIB = 1024**2


class ShowOptions(ModelSettings, frozen=True, kw_only=True):
    """`turnpike models show`."""

    model: Annotated[str, Argument("a GGUF file, or a name of the lock file", metavar="NAME|FILE", is_positional=True)]
    json: Annotated[bool, Argument("as JSON")] = False


def run_show(options: ShowOptions) -> int:
    """Reads headers only and tries the template, and needs no llama.cpp."""
    import asyncio

    import msgspec

    from workers.machine.memory import available_bytes
    from workers.model_facts import facts_of
    from workers.tool_facts import tool_facts

    facts = facts_of(_path(options), available_bytes())
    tools = asyncio.run(tool_facts(facts.chat_template)) if facts.has_template else None
    if options.json:
        said = msgspec.json.encode(msgspec.to_builtins(facts) | {"tools": tools}).decode()
    else:
        said = "\n".join(_lines(facts, tools))
    sys.stdout.write(said + "\n")
    return 0


def _path(options: ShowOptions) -> Path:
    """Of the file that is named, or of the name's first one. Raises TurnpikeError."""
    from broker.catalogue import Missing, entry_of, read_lock
    from workers.models import DEMO

    path = Path(options.model).expanduser()
    if path.suffix == ".gguf" or path.exists():
        return path
    if options.model == DEMO.token:
        return DEMO.path
    locked = entry_of(options.model, read_lock(Path(options.lock_file)), options.lock_file)
    folder = Path(options.models_dir).expanduser()
    path = locked.path_in(folder, options.model)
    if not path.exists():
        raise Missing(options.model, f"{path.name} is not in {folder}: turnpike models pull {options.model}")
    return path


def _large(count: int, unit: str = "") -> str:
    """1.78 G, 268 M."""
    return f"{count / GB:.2f} G{unit}" if count >= GB else f"{count / 1e6:,.3g} M{unit}"


def _small(count: int) -> str:
    """12.3 MB, 8.2 kB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _tools(tools: ToolFacts | None) -> str:
    if tools is None:
        return "a worker tells of them as the template that it finds for the model has them"
    return f"{tools.taken}; calls are read as {tools.syntax}, {tools.chosen} (worker --tool-syntax forces another)"


def _thinking(facts: ModelFacts, tools: ToolFacts | None) -> str:
    if not facts.has_thinking:
        return "no"
    if tools is None or tools.thoughts is None:
        return "yes"
    return "yes, " + " … ".join(mark.strip() for mark in tools.thoughts)


def _lines(facts: ModelFacts, tools: ToolFacts | None) -> list[str]:
    low, high = facts.tokens_per_second
    active = "" if facts.active_parameters == facts.parameters else f", {_large(facts.active_parameters)} active"
    fits = f"up to {facts.largest_context:,} tokens fit" if facts.largest_context else "no context fits"
    cells = [f"{_small(facts.kv_bytes_per_token * 1000)} for 1,000 tokens"] if facts.kv_bytes_per_token else []
    if facts.window:
        of_windows = _small(facts.window_bytes_per_token * facts.window)
        cells.append(f"{of_windows} at most for windows of {facts.window:,} tokens")
    if facts.state_bytes:
        cells.append(f"{_small(facts.state_bytes)} a conversation for recurrent layers")
    is_hybrid = facts.state_bytes and facts.kv_bytes_per_token
    attention = "in some layers, others are recurrent" if is_hybrid else facts.memory
    planned = ", ".join(f"{purpose} {size / MIB:,.0f}" for purpose, size in facts.planned.items())
    template = "in the file" if facts.has_template else "none in the file"
    files = f" in {facts.files} files" if facts.files > 1 else ""
    rows = {
        "model": facts.name,
        "architecture": f"{facts.architecture}, {facts.layers} layers, attention: {attention}",
        "parameters": f"{_large(facts.parameters)}{active}",
        "quantisation": facts.quantization,
        "size": f"{_large(facts.file_bytes, 'B')}{files}; {_large(facts.active_bytes, 'B')} are read for a token",
        "trained for": f"{facts.context:,} tokens",
        "template": template,
        "tools": _tools(tools),
        "thinking": _thinking(facts, tools),
        "calls": "held by a grammar" if tools is not None and tools.are_held else "asked for, not held",
        "vocabulary": f"{facts.vocabulary}, {facts.vocabulary_tokens:,} tokens",
        "licence": facts.licence,
        "KV cache": ", ".join(cells),
        "memory": f"{facts.planned_bytes / MIB:,.0f} MiB with a context of {facts.planned_context:,} tokens"
        f" ({planned});"
        f" of {facts.available_bytes / MIB:,.0f} MiB here {fits}",
        "speed": f"{low} to {high} tokens/s at most on a Raspberry Pi 5",
    }
    if facts.memory == "none":
        rows["architecture"] = f"{facts.architecture}, {facts.layers} layers"
        rows["for"] = "vectors of texts (turnpike embed), and no answers"
        for name in ("template", "tools", "thinking", "calls", "KV cache", "speed"):
            del rows[name]
    return [f"{name + ':':<14} {value}" for name, value in rows.items()]
