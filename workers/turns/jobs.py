"""From a turn to the engine's job: its prompt, its continuations, and what room is left for the answer."""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

import msgspec

from broker.errors import TurnRejected
from broker.messages import Sampling, Turn
from broker.priorities import BATCH
from workers.engine.events import Job
from workers.prompts.begun import begun, schema_holds
from workers.prompts.history import History, Prompt, Shortened
from workers.prompts.off_loop import off_loop, size_of
from workers.turns.answer_reader import ALL_TEXT, AnswerReaders
from workers.turns.holding import Holding
from workers.turns.work import Work

LEAST_TEMPERATURE = 1e-5
"""Logits divided by a lower one are no numbers any more: the likeliest token is all that is left of them."""
ROOM_TOKENS = 256
"""What is left for the answer where a conversation's oldest turns are dropped."""

Overflow = Literal["error", "drop"]
"""Of a conversation longer than the context: refused, or its oldest turns left out."""


class GrammarCompiler(Protocol):
    """Checks a turn's grammar and returns it as GBNF. `GrammarChecker` does."""

    async def gbnf(self, sampling: Sampling, client: str = "") -> str | None:
        """The grammar, None for a turn without one; raises TurnRejected for one that cannot be followed."""
        ...


class JobMaker:
    """Makes jobs for an engine whose sequences hold `max_tokens` tokens at most."""

    def __init__(
        self,
        history: History,
        grammars: GrammarCompiler,
        max_tokens: int,
        overflow: Overflow,
        readers: AnswerReaders = ALL_TEXT,
        holding: Holding | None = None,
    ) -> None:
        """`holding` holds the calls of answers; without it they are only asked for."""
        self._holding = holding
        self._history = history
        self._readers = readers
        self._grammars = grammars
        self._max_tokens = max_tokens
        self._overflow = overflow

    async def make(self, work: Work) -> tuple[Job, Prompt]:
        """The turn's job and its prompt; notes what was left out of it. Raises TurnRejected."""
        turn, client = work.turn, work.address.client
        if turn.kind == "embed":
            raise TurnRejected("unsupported", "kind: the model writes text: it makes no vectors")
        prompt = await self._prompt(work)
        if not prompt.tokens and not turn.continuations:
            raise TurnRejected("empty_prompt", "messages: the prompt has no tokens, and the model adds none of its own")
        size = len(turn.continuations) * len(prompt.rendered.text) + size_of(turn)
        continuations = await off_loop(size, lambda: self._continuations(turn, prompt))
        max_tokens = min(turn.sampling.max_tokens, self._max_tokens - len(prompt.tokens))
        if continuations:
            max_tokens = max(len(tokens) for tokens, _ in continuations) - len(prompt.tokens)
        calls = await self._holding.of(turn, prompt.rendered.text, client) if self._holding is not None else None
        job = Job(
            id=work.job,
            client=client,
            conversation=turn.conversation,
            prompt=prompt.tokens,
            max_tokens=max(max_tokens, 1),
            is_batch=work.address.priority == BATCH,
            sampling=await self._sampling(turn.sampling),
            gbnf=await self._grammars.gbnf(turn.sampling, client) if calls is None else None,
            calls=calls,
            continuations=continuations,
            begun=await self._begun(turn),
            boundaries=prompt.boundaries,
            tells_progress=turn.progress,
            shown=self._readers.shown if self._readers.reads(turn) else {},
            thinking=self._readers.thinking(turn, prompt.rendered.text, is_held=calls is not None),
        )
        return job, prompt

    async def _sampling(self, wanted: Sampling) -> Sampling:
        """As the engine's thread can take it at once: biased texts are tokens already, which takes a while for many."""
        if wanted.temperature < LEAST_TEMPERATURE:
            wanted = msgspec.structs.replace(wanted, temperature=0.0)
        if not any(isinstance(of, str) for of, _ in wanted.logit_bias):
            return wanted
        return msgspec.structs.replace(wanted, logit_bias=await asyncio.to_thread(self._biases, wanted))

    def _biases(self, wanted: Sampling) -> tuple[tuple[int, float], ...]:
        tokens_of = self._history.tokens_of
        return tuple(
            (token, bias)
            for of, bias in wanted.logit_bias
            for token in (tokens_of(of) if isinstance(of, str) else (of,))
        )

    async def _begun(self, turn: Turn) -> tuple[int, ...]:
        if not schema_holds(turn):
            return ()
        return await off_loop(len(begun(turn)), lambda: self._history.begun_tokens(turn))

    async def _prompt(self, work: Work) -> Prompt:
        """The turn's prompt, without its oldest turns where it is too long and the setting says so."""
        turn, limit = work.turn, self._max_tokens
        prompt = await self._history.prompt(work.address.client, turn)
        if len(prompt.tokens) >= limit and self._overflow == "drop" and not turn.raw:
            prompt = await self._shortened(work, prompt)
        if len(prompt.tokens) >= limit:
            detail = f"messages: {len(prompt.tokens)} tokens, and the context holds {limit}"
            raise TurnRejected("prompt_too_long", detail)
        return prompt

    async def _shortened(self, work: Work, whole: Prompt) -> Prompt:
        """Without as few of the oldest turns as leave room for an answer, or all that can go. Looked for in strides and
        then between them, as each look is a rendering of what is left: a conversation may have thousands of turns."""
        turn, shortened, prompt = work.turn, Shortened(work.turn.messages), whole

        async def without(num_turns: int) -> Prompt:
            left = msgspec.structs.replace(turn, messages=shortened.without(num_turns))
            return await self._history.prompt(work.address.client, left)

        too_few, enough = 0, min(1, shortened.num_turns)
        while too_few < enough and not self._leaves_room(prompt := await without(enough)):
            too_few, enough = enough, min(2 * enough, shortened.num_turns)
        while enough - too_few > 1:
            shorter = await without(middle := (too_few + enough) // 2)
            if self._leaves_room(shorter):
                enough, prompt = middle, shorter
            else:
                too_few = middle
        if enough:
            work.notes.dropped(len(turn.messages) - len(shortened.without(enough)))
        return prompt

    def _leaves_room(self, prompt: Prompt) -> bool:
        return len(prompt.tokens) < self._max_tokens - ROOM_TOKENS

    def _continuations(self, turn: Turn, prompt: Prompt) -> tuple[tuple[tuple[int, ...], int], ...]:
        found = []
        for text in turn.continuations:
            tokens, begin = self._history.continuation(prompt, text)
            if len(tokens) > self._max_tokens:
                raise TurnRejected(
                    "prompt_too_long", f"continuations: {len(tokens)} tokens, and the context holds {self._max_tokens}"
                )
            if not tokens:
                raise TurnRejected("empty_prompt", "continuations: one is empty, and so is the prompt")
            # With nothing in front of it a first token has no probability: those behind it are scored.
            found.append((tuple(tokens), max(begin, 1)))
        return tuple(found)
