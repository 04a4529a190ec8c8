"""A thought before an answer: closed for the model once it has had its tokens, and a grammar begins behind it.

The mark that ends it is forced, token by token, and nothing else: no sentence is put into the model's mouth that its
reader would take for its own. Pure: everything follows from the answer's tokens, so that a worker that goes on with
another's answer stands where that one stood, within a mark too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers.calls.parser import Parser
from workers.calls.thought_tokens import ThoughtTokens
from workers.engine.protocol import Vocabulary

PATIENCE = 16
"""Tokens beyond the budget at most, for a character to become whole, or for the model's own mark."""


@dataclass(frozen=True)
class Thinking:
    """What a job's answer may begin with, by the model's own marks."""

    parser: Callable[[], Parser]
    """Makes one that reads the answer."""
    begin: str
    closings: tuple[str, ...]
    """What closes a thought: the first time, the second, …; the last one from then on."""
    answer: str = ""
    """What stands between a thought that has ended and what a grammar is of."""
    budget: int | None = None
    """Tokens of thoughts in the answer, without their marks; None for as many as the model likes."""


class Thought:
    """Where an answer stands: in a thought, behind one, or in front of a grammar. Follows it token by token."""

    def __init__(
        self,
        thinking: Thinking,
        vocabulary: Vocabulary,
        shown: Mapping[int, bytes],
        *,
        has_grammar: bool,
        goes_on: bool,
    ) -> None:
        """`shown`: control tokens that have a text in the answer; `goes_on`: something has to follow a thought."""
        self._thinking = thinking
        self._vocabulary = vocabulary
        self._shown = shown
        self._tokens = ThoughtTokens(thinking.parser())
        self._forced: deque[int] = deque()
        self._num_closed = 0
        self._num_over = 0
        self._has_begun = self._tokens.is_thinking
        self._goes_on = goes_on
        self.awaits_grammar = has_grammar
        """Whether what the grammar is of has not begun yet."""
        self.num_before_grammar = 0
        """Tokens of the answer that come before what the grammar is of, as far as it has come."""
        self._num_taken = 0
        self.is_turned = False
        """Whether what chooses the next token has to be made anew: tokens were forced, or the grammar begins."""
        if self._is_spent:
            self._force(self._closing)

    @property
    def forced(self) -> int | None:
        """The token that has to come next, whatever the model would say; None where it may choose."""
        return self._forced[0] if self._forced else None

    def lets_begin(self, token: int) -> bool:
        """Whether an answer that a grammar waits for may begin with that token: it begins a thought. Where it does not,
        the grammar begins here."""
        if not self.awaits_grammar or self._has_begun:
            return True
        begin = self._spelling(self._thinking.begin)
        if self._thinking.budget != 0 and begin[:1] == (token,):
            self._force(begin)
            self._has_begun = True
            return True
        self.awaits_grammar = False
        return False

    def may_end(self) -> bool:
        """Whether the answer may end here. Within a thought that an answer has to follow it may not: the thought is
        closed for the model instead."""
        if not (self._goes_on and self._tokens.is_thinking):
            return True
        self._force(self._closing)
        return not self._forced

    def take(self, token: int, text: str, *, is_cut: bool = False) -> None:
        """The answer's next token and what it makes sendable; `is_cut`: it ends within a character."""
        self._num_taken += 1
        if self.awaits_grammar:
            self.num_before_grammar = self._num_taken
        was_forced = self.forced == token
        if was_forced:
            self._forced.popleft()
        else:
            self._forced.clear()  # another release's worker has chosen otherwise
        self._tokens.feed(text, 1)
        if self._tokens.is_thinking:
            self._has_begun = True
            self._num_over += self._is_spent
            is_apt = not (is_cut or self._tokens.is_in_mark) or self._num_over > PATIENCE
            if self._is_spent and not self._forced and is_apt:
                self._force(self._closing)
        elif self.awaits_grammar and self._has_begun and not self._forced:
            if self._thinking.answer and not was_forced:
                self._force(self._spelling(self._thinking.answer))
            else:
                self.awaits_grammar = False
                self.is_turned = True
        self.is_turned = self.is_turned or (was_forced and not self._forced)

    def turned(self) -> bool:
        """Whether it was turned since this was asked last."""
        was, self.is_turned = self.is_turned, False
        return was

    @property
    def _is_spent(self) -> bool:
        budget = self._thinking.budget
        return budget is not None and self._tokens.is_thinking and self._tokens.num_tokens >= budget

    @property
    def _closing(self) -> tuple[int, ...]:
        closings = self._thinking.closings[-1:] if self.awaits_grammar else self._thinking.closings
        text = closings[min(self._num_closed, len(closings) - 1)]
        self._num_closed += 1
        return self._spelling(text)

    def _force(self, tokens: tuple[int, ...]) -> None:
        self._forced = deque(tokens)

    def _spelling(self, text: str) -> tuple[int, ...]:
        """The tokens of a mark; none where the vocabulary has none that the answer would show as this text."""
        tokens = self._vocabulary.tokenize(text, template_spans=[(0, len(text))], add_bos=False)
        spelled = b"".join(self._vocabulary.piece(token) or self._shown.get(token, b"") for token in tokens)
        return tuple(tokens) if spelled == text.encode() else ()
