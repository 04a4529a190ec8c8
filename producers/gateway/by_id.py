"""A turn by its id: read from its beginning on, by whoever asked it, or stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from nats.aio.client import Client as NatsConnection
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Send

from broker import subjects
from broker.errors import InvalidName, PublishError, ServerError
from broker.jetstream import last_stored
from broker.priorities import LANES
from producers.gateway.clients import Clients
from producers.gateway.dialect import AnswerWriter
from producers.gateway.errors import ApiError, unavailable
from producers.gateway.in_work import InWork
from producers.gateway.keys import Account
from producers.gateway.reading import cancelled_unless_ended
from producers.gateway.responses import json_response
from producers.gateway.seen import Seen
from producers.gateway.stream import Comments, Stream

WriterOf = Callable[[str], AnswerWriter]
MAX_MODELS_ASKED = 16
"""Whose queues are looked through for one turn."""


class TurnsById:
    """The turns that a gateway's clients have, told by `writer_of` a turn."""

    def __init__(self, nc: NatsConnection, clients: Clients, seen: Seen, in_work: InWork, writer_of: WriterOf) -> None:
        self._nc = nc
        self._clients = clients
        self._seen = seen
        self._in_work = in_work
        self._writer_of = writer_of

    async def follow(self, account: Account, request: HttpRequest, receive: Receive, send: Send) -> None:
        """Streams a turn of this client's from its beginning on, also one that has ended. Raises ApiError."""
        client = self._clients.of(account)
        turn = request.path_params["turn"]
        asked = request.query_params.getlist("model")[:MAX_MODELS_ASKED]
        models = {worker.model for worker in self._seen.workers} | set(asked)
        try:
            answer = client.follow(turn)
            model = await self._queued_for(client.name, turn, models)
            is_there = model is not None or await client.read(turn) is not None
        except InvalidName as error:
            raise ApiError(404, str(error), code="no_such_turn") from None
        if not is_there:
            raise ApiError(404, f"there is no turn {turn!r}, or it ended a day ago", code="no_such_turn")
        if request.method == "HEAD":
            await json_response({})(request.scope, receive, send)
            return
        if model is not None and not self._in_work.knows(client, turn):
            self._in_work.begin(client, answer, model=model)
        try:
            async with cancelled_unless_ended(answer, is_detached=True):
                writer = self._writer_of(answer.turn.id)
                await Stream([answer], writer, Comments(details=self._seen.details)).run(receive, send)
        finally:
            self._in_work.leave(answer)

    async def cancel(self, account: Account, request: HttpRequest) -> None:
        """Stops it, wherever it is. Raises ApiError."""
        try:
            await self._clients.of(account).cancel(turn=request.path_params["turn"])
        except InvalidName as error:
            raise ApiError(404, str(error), code="no_such_turn") from None
        except PublishError as error:
            raise unavailable(error) from None

    async def _queued_for(self, client: str, turn: str, models: Iterable[str]) -> str | None:
        """The model whose queue has it: until it has ended, also while it is computed. None where it has."""
        for model in models:
            for lane in LANES:
                subject = subjects.turn(model, lane, client, turn)
                with contextlib.suppress(ServerError):  # no such model
                    if await last_stored(self._nc, subjects.turns_stream(model), subject) is not None:
                        return model
        return None
