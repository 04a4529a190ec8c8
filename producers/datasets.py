"""Conversations from files: OpenAssistant trees and messages, our own, plain or gzip."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from broker.errors import TurnpikeError
from broker.messages import Message

SHIPPED = Path(__file__).parent / "data" / "radio_site.jsonl"
DEMO_CONVERSATIONS = SHIPPED.with_name("demo.jsonl")
"""A few that the shipped model can follow."""
_ROLES: dict[str, Literal["user", "assistant"]] = {"prompter": "user", "assistant": "assistant"}


class DatasetError(TurnpikeError):
    """A data set that cannot be read; says which line of which file."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        super().__init__(f"{path}{f':{line}' if line is not None else ''}: {reason}")


class Conversation(Struct, frozen=True):
    """Messages in order, from the user's first on, user and assistant in turn."""

    id: str
    messages: tuple[Message, ...]

    @property
    def num_user_turns(self) -> int:
        return sum(message.role == "user" for message in self.messages)

    def num_turns(self, unit: str) -> int:
        """How many turns it has, counted in `messages` or in `prompter` turns."""
        return len(self.messages) if unit == "messages" else self.num_user_turns


def load_conversations(
    path: Path | None = None, *, min_turns: int = 5, unit: str = "messages", language: str = "en"
) -> list[Conversation]:
    """All conversations of a file that have at least `min_turns` turns, one of each tree; None is the shipped file.

    Of a tree, the best-ranked thread that is long enough: at each message the best-ranked reply that leads to one.
    How many there are is what the file holds; nothing is padded. Raises DatasetError.
    """
    path = path or SHIPPED
    rows = list(_read(path))
    if not rows:
        raise DatasetError(path, None, "holds no lines")
    first = rows[0][1]
    try:
        if "messages" in first:
            found: Iterable[Conversation] = (_own(row) for _, row in rows)
        elif "prompt" in first:
            trees = (row["prompt"] for _, row in rows)
            found = _threads(trees, min_turns, unit, language)
        elif "message_id" in first:
            found = _threads(_grow(row for _, row in rows), min_turns, unit, language)
        else:
            raise DatasetError(path, rows[0][0], "is no OpenAssistant tree or message, and has no `messages`")
        return [conversation for conversation in found if conversation.num_turns(unit) >= min_turns]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(path, None, f"a row lacks or garbles a field: {type(error).__name__} {error}") from None


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as probe:
            is_gzip = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if is_gzip else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise DatasetError(path, number, "is not a JSON object")
                    yield number, row
    except json.JSONDecodeError as error:
        raise DatasetError(path, number, f"is not JSON: {error}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(path, None, str(getattr(error, "strerror", None) or error)) from None


def _own(row: dict[str, Any]) -> Conversation:
    messages = tuple(Message(message["role"], message["content"]) for message in row["messages"])
    return Conversation(str(row.get("id", "")), messages)


def _grow(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trees from a flat list of messages, which may come in any order."""
    messages = {row["message_id"]: row | {"replies": []} for row in rows}
    roots: list[dict[str, Any]] = []
    for message in messages.values():
        parent = messages.get(message.get("parent_id"))
        (roots if parent is None else parent["replies"]).append(message)
    # A message whose parent is missing is no beginning of a conversation.
    return [root for root in roots if root.get("parent_id") is None]


def _threads(roots: Iterable[dict[str, Any]], min_turns: int, unit: str, language: str) -> Iterator[Conversation]:
    # Prompter and assistant take turns, so n prompter turns are a thread of 2n − 1 messages or more.
    min_messages = min_turns if unit == "messages" else 2 * min_turns - 1
    for root in roots:
        if root.get("lang", language) != language or not _usable(root):
            continue
        thread = _best_thread(root, min_messages)
        messages = tuple(Message(_ROLES[message["role"]], message["text"]) for message in thread)
        yield Conversation(str(root["message_id"]), messages)


def _best_thread(root: dict[str, Any], min_messages: int) -> list[dict[str, Any]]:
    thread = [root]
    while replies := [reply for reply in thread[-1].get("replies", []) if _usable(reply)]:
        wanted = min_messages - len(thread)
        long_enough = [reply for reply in replies if _depth(reply) >= wanted]
        thread.append(min(long_enough or replies, key=_rank))
    return thread


def _usable(message: dict[str, Any]) -> bool:
    return not message.get("deleted") and message.get("review_result") is not False and bool(message["text"].strip())


def _rank(message: dict[str, Any]) -> tuple[bool, int]:
    rank = message.get("rank")
    return (rank is None, rank if rank is not None else 0)


def _depth(message: dict[str, Any]) -> int:
    deepest, level = 1, [(message, 1)]
    while level:
        current, depth = level.pop()
        deepest = max(deepest, depth)
        level += [(reply, depth + 1) for reply in current.get("replies", []) if _usable(reply)]
    return deepest
