"""A turn as its producer sends it: the conversation so far, and how the answer is to be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from broker.errors import InvalidMessage
from broker.messages.fields import Seconds, Token
from broker.messages.template_kwargs import FIELD, check_template_kwargs
from broker.messages.tools import MAX_CALLS, CallId, Tool, ToolCall, ToolChoice, check_tools

MAX_GRAMMAR_BYTES = 64 * 1024
MAX_TEXTS = 256
"""To embed, in one turn: the vectors of so many fit into a message up to 1,000 dimensions."""
MAX_DIMENSIONS = 65_536
MAX_BIAS_CHARACTERS = 4096
"""Of all texts in a turn's `logit_bias`."""
FORBIDDEN = -1e9
"""A bias of so much, or less, is that of a token that is never chosen."""

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["generate", "score", "prompt", "embed"]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
EmbedText = str | Annotated[tuple[TokenId | str, ...], Meta(min_length=1)]
"""To embed: a text, or tokens and texts in a row."""
Thinking = Literal["on", "off"] | Annotated[int, Meta(ge=0, le=1_000_000)]
BiasedText = Annotated[str, Meta(min_length=1, max_length=256)]


class Message(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One message of a conversation."""

    role: Role
    content: str
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=MAX_CALLS)] = ()
    """What an assistant's message calls."""
    tool_call_id: CallId | None = None
    """The call whose result a tool's message is."""
    reasoning: str = ""
    """The thoughts before an assistant's message, for a template that shows them again."""


class Sampling(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How tokens are chosen. The defaults are greedy: the most likely token each time."""

    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """0 is greedy; the cuts below then have no effect, penalties and biases have."""
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Keep the smallest set whose probability reaches p (Holtzman et al. 2020, arXiv 1904.09751)."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Keep tokens at least min_p times as likely as the likeliest (arXiv 2407.01082)."""
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Divides positive, multiplies negative logits of the last 64 tokens (Keskar et al. 2019, arXiv 1909.05858)."""
    presence_penalty: Annotated[float, Meta(ge=-100, le=100)] = 0.0
    """Taken from the logits of the tokens that the answer has, …"""
    frequency_penalty: Annotated[float, Meta(ge=-100, le=100)] = 0.0
    """… and this as often as it has them."""
    logit_bias: Annotated[tuple[tuple[TokenId | BiasedText, float], ...], Meta(max_length=1024)] = ()
    """Added to the logits of tokens; a text stands for all tokens that it is made of. FORBIDDEN and less forbid."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Token i is drawn with a hash of (seed, i): the same seed gives the same draws on any worker."""
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=16)] = ()
    """The answer ends before the first of these strings."""
    ignore_eos: bool = False
    """Go on to max_tokens: the model's end tokens are never chosen. For benchmarks."""
    grammar: Annotated[str, Meta(min_length=1, max_length=MAX_GRAMMAR_BYTES)] | None = None
    """A GBNF grammar with a rule `root` that the answer must match."""
    json_schema: dict[str, Any] | None = None
    """A JSON schema that the answer must match; not together with `grammar`."""
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Return each token's log-probability and those of the n most likely ones."""
    thinking: Thinking | None = None
    """Whether the model is to think before it answers, where its template has a switch for it, or for how many tokens
    at most; None leaves it to the template."""

    def __post_init__(self) -> None:
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidMessage("sampling.grammar", "grammar and json_schema cannot both be given")
        if not all(bias < -FORBIDDEN for _, bias in self.logit_bias):  # NaN is not either
            raise InvalidMessage("sampling.logit_bias", f"a bias must be a number below {-FORBIDDEN:g}")
        if sum(len(of) for of, _ in self.logit_bias if isinstance(of, str)) > MAX_BIAS_CHARACTERS:
            raise InvalidMessage("sampling.logit_bias", f"its texts may have {MAX_BIAS_CHARACTERS} characters together")


def check_messages(messages: Sequence[Message]) -> None:
    """Raises InvalidMessage for what another role says, and for an answer that cannot be gone on with."""
    for index, one in enumerate(messages):
        if one.role != "assistant" and (one.tool_calls or one.reasoning):
            field = "tool_calls" if one.tool_calls else "reasoning"
            raise InvalidMessage(f"messages[{index}].{field}", "only an assistant's message has any")
        if (one.role == "tool") != (one.tool_call_id is not None):
            raise InvalidMessage(f"messages[{index}].tool_call_id", "a tool's message has one, and no other has")
    last, field = messages[-1], f"messages[{len(messages) - 1}]"
    if last.tool_calls:
        raise InvalidMessage(f"{field}.tool_calls", "an answer with calls is over: nothing can be written behind it")
    if last.reasoning and not last.content:
        raise InvalidMessage(f"{field}.reasoning", "only a text can be gone on with, and no thought")


