"""Messages → known tokens, remembered and never re-tokenised.

An answer's text need not tokenise back into the tokens that were generated, and one mismatch would cost the whole
prefix. So a conversation's tokens are kept, and its next turn adds only those of the text that follows the answer.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from broker.messages import Message, Turn
from workers.engine import Vocabulary


@dataclass(frozen=True)
class Rendered:
    """A prompt's text and where in it contents stand: (message index, start, end)."""

    text: str
    contents: list[tuple[int, int, int]]

    def template_spans(self, start: int = 0) -> list[tuple[int, int]]:
        """The rest: what the template wrote, in positions from `start` on."""
        spans = []
        at = start
        for _, begin, end in self.contents:
            if end <= start:
                continue
            spans.append((at - start, max(begin, start) - start))
            at = end
        spans.append((at - start, len(self.text) - start))
        return spans


class Renderer(Protocol):
    """Renders a conversation with the model's chat template. The jail does, and so do the tests' fakes."""

    async def render(self, messages: tuple[Message, ...], exact: int = -1) -> Rendered: ...


@dataclass(frozen=True)
class Prompt:
    """A turn's prompt as text and tokens."""

    rendered: Rendered
    tokens: list[int]
    num_known: int = 0
    """Of these, those of the conversation's last turn here: likely still in the cache."""


@dataclass(frozen=True)
class _Known:
    messages: tuple[Message, ...]
    prompt_text: str
    tokens: array[int]
    """Four bytes each: a list of two million numbers takes seventy megabytes."""


def without_oldest(messages: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """A conversation without its oldest turn: what is said at its beginning by `system` stays. None when only the last
    turn is left."""
    begin = next((index for index, one in enumerate(messages) if one.role != "system"), len(messages))
    users = [index for index in range(begin + 1, len(messages)) if messages[index].role == "user"]
    return (*messages[:begin], *messages[users[0] :]) if users else None


class History:
    """The tokens of the conversations that this worker answered lately."""

    def __init__(self, renderer: Renderer, vocabulary: Vocabulary, *, max_tokens: int = 2_000_000) -> None:
        self._renderer = renderer
        self._vocabulary = vocabulary
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    async def prompt(self, client: str, turn: Turn) -> Prompt:
        """The tokens of a turn's prompt; raises TurnRejected."""
        if turn.raw:
            text = turn.messages[0].content
            return self._tokenized(Rendered(text, [(0, 0, len(text))]))
        known = self._known.get((client, turn.conversation))
        if known is None or turn.messages[: len(known.messages)] != known.messages:
            return self._tokenized(await self._renderer.render(turn.messages))
        answer = len(known.messages) - 1
        rendered = await self._renderer.render(turn.messages, exact=answer)
        place = next((content for content in rendered.contents if content[0] == answer), None)
        if place is None or rendered.text[: place[1]] != known.prompt_text:
            # The template tells history otherwise than it was told at the time.
            return self._tokenized(await self._renderer.render(turn.messages))
        rest = place[2]
        tail = self._vocabulary.tokenize(
            rendered.text[rest:], template_spans=rendered.template_spans(rest), add_bos=False
        )
        return Prompt(rendered, [*known.tokens, *tail], len(known.tokens))

    def _tokenized(self, rendered: Rendered) -> Prompt:
        spans = rendered.template_spans()
        return Prompt(rendered, self._vocabulary.tokenize(rendered.text, template_spans=spans, add_bos=True))

    def continuation(self, prompt: Prompt, text: str) -> tuple[list[int], int]:
        """The tokens of prompt and answer `text`, tokenised as one, and at which one the answer begins."""
        rendered = prompt.rendered
        tokens = self._vocabulary.tokenize(rendered.text + text, template_spans=rendered.template_spans(), add_bos=True)
        shared = 0
        for one, other in zip(prompt.tokens, tokens, strict=False):
            if one != other:
                break
            shared += 1
        return tokens, min(shared, len(tokens) - 1)

    def remember(self, client: str, turn: Turn, prompt: Prompt, tokens: list[int], text: str) -> None:
        """Notes an answer: `tokens` are the prompt's and the answer's, `text` what the client was sent."""
        key = (client, turn.conversation)
        if old := self._known.pop(key, None):
            self._num_tokens -= len(old.tokens)
        messages = (*turn.messages, Message("assistant", text))
        self._known[key] = _Known(messages, prompt.rendered.text, array("i", tokens))
        self._num_tokens += len(tokens)
        while self._num_tokens > self._max_tokens and len(self._known) > 1:
            _, forgotten = self._known.popitem(last=False)
            self._num_tokens -= len(forgotten.tokens)
