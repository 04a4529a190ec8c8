"""Where in a prompt conversations part: positions whose tokens are the same whatever follows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from broker.messages import Message, Tool, Turn
from tests.fakes import FIRST, FakeVocabulary
from workers.engine.slots import common_prefix
from workers.prompts.history import History
from workers.prompts.rendered import Rendered

START, END = 1, 2


class Markup(FakeVocabulary):
    """`<` and `>` are control tokens, and any line ends that stand together are one token."""

    def piece(self, token: int) -> bytes:
        return b"" if token in (START, END) else super().piece(token)

    def tokenize(self, text: str, *, template_spans: list[tuple[int, int]], add_bos: bool) -> list[int]:
        for length in (4, 3, 2):
            text = text.replace("\n" * length, chr(5000 + length))
        tokens = super().tokenize(text, template_spans=template_spans, add_bos=False)
        return [{ord("<") + FIRST: START, ord(">") + FIRST: END}.get(token, token) for token in tokens]


class Chat:
    """A template: `<role`, a line end, the text, `>` a message; without marks `role: text`. System messages, of which
    some templates know nothing, can be put before the next one's text."""

    def __init__(self, *, has_marks: bool = True, has_system: bool = True) -> None:
        self._has_marks = has_marks
        self._has_system = has_system

    async def render(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int] = (),
        kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Rendered:
        text, contents, is_open = "tools: none. ", [], False
        for index, message in enumerate(messages):
            if not is_open:
                text += f"<{message.role}\n" if self._has_marks else f"{message.role}: \n"
            contents.append((index, len(text), len(text) + len(message.content)))
            text += message.content
            is_open = message.role == "system" and not self._has_system
            text += "\n" if is_open else ">" if self._has_marks else "\n\n"
        return Rendered(text + ("<assistant\n" if self._has_marks else "assistant: "), contents)


SYSTEM = Message("system", "You are the weather station on the hill." * 3)
QUESTIONS = ("What is it like?", "\n\nand now?", " spaces", "\n")


def turn(*said: str, system: bool = True) -> Turn:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[index % 2], one) for index, one in enumerate(said))  # type: ignore[arg-type]
    return Turn("t", "c", (SYSTEM, *messages) if system else messages)


@pytest.mark.parametrize(
    "chat", [Chat(), Chat(has_marks=False), Chat(has_system=False)], ids=["marks", "none", "merged"]
)
async def test_conversations_share_all_tokens_before_the_first_boundary_and_few_behind_it(chat: Chat) -> None:
    history = History(chat, Markup(), has_boundaries=True)
    prompts = [await history.prompt("alice", turn(question)) for question in QUESTIONS]
    for one in prompts:
        head, end = one.boundaries
        for other in prompts:
            shared = common_prefix(one.tokens, other.tokens)
            assert other.boundaries[0] == head <= shared or one is other
            assert one is other or one.tokens[head:shared][8:] == []
        assert head < end < len(one.tokens)


async def test_the_last_boundary_is_where_the_last_message_ends_in_the_conversations_next_prompt_too() -> None:
    history = History(Chat(), Markup(), has_boundaries=True)
    first = await history.prompt("alice", turn("hello"))
    assert first.tokens[first.boundaries[-1]] == END
    answer = [ord(letter) + FIRST for letter in "hi"]
    history.remember("alice", turn("hello"), first, [*first.tokens, *answer], "hi")
    second = await history.prompt("alice", turn("hello", "hi", "more"))
    assert second.num_known == len(first.tokens) + 2
    assert second.tokens[: first.boundaries[-1]] == first.tokens[: first.boundaries[-1]]
    assert second.boundaries == (first.boundaries[0], len(second.tokens) - 1), "as it stood before the first answer"
    anew = await History(Chat(), Markup(), has_boundaries=True).prompt("alice", turn("hello", "hi", "more"))
    assert anew.boundaries == second.boundaries


async def test_where_a_template_begins_an_answer_otherwise_than_history_has_it_the_boundary_is_before_that() -> None:
    class Thinking(Chat):
        async def render(
            self,
            messages: tuple[Message, ...],
            exact: Collection[int] = (),
            kwargs: dict[str, Any] | None = None,
            tools: tuple[Tool, ...] = (),
        ) -> Rendered:
            found = await super().render(messages, exact, kwargs, tools)
            return Rendered(found.text + "[no thoughts]\n\n", found.contents)

    prompt = await History(Thinking(), Markup(), has_boundaries=True).prompt("alice", turn("hello", "hi", "more"))
    end = prompt.boundaries[-1]
    rest = "".join(chr(token - FIRST) for token in prompt.tokens[end:-1])
    assert rest.endswith("[no thoughts]")
    assert "assistant\n".endswith(rest.removesuffix("[no thoughts]"))


async def test_nobody_who_does_not_ask_is_told_and_raw_prompts_have_none() -> None:
    assert (await History(Chat(), Markup()).prompt("alice", turn("hello"))).boundaries == ()
    raw = Turn("t", "c", (Message("user", "hello"),), raw=True)
    assert (await History(Chat(), Markup(), has_boundaries=True).prompt("alice", raw)).boundaries == ()