def check_texts(turn: Turn) -> None:
    """Raises InvalidMessage for texts of a turn that is not to embed, and for one that is and has anything else."""
    if turn.kind != "embed":
        field = "texts" if turn.texts else "truncate" if turn.truncate else "dimensions"
        raise InvalidMessage(field, "must be given for kind 'embed', and only then")
    if not turn.texts:
        raise InvalidMessage("texts", "must hold at least one text")
    for field in ("messages", "continuations", "raw", "tools", "chat_template_kwargs"):
        if getattr(turn, field):
            raise InvalidMessage(field, "a turn of kind 'embed' has texts, and nothing that is answered")


class Turn(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One user message with its whole history; or, to `embed`, texts and no messages."""

    id: Token
    conversation: Token
    messages: tuple[Message, ...] = ()
    """Where the last one is an assistant's, the answer goes on behind it, and holds only what is new."""
    sampling: Sampling = Sampling()
    deadline: Seconds | None = None
    """Seconds since the epoch, by the producer's wall clock; the turn ends as failed(deadline) after it."""
    kind: Kind = "generate"
    continuations: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    """For `score`: the texts whose log-probability as the answer is asked for."""
    run: Token | None = None
    """The load run that it belongs to: a tag in telemetry."""
    raw: bool = False
    """The one message is the prompt as it stands, without the model's chat template: for evaluations."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template, as `enable_thinking`; what they say is text, as contents are."""
    tools: tuple[Tool, ...] = ()
    """What the model may call."""
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    """Whether one answer may hold more than one call."""
    prompt: Annotated[tuple[TokenId | str, ...], Meta(max_length=2**20)] = ()
    """Of a raw turn, instead of its message: tokens and texts in a row."""
    suffix: str | None = None
    """Of a raw turn: what follows the gap that the answer fills, by the model's own marks."""
    files: Annotated[tuple[tuple[Annotated[str, Meta(max_length=1024)], str], ...], Meta(max_length=64)] = ()
    """Beside a gap: names and contents of other files."""
    echo: bool = False
    """Of a raw turn: the answer's text begins with the prompt's."""
    bare: bool = False
    """For `prompt`: without what the model's prompts begin with, or what a template opens an answer by."""
    as_text: bool = False
    """Of a raw turn for `prompt`: control tokens that are written out are text."""
    progress: bool = False
    """Chunks tell how far its prompt is computed, before the answer's first token."""
    texts: Annotated[tuple[EmbedText, ...], Meta(max_length=MAX_TEXTS)] = ()
    """For `embed`: of each a vector is made."""
    truncate: bool = False
    """For `embed`: of a text that is longer than the model's context only so much is taken; else the turn fails."""
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] | None = None
    """For `embed`: of each vector so many values, its first, again of length 1; None: all that the model makes."""

    def __post_init__(self) -> None:
        if self.kind == "embed" or self.texts or self.truncate or self.dimensions is not None:
            check_texts(self)
            return
        self._check_raw()
        if self.raw and (self.tools or self.chat_template_kwargs):
            raise InvalidMessage("tools" if self.tools else FIELD, "a raw prompt has no template")
        if self.chat_template_kwargs:
            check_template_kwargs(self.chat_template_kwargs)
        check_tools(self.tools, self.tool_choice)
        if self.tools and self.sampling.grammar is not None:
            raise InvalidMessage("sampling.grammar", "a grammar and tools cannot both be given")
        if self.messages:
            check_messages(self.messages)
        if (self.kind == "score") != bool(self.continuations):
            raise InvalidMessage("continuations", "must be given for kind 'score', and only then")
        if not all(self.continuations):
            raise InvalidMessage("continuations", "must not be empty texts")

    def _check_raw(self) -> None:
        given = {"prompt": self.prompt, "suffix": self.suffix is not None, "files": self.files}
        given |= {"echo": self.echo, "as_text": self.as_text}
        named = next((name for name, value in given.items() if value), None)
        if named is not None and (not self.raw or self.kind == "score"):
            raise InvalidMessage(named, "is of a raw turn, and of none that is scored")
        if self.prompt and self.messages:
            raise InvalidMessage("messages", "must be empty where there is a prompt")
        if not self.messages and not self.prompt:
            raise InvalidMessage("messages", "must hold at least one message")
        if self.raw and len(self.messages) > 1:
            raise InvalidMessage("raw", "a raw prompt is one message")
        if self.raw and self.messages and self.messages[0].role != "user":
            raise InvalidMessage("messages[0].role", "a raw prompt is the user's")
        if self.files and self.suffix is None:
            raise InvalidMessage("files", "are beside a gap: a suffix is wanted")
        if (self.bare or self.as_text) and self.kind != "prompt":
            raise InvalidMessage("bare" if self.bare else "as_text", "is of a turn that only asks for its prompt")
        if self.echo and (self.kind != "generate" or self.sampling.logprobs is not None):
            raise InvalidMessage("echo", "is of an answer without log-probabilities: a prompt's are scored")
