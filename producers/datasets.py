"""Conversations from files (OpenAssistant, ShareGPT, our own; plain, gzip or parquet), and made-up ones."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from broker.errors import TurnpikeError
from broker.extras import install
from broker.messages import Message, Role

SHIPPED = Path(__file__).parent / "data" / "radio_site.jsonl"
DEMO_CONVERSATIONS = SHIPPED.with_name("demo.jsonl")
"""A few that the shipped model can follow."""
_ROLES: dict[str, Literal["user", "assistant"]] = {"prompter": "user", "assistant": "assistant"}
_SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}
_WORDS = (
    "the", "of", "and", "to", "in", "is", "it", "you", "that", "was", "for", "on", "are", "with", "as", "his",
    "they", "at", "be", "this", "from", "have", "or", "by", "one", "had", "not", "but", "what", "all", "were",
    "when", "we", "there", "can", "an", "your", "which", "their", "said", "if", "do", "will", "each", "about", "how",
    "up", "out", "them", "then", "she", "many", "some", "so", "these", "would", "other", "into", "has", "more",
    "her", "two", "like", "him", "see", "time", "could", "no", "make", "than", "first", "been", "its", "who", "now",
    "people", "my", "made", "over", "did", "down", "only", "way", "find", "use", "may", "water", "long", "little",
    "very", "after", "words", "called", "just", "where", "most", "know", "get", "through", "back", "much", "good",
    "new", "write", "our", "used", "me", "man", "too", "any", "day", "same", "right", "look", "think", "also",
    "around", "another", "came", "come",
)  # fmt: skip


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
    source: str | Path | None = None, *, min_turns: int = 5, unit: str = "messages", language: str = "en"
) -> list[Conversation]:
    """All conversations of a file that have at least `min_turns` turns, one of each tree; None is the shipped file.

    Of a tree, the best-ranked thread that is long enough: at each message the best-ranked reply that leads to one.
    How many there are is what the file holds; nothing is padded. `synthetic:…` is made up (see `synthetic`). Raises
    DatasetError.
    """
    if isinstance(source, str) and source.startswith("synthetic:"):
        return synthetic(source)
    path = SHIPPED if source is None else Path(source).expanduser()
    rows = list(_read_parquet(path) if path.suffix == ".parquet" else _read(path))
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
            found = _threads(_grow(path, rows), min_turns, unit, language)
        elif "conversations" in first:
            found = [_sharegpt(path, line, row) for line, row in rows]
        else:
            raise DatasetError(path, rows[0][0], "is no OpenAssistant tree or message, no ShareGPT, and no `messages`")
        return [conversation for conversation in found if conversation.num_turns(unit) >= min_turns]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(path, None, f"a row lacks or garbles a field: {type(error).__name__} {error}") from None


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = None
    try:
        with path.open("rb") as probe:
            is_gzip = probe.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if is_gzip else path.open(encoding="utf-8") as file:
            if file.read(1) == "[":
                # ShareGPT is one JSON array, not a line each.
                file.seek(0)
                for number, row in enumerate(json.load(file), 1):
                    yield number, _checked(path, number, row)
                return
            file.seek(0)
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _checked(path, number, json.loads(line))
    except json.JSONDecodeError as error:
        raise DatasetError(path, number, f"is not JSON: {error}") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(path, None, str(getattr(error, "strerror", None) or error)) from None


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DatasetError(path, None, f"parquet needs pyarrow: {install('parquet')}") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # what pyarrow raises for a broken file are ValueErrors
        raise DatasetError(path, None, str(error)) from None
    yield from ((number, _checked(path, number, row)) for number, row in enumerate(rows, 1))


def _checked(path: Path, number: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DatasetError(path, number, "is not a JSON object")
    return row


def _sharegpt(path: Path, line: int, row: dict[str, Any]) -> Conversation:
    """`{id, conversations: [{from: human|gpt|system, value}]}`, as ShareGPT's dumps have it."""
    messages = []
    for said in row["conversations"]:
        role = _SHAREGPT_ROLES.get(said["from"])
        if role is None:
            raise DatasetError(path, line, f"`from` is {said['from']!r}, none of {', '.join(_SHAREGPT_ROLES)}")
        messages.append(Message(role, said["value"]))
    # Dumps begin in the middle now and then: what comes before the user's first message has no question.
    first = next((index for index, message in enumerate(messages) if message.role == "user"), len(messages))
    head = [message for message in messages[:first] if message.role == "system"]
    return Conversation(str(row.get("id", line)), (*head, *messages[first:]))


