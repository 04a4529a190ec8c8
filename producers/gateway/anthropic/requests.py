"""Requests of Anthropic's API → turns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from broker.messages import Message, Sampling
from broker.messages.turns import Thinking
from producers.gateway.anthropic.answers import CountWriter, Writer
from producers.gateway.anthropic.blocks import CacheControl, SystemText
from producers.gateway.anthropic.history import InputMessage, billing_of, history_of
from producers.gateway.anthropic.tools import Choice, ClientTool, param_of
from producers.gateway.dialect import NOTHING, AnswerWriter, Asked, Offer
from producers.gateway.sampling import MAX_STOPS, MOST_TOKENS, Defaults, Share, Stop, sampling_of

DEFAULTS = Defaults(max_tokens=500)


class ThinkingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the model is to think before it answers, for how many tokens at most, and whether it is told what."""

    type: Literal["enabled", "adaptive", "disabled", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=0, le=MOST_TOKENS)] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @property
    def thinking(self) -> Thinking:
        """As a turn has it."""
        if self.type in ("disabled", "between_tools"):
            return "off"
        return self.budget_tokens if self.type == "enabled" and self.budget_tokens is not None else "on"


class Format(Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer must look like."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How the answer is to be."""

    format: Format | None = None
    effort: str | None = None


class Metadata(Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks: a person has many conversations, and says nothing of which it is."""

    user_id: str | None = None


class CountRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/messages/count_tokens`: what makes the prompt."""

    messages: Annotated[tuple[InputMessage, ...], Meta(min_length=1, max_length=10_000)]
    model: Annotated[str, Meta(max_length=256)] = ""
    """Where it is not said, the file of routes may have a default."""
    system: SystemText | None = None
    tools: tuple[ClientTool, ...] | None = None
    tool_choice: Choice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    cache_control: CacheControl | None = None

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        for index, tool in enumerate(self.tools or ()):
            tool.check(f"tools[{index}]")
        if self.tool_choice is not None:
            self.tool_choice.check()

    @property
    def is_streamed(self) -> bool:
        """A number has no pieces."""
        return False

    @property
    def conversation(self) -> str | None:
        """The API has no name for it."""
        return None

    @property
    def ignored(self) -> Sequence[str]:
        """What is taken and not done."""
        found = [billing_of(self.system)]
        if any(one.hides_thoughts for one in self.messages):
            found.append("redacted_thinking")
        if self.output_config is not None and self.output_config.effort is not None:
            found.append("output_config.effort")
        return [*filter(None, found)]

    @property
    def history(self) -> tuple[Message, ...]:
        """The system prompt and the messages. Raises ApiError."""
        return history_of(self.system, self.messages)

    @property
    def offer(self) -> Offer:
        """The tools that the model may call."""
        tools, choice = tuple(one.tool for one in self.tools or ()), self.tool_choice
        if choice is None:
            return Offer(tools) if tools else NOTHING
        return Offer(tools, choice.choice, not choice.disable_parallel_tool_use)

    def sampling(self) -> Sampling:
        """What of it makes a difference to the prompt."""
        return Sampling(max_tokens=1, thinking=self.thinking.thinking if self.thinking is not None else None)

    def asked(self) -> Sequence[Asked]:
        """The prompt's turn, of which nothing is answered. Raises ApiError."""
        more = {"kind": "prompt"}
        return (Asked(self.history, self.sampling(), offer=self.offer, more=more, param_of=param_of),)

    def writer(self, turn: str, model: str) -> AnswerWriter:
        """Of the number."""
        return CountWriter()


class MessagesRequest(CountRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    stop_sequences: Annotated[tuple[Stop, ...], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    """There is one."""

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is read in pieces."""
        return bool(self.stream)

    @property
    def ignored(self) -> Sequence[str]:
        """What is taken and not done."""
        user = ["metadata.user_id"] if self.metadata is not None and self.metadata.user_id else []
        return [*super().ignored, *user]

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow, by either of its names."""
        found = self.output_config.format if self.output_config is not None else None
        found = found or self.output_format
        return found.schema if found is not None else None

    def sampling(self) -> Sampling:
        """How the API wants tokens chosen, with a random seed. Raises ApiError."""
        return sampling_of(
            DEFAULTS,
            limit=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            stop=self.stop_sequences,
            json_schema=self.schema,
            thinking=super().sampling().thinking,
            param_of=param_of,
        )

    def asked(self) -> Sequence[Asked]:
        """The turn. Raises ApiError."""
        return (Asked(self.history, self.sampling(), offer=self.offer, param_of=param_of),)

    def writer(self, turn: str, model: str) -> AnswerWriter:
        """Of its answer."""
        hides_thoughts = self.thinking is not None and self.thinking.display == "omitted"
        return Writer(turn, model, shows_thoughts=not hides_thoughts)
