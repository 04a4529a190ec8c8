"""Conversations from files (OpenAssistant, ShareGPT, our own; plain, gzip or parquet), and made-up ones."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from broker.messages import Message, Role, Tool, ToolCall
from producers.data.rows import RowError, clean, read_rows, summary, text_of
from producers.data.tool_rows import calls_of, check_rounds, result_of, tools_of

SHIPPED = Path(__file__).parent / "radio_site.jsonl"
DEMO_CONVERSATIONS = SHIPPED.with_name("demo.jsonl")
"""A few that the shipped model can follow."""
TOOL_CONVERSATIONS = SHIPPED.with_name("tool_talks.jsonl")
"""Conversations beside six tools, with recorded calls and results: lamps, sensors, radio sites and their handbook."""
EDITING_TASKS = SHIPPED.with_name("editing.jsonl")
"""Thirty questions whose answers repeat text of their prompts: ten each to edit, extract, quote."""
_NAMED = {"tools": TOOL_CONVERSATIONS, "editing": EDITING_TASKS}
_ROLES: dict[str, Literal["user", "assistant"]] = {"prompter": "user", "assistant": "assistant"}
_SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
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


class DatasetError(RowError):
    """A data set that cannot be read, or a row of it; says which line of which file."""


class Conversation(Struct, frozen=True):
    """Messages in order, from the user's first on, user and assistant in turn; behind calls of tools their results."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    """What is offered with each turn."""

    @property
    def num_user_turns(self) -> int:
        """How many messages are the user's."""
        return sum(message.role == "user" for message in self.messages)

    def num_turns(self, unit: str) -> int:
        """How many turns it has, counted in `messages` or in `prompter` turns."""
        return len(self.messages) if unit == "messages" else self.num_user_turns

    def is_question(self, index: int) -> bool:
        """Whether that message is to be answered: a user's, or the last one of tools' results."""
        role, behind = self.messages[index].role, self.messages[index + 1 : index + 2]
        return role == "user" or (role == "tool" and not (behind and behind[0].role == "tool"))

    def num_questions(self, max_user_turns: int | None, *, with_results: bool) -> int:
        """How many turns it is at least: one for each of the user's messages, at most so many of them, and, with the
        record's own answers, one for the results behind each of its calls."""
        found = num_users = 0
        for index, message in enumerate(self.messages):
            num_users += message.role == "user"
            if max_user_turns is not None and num_users > max_user_turns:
                break
            found += self.is_question(index) and (with_results or message.role == "user")
        return found

    def result_of(self, call: ToolCall) -> str:
        """What is recorded as the call's result: of the same one, else another one of its tool, else an error."""
        return result_of(call, self.messages)


def load_conversations(
    source: str | Path | None = None,
    *,
    min_turns: int = 5,
    unit: str = "messages",
    language: str = "en",
    left_out: list[DatasetError] | None = None,
) -> list[Conversation]:
    """All conversations of a file that have at least `min_turns` turns, one of each tree; None is the shipped file,
    `tools` the shipped one with tools, `editing` the shipped one of single questions (see `turns_wanted`).

    Of a tree, the best-ranked thread that is long enough: at each message the best-ranked reply that leads to one.
    How many there are is what the file holds; nothing is padded. `synthetic:…` is made up (see `synthetic`). A row that
    cannot be read is added to `left_out`; raises DatasetError where nothing else is in the file.
    """
    if isinstance(source, str) and source.startswith("synthetic:"):
        return synthetic(source)
    path = SHIPPED if source is None else path_of(source)
    min_turns = turns_wanted(source, min_turns)
    left_out = [] if left_out is None else left_out
    flat: list[tuple[int, dict[str, Any]]] = []
    found: list[Conversation] = []
    tools: tuple[Tool, ...] = ()
    num_trees = 0
    for line, row in read_rows(path, left_out, DatasetError):
        try:
            match row:
                case {"messages": _} | {"conversations": _}:
                    found.append(_said(line, row, tools))
                case {"tools": offered}:
                    tools = ()  # rows below a bad one have none, and not those of another
                    tools = tools_of(offered)
                case {"prompt": dict(tree)}:
                    _check_message(tree)
                    num_trees += 1
                    left_out += [DatasetError(path, line, f"a reply in it: {fault}") for fault in _faults(tree)]
                    found += _thread(tree, min_turns, unit, language)
                case {"message_id": _}:
                    _check_message(row)
                    flat.append((line, row))
                case dict():
                    raise ValueError("is no OpenAssistant tree or message, no ShareGPT, and no `messages`")
                case _:
                    raise ValueError("is not a JSON object")
        except ValueError as problem:
            left_out.append(DatasetError(path, line, str(problem)))
    roots = _grow(path, flat, left_out)
    found += [thread for root in roots for thread in _thread(root, min_turns, unit, language)]
    if not found and not num_trees and not roots:
        raise DatasetError(path, None, f"no conversation: {summary(left_out)}" if left_out else "holds no lines")
    return [conversation for conversation in found if conversation.num_turns(unit) >= min_turns]


