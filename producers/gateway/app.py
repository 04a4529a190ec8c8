"""The gateway: HTTP on one side, the queue on the other. It holds no state that another gateway needs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import nats.errors
from nats.aio.client import Client as NatsConnection
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Send

from broker import placing
from broker.connection import check, trouble
from broker.discovery import WorkerInfo, departures, find_workers
from broker.errors import ServerError
from broker.health import Rounds
from broker.messages.turns import Thinking
from broker.recorder import Recorder
from producers.gateway.by_id import TurnsById
from producers.gateway.choosing import Chooser
from producers.gateway.clients import Clients
from producers.gateway.cluster import Cluster
from producers.gateway.dialect import Dialect, ReadBody
from producers.gateway.errors import no_such_model
from producers.gateway.heads import body_of
from producers.gateway.in_work import InWork
from producers.gateway.keys import Account, Keys
from producers.gateway.openai.dialect import OpenAi
from producers.gateway.openapi import document
from producers.gateway.page_files import PageFiles
from producers.gateway.places import Places
from producers.gateway.responses import Endpoint, Handle, json_response, not_found
from producers.gateway.seen import Seen
from producers.gateway.turns import Turns
from producers.routing.policies import AUTO, Routes

REFRESH_SECONDS = 1.0
LOOK_SECONDS = 120.0
"""By when a look at the workers is over, also where the server is slow to take points."""


class Gateway:
    """All gateways answer alike; what this one keeps is what it saw of the workers lately, and its clients' limits."""

    def __init__(
        self,
        nc: NatsConnection,
        keys: Keys,
        routes: Routes,
        *,
        node: str,
        version: str,
        leave_out_tools: bool = False,
        thinking: Thinking | None = None,
    ) -> None:
        self._nc = nc
        self._keys = keys
        self._routes = routes
        self._version = version
        self._seen = Seen()
        self._recorder = Recorder(nc, node, max_buffered=5000)
        self._places = Places(nc)
        self._rounds = Rounds()
        self._dialect: Dialect = OpenAi(leave_out_tools=leave_out_tools)
        self._in_work = InWork()
        self._cluster = Cluster(nc, self._seen, self._in_work)
        self._page = PageFiles()
        clients = self._clients = Clients(nc)
        chooser = Chooser(nc, routes, self._seen, self._recorder, node)
        self._turns = Turns(nc, clients, chooser, self._seen, self._places, self._in_work, thinking)
        self._by_id = TurnsById(nc, clients, self._seen, self._in_work, self._dialect)

    def app(self) -> ASGIApp:
        """Its routes."""
        dialect = self._dialect
        routes = [
            *(Route(path, self._endpoint(self._post(read)), methods=["POST"]) for path, read in dialect.turns.items()),
            Route(dialect.models_path, self._endpoint(self._models), methods=["GET"]),
            Route(f"{dialect.models_path}/{{model:path}}", self._endpoint(self._model), methods=["GET"]),
            Route("/turns/{turn}", self._endpoint(self._one_turn), methods=["GET", "DELETE"]),
            Route("/health", self._ready, methods=["GET"]),
            Route("/health/live", self._live, methods=["GET"]),
            Route("/health/ready", self._ready, methods=["GET"]),
            Route("/live", self._live, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/cluster", self._endpoint(self._look_at_cluster), methods=["GET"]),
            *self._page.routes(),
        ]
        missing = not_found(dialect.error_body)
        return Starlette(routes=routes, exception_handlers={404: missing, 405: missing})

    async def look(self) -> None:
        """Keeps what is known of the workers, and sends what was measured, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._places.run())
            group.create_task(self._in_work.run())
            await self._look()

    async def _look(self) -> None:
        async with departures(self._nc, self._seen.leave):
            while True:
                check(self._nc)
                self._rounds.begin("the look at the workers", LOOK_SECONDS)
                await asyncio.gather(self._look_at_workers(), self._look_at_boards())
                self._dialect.note(self.workers)
                await self._recorder.flush()
                await asyncio.sleep(REFRESH_SECONDS)

    async def _look_at_workers(self) -> None:
        found: list[WorkerInfo] = []
        asked_at = time.monotonic()
        with contextlib.suppress(nats.errors.Error, ServerError):
            found = await find_workers(self._nc)
        self._seen.note(found, asked_at)

    async def _look_at_boards(self) -> None:
        with contextlib.suppress(nats.errors.Error, ServerError):
            self._seen.note_boards((await placing.read(self._nc)).boards)

    @property
    def workers(self) -> list[WorkerInfo]:
        """Those that are there as of now."""
        return self._seen.workers

    # --- Turns ---

    def _endpoint(self, handle: Handle) -> Endpoint:
        return Endpoint(handle, self._dialect.error_body)

    def _account(self, request: HttpRequest) -> Account:
        return self._keys.account(request.headers.get("authorization"))

    def _post(self, read: ReadBody) -> Handle:
        async def handle(request: HttpRequest, receive: Receive, send: Send) -> None:
            account = self._account(request)
            wanted = read(await body_of(request.headers, request.receive))
            await self._turns.answer(account, request, wanted, receive, send)

        return handle

    async def _one_turn(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        account = self._account(request)
        if request.method == "DELETE":
            await self._by_id.cancel(account, request)
            await Response(status_code=204)(request.scope, receive, send)
        else:
            await self._by_id.follow(account, request, receive, send)

    # --- Models ---

    async def _models(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        self._account(request)
        await self._seen.once()
        await json_response(self._dialect.model_list(self._listed()))(request.scope, receive, send)

    async def _model(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        self._account(request)
        await self._seen.once()
        name = request.path_params["model"]
        if not name:
            await self._models(request, receive, send)
            return
        if (found := self._listed().get(name)) is None:
            raise no_such_model(name, self._seen.choices())
        await json_response(found)(request.scope, receive, send)

    def _listed(self) -> dict[str, dict[str, Any]]:
        return self._dialect.models(self.workers, self._seen.boards, (AUTO, *self._routes.policies))

    # --- The rest ---

    async def _look_at_cluster(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        account = self._account(request)
        await self._seen.once()
        picture = await self._cluster.picture(self._clients.of(account))
        await json_response(picture)(request.scope, receive, send)

    async def _live(self, request: HttpRequest) -> Response:
        if (problem := trouble(self._nc) or self._rounds.trouble()) is not None:
            return json_response({"status": problem}, status=503)
        return json_response({"status": "live"})

    async def _ready(self, request: HttpRequest) -> Response:
        if (problem := trouble(self._nc)) is not None:
            return json_response({"status": problem}, status=503)
        if not self._nc.is_connected:
            return json_response({"status": "not connected to NATS"}, status=503)
        return json_response({"status": "ready", "workers": sum(one.is_serving for one in self.workers)})

    async def _openapi(self, request: HttpRequest) -> Response:
        return json_response(document(self._version, self._dialect, keys_are_wanted=self._keys.are_wanted))
