"""JSON bodies → requests, as forgiving as JSON is, with errors that a client's author understands. Pure.

JSON has one kind of number, and null is as good as nothing: what a request's own types say of a field decides, not a
list of names.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import inspect

from producers.gateway.errors import ApiError

MAX_SHOWN = 60
"""Characters of a value, or of a field's name, that an error shows."""

_UNSUPPORTED = "unsupported_parameter"
_PLACE = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def part[T](value: Any, kind: type[T], place: str, unknown: list[str]) -> T:
    """A part of a body, whose kind was found out from itself; raises ApiError, which names it by `place`."""
    found = relaxed(value, _info(kind), unknown, place)
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        wrong = _refusal(str(error), found, kind)
        param = f"{place}.{wrong.param}" if wrong.param else place
        message = wrong.message.replace(wrong.param or "the body", param, 1)
        raise ApiError(400, message, param=param, code=wrong.code) from None


def misfit(fields: Mapping[str, Any], kind: type[msgspec.Struct]) -> ApiError | None:
    """What who reads a struct of these fields would refuse of it, by its own names; None where it is whole."""
    try:
        built = msgspec.to_builtins(fields)
        msgspec.convert(built, kind)
    except msgspec.ValidationError as error:
        return _refusal(str(error), built, kind)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        return ApiError(400, f"the request cannot be queued: {error}")
    return None


ANY_VALUE = None
"""Of a field that asks for nothing, whatever it says."""
Harmless = tuple[Any, ...] | None
"""The values with which a field asks for nothing."""


def read[T](body: bytes, kind: type[T], harmless: Mapping[str, Harmless] | None = None) -> tuple[T, list[str]]:
    """A body as a request, and the fields in it that its kind does not have; raises ApiError, which names the field.
    `harmless` are such fields that ask for nothing with some values."""
    unknown: list[str] = []
    found = _decoded(body)
    value = relaxed(found, _info(kind), unknown)
    try:
        request = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), value, kind) from None
    return request, [name for name in unknown if not _is_harmless(name, found, harmless or {})]


def _is_harmless(name: str, body: dict[str, Any], harmless: Mapping[str, Harmless]) -> bool:
    if name not in harmless:
        return False
    values = harmless[name]
    return values is ANY_VALUE or body.get(name) in values


