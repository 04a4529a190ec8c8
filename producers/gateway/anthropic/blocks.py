"""Content blocks as Anthropic's API has them, and the text that a model without eyes is told of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.messages.tools import CallId, ToolName
from producers.gateway.errors import UNSUPPORTED, ApiError

CacheControl = dict[str, Any]
"""It asks that what comes before it be kept, which is done anyway."""


class Text(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of text."""

    text: str
    cache_control: CacheControl | None = None

    def said(self, at: str) -> str:
        """As the model is told; `at` is its place in the request."""
        return self.text


class Image(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="image"):
    """A picture, which no model here sees."""

    source: dict[str, Any]
    cache_control: CacheControl | None = None

    def said(self, at: str) -> str:
        """Raises ApiError."""
        raise _unreadable(at, "image input is not supported: models here read text")


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a document is: in the request, as text or as blocks of text, or elsewhere."""

    type: str
    data: str = ""
    content: str | tuple[Text, ...] = ""
    media_type: str | None = None


class Document(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="document"):
    """A document; one of text is told, below its title."""

    source: Source
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None

    def said(self, at: str) -> str:
        """As the model is told. Raises ApiError for one that is no text."""
        source = self.source
        if source.type == "text":
            text = source.data
        elif source.type == "content":
            text = text_of(source.content, f"{at}.source.content")
        else:
            raise _unreadable(
                f"{at}.source", f"a document of type {source.type[:60]!r} is not supported: send its text"
            )
        return "\n".join(filter(None, (self.title, self.context, text)))


class SearchResult(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="search_result"):
    """What a search of the client's has found."""

    source: str
    title: str
    content: tuple[Text, ...]
    cache_control: CacheControl | None = None

    def said(self, at: str) -> str:
        """As the model is told: the title, where it is from, the text."""
        return "\n".join((self.title, self.source, text_of(self.content, at)))


class Thoughts(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    """What the model thought before it answered."""

    thinking: str
    signature: str = ""
    """Ours is the turn's id; none is wanted back."""


class HiddenThoughts(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="redacted_thinking"):
    """Thoughts that only their writer can read: they are left out."""

    data: str


class ToolUse(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    """A call that an assistant's message makes."""

    id: CallId
    name: ToolName
    input: dict[str, Any] = {}
    cache_control: CacheControl | None = None


Told = Text | Image | Document | SearchResult


class ToolResult(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="tool_result"):
    """What came of a call."""

    tool_use_id: CallId
    content: str | tuple[Told, ...] = ""
    is_error: bool = False
    cache_control: CacheControl | None = None

    def said(self, at: str) -> str:
        """As the model is told, with a word before it where the call has failed."""
        text = text_of(self.content, f"{at}.content")
        return f"error: {text}" if self.is_error and not text.lower().startswith("error") else text


Block = Text | Image | Document | SearchResult | Thoughts | HiddenThoughts | ToolUse | ToolResult
Content = str | tuple[Block, ...]
SystemText = str | Annotated[tuple[Text, ...], Meta(max_length=1000)]


def text_of(content: str | Iterable[Told], at: str) -> str:
    """Blocks are texts of their own: a line end between them. Raises ApiError for what is no text."""
    if isinstance(content, str):
        return content
    return "\n".join(block.said(f"{at}[{index}]") for index, block in enumerate(content))


def _unreadable(at: str, why: str) -> ApiError:
    return ApiError(400, f"{at}: {why}", param=at, code=UNSUPPORTED)
