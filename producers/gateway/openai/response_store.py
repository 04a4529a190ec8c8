"""Responses that are kept for a day: gone on from, read, and forgotten, each by the client that asked it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from broker.client import Client
from broker.errors import InvalidName, PublishError
from broker.keeping_answers import KeptAnswers
from broker.messages.kept import Kept
from producers.gateway.dialect import Finished, TurnRequest
from producers.gateway.errors import ApiError, unavailable
from producers.gateway.openai.response_writer import ResponseWriter
from producers.gateway.openai.responses import ResponsesRequest
from producers.gateway.responses import json_response
from producers.gateway.visits import Visit


class ResponseStore:
    """In NATS, so that any gateway has them."""

    def __init__(self, num_clients: int) -> None:
        self._answers = KeptAnswers(num_clients)

    async def before(self, request: ResponsesRequest, client: Client) -> TurnRequest:
        """The request with all that was said before. Raises ApiError."""
        if (earlier := request.previous_response_id) is None:
            return request.going_on_from(())
        if (kept := await self._read(client, earlier)) is None:
            message = f"there is no response {earlier!r}, or it was stored more than a day ago"
            raise ApiError(400, message, param="previous_response_id", code="previous_response_not_found")
        return request.going_on_from(kept.messages)

    async def after(self, writer: ResponseWriter, answers: Sequence[Finished], client: Client) -> None:
        """Keeps the response, unless it is not wanted."""
        if writer.is_stored:
            kept = writer.kept(answers[0])
            writer.note_kept(await self._answers.keep(client.nc, client.name, writer.id, kept))

    async def read(self, visit: Visit) -> Response:
        """A response as it was told. Raises ApiError."""
        name = visit.path_parameter("response")
        if (kept := await self._read(visit.client, name)) is None:
            raise _missing(name)
        return Response(kept.told, media_type="application/json")

    async def forget(self, visit: Visit) -> Response:
        """Raises ApiError."""
        name = visit.path_parameter("response")
        if await self._read(visit.client, name) is None:
            raise _missing(name)
        try:
            await self._answers.forget(visit.client.nc, visit.client.name, name)
        except PublishError as error:
            raise unavailable(error) from None
        return json_response({"id": name, "object": "response", "deleted": True})

    async def _read(self, client: Client, name: str) -> Kept | None:
        try:
            return await self._answers.read(client.nc, client.name, name)
        except InvalidName:
            return None


def _missing(name: str) -> ApiError:
    return ApiError(404, f"there is no response {name[:100]!r}, or it was stored more than a day ago", code="not_found")
