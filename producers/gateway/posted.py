"""What was posted, as turns that a dialect asks for, and what of it is not done. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from producers.gateway.bodies import Harmless, read
from producers.gateway.dialect import TurnRequest
from producers.gateway.errors import unsupported

MAX_IGNORED = 32
"""Fields that a header names."""


def posted[T: TurnRequest](
    body: bytes, kind: Callable[..., T], harmless: Mapping[str, Harmless] | None = None, *, is_strict: bool = False
) -> tuple[T, list[str]]:
    """A body as a request, and the fields that ask for what is not done; a strict gateway refuses them. Raises
    ApiError, which names the field that is wrong."""
    request, ignored = read(body, cast(type[T], kind), harmless)
    ignored += request.ignored
    if ignored and is_strict:
        raise unsupported(ignored[0])
    request.check()
    return request, ignored


def shown(fields: Sequence[str]) -> list[str]:
    """Names of fields as a header can say them, each once, however many of a list have it."""
    names = [re.sub(r"[^\x21-\x2b\x2d-\x7e]", "?", re.sub(r"\[\d+\]", "[]", one)) for one in fields]
    found = [*dict.fromkeys(names)]
    more = [f"and-{len(found) - MAX_IGNORED}-more"] if len(found) > MAX_IGNORED else []
    return found[:MAX_IGNORED] + more
