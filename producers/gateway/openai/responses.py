"""`POST /v1/responses`: what goes on from items, and from an answer that was kept. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.messages import Done, Message, NamedTool, Sampling, ToolChoice
from broker.messages.turns import Thinking
from producers.gateway.bodies import part
from producers.gateway.dialect import NOTHING, AnswerWriter, Asked, Offer, plain_name
from producers.gateway.endings import to_be_answered
from producers.gateway.errors import ApiError, unsupported
from producers.gateway.openai.requests import Common
from producers.gateway.openai.response_config import FunctionTool, ReasoningConfig, TextConfig
from producers.gateway.openai.response_items import checked, items_of, messages_of
from producers.gateway.openai.response_writer import FIELDS, ResponseWriter
from producers.gateway.rendering import PromptWriter
from producers.gateway.sampling import Limit, NumLogprobs

LOGPROBS = "message.output_text.logprobs"


def _param_of(field: str) -> str:
    """The request's name of a turn's field: items become messages, some of them one."""
    return "input" if field.startswith("messages") else plain_name(field)


class ResponsesRequest(Common, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer to a text, or to items."""

    input: str | Annotated[tuple[dict[str, Any], ...], Meta(max_length=10_000)] = ()
    instructions: str | None = None
    previous_response_id: Annotated[str, Meta(max_length=64)] | None = None
    tools: Annotated[tuple[dict[str, Any], ...], Meta(max_length=1000)] | None = None
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    max_output_tokens: Limit | None = None
    top_logprobs: NumLogprobs | None = None
    include: tuple[str, ...] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt: Any = None
    of_conversation: Any = msgspec.field(default=None, name="conversation")

    def check(self) -> None:
        """Raises ApiError for what is understood and cannot be done."""
        super().check()
        if self.of_conversation is not None:
            raise unsupported("conversation", "is not supported: previous_response_id goes on from an answer")
        if self.prompt is not None:
            raise unsupported("prompt", "is not supported: templates of prompts are not kept here")
        if self.num_answers > 1:
            raise unsupported("n_cmpl" if self.n is None else "n", "is not supported: a response is one answer")
        if self.previous_response_id is None:
            checked(self.said)
        wanted = self.text.format if self.text is not None else None
        if wanted is not None and wanted.type == "json_schema" and wanted.schema is None:
            raise ApiError(400, "a schema is wanted", param="text.format.schema")

    @property
    def said(self) -> tuple[Message, ...]:
        """What the input adds to the conversation. Raises ApiError."""
        if isinstance(self.input, str):
            return (Message("user", self.input),)
        return messages_of(items_of(self.input, []))

    @property
    def _functions(self) -> list[FunctionTool]:
        given = enumerate(self.tools or ())
        return [part(one, FunctionTool, f"tools[{place}]", []) for place, one in given if one.get("type") == "function"]

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tools that are not functions, what is to be told besides, and what items have that is not known."""
        unknown: list[str] = []
        if not isinstance(self.input, str):
            items_of(self.input, unknown)
        others = [f"tools[{place}]" for place, one in enumerate(self.tools or ()) if one.get("type") != "function"]
        told = [f"include.{one}" for one in self.include or () if one != LOGPROBS]
        if self.text is not None:
            told += self.text.ignored
        if self.reasoning is not None:
            told += self.reasoning.ignored
        return (*super().ignored, *unknown, *others, *told)

    @property
    def offer(self) -> Offer:
        """The functions that the model may call. Raises ApiError."""
        tools = tuple(one.tool for one in self._functions)
        choice, allowed = self._choice()
        if allowed is not None:
            tools = tuple(one for one in tools if one.name in allowed)
        if not tools and choice == "auto":
            return NOTHING
        return Offer(tools, choice, self.parallel_tool_calls is not False)

    def _choice(self) -> tuple[ToolChoice, list[str] | None]:
        """And which tools alone, where not all of them."""
        match self.tool_choice:
            case None:
                return "auto", None
            case "auto" | "none" | "required":
                return self.tool_choice, None
            case {"type": "function", "name": str(name)}:
                return NamedTool(name), None
            case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(tools)}:
                return mode, [str(one.get("name")) for one in tools if isinstance(one, dict)]
        raise unsupported("tool_choice", "can be auto, none, required, a function or allowed_tools")

    @property
    def limit(self) -> int | None:
        """Of the answer's tokens."""
        return self.max_output_tokens if self.max_output_tokens is not None else super().limit

    @property
    def thinking(self) -> Thinking | None:
        """As `reasoning.effort` says."""
        effort = self.reasoning.effort if self.reasoning is not None else None
        return None if effort is None else "off" if effort in ("none", "minimal") else "on"

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told with each; None without log-probabilities."""
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else self.top_logprobs or None

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow."""
        wanted = self.text.format if self.text is not None else None
        if wanted is None:
            return self.json_schema
        return None if wanted.type == "text" else wanted.schema or {"type": "object"}

    def asked(self) -> Sequence[Asked]:
        """One answer."""
        return self.going_on_from(()).asked()

    def writer(self, turn: str, model: str) -> AnswerWriter:
        """Of it."""
        return self.going_on_from(()).writer(turn, model)

    def going_on_from(self, earlier: Sequence[Message]) -> Continued:
        """The same behind what was said before."""
        return Continued(self, (*earlier, *self.said))

    def told_back(self, sampling: Sampling) -> dict[str, Any]:
        """What the answer's object says of the request."""
        wanted = self.text.format if self.text is not None else None
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.limit,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": self.reasoning.effort if self.reasoning else None, "summary": None},
            "service_tier": "default",
            "store": self.store is not False,
            "temperature": sampling.temperature,
            "text": {"format": msgspec.to_builtins(wanted) if wanted is not None else {"type": "text"}},
            "tool_choice": self.tool_choice or "auto",
            "tools": [msgspec.to_builtins(one) for one in self._functions],
            "top_logprobs": sampling.logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "user": self.user,
        }


