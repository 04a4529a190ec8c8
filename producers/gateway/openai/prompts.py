"""What a chat's prompt is, and how many tokens it has: the chat's own body, and nothing is generated. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker.messages import Sampling
from producers.gateway.dialect import Asked
from producers.gateway.openai.chat import ChatRequest
from producers.gateway.openai.errors import FIELDS
from producers.gateway.openai.tools import param_of
from producers.gateway.rendering import PromptWriter


class TemplateRequest(ChatRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The prompt that the model's template makes of a chat, as llama-server's `/apply-template`."""

    @property
    def is_streamed(self) -> bool:
        """Never."""
        return False

    @property
    def _unbegun(self) -> tuple[str, ...]:
        """A prompt alone may end as it likes."""
        return ()

    def asked(self) -> Sequence[Asked]:
        """The one turn."""
        more = {"kind": "prompt", "bare": self.add_generation_prompt is False}
        told = Sampling(thinking=self.thinking)
        return [Asked(self.history, told, False, self.template_kwargs, self.offer, more, param_of)]

    def writer(self, turn: str, model: str) -> PromptWriter:  # type: ignore[override]
        """Of the prompt."""
        return PromptWriter(lambda done: {"prompt": done.text}, FIELDS)


class ChatCountRequest(TemplateRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many tokens that is."""

    def writer(self, turn: str, model: str) -> PromptWriter:  # type: ignore[override]
        """Of their number."""
        return PromptWriter(lambda done: {"input_tokens": done.usage.prompt_tokens}, FIELDS)