def synthetic(text: str) -> list[Conversation]:
    """`synthetic:prompt=200/50,answer=100/20,turns=5,count=50,seed=0`: lengths in words, mean / standard deviation.

    Lengths are drawn from normal distributions, at least one word; the words are plain English ones. Raises
    DatasetError.
    """
    fields = {"prompt": "100/30", "answer": "100/30", "turns": "5", "count": "50", "seed": "0"}
    source = Path(text)
    try:
        for pair in filter(None, text.removeprefix("synthetic:").split(",")):
            name, _, value = pair.partition("=")
            if name not in fields:
                raise DatasetError(source, None, f"{name!r} is none of {', '.join(fields)}")
            fields[name] = value
        lengths = {name: tuple(map(float, fields[name].split("/"))) for name in ("prompt", "answer")}
        turns, number, seed = int(fields["turns"]), int(fields["count"]), int(fields["seed"])
    except ValueError as error:
        raise DatasetError(source, None, str(error)) from None
    if turns < 1 or number < 1 or any(len(pair) != 2 for pair in lengths.values()):
        raise DatasetError(source, None, "lengths are MEAN/DEVIATION, turns and count at least 1")

    def words(rng: random.Random, kind: str) -> str:
        mean, deviation = lengths[kind]
        return " ".join(rng.choice(_WORDS) for _ in range(max(1, round(rng.gauss(mean, deviation)))))

    found = []
    for index in range(number):
        rng = random.Random(f"{seed}/{index}")
        messages = []
        for _ in range(turns):
            messages += [Message("user", words(rng, "prompt")), Message("assistant", words(rng, "answer"))]
        found.append(Conversation(f"synthetic-{index}", tuple(messages)))
    return found


def _own(row: dict[str, Any]) -> Conversation:
    messages = tuple(Message(message["role"], message["content"]) for message in row["messages"])
    return Conversation(str(row.get("id", "")), messages)


def _grow(path: Path, rows: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Trees from a flat list of messages, which may come in any order. Raises DatasetError for what is no tree."""
    messages = {row["message_id"]: row | {"replies": []} for _, row in rows}
    lines = {row["message_id"]: line for line, row in rows}
    if len(messages) < len(rows):
        first = {row["message_id"]: line for line, row in reversed(rows)}
        twice = next(line for line, row in rows if first[row["message_id"]] != line)
        raise DatasetError(path, twice, "its message_id occurs twice")
    roots: list[dict[str, Any]] = []
    for name, message in messages.items():
        parent = message.get("parent_id")
        if parent is None:
            roots.append(message)
        elif parent in messages:
            messages[parent]["replies"].append(message)
        else:
            raise DatasetError(path, lines[name], f"its parent {parent!r} is not in the file")
    reached, level = set(), list(roots)
    while level:
        message = level.pop()
        reached.add(message["message_id"])
        level += message["replies"]
    if lost := [lines[name] for name in messages if name not in reached]:
        raise DatasetError(path, min(lost), "it is its own ancestor")
    return roots


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
    language = root.get("lang")
    # A reply in another language would make the thread a mixed one.
    while replies := [
        reply for reply in thread[-1].get("replies", []) if _usable(reply) and reply.get("lang", language) == language
    ]:
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
