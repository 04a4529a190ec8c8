"""The gateway: HTTP on one side, the queue on the other. It holds no state that another gateway needs."""

from __future__ import annotations

import asyncio
import contextlib
import time

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
from producers.gateway.dialect import Dialect, Plain, Turned
from producers.gateway.dialects import all_dialects, nearest
from producers.gateway.heads import body_of
from producers.gateway.in_work import InWork
from producers.gateway.keys import Account, Keys
from producers.gateway.manners import Manners
from producers.gateway.models import Models
from producers.gateway.openai.answers import Writer
from producers.gateway.openapi import document
from producers.gateway.origins import Doorkeeper, Origins
from producers.gateway.page_files import PageFiles
from producers.gateway.places import Places
from producers.gateway.posted import posted, shown
from producers.gateway.responses import Endpoint, Handle, HeaderRoute, Straight, json_response, not_found
from producers.gateway.seen import Seen
from producers.gateway.turns import Turns
from producers.gateway.visits import Visit
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
        has_page: bool = True,
        has_slots: bool = True,
        thinking: Thinking | None = None,
        is_strict: bool = False,
        origins: Origins | None = None,
        dialects: tuple[Dialect, ...] | None = None,
    ) -> None:
        """Of all dialects, unless they are named."""
        self._nc = nc
        self._keys = keys
        self._version = version
        self._seen = Seen()
        self._recorder = Recorder(nc, node, max_buffered=5000)
        self._places = Places(nc)
        self._rounds = Rounds()
        self._is_strict = is_strict
        self._origins = origins or Origins(are_keys_wanted=keys.are_wanted)
        if dialects is None:
            dialects = all_dialects(num_clients=keys.num_clients, has_slots=has_slots)
        self._dialects = dialects
        self._models = Models(self._seen, (AUTO, *routes.policies))
        self._clients = Clients(nc)
        self._in_work = InWork()
        self._cluster = Cluster(nc, self._seen, self._in_work)
        self._page = PageFiles() if has_page else None
        manners = Manners(thinking, leave_out_tools, is_strict)
        chooser = Chooser(nc, routes, self._seen, self._recorder, node)
        self._turns = Turns(nc, self._clients, chooser, self._seen, self._places, self._in_work, manners)
        self._by_id = TurnsById(nc, self._clients, self._seen, self._in_work, Writer.of_turn)

    def app(self) -> ASGIApp:
        """Its routes."""
        spoken = [route for dialect in self._dialects for route in self._routes_of(dialect)]
        routes: list[Route] = [
            *sorted(spoken, key=lambda route: not isinstance(route, HeaderRoute)),
            Route("/turns/{turn}", Endpoint(self._one_turn, self._dialects[0].error_body), methods=["GET", "DELETE"]),
            Route("/health", self._ready, methods=["GET"]),
            Route("/health/live", self._live, methods=["GET"]),
            Route("/health/ready", self._ready, methods=["GET"]),
            Route("/live", self._live, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/cluster", Endpoint(self._look_at_cluster, self._dialects[0].error_body), methods=["GET"]),
            *(self._page.routes() if self._page is not None else ()),
        ]
        missing = not_found(lambda path: nearest(self._dialects, path).error_body)
        others = Starlette(routes=routes, exception_handlers={404: missing, 405: missing})
        posts = {route.path: route.app for route in spoken if route.methods == {"POST"} and not route.param_convertors}
        return Doorkeeper(Straight(posts, others), self._origins)

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
                self._models.note(self.workers)
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

    def _routes_of(self, dialect: Dialect) -> list[Route]:
        def route(path: str, handle: Handle, method: str) -> Route:
            return Route(path, Endpoint(handle, dialect.error_body), methods=[method])

        posts = [route(path, self._post(turned), "POST") for path, turned in dialect.turns.items()]
        plains = [
            route(plain.path, self._visit(plain), plain.method)
            if plain.header is None
            else HeaderRoute(plain.header, plain.path, Endpoint(self._visit(plain), dialect.error_body), plain.method)
            for plain in dialect.plain
        ]
        return posts + plains

    def _account(self, request: HttpRequest) -> Account:
        return self._keys.account(request.headers)

    def _post(self, turned: Turned) -> Handle:
        async def handle(request: HttpRequest, receive: Receive, send: Send) -> None:
            account = self._account(request)
            body = await body_of(request.headers, request.receive)
            wanted, ignored = posted(body, turned.kind, turned.harmless, is_strict=self._is_strict)
            if turned.before is not None:
                wanted = await turned.before(wanted, self._clients.of(account))
            await self._turns.answer(account, request, wanted, ignored, receive, send, turned.after)

        return handle

    def _visit(self, plain: Plain) -> Handle:
        async def handle(request: HttpRequest, receive: Receive, send: Send) -> None:
            client = self._clients.of(self._account(request)) if plain.needs_key else None
            body = await body_of(request.headers, request.receive)
            visit = Visit(request, body, client, self._version, self._is_strict, self._models, self._seen)
            answer = await plain.handle(visit)
            if visit.ignored:
                answer.headers["turnpike-ignored"] = ", ".join(shown(visit.ignored))
            await answer(request.scope, receive, send)

        return handle

    async def _one_turn(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        account = self._account(request)
        if request.method == "DELETE":
            await self._by_id.cancel(account, request)
            await Response(status_code=204)(request.scope, receive, send)
        else:
            await self._by_id.follow(account, request, receive, send)

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
        return json_response(
            document(self._version, self._dialects, keys_are_wanted=self._keys.are_wanted, is_strict=self._is_strict)
        )
