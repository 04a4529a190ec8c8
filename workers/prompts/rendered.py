"""A prompt's text, which part of it is whose, and who renders it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from broker.messages import Message, Tool


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

    def until(self, at: int) -> Rendered:
        """The text before a position, and the contents there."""
        contents = [(index, begin, min(end, at)) for index, begin, end in self.contents if begin < at]
        return Rendered(self.text[:at], contents)


class Renderer(Protocol):
    """Renders a conversation with the model's chat template. TemplateRenderer does, and so do the tests' fakes."""

    async def render(
        self,
        messages: tuple[Message, ...],
        exact: Collection[int] = (),
        kwargs: dict[str, Any] | None = None,
        tools: tuple[Tool, ...] = (),
    ) -> Rendered:
        """The prompt of a conversation, with the texts of the messages `exact` as they were said; `kwargs` are
        variables for the template, `tools` what it offers. Raises TurnRejected."""
        ...
