"""What an answer must look like, and what its stream says besides, as the OpenAI API has it. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from producers.gateway.errors import ApiError


class JsonSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """A schema with its name, which nobody reads: a task's title is as good."""

    name: Annotated[str, Meta(max_length=256)] = ""
    schema: dict[str, Any] | UnsetType = UNSET
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer must look like. llama-server takes a schema beside `json_object`, too."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must follow; raises ApiError where one is missing."""
        if self.type == "text":
            return None
        if self.json_schema is not None and not isinstance(self.json_schema.schema, UnsetType):
            return self.json_schema.schema
        if self.type == "json_schema" and self.schema is None:
            raise ApiError(400, "a json_schema is wanted", param="response_format.json_schema.schema")
        return self.schema or {"type": "object"}


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream says beside the answer."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool | None = None
