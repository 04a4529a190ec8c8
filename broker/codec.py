"""Bytes ↔ messages. The only importer of msgpack.

Everything is a map with `v`, the wire version. msgpack by default; the same map in JSON where the header
`Content-Type` says `application/json`, so that a turn can be published from a shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, overload

import msgpack  # type: ignore[import-untyped]
import msgspec

from broker.errors import InvalidMessage, UnsupportedVersion
from broker.messages import WIRE_VERSION

T = TypeVar("T")

MSGPACK = "application/msgpack"
JSON = "application/json"
CONTENT_TYPE = "Content-Type"

_AT = re.compile(r" - at `(?P<key>key in )?\$\.?(?P<path>[^`]*)`$")


def encode(message: msgspec.Struct, content_type: str = MSGPACK) -> bytes:
    """The bytes of a message."""
    fields = {"v": WIRE_VERSION} | msgspec.to_builtins(message, builtin_types=(bytes,))
    if content_type == JSON:
        return msgspec.json.encode(fields)
    packed: bytes = msgpack.packb(fields)
    return packed


@overload
def decode[T](payload: bytes, kind: type[T], headers: Mapping[str, str] | None = None) -> T: ...
@overload
def decode(payload: bytes, kind: UnionType, headers: Mapping[str, str] | None = None) -> Any: ...
def decode(payload: bytes, kind: Any, headers: Mapping[str, str] | None = None) -> Any:
    """The message of type `kind` in `payload`; raises InvalidMessage, which names the field."""
    fields = _unpack(payload, (headers or {}).get(CONTENT_TYPE, MSGPACK))
    version = fields.pop("v", None)
    if version != WIRE_VERSION or isinstance(version, bool):
        raise UnsupportedVersion(version, WIRE_VERSION)
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None


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