_info: Callable[[Any], inspect.Type] = functools.cache(inspect.type_info)


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.ValidationError as error:  # a number that nothing here could hold
        raise ApiError(400, f"the body cannot be read: {str(error).partition(' - at')[0]}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if "surrogate" in str(error) or "truncated" in str(error):
            return _mended(body)
        raise ApiError(400, f"the body is not JSON: {error}") from None


def _mended(body: bytes) -> Any:
    """With U+FFFD for half a character: what JavaScript's clients send where they cut an emoji in two."""

    def no_number(name: str) -> Any:
        raise ValueError(f"{_cut(name)} is no number that can be read")

    def number(text: str) -> float:
        found = float(text)
        return found if math.isfinite(found) else no_number(text)

    def whole(value: Any) -> Any:
        match value:
            case str():
                return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            case list():
                return [whole(one) for one in value]
            case dict():
                return {whole(name): whole(one) for name, one in value.items()}
        return value

    try:
        return whole(json.loads(body, parse_constant=no_number, parse_float=number))
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


# --- What is harmless ---


def relaxed(value: Any, kind: inspect.Type, unknown: list[str], path: str = "") -> Any:
    """The value without the nulls of objects whose fields are known, and with whole numbers where `kind` wants them
    however they were written. Fields that there are not are left out, and added to `unknown`, by their paths. What is
    free in form stays as it is."""
    match kind, value:
        case inspect.StructType(), dict():
            return _relaxed_struct(value, kind, unknown, path)
        case inspect.DictType(), dict():
            return {name: relaxed(one, kind.value_type, unknown, f"{path}.{name}") for name, one in value.items()}
        case inspect.ListType() | inspect.VarTupleType(), list():
            return [relaxed(one, kind.item_type, unknown, f"{path}[{index}]") for index, one in enumerate(value)]
        case inspect.UnionType(), _:
            return _relaxed_union(value, kind, unknown, path)
        case inspect.IntType(), float() if value.is_integer():
            return int(value)
        case inspect.LiteralType(), float() if value.is_integer() and _holds_int(kind):
            return int(value)
    return value


@functools.cache
def _fields_of(kind: type) -> dict[str, inspect.Type]:
    """By their names in JSON."""
    found = _info(kind)
    assert isinstance(found, inspect.StructType)
    return {field.encode_name: field.type for field in found.fields}


def _relaxed_struct(value: dict[str, Any], kind: inspect.StructType, unknown: list[str], path: str) -> dict[str, Any]:
    fields = _fields_of(kind.cls)
    found = {}
    for name, one in value.items():
        if one is None:
            continue
        place = f"{path}.{_cut(name)}" if path else _cut(name)
        if name in fields:
            found[name] = relaxed(one, fields[name], unknown, place)
        elif name == kind.tag_field:
            found[name] = one
        elif kind.forbid_unknown_fields:
            unknown.append(place)
    return found


def _relaxed_union(value: Any, kind: inspect.UnionType, unknown: list[str], path: str) -> Any:
    if any(isinstance(one, inspect.FloatType) for one in kind.types) and not isinstance(value, dict | list):
        return value
    one = _branch(kind, value)
    if one is not kind:
        return relaxed(value, one, unknown, path)
    for one in kind.types:
        # At most one of a union's kinds is a number: msgspec could not tell two apart.
        if (found := relaxed(value, one, unknown, path)) is not value:
            return found
    return value


def _holds_int(kind: inspect.LiteralType) -> bool:
    return any(isinstance(one, int) and not isinstance(one, bool) for one in kind.values)


# --- What is wrong ---


def _refusal(error: str, value: Any, kind: type) -> ApiError:
    """In a sentence, of the words that msgspec says."""
    text, _, place = error.partition(" - at `")
    path = place.rstrip("`").removeprefix("$")
    wanted, found = _at(value, _info(kind), path)
    param = path.lstrip(".") or None
    if (name := re.search(r"(?:unknown|required) field `(.*)`", text, re.DOTALL)) is not None:
        field = _cut(f"{param}.{name[1]}" if param else name[1])
        if "unknown" in text:
            return ApiError(400, f"{field} is not supported here", param=field, code=_UNSUPPORTED)
        return ApiError(400, f"{field} is required", param=field, code="missing_required_parameter")
    if (nothing := _only_nothing(wanted)) is not None:
        message = f"{param}: only {nothing} is supported here, not {_shown(found)}"
        return ApiError(400, message, param=param, code=_UNSUPPORTED)
    return ApiError(400, f"{param or 'the body'}: {_sentence(text, wanted, found)}", param=param)


def _at(value: Any, kind: inspect.Type, path: str) -> tuple[inspect.Type, Any]:
    """The type and the value at a path as msgspec writes it, `.messages[0].role`, where `...` is any key."""
    for step in _PLACE.finditer(path):
        kind = _branch(kind, value)
        try:
            if step["name"] is not None:
                value = value[step["name"]]
                assert isinstance(kind, inspect.StructType)
                kind = next(field.type for field in kind.fields if field.encode_name == step["name"])
            elif step["index"] == "...":
                assert isinstance(kind, inspect.DictType)
                return kind.value_type, None
            else:
                value = value[int(step["index"])]
                assert isinstance(kind, inspect.ListType | inspect.VarTupleType)
                kind = kind.item_type
        except (LookupError, TypeError, AssertionError, StopIteration):
            return inspect.AnyType(), None
    return kind, value


def _branch(kind: inspect.Type, value: Any) -> inspect.Type:
    """Of a union, the one for a value of this shape, and of several structs the one that the value's tag names."""
    if not isinstance(kind, inspect.UnionType) or not isinstance(value, dict | list):
        return kind
    tagged = [one for one in kind.types if isinstance(one, inspect.StructType) and one.tag_field is not None]
    if tagged and isinstance(value, dict):
        return next((one for one in tagged if value.get(str(one.tag_field)) == one.tag), kind)
    shapes: tuple[type, ...] = (
        (inspect.StructType, inspect.DictType)
        if isinstance(value, dict)
        else (inspect.ListType, inspect.VarTupleType, inspect.TupleType)
    )
    return next((one for one in kind.types if isinstance(one, shapes)), kind)


def _choices(kind: inspect.Type) -> list[Any]:
    """What a field may be, where that can be counted; else nothing."""
    found: list[Any] = []
    for one in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        match one:
            case inspect.LiteralType():
                found += one.values
            case inspect.TupleType(item_types=()):
                found.append([])
            case inspect.NoneType():
                pass
            case _:
                return []
    return found or [None]


def _only_nothing(kind: inspect.Type) -> str | None:
    """The one value of a field that cannot be used for anything else; None for other fields."""
    found = _choices(kind)
    return _shown(found[0]) if len(found) == 1 and found[0] in (None, 1, False, [], "") else None


def _sentence(text: str, kind: inspect.Type, value: Any) -> str:
    if choices := [one for one in _choices(kind) if one is not None]:
        return f"must be {_listed([_shown(one) for one in choices])}, not {_shown(value)}"
    if text.startswith("Invalid enum value") and isinstance(kind, inspect.UnionType):
        words = [_shown(one) for part in kind.types if isinstance(part, inspect.LiteralType) for one in part.values]
        return f"must be {_listed([*words, 'an object'])}, not {_shown(value)}"
    if "matching regex" in text:
        return f"must be 1 to 64 letters, digits, _, . and -, not {_shown(value)}"
    if (found := re.fullmatch(r"Expected `(\w+)` of length (>=|<=) (\d+)", text)) is not None:
        unit = "character" if found[1] == "str" else "entry"
        if found[2] == ">=" and found[3] == "1":
            return "must not be empty"
        units = unit if found[3] == "1" else {"character": "characters", "entry": "entries"}[unit]
        return f"must have at {'least' if found[2] == '>=' else 'most'} {found[3]} {units}"
    if (found := re.fullmatch(r"Expected `\w+` (>=|<=|>|<) (\S+)", text)) is not None:
        bound = found[2].removesuffix(".0")
        word = {">=": "at least", "<=": "at most", ">": "above", "<": "below"}[found[1]]
        return f"must be {word} {bound}, not {_shown(value)}"
    if (found := re.fullmatch(r"Expected `([\w | ]+)`, got `(\w+)`", text)) is not None:
        names = [name for name in found[1].split(" | ") if name != "null"]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        got = _shown(value) if is_number or isinstance(value, bool) else _WORDS.get(found[2], found[2])
        return f"must be {_listed([_WORDS.get(name, name) for name in names])}, not {got}"
    if "out of range" in text:
        return "is too large a number"
    return text.replace("`", "")


def _listed(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _shown(value: Any) -> str:
    """As JSON writes it, if not all of it."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        text = type(value).__name__
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
