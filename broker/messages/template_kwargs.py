"""What a client may give the model's chat template besides the messages: few and small values, by names of its own."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from broker.errors import InvalidMessage

FIELD = "chat_template_kwargs"
MAX_NAMES = 16
MAX_BYTES = 4096
"""As JSON."""
MAX_DEPTH = 4
"""Of lists and objects in each other, the outermost one counted."""
TAKEN = frozenset(
    (
        *("messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"),
        *("raise_exception", "strftime_now", "range", "dict", "lipsum", "cycler", "joiner", "namespace"),
        *("self", "loop", "caller", "varargs", "kwargs", "super"),
    )
)
"""What the worker gives a template itself, and Jinja's own."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_LEAST, _MOST = -(2**63), 2**64


def check_template_kwargs(kwargs: dict[str, Any]) -> None:
    """Raises InvalidMessage, which names the one that is wrong."""
    if len(kwargs) > MAX_NAMES:
        raise InvalidMessage(FIELD, f"has {len(kwargs)} names, and may have {MAX_NAMES}")
    for name, value in kwargs.items():
        if not _NAME.fullmatch(name):
            raise InvalidMessage(FIELD, f"{name[:64]!r} is no name: letters, digits and _, at most 64")
        if name in TAKEN:
            raise InvalidMessage(f"{FIELD}.{name}", "is not the client's to give")
        _check_value(value, f"{FIELD}.{name}", MAX_DEPTH - 1)
    try:
        size = len(msgspec.json.encode(kwargs))
    except UnicodeEncodeError:
        raise InvalidMessage(FIELD, "holds half a character") from None
    if size > MAX_BYTES:
        raise InvalidMessage(FIELD, f"has {size} bytes, and may have {MAX_BYTES}")


def _check_value(value: object, field: str, depth: int) -> None:
    match value:
        case None | bool() | str():
            return
        case int() if _LEAST <= value < _MOST:
            return
        case float() if math.isfinite(value):
            return
        case dict() | list() | tuple():
            if depth == 0:
                raise InvalidMessage(field, f"is nested deeper than {MAX_DEPTH}")
            is_map = isinstance(value, dict)
            if is_map and not all(isinstance(name, str) for name in value):
                raise InvalidMessage(field, "has a name that is no text")
            for one in value.values() if isinstance(value, dict) else value:
                _check_value(one, field, depth - 1)
        case _:
            raise InvalidMessage(field, "is neither text, number, true, false, null, list nor object of JSON")


def canonical(kwargs: dict[str, Any] | None) -> str:
    """One text for equal ones, whatever their order; empty for none."""
    return msgspec.json.encode(kwargs, order="sorted").decode() if kwargs else ""
