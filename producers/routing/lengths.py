"""About how long a prompt is, before anybody has counted its tokens. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from broker.messages import EmbedText, Message, Tool

BYTES_PER_TOKEN = 4
"""About what the text of most languages has. Where that is too few for a turn, a failure of its model tells."""
MESSAGE_TOKENS = 8
"""What a template says around a message, about."""
PARTS = ("prompt", "suffix", "files", "texts")
"""Of a turn, beside messages and tools: what has tokens."""


def about(
    messages: Sequence[Message] = (),
    *,
    raw: bool = False,
    tools: Sequence[Tool] = (),
    prompt: Sequence[int | str] = (),
    suffix: str | None = None,
    files: Sequence[tuple[str, str]] = (),
    texts: Sequence[EmbedText] = (),
) -> int:
    """In tokens: those of what is tokens already, and the rest by its bytes."""
    pieces: list[int | str] = [one.content for one in messages]
    pieces += [text for tool in tools for text in (tool.description, str(tool.parameters))]
    pieces += [*prompt, suffix or "", *(text for file in files for text in file)]
    pieces += [piece for text in texts for piece in _pieces(text)]
    return _about(pieces) + (0 if raw else MESSAGE_TOKENS * len(messages))


def longest(texts: Iterable[EmbedText]) -> int:
    """Of texts that are read one by one."""
    return max((_about(_pieces(text)) for text in texts), default=0)


def parts_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of PARTS among a turn's other options."""
    return {name: options[name] for name in PARTS if name in options}


def _pieces(text: EmbedText) -> Sequence[int | str]:
    return (text,) if isinstance(text, str) else text


def _about(pieces: Iterable[int | str]) -> int:
    num_tokens = num_bytes = 0
    for one in pieces:
        if isinstance(one, str):
            num_bytes += len(one.encode(errors="replace"))
        else:
            num_tokens += 1
    return num_tokens + num_bytes // BYTES_PER_TOKEN
