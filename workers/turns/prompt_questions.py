"""Turns that only ask for their prompt: rendered, or made tokens, or of tokens a text. No slot and no engine."""

from __future__ import annotations

from broker.errors import TurnRejected
from broker.messages import Done, End, Failed, Timings, Usage
from workers.engine.protocol import Vocabulary
from workers.prompts.history import History
from workers.prompts.off_loop import off_loop
from workers.turns.work import Work


class PromptQuestions:
    """Answers them for the worker of that name, at the cost of a prompt's text and tokens."""

    def __init__(self, worker: str, history: History, vocabulary: Vocabulary) -> None:
        """`history` makes the prompt that would be computed."""
        self._worker = worker
        self._history = history
        self._vocabulary = vocabulary

    async def answer(self, work: Work) -> End:
        """The prompt as text and tokens, and how many they are."""
        try:
            prompt = await self._history.prompt(work.address.client, work.turn)
        except TurnRejected as error:
            return Failed(error.code, error.detail, error.retryable, self._worker)
        usage, timings = Usage(len(prompt.tokens), 0, 0), Timings(work.queue_wait, 0.0, 0.0)
        spelled, tokens = self._vocabulary.spelled, tuple(prompt.tokens)
        pieces = await off_loop(len(tokens), lambda: tuple(map(spelled, tokens)))
        return Done("stop", prompt.rendered.text, tokens, usage, timings, self._worker, pieces=pieces)
