"""Where in a prompt conversations part, and where one comes back to: behind what stands before the first message that
is said (system messages, and what else the template puts there), and behind the last message's text. Pure.

Positions count tokens, and are such that the tokens before them are the same whatever follows.
"""

from __future__ import annotations

from broker.messages import Message
from workers.engine.protocol import Vocabulary
from workers.engine.slots import common_prefix
from workers.prompts.rendered import Rendered

HEADER_TOKENS = 8
"""Among so many before a message's text there is a control token, which nothing merges with, or there is none."""
MERGED_TOKENS = 3
"""Without one so many tokens may be others before another text."""


def boundaries(
    vocabulary: Vocabulary,
    rendered: Rendered,
    messages: tuple[Message, ...],
    tokens: list[int],
    *,
    num_known: int = 0,
    known_text: int = 0,
) -> tuple[int, ...]:
    """Of a prompt's tokens, two positions at most, in order. `num_known` of the tokens, those of the first
    `known_text` characters, were not made from the text."""

    def before(at: int) -> list[int]:
        """The tokens up to a position of the text, by themselves."""
        part = rendered.until(at)
        if at < known_text:
            return vocabulary.tokenize(part.text, template_spans=part.template_spans(), add_bos=True)
        spans = part.template_spans(known_text)
        return tokens[:num_known] + vocabulary.tokenize(
            part.text[known_text:], template_spans=spans, add_bos=num_known == 0
        )

    said = [start for index, start, _ in rendered.contents if index >= 0 and messages[index].role != "system"]
    if not said:
        return ()
    head, end = before(said[0]), before(rendered.contents[-1][2])
    found = {common_prefix(head, tokens[: _num_certain(vocabulary, head)]), common_prefix(end, tokens)}
    return tuple(sorted(at for at in found if 0 < at < len(tokens)))


def _num_certain(vocabulary: Vocabulary, tokens: list[int]) -> int:
    """How many of the tokens before a message's text are the same before any other."""
    for index in range(len(tokens) - 1, max(-1, len(tokens) - 1 - HEADER_TOKENS), -1):
        if not vocabulary.piece(tokens[index]):
            return index + 1
    return max(0, len(tokens) - MERGED_TOKENS)
