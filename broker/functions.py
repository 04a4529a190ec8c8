"""Python functions as tools: what a model is told of one, and how its call becomes the function's.

The schema follows from the type hints, as msgspec has it; the descriptions are the docstring's.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from broker.errors import TurnpikeError
from broker.messages import Tool, ToolCall

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns?|Yields?|Raises|Examples?|Notes?):\s*\Z")
_ARGUMENTS = ("Args", "Arguments", "Parameters")
_ARGUMENT = re.compile(r"(\w+)(?:\s*\([^)]*\))?\s*:\s*(.*)")
_FIELD = re.compile(r":param\s+(?:[^:]*\s)?(\w+):\s*(.*)")
_REF = "#/$defs/{name}"


class NoTool(TurnpikeError):
    """A function that a model cannot be offered; `reason` says why."""

    def __init__(self, function: str, reason: str) -> None:
        self.function = function
        self.reason = reason
        super().__init__(f"{function} cannot be a tool: {reason}")


def tool_of(function: Callable[..., object]) -> Tool:
    """What a model is told of a function: its name, its docstring up to the arguments, a schema of its parameters.

    Raises NoTool for one without a name, with parameters that have no name in a call, or of types that JSON has not.
    """
    name = _name_of(function)
    summary, told = _described(inspect.getdoc(function) or "")
    kinds = _kinds_of(function)
    try:
        schemas, parts = msgspec.json.schema_components(kinds.values(), ref_template=_REF)
    except (TypeError, RecursionError) as error:
        raise NoTool(name, str(error)) from None
    properties = {}
    for one, schema in zip(kinds, schemas, strict=True):
        whole = _inlined(schema, parts, ())
        properties[one] = ({"description": told[one]} if one in told else {}) | whole
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [one.name for one in _parameters(function) if one.default is one.empty],
        "additionalProperties": False,
    }
    left = _referred(parameters)
    if left:
        parameters["$defs"] = parts
    try:
        return msgspec.convert({"name": name, "description": summary, "parameters": parameters}, Tool)
    except msgspec.ValidationError as error:
        raise NoTool(name, str(error)) from None


async def run(function: Callable[..., object], call: ToolCall) -> object:
    """What the function returns for a call's arguments. One that is not async runs on a thread of its own.

    Raises ValueError for arguments that it does not take, and whatever the function raises.
    """
    arguments = arguments_of(function, call)
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    found = await asyncio.to_thread(lambda: function(**arguments))
    return await found if inspect.isawaitable(found) else found


def arguments_of(function: Callable[..., object], call: ToolCall) -> dict[str, Any]:
    """A call's arguments, of the types that the function declares: `"21"` is a number where it wants one.

    Raises ValueError, in words for the model.
    """
    try:
        given = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the arguments are no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError("the arguments are no JSON object")
    kinds = _kinds_of(function)
    if unknown := [name for name in given if name not in kinds]:
        raise ValueError(f"there is no argument {unknown[0]!r}, only {', '.join(kinds) or 'none at all'}")
    if missing := [one.name for one in _parameters(function) if one.default is one.empty and one.name not in given]:
        raise ValueError(f"the argument {missing[0]!r} is missing")
    found = {}
    for name, value in given.items():
        try:
            found[name] = msgspec.convert(value, kinds[name], strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"the argument {name!r} is wrong: {error}") from None
    return found


def result_text(result: object) -> str:
    """What a tool returned, as its message's text: a text as it is, nothing as `done`, all else as JSON.

    Raises ValueError for what is no JSON.
    """
    if result is None:
        return "done"
    if isinstance(result, str):
        return result.encode(errors="replace").decode()  # names of files may hold halves of characters
    try:
        return msgspec.json.encode(result).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"what it returned is no JSON: {error}") from None


def _name_of(function: Callable[..., object]) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise NoTool(repr(function)[:80], "it has no name")
    return name


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Raises NoTool for those that a call cannot name."""
    found = list(inspect.signature(function).parameters.values())
    for one in found:
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise NoTool(_name_of(function), f"its parameter {one.name!r} cannot be given by name")
    return found


def _kinds_of(function: Callable[..., object]) -> dict[str, Any]:
    """The parameters' types; without a hint it is anything. Raises NoTool for a hint that names nothing."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise NoTool(_name_of(function), f"its type hints cannot be read: {error}") from None
    return {one.name: hints.get(one.name, Any) for one in _parameters(function)}


def _inlined(schema: Any, parts: dict[str, Any], within: tuple[str, ...]) -> Any:
    """The schema with what it refers to in it, but for a type that contains itself: models read no references."""
    if isinstance(schema, list):
        return [_inlined(one, parts, within) for one in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name in parts and name not in within:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _inlined(parts[name], parts, (*within, name)) | beside
    return {key: _inlined(value, parts, within) for key, value in schema.items()}


def _referred(schema: Any) -> bool:
    """Whether anything in it refers to a part."""
    if isinstance(schema, list):
        return any(map(_referred, schema))
    return isinstance(schema, dict) and ("$ref" in schema or any(map(_referred, schema.values())))


def _described(text: str) -> tuple[str, dict[str, str]]:
    """A docstring's description, and what it says of arguments, by their names: Google's style, or Sphinx's."""
    summary: list[str] = []
    found: dict[str, str] = {}
    section, last = "", None
    for line in text.splitlines():
        if field := _FIELD.match(line.strip()):
            section, last = "Args", field[1]
            found[last] = field[2]
        elif (title := _SECTION.match(line)) or line.startswith((":return", ":raise", ":rtype")):
            section, last = title[1] if title else "Returns", None
        elif not section:
            summary.append(line)
        elif section in _ARGUMENTS and line.strip():
            indent = len(line) - len(line.lstrip())
            begun = _ARGUMENT.match(line.strip()) if indent <= 4 else None
            if begun:
                last = begun[1]
                found[last] = begun[2]
            elif last is not None:
                found[last] = f"{found[last]} {line.strip()}".strip()
    return "\n".join(summary).strip(), found
