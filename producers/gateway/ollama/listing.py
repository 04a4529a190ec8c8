"""What `/api/tags`, `/api/ps` and `/api/show` tell of models. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from broker.discovery import EMBED, INFILL, RAW, THINKING, TOOLS
from producers.gateway.models import Listed
from producers.gateway.ollama.answers import stamp

LATEST = ":latest"
FOREVER = "2300-01-01T00:00:00Z"
"""When a loaded model goes: boards keep it until another one needs its room."""
UNKNOWN = "unknown"
CAPABILITIES = {TOOLS: "tools", INFILL: "insert", THINKING: "thinking", EMBED: "embedding"}
"""Ollama's words for what a worker can, beside to complete."""


def tagged(model: str) -> str:
    """A model's name as it is listed: clients compare it with names that have a tag."""
    return model if ":" in model else model + LATEST


def tags(models: Iterable[Listed]) -> dict[str, Any]:
    """All of them."""
    return {"models": [_entry(one) | _of_file(one) for one in models]}


def running(models: Iterable[Listed]) -> dict[str, Any]:
    """Those that a worker has loaded. None has anything in the memory of a GPU."""
    loaded = [one for one in models if one.workers]
    return {
        "models": [
            _entry(one) | {"expires_at": FOREVER, "size_vram": 0, "context_length": one.num_ctx or 0} for one in loaded
        ]
    }


def shown(model: Listed) -> dict[str, Any]:
    """All that is known of one. `model_info` has the keys of its file's header."""
    file = model.file
    family = file.architecture or UNKNOWN
    info: dict[str, Any] = {"general.architecture": family, "general.basename": model.name}
    if file.num_parameters:
        info["general.parameter_count"] = file.num_parameters
    if model.num_ctx:
        info[f"{family}.context_length"] = model.num_ctx
    if file.num_embd:
        info[f"{family}.embedding_length"] = file.num_embd
    return {
        "modelfile": f"# {model.name}, as Turnpike serves it\nFROM {tagged(model.id)}\n",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": info,
    } | _of_file(model)


def capabilities(model: Listed) -> list[str]:
    """What it can, in Ollama's words."""
    completes = ["completion"] if model.can(RAW) else []
    return completes + [word for what, word in CAPABILITIES.items() if model.can(what)]


def _entry(model: Listed) -> dict[str, Any]:
    name = tagged(model.id)
    return {
        "name": name,
        "model": name,
        "size": model.file_bytes,
        "digest": digest_of(model),
        "details": _details(model),
    }


def _details(model: Listed) -> dict[str, Any]:
    file = model.file
    family = file.architecture or UNKNOWN
    found = {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": human(file.num_parameters) if file.num_parameters else "",
        "quantization_level": file.quantization,
    }
    more = {"context_length": model.num_ctx, "embedding_length": file.num_embd}
    return found | {name: value for name, value in more.items() if value}


def digest_of(model: Listed) -> str:
    """64 hexadecimal digits, of which clients show twelve: of the file, else of what tells it from others."""
    told = model.workers[0].fingerprint if model.workers else ""
    return model.file.sha256 or hashlib.sha256(f"{model.id} {told}".encode()).hexdigest()


def _of_file(model: Listed) -> dict[str, Any]:
    return {"modified_at": stamp(datetime.fromtimestamp(model.created, UTC)), "capabilities": capabilities(model)}


def human(count: int) -> str:
    """Parameters as people say them: 494.03M, 7.6B."""
    for size, unit, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= size:
            number = count / size
            return f"{number:.0f}{unit}" if number.is_integer() else f"{number:.{digits}f}{unit}"
    return str(count)
