"""A model's object. Pure."""

from __future__ import annotations

from typing import Any

from producers.gateway.models import Listed


def entry(listed: Listed) -> dict[str, Any]:
    """A model or a policy as the API lists it, with what we tell besides."""
    found: dict[str, Any] = {"id": listed.id, "object": "model", "created": listed.created, "owned_by": "turnpike"}
    found |= {"thinking": listed.can_think, "can": listed.abilities}
    if listed.is_policy:
        return found | {"is_policy": True}
    found |= {
        "name": listed.name,
        "expected_wait_seconds": listed.expected_wait_seconds,
        "workers": len(listed.workers),
        "state": listed.state,
    }
    if listed.num_ctx is not None:
        found["context_length"] = listed.num_ctx
    found |= {"template": listed.can_chat, "tools": listed.can_call}
    if listed.workers:
        found["quantization"] = listed.workers[0].quantization
    elif listed.status is not None and listed.status.share is not None:
        found["loaded_share"] = listed.status.share
    return found