def turns_wanted(source: str | Path | None, min_turns: int) -> int:
    """How many turns a conversation of that set has at least to have: one where it holds single questions."""
    return 1 if str(source) == "editing" else min_turns


def path_of(name: str | Path) -> Path:
    """The file of that name, or the shipped one that is called so."""
    return _NAMED.get(str(name)) or Path(name).expanduser()


def _said(line: int, row: dict[str, Any], tools: tuple[Tool, ...]) -> Conversation:
    """`{id, conversations: [{from: human|gpt|system, value}]}`, as ShareGPT's dumps have it, or OpenAI's
    `{messages: [{role, content, tool_calls, tool_call_id}], tools}`; without `tools` those of the last row that had
    nothing else. Raises ValueError."""
    said = row.get("messages", row.get("conversations"))
    if not isinstance(said, list):
        raise ValueError("its messages are no list")
    messages = []
    for number, one in enumerate(said, 1):
        if not isinstance(one, dict):
            raise ValueError(f"its message {number} is no object")
        # One dump has both kinds of names, and which it has does not go by the list's.
        field = "from" if "from" in one else "role"
        role = _SPEAKERS.get(one[field]) if isinstance(one.get(field), str) else None
        if role is None:
            raise ValueError(f"`{field}` is {one.get(field)!r}, none of {', '.join(_SPEAKERS)}")
        try:
            messages.append(_message(role, one))
        except ValueError as problem:
            raise ValueError(f"its message {number} has {problem}") from None
    # Dumps begin in the middle now and then: what comes before the user's first message has no question.
    first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        raise ValueError("no message of it is the user's")
    head = [message for message in messages[:first] if message.role == "system"]
    said_from = (*head, *messages[first:])
    check_rounds(said_from)
    return Conversation(_name(row.get("id"), line), said_from, tools_of(row["tools"]) if row.get("tools") else tools)


def _message(role: Role, one: dict[str, Any]) -> Message:
    """Raises ValueError."""
    content = one.get("value", one.get("content"))
    calls = calls_of(one.get("tool_calls")) if role == "assistant" else ()
    if role != "tool":
        return Message(role, "" if calls and content is None else text_of(content), calls)
    if not isinstance(call := one.get("tool_call_id"), str):
        raise ValueError("no tool_call_id")
    return Message(role, text_of(content), tool_call_id=call)


def _name(value: object, line: int) -> str:
    return clean(str(line if value is None else value))


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


def _check_message(row: dict[str, Any]) -> None:
    """Raises ValueError for what is no message of OpenAssistant's. What was deleted there may lack anything else."""
    if not isinstance(row.get("message_id"), str | int):
        raise ValueError(f"lacks or garbles a field: message_id is {row.get('message_id')!r}")
    if not row.get("deleted") and (fault := _fault(row)):
        raise ValueError(f"lacks or garbles a field: {fault}")


def _fault(message: dict[str, Any]) -> str | None:
    if not isinstance(message.get("text"), str):
        return f"text is {repr(message.get('text'))[:40]}"
    if not isinstance(message.get("role"), str) or message["role"] not in _ROLES:
        return f"role is {message.get('role')!r}, none of {', '.join(_ROLES)}"
    return None


