"""`POST /v1/chat/completions`: a chat's next turn. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta

from broker.messages import Message
from broker.messages.turns import Thinking
from producers.gateway.dialect import NOTHING, Asked, Offer
from producers.gateway.endings import to_be_answered
from producers.gateway.errors import ApiError, unsupported
from producers.gateway.openai.answers import Writer
from producers.gateway.openai.chat_messages import ChatMessage
from producers.gateway.openai.formats import ResponseFormat
from producers.gateway.openai.requests import Common
from producers.gateway.openai.tools import Choice, FunctionTool, choice_of, param_of
from producers.gateway.rendering import prompt_of
from producers.gateway.sampling import MOST_TOKENS, NumLogprobs

ThoughtTokens = Annotated[int, Meta(ge=-1, le=MOST_TOKENS)]
"""-1 is as many as the model likes."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A chat, whose last message is answered, or gone on with where it is the assistant's."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=10_000)]
    logprobs: bool | NumLogprobs | None = None
    top_logprobs: NumLogprobs | None = None
    n_probs: NumLogprobs | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[FunctionTool, ...] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    reasoning_budget_tokens: ThoughtTokens | None = None
    thinking_budget_tokens: ThoughtTokens | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    verbose: bool | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        super().check()
        for index, one in enumerate(self.messages):
            if (missing := one.missing) is not None:
                field = f"messages[{index}].{missing}"
                raise ApiError(400, f"{field} is required", param=field, code="missing_required_parameter")
        self._check_ending()
        if self.top_logprobs and self.logprobs in (None, False):
            raise ApiError(400, "top_logprobs wants logprobs: true", param="top_logprobs")
        if self.response_format is not None:
            _ = self.response_format.wanted

    def _check_ending(self) -> None:
        """Whether a last message of the assistant's is gone on with is told by its being the last."""
        is_answers = self.history[-1].role == "assistant"
        if self.continue_final_message and (self.add_generation_prompt or not is_answers):
            raise unsupported("continue_final_message", "wants a last message of the assistant's, and no new one")
        if is_answers and len(self.history) > 1 and self.history[-2].role == "assistant":
            field = f"messages[{len(self.history) - 1}].role"
            raise ApiError(400, "two messages of the assistant's at the end: which one is gone on with?", param=field)

    @property
    def offer(self) -> Offer:
        """The tools that the model may call."""
        tools, choice = tuple(one.tool for one in self.tools or ()), choice_of(self.tool_choice)
        if not tools and choice in ("auto", "none"):
            return NOTHING
        return Offer(tools, choice, self.parallel_tool_calls is not False)

    @property
    def thinking(self) -> Thinking | None:
        """As `reasoning_effort` says, and the budget, by either of its names."""
        if self.reasoning_effort in ("none", "minimal"):
            return "off"
        budget = self.thinking_budget_tokens if self.reasoning_budget_tokens is None else self.reasoning_budget_tokens
        if budget is not None and budget >= 0:
            return budget
        return None if self.reasoning_effort is None else "on"

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None without log-probabilities. llama-server takes
        their number as `n_probs`, too, and others as `logprobs`."""
        if self.logprobs is True:
            return self.top_logprobs or 0
        return (self.logprobs if self.logprobs is not None else self.n_probs) or None

    @property
    def history(self) -> tuple[Message, ...]:
        """The chat, the last message of which is to be answered, or gone on with."""
        return to_be_answered([one.message for one in self.messages])

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow."""
        return self.json_schema if self.response_format is None else self.response_format.wanted

    @property
    def template_kwargs(self) -> dict[str, Any] | None:
        """Variables for the model's chat template."""
        return self.chat_template_kwargs or None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The names of participants (tools are known by their calls), and what no turn has."""
        named = (index for index, one in enumerate(self.messages) if one.name and one.role != "tool")
        verbose = ("verbose",) if self.verbose and self.is_streamed else ()
        wanted = self.response_format.json_schema if self.response_format is not None else None
        described = ("response_format.json_schema.description",) if wanted is not None and wanted.description else ()
        names = (f"messages[{index}].name" for index in named)
        return (*super().ignored, *verbose, *self._unbegun, *described, *names)

    @property
    def _unbegun(self) -> tuple[str, ...]:
        """An answer begins as the template has it, unless it goes on with the assistant's message."""
        begins = self.add_generation_prompt is not False or self.history[-1].role == "assistant"
        return () if begins else ("add_generation_prompt",)

    def asked(self) -> Sequence[Asked]:
        """So many answers as are wanted, each with a seed of its own; and the prompt, where it is to be told."""
        found = [
            Asked(self.history, sampling, False, self.template_kwargs, self.offer, self.progress, param_of)
            for sampling in self.samplings()
        ]
        return [*found, prompt_of(found[0])] if self.tells_prompt else found

    @property
    def tells_prompt(self) -> bool:
        """Whether a whole answer has the prompt beside it."""
        return bool(self.verbose) and not self.is_streamed

    def writer(self, turn: str, model: str) -> Writer:
        """Of its answers."""
        return Writer(
            turn,
            model,
            is_chat=True,
            has_usage=self.wants_usage,
            is_silent=self.is_silent,
            num_answers=self.num_answers,
            has_timings=bool(self.timings_per_token),
            tells_prompt=self.tells_prompt,
        )