@dataclass(frozen=True)
class Continued:
    """A request with all that was said before; instructions are of this one alone."""

    request: ResponsesRequest
    messages: tuple[Message, ...]

    @property
    def model(self) -> str:
        """A model, a policy, or nothing."""
        return self.request.model

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is read in pieces."""
        return self.request.is_streamed

    @property
    def conversation(self) -> str | None:
        """`prompt_cache_key`, or else `user`."""
        return self.request.conversation

    @property
    def ignored(self) -> Sequence[str]:
        """As the request's."""
        return self.request.ignored

    def check(self) -> None:
        """The request was checked."""

    def asked(self) -> Sequence[Asked]:
        """One answer. Raises ApiError."""
        first = (Message("system", self.request.instructions),) if self.request.instructions else ()
        history = to_be_answered((*first, *self.messages))
        checked(history)
        kwargs, offer = self.request.chat_template_kwargs or None, self.request.offer
        return [
            Asked(
                history,
                self.request.sampling(),
                template_kwargs=kwargs,
                offer=offer,
                more=self.request.progress,
                param_of=_param_of,
            )
        ]

    def writer(self, turn: str, model: str) -> AnswerWriter:
        """Of it."""
        request = self.request
        told_back = request.told_back(request.sampling())
        has_timings = bool(request.timings_per_token)
        return ResponseWriter(
            turn,
            model,
            told_back,
            self.messages,
            is_stored=request.store is not False,
            has_timings=has_timings,
            is_llama_servers=has_timings or bool(request.return_progress),
        )


class CountRequest(ResponsesRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/responses/input_tokens`: how many tokens the prompt of a request has."""

    @property
    def is_streamed(self) -> bool:
        """A number has no pieces."""
        return False

    def going_on_from(self, earlier: Sequence[Message]) -> Continued:
        """The same behind what was said before."""
        return Counted(self, (*earlier, *self.said))


class Counted(Continued):
    """Its prompt is made, and nothing is generated."""

    def asked(self) -> Sequence[Asked]:
        """One prompt."""
        (one,) = super().asked()
        return [dataclasses.replace(one, more={"kind": "prompt"})]

    def writer(self, turn: str, model: str) -> PromptWriter:
        """Of their number."""
        return PromptWriter(_count, FIELDS)


def _count(done: Done) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": done.usage.prompt_tokens}
