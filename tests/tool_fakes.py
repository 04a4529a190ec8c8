"""A model that calls tools by a script: an engine with an answer for each round, and readers of the calls in them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.fakes import END, FIRST, FakeEngine
from workers.calls import SYNTAXES, Thoughts
from workers.turns.answer_reader import AnswerReaders

READERS = AnswerReaders(
    SYNTAXES["hermes"].with_thoughts(Thoughts("<think>", "</think>")), {}, lambda token: chr(token - FIRST).encode()
)


def called(name: str, /, **arguments: object) -> str:
    """A call as the model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Knowing(FakeEngine):
    """Answers by what the last question says: with the answer of the first key that is in it, and behind a tool's
    result with `result`."""

    def __init__(self, answers: Mapping[str, str], result: str) -> None:
        super().__init__(num_slots=4, num_ctx=4096)
        self._answers = answers
        self._result = result

    def next_token(self, tokens: list[int], index: int) -> int:
        text = "".join([chr(token - FIRST) for token in tokens if token >= FIRST])
        question = text.rpartition("user: ")[2]
        found = next((answer for key, answer in self._answers.items() if key in question), "?")
        answer = self._result if "tool: " in question else found
        return ord(answer[index]) + FIRST if index < len(answer) else END


class ScriptedEngine(FakeEngine):
    """Answers by how many answers are in the prompt already; behind the last of the script with that again."""

    def __init__(self, *answers: str, num_slots: int = 4, num_ctx: int = 4096, token_seconds: float = 0.0) -> None:
        super().__init__(num_slots=num_slots, num_ctx=num_ctx, token_seconds=token_seconds)
        self._answers = answers

    def next_token(self, tokens: list[int], index: int) -> int:
        text = "".join([chr(token - FIRST) for token in tokens if token >= FIRST])
        answer = self._answers[min(text.count("assistant: "), len(self._answers)) - 1]
        return ord(answer[index]) + FIRST if index < len(answer) else END

    def prompts(self) -> list[str]:
        """What each slot holds, as text."""
        return ["".join(self.vocabulary.piece(token).decode() for token in cells) for cells in self.cells]
