"""`POST /infill`: what stands between two texts, by the marks that the model was made with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from broker.messages import Message
from producers.gateway.dialect import Asked
from producers.gateway.native.answers import Writer
from producers.gateway.native.completion import Answered

NO_NAME = "tmp"
"""Of a file whose name is not said, as llama-server calls it."""


class Snippet(Struct, frozen=True, forbid_unknown_fields=True):
    """Of another file."""

    text: str
    filename: str | None = None


class InfillBody(Answered, frozen=True, dict=True, forbid_unknown_fields=True, kw_only=True):
    """The texts around the gap; `prompt` is what is there of what belongs into it."""

    input_prefix: str
    input_suffix: str
    prompt: str = ""
    input_extra: tuple[Snippet, ...] = ()

    def asked(self) -> Sequence[Asked]:
        """So many answers as are wanted. Raises ApiError."""
        history = (Message("user", self.input_prefix + self.prompt),)
        files = tuple((one.filename or NO_NAME, one.text) for one in self.input_extra)
        more = {"suffix": self.input_suffix, "files": files} | self.progress
        return [Asked(history, sampling, is_raw=True, more=more) for sampling in self.samplings]

    def writer(self, turn: str, model: str) -> Writer:
        """Of the answers."""
        prompts = [self.input_prefix + self.prompt] * self.num_answers
        return Writer(model, self.asking(prompts, is_list=len(prompts) > 1))
