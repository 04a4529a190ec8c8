"""A conversation in a file: JSON, `{"model": …, "messages": […]}` as OpenAI's API takes it. So what is saved here can
be posted to /v1/chat/completions as it is, and what others wrote in that form be loaded."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from broker.errors import TurnpikeError
from broker.messages import Message
from producers.chat.conversation import Conversation
from producers.data.rows import text_of
from producers.data.tool_rows import calls_of, check_rounds

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
MAX_BYTES = 64 * 1024 * 1024


class NotSaved(TurnpikeError):
    """A file that is no conversation, or that is none and would be overwritten."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


def save(talk: Conversation, path: Path) -> None:
    """Writes it whole or not at all. Raises NotSaved, also where something else is there."""
    body = {"model": talk.model, "messages": [_row(one) for one in talk.messages]}
    part = path.parent / f".{path.name}.part"
    try:
        if path.exists():
            _check_that_it_is_one(path)
        part.write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n")
        part.replace(path)
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            part.unlink()
        raise NotSaved(path, getattr(error, "strerror", None) or str(error)) from None


def _check_that_it_is_one(path: Path) -> None:
    try:
        load(path)
    except NotSaved:
        raise NotSaved(path, "is there already, and is no conversation: it is left as it is") from None


def load(path: Path) -> Conversation:
    """What was saved, or an array of messages alone, whose model is empty. A question at its end that has no answer is
    left out. Raises NotSaved."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise NotSaved(path, f"has more than {MAX_BYTES // 1024**2} MiB")
        found = json.loads(path.read_bytes())
        rows = found["messages"] if isinstance(found, dict) else found
        model = found.get("model", "") if isinstance(found, dict) else ""
        messages = [_message(row) for row in rows]
        while messages and messages[-1].role == "user":
            messages.pop()
        check_rounds(messages)
    except OSError as error:
        raise NotSaved(path, error.strerror or str(error)) from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = str(error) if type(error) is ValueError else "it is not JSON with a list of messages"
        raise NotSaved(path, f"is no conversation: {why}") from None
    told = [one.content for one in messages if one.role == "system"]
    said = tuple(one for one in messages if one.role != "system")
    return Conversation(model if isinstance(model, str) else "", system="\n\n".join(told) or None, said=said)


def _row(one: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": one.role, "content": one.content}
    if one.reasoning:
        row["reasoning_content"] = one.reasoning
    if one.tool_calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in one.tool_calls
        ]
    if one.tool_call_id is not None:
        row["tool_call_id"] = one.tool_call_id
    return row


def _message(row: dict[str, Any]) -> Message:
    """Raises ValueError, LookupError or TypeError for what is none; fields that others add are left out."""
    role = ROLES.get(row["role"])
    if role is None:
        raise ValueError(f"the role {str(row['role'])[:40]!r}")
    content = row.get("content")
    calls = calls_of(row.get("tool_calls")) if role == "assistant" else ()
    text = "" if content in (None, []) and role == "assistant" else text_of(content)
    call_id = row.get("tool_call_id") if role == "tool" else None
    return Message(role, text, calls, call_id, str(row.get("reasoning_content") or "") if role == "assistant" else "")  # type: ignore[arg-type]
