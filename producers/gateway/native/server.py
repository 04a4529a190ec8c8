"""What llama-server tells of itself, of a model that is served here: its settings, its slots, whether it is well."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from producers.gateway.errors import ApiError
from producers.gateway.models import Listed
from producers.gateway.native.sampling import DEFAULTS, settings_of
from producers.gateway.responses import json_response
from producers.gateway.sampling import sampling_of
from producers.gateway.visits import Visit


async def props(visit: Visit, *, has_slots: bool) -> Response:
    """`GET /props`: of the model that `?model=` names, or of the first one that is served."""
    one = await _model(visit)
    settings = settings_of(sampling_of(DEFAULTS, seed=0), is_streamed=True, limit=-1, more={})
    found: dict[str, Any] = {
        "default_generation_settings": {"id_task": -1, "n_ctx": one.num_ctx or 0, "params": settings},
        "total_slots": _num_slots(one),
        "model_alias": one.id,
        "model_path": f"{one.name}.gguf",
        "model_ftype": one.workers[0].quantization if one.workers else "",
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": has_slots,
        "endpoint_props": False,
        "endpoint_metrics": False,
        "chat_template": "",  # workers tell where theirs is from, not what it says: /apply-template tells what it makes
        "build_info": f"turnpike {visit.version}",
        "is_sleeping": one.state != "loaded",
    }
    return json_response(found)


async def slots(visit: Visit) -> Response:
    """`GET /slots`: as many as all workers of the model have; those that are taken come first."""
    one = await _model(visit)
    num_active = sum(worker.load.num_active for worker in one.workers)
    if "fail_on_no_slot" in visit.request.query_params and num_active >= _num_slots(one):
        raise ApiError(503, "no slot available", kind="server_error", code="no_slot")
    return json_response(
        [
            {"id": index, "n_ctx": one.num_ctx or 0, "speculative": False, "is_processing": index < num_active}
            for index in range(_num_slots(one))
        ]
    )


async def no_slots(visit: Visit) -> Response:
    """`GET /slots` where they are not told. Raises ApiError."""
    raise ApiError(501, "this gateway tells no slots: it was started with --without-slots", kind="not_supported_error")


async def health(visit: Visit) -> Response:
    """`GET /v1/health`."""
    return json_response({"status": "ok"})


def _num_slots(one: Listed) -> int:
    return sum(worker.load.num_slots for worker in one.workers)


async def _model(visit: Visit) -> Listed:
    """Raises ApiError where nothing is served."""
    if name := visit.request.query_params.get("model", ""):
        return await visit.model(name)
    for one in (await visit.models()).values():
        if not one.is_policy:
            return one
    raise ApiError(503, "no model is served just now", kind="server_error", code="no_worker", retry_after=5.0)
