"""`POST /v1/completions`: prompts that are gone on with, without the model's template. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta

from broker.messages import Message
from broker.messages.turns import TokenId
from producers.gateway.dialect import Asked
from producers.gateway.errors import ApiError, unsupported
from producers.gateway.openai.answers import Writer
from producers.gateway.openai.requests import Common
from producers.gateway.sampling import NumLogprobs

MAX_PROMPTS = 128
Tokens = Annotated[tuple[TokenId | str, ...], Meta(min_length=1)]
"""A prompt of tokens, or of texts and tokens."""


class CompletionRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A prompt, or several; each a text, or tokens."""

    prompt: Annotated[str, Meta(min_length=1)] | Annotated[tuple[str | TokenId | Tokens, ...], Meta(min_length=1)]
    logprobs: bool | NumLogprobs | None = None
    n_probs: NumLogprobs | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        super().check()
        if self.best_of not in (None, 1, self.num_answers):
            raise unsupported("best_of", "is not supported: n asks for several answers")
        if len(self.prompts) > MAX_PROMPTS:
            raise ApiError(400, f"prompt: must have at most {MAX_PROMPTS} entries", param="prompt")
        if not all(self.prompts):
            raise ApiError(400, "prompt: must not be empty", param="prompt")
        if self.suffix and self.echo:
            raise unsupported("echo", "is not supported beside a suffix")
        if self.echo and self.num_logprobs is not None:
            raise unsupported("echo", "is not supported beside logprobs: those of a prompt are not told")
        if self.echo and self.is_silent:
            raise unsupported("echo", "is not supported where nothing is generated: max_tokens must be at least 1")

    @property
    def prompts(self) -> list[str | tuple[str | int, ...]]:
        """One for each entry of a list of texts or of lists; numbers among a list's entries make it one prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        flat = [one for one in self.prompt if not isinstance(one, tuple)]
        if len(flat) == len(self.prompt) and any(isinstance(one, int) for one in flat):
            return [tuple(flat)]
        return [(one,) if isinstance(one, int) else one for one in self.prompt]

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None without log-probabilities."""
        if isinstance(self.logprobs, bool):
            return (self.n_probs or 0) if self.logprobs else None
        return self.logprobs if self.logprobs is not None else self.n_probs or None

    def asked(self) -> Sequence[Asked]:
        """As many answers of each prompt as are wanted, each with its own seed. A prompt is what the model gets."""
        samplings = self.samplings()
        return [self._one(prompt, sampling) for prompt in self.prompts for sampling in samplings]

    def _one(self, prompt: str | tuple[str | int, ...], sampling: Any) -> Asked:
        more: dict[str, Any] = {"suffix": self.suffix} if self.suffix else {}
        more |= ({"echo": True} if self.echo else {}) | self.progress
        if isinstance(prompt, str):
            return Asked((Message("user", prompt),), sampling, is_raw=True, more=more)
        return Asked((), sampling, is_raw=True, more=more | {"prompt": prompt})

    def writer(self, turn: str, model: str) -> Writer:
        """Of its answers."""
        return Writer(
            turn,
            model,
            is_chat=False,
            has_usage=self.wants_usage,
            is_silent=self.is_silent,
            num_answers=self.num_answers,
            has_timings=bool(self.timings_per_token),
        )
