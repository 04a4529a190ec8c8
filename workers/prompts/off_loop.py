"""What takes long of a long text is computed in a thread: heartbeats, and everybody's tokens, go on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from broker.messages import Message, Turn

MAX_TOKENIZED = 1024
"""Characters, or tokens. A vocabulary takes 0.2 to 3 µs for a character, on a Pi some four times as long; to ask a
thread takes 0.1 ms."""
AROUND_MESSAGE = 32
"""Characters: a message costs as much, however short it is."""
MAX_READ = 32 * 1024
"""Characters that are only read, compared or written as JSON."""


async def off_loop[T](size: int, compute: Callable[[], T], *, at_most: int = MAX_TOKENIZED) -> T:
    """What `compute` makes of so many characters: at once where they are few, else in a thread."""
    return compute() if size <= at_most else await asyncio.to_thread(compute)


def size_of(turn: Turn) -> int:
    """About how many characters and tokens a turn's prompt is made of."""
    texts = [turn.suffix or "", *(text for _, text in turn.files), *turn.continuations]
    parts = sum(len(part) if isinstance(part, str) else 1 for part in turn.prompt)
    return parts + sum(map(len, texts)) + characters_of(turn.messages)


def characters_of(messages: Iterable[Message]) -> int:
    """How many characters messages have, of texts, thoughts and calls, and of what stands around each."""
    return sum(
        AROUND_MESSAGE + len(one.content) + len(one.reasoning) + sum(len(call.arguments) for call in one.tool_calls)
        for one in messages
    )
