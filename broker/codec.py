"""Bytes ↔ messages. The only importer of msgpack.

Everything is a map with `v`, the wire version. msgpack by default; the same map in JSON where the header
`Content-Type` says `application/json`, so that a turn can be published from a shell.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Any, TypeVar, overload

import msgpack  # type: ignore[import-untyped]
import msgspec

from broker.errors import InvalidMessage, UnsupportedVersion
from broker.messages import (
    MAX_BATCH_POINTS,
    WIRE_VERSION,
    Chunk,
    Done,
    End,
    Failed,
    HandedBack,
    Other,
    Point,
    Points,
    Reply,
    Started,
)

T = TypeVar("T")

MSGPACK = "application/msgpack"
JSON = "application/json"
CONTENT_TYPE = "Content-Type"

_REPLIES = {"started": Started, "chunk": Chunk, "handed_back": HandedBack}
_ENDS = {"done": Done, "failed": Failed}

_AT = re.compile(r" - at `(?P<key>key in )?\$\.?(?P<path>[^`]*)`$")


def encode(message: msgspec.Struct, content_type: str = MSGPACK) -> bytes:
    """The bytes of a message. Raises InvalidMessage where what is free in form, a schema, holds what they cannot."""
    try:
        fields = {"v": WIRE_VERSION} | msgspec.to_builtins(message, builtin_types=(bytes,))
        packed: bytes = msgspec.json.encode(fields) if content_type == JSON else msgpack.packb(fields)
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        # Nested too deep, a number of more than 64 bits, half a character.
        raise InvalidMessage("", f"the message cannot be encoded: {error}") from None
    return packed


@overload
def decode[T](
    payload: bytes, kind: type[T], headers: Mapping[str, str] | None = None, *, optional: Collection[str] = ()
) -> T: ...
@overload
def decode(
    payload: bytes, kind: UnionType, headers: Mapping[str, str] | None = None, *, optional: Collection[str] = ()
) -> Any: ...
def decode(
    payload: bytes, kind: Any, headers: Mapping[str, str] | None = None, *, optional: Collection[str] = ()
) -> Any:
    """The message of type `kind` in `payload`; raises InvalidMessage, which names the field.

    Fields that are named `optional` are as absent where what they hold is not understood.
    """
    return _convert(_fields(payload, headers), kind, optional)


def decode_reply(payload: bytes, headers: Mapping[str, str] | None = None) -> Reply | End | Other:
    """A message of a turn's answer. One that is not understood but has a place among the others is `Other`.

    Raises InvalidMessage for an end that is not understood, and for what has no place.
    """
    fields = _fields(payload, headers)
    kind = fields.get("type")
    if not isinstance(kind, str) or kind in _ENDS:
        end: Reply | End = _convert(fields, _ENDS[kind] if isinstance(kind, str) else Reply | End)
        return end
    try:
        # Its own type is converted to: of a union msgspec makes a plan each time, which costs more than all the rest.
        reply: Reply = _convert(fields, _REPLIES.get(kind, Reply))
        return reply
    except InvalidMessage:
        other: Other = _convert(fields, Other)
        return other


def place_of(payload: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """Index and attempt of a message of a reply of whatever wire version, where it has them."""
    try:
        fields = _unpack(payload, (headers or {}).get(CONTENT_TYPE, MSGPACK))
        place = _convert(fields | {"type": ""}, Other)
    except InvalidMessage:
        return None
    return place.index, place.attempt


def decode_rows[T](
    payload: bytes, kind: type[T], rows: str, row: type, headers: Mapping[str, str] | None = None
) -> tuple[T, list[str]]:
    """As `decode`, but that what is not understood in the list `rows` is left out; and why, of each. Raises
    InvalidMessage for the rest."""
    found = _fields(payload, headers)
    try:
        whole: T = _convert(found, kind)
        return whole, []
    except InvalidMessage:
        if not isinstance(listed := found.get(rows), list):
            raise
    understood: dict[int, Any]
    understood, reasons = _rows(listed, row)
    whole = _convert(found | {rows: [listed[index] for index in understood]}, kind)
    return whole, [*reasons.values()]


def _rows[T](rows: list[Any], kind: type[T]) -> tuple[dict[int, T], dict[int, str]]:
    """Those that are of the kind, and what is wrong with the others; by their places."""
    found: dict[int, T] = {}
    reasons: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            found[index] = _convert(row, kind)
        except InvalidMessage as error:
            reasons[index] = str(error)
    return found, reasons


def is_known_reply(kind: str) -> bool:
    """Whether messages of a reply of this `type` are this release's."""
    return kind in _REPLIES


def decode_points(
    payload: bytes, headers: Mapping[str, str] | None = None
) -> tuple[tuple[Point, ...], list[tuple[Any, str]]]:
    """The points of a batch, and what in it is none, with the reasons. Raises InvalidMessage for what is no batch."""
    try:
        return decode(payload, Points, headers).points, []
    except UnsupportedVersion:
        raise
    except InvalidMessage as error:
        rows = _fields(payload, headers).get("points")
        if not isinstance(rows, list) or len(rows) > MAX_BATCH_POINTS:
            raise error from None
    points, reasons = _rows(rows, Point)
    return tuple(points.values()), [(rows[index], reason) for index, reason in reasons.items()]


def _fields(payload: bytes, headers: Mapping[str, str] | None) -> dict[str, Any]:
    """The map of a message of our wire version, without its `v`."""
    fields = _unpack(payload, (headers or {}).get(CONTENT_TYPE, MSGPACK))
    version = fields.pop("v", None)
    if version != WIRE_VERSION or isinstance(version, bool):
        raise UnsupportedVersion(version, WIRE_VERSION)
    return fields


def _convert(fields: Any, kind: Any, optional: Collection[str] = ()) -> Any:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        invalid = _invalid(error)
    name = re.split(r"[.\[]", invalid.field, maxsplit=1)[0]
    if name in optional and name in fields:
        return _convert({key: value for key, value in fields.items() if key != name}, kind, optional)
    raise invalid


def fields(payload: bytes, content_type: str | None = None) -> dict[str, Any]:
    """What is in a payload, of whatever kind and version it is; raises InvalidMessage where it is no map."""
    return _unpack(payload, content_type or MSGPACK)


def _unpack(payload: bytes, content_type: str) -> dict[str, Any]:
    # Media types may carry parameters: application/json; charset=utf-8
    match content_type.partition(";")[0].strip().lower():
        case "application/json":
            name = "JSON"
        case "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack":
            name = "msgpack"
        case other:
            raise InvalidMessage(CONTENT_TYPE, f"{other!r} is neither {MSGPACK} nor {JSON}")
    try:
        # msgpack's own limits (lengths ≤ the payload's, depth ≤ 1,024) hold: nothing is allocated on a header's word.
        value = msgspec.json.decode(payload) if name == "JSON" else msgpack.unpackb(payload, strict_map_key=True)
    except (ValueError, msgspec.DecodeError, RecursionError, msgpack.UnpackException) as error:
        raise InvalidMessage("", f"the payload is not {name}: {str(error) or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise InvalidMessage("", f"the payload is {name} but not a map")
    return value


def _invalid(error: msgspec.ValidationError) -> InvalidMessage:
    # A struct's own check raises InvalidMessage in __post_init__; msgspec wraps it only when it is a ValueError.
    if isinstance(error.__cause__, InvalidMessage):
        return error.__cause__
    text = str(error)
    if found := _AT.search(text):
        return InvalidMessage(found["path"], text[: found.start()])
    return InvalidMessage("", text)