def _faults(tree: dict[str, Any]) -> Iterator[str]:
    """Of the replies in a tree, at any depth."""
    level = [tree]
    while level:
        replies = level.pop().get("replies")
        if replies is not None and not isinstance(replies, list):
            yield f"replies are {repr(replies)[:40]}"
            continue
        for reply in replies or ():
            fault = "is no object" if not isinstance(reply, dict) else _fault(reply)
            if fault is not None and not (isinstance(reply, dict) and reply.get("deleted")):
                yield fault
            elif isinstance(reply, dict):
                level.append(reply)


def _grow(path: Path, rows: list[tuple[int, dict[str, Any]]], left_out: list[DatasetError]) -> list[dict[str, Any]]:
    """The trees' roots, from a flat list of messages in any order. What is in no tree is added to `left_out`."""
    messages: dict[str | int, dict[str, Any]] = {}
    lines: dict[str | int, int] = {}
    for line, row in rows:
        name = row["message_id"]
        if name in messages:
            left_out.append(DatasetError(path, line, "its message_id occurs twice"))
            continue
        messages[name], lines[name] = row | {"replies": []}, line
    roots: list[dict[str, Any]] = []
    orphans: list[dict[str, Any]] = []
    for name, message in messages.items():
        parent = message.get("parent_id")
        # pandas writes NaN, which equals nothing, where there is none.
        if parent is None or parent == "" or parent != parent:
            roots.append(message)
        elif isinstance(parent, str | int) and parent in messages:
            messages[parent]["replies"].append(message)
        else:
            orphans.append(message)
            left_out.append(DatasetError(path, lines[name], f"its parent {parent!r} is not in the file"))
    reached, level = set(), [*roots, *orphans]
    while level:
        message = level.pop()
        reached.add(message["message_id"])
        level += message["replies"]
    left_out += [DatasetError(path, lines[name], "it is its own ancestor") for name in messages if name not in reached]
    return roots


def _thread(root: dict[str, Any], min_turns: int, unit: str, language: str) -> Iterator[Conversation]:
    """Its best one; none where it is of another language or deleted. Raises ValueError."""
    # Prompter and assistant take turns, so n prompter turns are a thread of 2n − 1 messages or more.
    min_messages = min_turns if unit == "messages" else 2 * min_turns - 1
    if root.get("lang", language) != language or not _usable(root):
        return
    thread = _best_thread(root, min_messages)
    messages = tuple(Message(_ROLES[message["role"]], clean(message["text"])) for message in thread)
    yield Conversation(clean(str(root["message_id"])), messages)


def _best_thread(root: dict[str, Any], min_messages: int) -> list[dict[str, Any]]:
    thread = [root]
    language = root.get("lang")
    # A reply in another language would make the thread a mixed one.
    while replies := [reply for reply in _replies(thread[-1]) if reply.get("lang", language) == language]:
        wanted = min_messages - len(thread)
        long_enough = [reply for reply in replies if _depth(reply) >= wanted]
        thread.append(min(long_enough or replies, key=_rank))
    return thread


def _replies(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that can be used: a garbled one costs what hangs on it, not the tree."""
    replies = message.get("replies")
    return [one for one in replies if isinstance(one, dict) and _usable(one)] if isinstance(replies, list) else []


def _usable(message: dict[str, Any]) -> bool:
    is_kept = not message.get("deleted") and message.get("review_result") is not False
    return is_kept and _fault(message) is None and bool(message["text"].strip())


def _rank(message: dict[str, Any]) -> tuple[bool, float]:
    rank = message.get("rank")
    # Compared, not converted: no number is too large for that.
    return (False, rank) if isinstance(rank, int | float) and -math.inf < rank < math.inf else (True, 0)


def _depth(message: dict[str, Any]) -> int:
    deepest, level = 1, [(message, 1)]
    while level:
        current, depth = level.pop()
        deepest = max(deepest, depth)
        level += [(reply, depth + 1) for reply in _replies(current)]
    return deepest
