"""Where in a prompt conversations part, and where one comes back to: behind what stands before the first message that
is said (system messages, and what else the template puts there), and where the answer begins. Pure.

Positions count tokens, and are such that the tokens before them are the same whatever follows. What a template puts
before an answer is not always what it puts there once the answer is history (thoughts): how earlier answers stand in
the prompt tells; in a conversation's first prompt the position is the end of the last message's text.
"""

from __future__ import annotations

from itertools import pairwise

from broker.messages import Message
from workers.engine.protocol import Vocabulary
from workers.engine.slots import common_prefix
from workers.prompts.rendered import Rendered

HEADER_TOKENS = 8
"""Among so many before a message's text there is a control token, or none. Behind it stands a word or two of the
template's, of which the last token may be another one before another text (a line end before line ends)."""
MERGED_TOKENS = 3
"""Where there is none so many may be others."""


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
    head = before(said[0])
    found = {common_prefix(head, tokens[: _num_certain(vocabulary, head)])}
    end, header = rendered.contents[-1][2], _header(rendered, messages)
    if rendered.text[end:] == header:
        found.add(len(tokens) - 1)
    else:
        same = before(end + common_prefix([*map(ord, rendered.text[end:])], [*map(ord, header)]))
        certain = same[: _num_certain(vocabulary, same)]
        # An answer that is begun goes on right behind its text.
        found.add(min(max(common_prefix(one, tokens) for one in (before(end), certain)), len(tokens) - 1))
    return tuple(sorted(at for at in found if 0 < at < len(tokens)))


def _header(rendered: Rendered, messages: tuple[Message, ...]) -> str:
    """What the template wrote between a message and the last answer in the prompt; empty where there is none."""
    for (_, _, end), (index, start, _) in reversed(list(pairwise(rendered.contents))):
        if index >= 0 and messages[index].role == "assistant":
            return rendered.text[end:start]
    return ""


def _num_certain(vocabulary: Vocabulary, tokens: list[int]) -> int:
    """How many of the tokens before a message's text are the same before any other."""
    for index in range(len(tokens) - 1, max(-1, len(tokens) - 1 - HEADER_TOKENS), -1):
        if not vocabulary.piece(tokens[index]):
            return max(index + 1, len(tokens) - 1)
    return max(0, len(tokens) - MERGED_TOKENS)
