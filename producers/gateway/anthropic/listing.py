"""Models as Anthropic's API lists them, in pages. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from producers.gateway.errors import ApiError
from producers.gateway.models import Listed

PAGE = 20
MAX_PAGE = 1000


def entry(listed: Listed) -> dict[str, Any]:
    """A model's object, or a policy's."""
    created = datetime.datetime.fromtimestamp(listed.created, datetime.UTC)
    found = {"type": "model", "id": listed.id, "display_name": listed.name, "lifecycle": "active"}
    found |= {"created_at": created.isoformat().replace("+00:00", "Z")}
    # An answer ends where the context does.
    return found | {"max_input_tokens": listed.num_ctx, "max_tokens": listed.num_ctx}


def page(models: Sequence[Listed], query: Mapping[str, str]) -> dict[str, Any]:
    """Those that the query asks for: so many, behind one or before one. Raises ApiError."""
    limit = _limit(query.get("limit"))
    names = [one.id for one in models]
    after, before = query.get("after_id"), query.get("before_id")
    first = _place(names, after, "after_id") + 1 if after else 0
    last = _place(names, before, "before_id") if before else len(names)
    if before and not after:
        first = max(first, last - limit)
        has_more = first > 0
    else:
        has_more = first + limit < last
        last = min(last, first + limit)
    data = [entry(one) for one in models[first:last]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"data": data, "has_more": has_more} | ends


def _limit(said: str | None) -> int:
    if said is None:
        return PAGE
    if not said.isascii() or not said.isdecimal() or not 1 <= int(said[:9]) <= MAX_PAGE:
        raise ApiError(400, f"limit: must be a whole number from 1 to {MAX_PAGE}", param="limit")
    return int(said)


def _place(names: Sequence[str], name: str, field: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise ApiError(400, f"{field}: no model {name[:100]!r} is listed", param=field) from None
