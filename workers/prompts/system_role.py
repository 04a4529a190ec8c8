"""Where a template takes system messages, and what becomes of those that it would refuse or drop without a word.

They are put before the user's next message, as llama.cpp does (common/chat.cpp, system_message_not_supported).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from broker.errors import TurnRejected
from broker.messages import Message, Role

SystemRole = Literal["anywhere", "first", "nowhere"]
"""Of a template: it takes system messages wherever they stand, one at the beginning, or none."""

_QUESTION: tuple[Role, ...] = ("user",)
_FIRST: tuple[Role, ...] = ("system", "user")
_ELSEWHERE: tuple[tuple[Role, ...], ...] = (
    ("system", "system", "user"),
    ("user", "system", "user"),
    ("user", "assistant", "system", "user"),
    ("system", "user", "assistant", "system", "user"),
)

log = logging.getLogger(__name__)

Told = Callable[[tuple[Message, ...]], Awaitable[set[int]]]
"""The indices of the messages whose texts stand in the prompt; raises TurnRejected."""


async def system_role(told: Told) -> SystemRole:
    """Of the template that `told` renders with, by trial."""

    async def takes(roles: tuple[Role, ...]) -> bool:
        try:
            return await told(tuple(map(Message, roles, ("Hello.",) * len(roles)))) >= set(range(len(roles)))
        except TurnRejected as error:
            log.debug("template %s: %s", "+".join(roles), error.detail)
            return False

    if not await takes(_FIRST):
        return "nowhere" if await takes(_QUESTION) else "anywhere"
    for roles in _ELSEWHERE:
        if not await takes(roles):
            return "first"
    return "anywhere"


def merged(messages: list[dict[str, Any]], where: SystemRole) -> list[dict[str, Any]]:
    """The messages without system messages but where the template takes them: what one of those says is the first line
    of the user's next message, and of several at the beginning, where one is taken, the whole is one."""
    if where == "anywhere":
        return messages
    found: list[dict[str, Any]] = []
    waiting: list[Any] = []
    for message in messages:
        if message["role"] != "system":
            is_next = waiting and message["role"] == "user"
            found.append(message | {"content": _joined([*waiting, message["content"]])} if is_next else message)
            waiting = [] if is_next else waiting
        elif where == "nowhere" or (found and found[-1]["role"] != "system"):
            waiting.append(message["content"])
        elif found:
            found[0] = message | {"content": _joined([found[0]["content"], message["content"]])}
        else:
            found.append(message)
    if waiting:  # nothing of the user's follows: a message of its own, in front of an answer that is begun
        is_begun = bool(found) and messages[-1]["role"] == "assistant"
        found.insert(len(found) - is_begun, {"role": "user", "content": _joined(waiting)})
    return found


def _joined(texts: list[Any]) -> Any:
    whole = texts[0]
    for text in texts[1:]:
        whole = whole + "\n" + text
    return whole
