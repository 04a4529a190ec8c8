"""`POST /infill`: what stands between two texts, by the marks that the model was made with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from broker.messages import Message
from producers.gateway.dialect import Asked
from producers.gateway.native.answers import Writer
from producers.gateway.native.completion import INFILL, Answered

SNIPPET = "\n\n--- snippet ---\n\n"
"""In front of what is known of other files, as llama-server has it for models without a mark for files."""


class Snippet(Struct, frozen=True, forbid_unknown_fields=True):
    """Of another file."""

    text: str
    filename: str | None = None


class InfillBody(Answered, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The texts around the gap; `prompt` is what is there of what belongs into it."""

    input_prefix: str
    input_suffix: str
    prompt: str = ""
    input_extra: tuple[Snippet, ...] = ()

    @property
    def before(self) -> str:
        """What stands before the gap, with what is known of other files in front."""
        snippets = "".join(f"{SNIPPET}{one.text}" for one in self.input_extra)
        return (snippets + SNIPPET if snippets else "") + self.input_prefix + self.prompt

    def asked(self) -> Sequence[Asked]:
        """So many answers as are wanted. Raises ApiError."""
        history = (Message("user", self.before),)
        more = {"suffix": self.input_suffix}
        return [
            Asked(history, sampling, is_raw=True, more=more, can=frozenset({INFILL}))
            for sampling in self.samplings(self.num_answers)
        ]

    def writer(self, turn: str, model: str) -> Writer:
        """Of the answers."""
        prompts = [self.before] * self.num_answers
        return Writer(model, self.asking(self.samplings(1)[0], prompts, is_list=len(prompts) > 1))
