"""Ollama's API as a dialect of the gateway: where what is posted, and what tells of models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from starlette.responses import Response, StreamingResponse

from producers.gateway.dialect import Plain, Turned
from producers.gateway.errors import ApiError
from producers.gateway.models import Listed
from producers.gateway.ollama import listing, pulling
from producers.gateway.ollama.answers import LINES, line
from producers.gateway.ollama.embeddings import EmbeddingsRequest, EmbedRequest
from producers.gateway.ollama.errors import ERROR_SCHEMA, error_body
from producers.gateway.ollama.pulling import PullRequest
from producers.gateway.ollama.requests import ChatRequest, GenerateRequest, ModelName
from producers.gateway.reading import ClientGone
from producers.gateway.responses import json_response
from producers.gateway.visits import Visit

VERSION = "0.12.11"
"""Of Ollama, whose API this is: there are clients that want one not too old, and can read nothing but three numbers."""
LOOK_SECONDS = 0.5


class ShowRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model, by either of its fields."""

    model: ModelName = ""
    name: ModelName = ""


class Ollama:
    """Ollama's."""

    media_type = LINES
    error_schema = ERROR_SCHEMA

    def __init__(self) -> None:
        self.turns: Mapping[str, Turned] = {
            "/api/chat": Turned(ChatRequest, "A chat's next turn; lines of JSON unless stream is false"),
            "/api/generate": Turned(GenerateRequest, "A prompt's answer, or what stands before a suffix"),
            "/api/embed": Turned(EmbedRequest, "The vectors of texts"),
            "/api/embeddings": Turned(EmbeddingsRequest, "The vector of a text, as earlier clients ask for it"),
        }
        self.plain: Sequence[Plain] = (
            Plain("GET", "/api/version", _version, "The version of Ollama whose API this is"),
            Plain("GET", "/api/tags", _tags, "Models and policies that a request can be for"),
            Plain("GET", "/api/ps", _running, "Models that are loaded"),
            Plain("POST", "/api/show", _show, "What is known of a model", ShowRequest, (400, 404)),
            Plain("POST", "/api/pull", _pull, "How far a model is", PullRequest, (400, 500), media_type=LINES),
            *(
                Plain(method, path, _refused(what), f"Refused: {what} by operators alone", statuses=(403,))
                for method, path, what in REFUSED
            ),
        )

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """The API's error object."""
        return error_body(error)


REFUSED = (
    ("DELETE", "/api/delete", "models are deleted"),
    ("POST", "/api/create", "models are created"),
    ("POST", "/api/copy", "models are copied"),
    ("POST", "/api/push", "models are pushed"),
    ("POST", "/api/blobs/{digest}", "files are brought"),
)


def _refused(what: str) -> Any:
    async def refuse(visit: Visit) -> Response:
        raise ApiError(403, f"not here: {what} on the nodes, by their operators (turnpike models)", code="forbidden")

    return refuse


async def _version(visit: Visit) -> Response:
    return json_response({"version": VERSION})


async def _tags(visit: Visit) -> Response:
    return json_response(listing.tags((await visit.models()).values()))


async def _running(visit: Visit) -> Response:
    return json_response(listing.running((await visit.models()).values()))


async def _show(visit: Visit) -> Response:
    wanted = visit.read(ShowRequest, {"verbose": (False,)})
    if not (name := wanted.model or wanted.name):
        raise ApiError(400, "model is required", param="model", code="missing_required_parameter")
    if (found := await visit.meant(name)) is None:
        raise ApiError(404, f"model '{name[:100]}' not found", param="model", code="model_not_found")
    return json_response(listing.shown(found))


# --- Pulling ---


async def _pull(visit: Visit) -> Response:
    wanted = visit.read(PullRequest, {"insecure": (False,)})
    if not (name := wanted.model or wanted.name):
        raise ApiError(400, "invalid model name", param="model", code="missing_required_parameter")
    if wanted.stream is not False:
        return StreamingResponse(_pull_lines(visit, name), media_type=LINES)
    async for _ in _pulled(visit, name):
        if await visit.request.is_disconnected():
            raise ClientGone
    return json_response(pulling.ENDING[-1])


async def _pull_lines(visit: Visit, name: str) -> AsyncIterator[bytes]:
    yield line(pulling.MANIFEST)
    try:
        async for one in _pulled(visit, name):
            yield line(one)
    except ApiError as error:
        yield line(error_body(error))


async def _pulled(visit: Visit, name: str) -> AsyncIterator[dict[str, Any]]:
    """What is told until the model is there; raises ApiError where it does not come."""
    while pulling.is_coming(found := await _there(visit, name)):
        yield pulling.progress(found)
        await asyncio.sleep(LOOK_SECONDS)
    if found.file_bytes:
        yield pulling.progress(found)
    for one in pulling.ENDING:
        yield one


async def _there(visit: Visit, name: str) -> Listed:
    """Raises ApiError where no node has it, or can load it."""
    if (found := await visit.meant(name)) is not None:
        return found
    raise pulling.nowhere(name) if (status := visit.status(name)) is None else pulling.broken(status)
