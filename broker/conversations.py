"""The names of conversations that nobody named: the chain of what was said in them, up to the last answer.

Chats that begin alike part with their first answers, and so do their names. A turn is named by what it continues; once
it is answered, its state is kept under the name that the next turn will have, which whoever knows the answer can tell.
No one has to remember whose turn came from where: a gateway names turns by their histories alone, a worker moves the
state of a turn that is named so to the next name, and any other name stays as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import msgspec

from broker.messages import Message, ToolCall


def chain(messages: Sequence[Message]) -> list[tuple[int, str]]:
    """For each answer among the messages, how many they are up to it, and the name of what goes on from there."""
    found = []
    said = hashlib.sha256()
    for number, one in enumerate(messages, 1):
        # Blanks around a text are left out: clients trim answers before they send them back.
        said.update(msgspec.json.encode((one.role, one.content.strip(), *_besides(one))))
        if one.role == "assistant":
            found.append((number, said.hexdigest()[:32]))
    return found


def _besides(message: Message) -> list[object]:
    """What is said otherwise than as text. Thoughts are not, which few clients send back; nor are the ids of calls,
    which other APIs do not have."""
    calls = [(call.name, plain_arguments(call.arguments)) for call in message.tool_calls]
    return [calls] if calls else []


def plain_arguments(arguments: str) -> str:
    """A call's arguments however they were spaced: there are clients who write anew what they have read."""
    try:
        return json.dumps(json.loads(arguments), separators=(",", ":"))
    except (ValueError, RecursionError):
        return arguments


def name_of(messages: Sequence[Message]) -> str:
    """Of the turn that has this history: 32 hexadecimal digits. Before the first answer all that was said counts."""
    if answers := chain(messages):
        return answers[-1][1]
    return chain([*messages, Message("assistant", "")])[-1][1]


def answered(
    messages: Sequence[Message], answer: str, calls: tuple[ToolCall, ...] = (), reasoning: str = ""
) -> tuple[Message, ...]:
    """The history with an answer: a message of its own, or the rest of the one that had begun it."""
    if (last := messages[-1]).role != "assistant":
        return (*messages, Message("assistant", answer, calls, reasoning=reasoning))
    whole = last.content + answer
    return (
        *messages[:-1],
        msgspec.structs.replace(last, content=whole, tool_calls=calls, reasoning=last.reasoning or reasoning),
    )


def next_name(conversation: str, messages: Sequence[Message], answer: str, calls: tuple[ToolCall, ...] = ()) -> str:
    """Of the turn that continues this answer: `conversation` itself, unless that is the name of these messages."""
    if conversation != name_of(messages):
        return conversation
    return name_of(answered(messages, answer, calls))
